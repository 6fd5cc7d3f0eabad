"""Mean and covariance of feature vectors, and the Frechet distance between two Gaussians (Dowson and Landau, 1982)."""

import torch
from torch import Tensor


def rank_update(rows: Tensor, shift: Tensor, extra: Tensor, out: Tensor) -> None:
    """out `[d, d]` += sum over rows `[N, d]` of (row - shift)^T (row - shift) + extra^T extra, in float64."""
    centred = rows.double() - shift
    out.addmm_(centred.T, centred).addr_(extra, extra)


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[d]` and unbiased covariance `[d, d]` of features `[N, d]`, in two passes, in float64."""
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (features.shape[0] - 1)


def frechet_distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """|mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) of two (mean, covariance) pairs in float64 -> scalar."""
    (mean_a, covariance_a), (mean_b, covariance_b) = a, b
    # S_1 S_2 is similar to a symmetric positive semi-definite matrix: its eigenvalues are real and not negative.
    eigenvalues = torch.linalg.eigvals(covariance_a @ covariance_b).real.clamp_min(0)
    traces = covariance_a.trace() + covariance_b.trace()
    return (mean_a - mean_b).square().sum() + traces - 2 * eigenvalues.sqrt().sum()
