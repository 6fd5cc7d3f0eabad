"""Inception score: exp of the mean over samples of KL(p(y|x) || p(y)), p(y) the mean of p(y|x) over the same samples.

Between 1 (every sample looks alike to the classifier) and the number of classes.

Legend: N samples, K classes, T frames.
"""

import torch
from torch import Tensor

from .interval import REPLICATES, weights


def contributions(probabilities: Tensor, eps: float = 0.0) -> Tensor:
    """[N, K] -> KL(p_n || mean of p) of each sample [N], in float64. `eps` is added inside the logarithms, as some
    published code does; 0 ln 0 is 0.
    """
    p = probabilities.double()
    if p.ndim != 2 or not len(p):
        raise ValueError(f"probabilities must be [N, K] of one sample at least, got {list(p.shape)}")
    if not (p >= 0).all() or ((p.sum(dim=1) - 1).abs() > 1e-3).any():
        raise ValueError("probabilities must not be negative and must sum to 1 for each sample")
    return (torch.xlogy(p, p + eps) - torch.xlogy(p, p.mean(dim=0) + eps)).sum(dim=1)


def inception_score(probabilities: Tensor, *, splits: int = 1, eps: float = 0.0) -> Tensor:
    """[splits]: the score of each of so many parts of the samples, in the order they came."""
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f"{len(probabilities)} samples cannot be {splits} splits")
    return torch.stack([contributions(part, eps).mean().exp() for part in probabilities.tensor_split(splits)])


def replicates(
    probabilities: Tensor, count: int = REPLICATES, seed: int = 0, *, splits: int = 1, eps: float = 0.0
) -> Tensor:
    """[R]: the score of other draws of as many samples, around that of these (the mean over splits).

    It is exp of H(mean of p) - mean of H(p). Drawn with replacement the samples are fewer and look less various: of 101
    sure classes and 2,048 samples by 2.4%, which may be more than the spread; so the mean of the draws is moved to the
    score. Of probabilities [N, T, K] the T rows of a clip are drawn together.
    """
    score = inception_score(probabilities.flatten(0, -2), splits=splits, eps=eps).mean()
    p, drawn = probabilities.double(), weights(len(probabilities), count, seed)
    p = p.view(len(p), -1, p.shape[-1])  # [N, T, K]
    mean = drawn @ p.mean(dim=1)
    found = (drawn @ torch.xlogy(p, p).sum(dim=2).mean(dim=1) - torch.xlogy(mean, mean).sum(dim=1)).exp()
    return score + found - found.mean()
