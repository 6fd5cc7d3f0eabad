"""A mixture of Gaussians with full covariances, fitted by expectation-maximisation.

Legend: N points, D dimensions, K components.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = 1e-3  # share of the points' mean variance that is added to every variance: components with few points stand
ROUNDS, ENOUGH = 100, 1e-4  # of the mean log-likelihood, which no round makes less


@dataclass(frozen=True)
class Mixture:
    weights: Tensor  # [K]
    means: Tensor  # [K, D]
    factors: Tensor  # [K, D, D], lower triangles: covariance = factor factor^T
    likelihoods: tuple[float, ...] = ()  # mean log-likelihood of the points before each round

    def logs(self, x: Tensor) -> Tensor:
        """log(weight_k N(x; mean_k, covariance_k)), [N, K]."""
        found = []
        for weight, mean, factor in zip(self.weights, self.means, self.factors, strict=True):
            y = torch.linalg.solve_triangular(factor, (x - mean).T, upper=False)  # [D, N]
            size = factor.diagonal().log().sum() + x.shape[1] / 2 * math.log(2 * math.pi)
            found.append(weight.log() - size - y.square().sum(dim=0) / 2)
        return torch.stack(found, dim=1)

    def sample(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Of normal numbers [B, D], and of uniform ones [B], which choose the component: points [B, D]."""
        chosen = torch.searchsorted(self.weights.cumsum(0), uniform.to(self.weights)).clamp_max(len(self.weights) - 1)
        spread = torch.einsum("bij,bj->bi", self.factors[chosen], normal.to(self.means))
        return (self.means[chosen] + spread).to(normal)


def fit(points: Tensor, components: int, seed: int = 0) -> Mixture:
    """From distinct points, drawn, as means; in float64."""
    x = points.detach().double()
    if len(x) < components:
        raise ValueError(f"a mixture of {components} Gaussians wants as many points at least, got {len(x)}")
    least = LEAST * x.var(dim=0, correction=0).mean().clamp_min(1e-12) * torch.eye(x.shape[1], dtype=x.dtype)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:components]
    whole = torch.linalg.cholesky(x.T.cov(correction=0).reshape(x.shape[1], -1) + least)
    found = Mixture(x.new_full((components,), 1 / components), x[chosen], whole.expand(components, -1, -1))
    likelihoods: list[float] = []
    for _ in range(ROUNDS):
        logs = found.logs(x)
        likelihoods.append(logs.logsumexp(dim=1).mean().item())
        if len(likelihoods) > 1 and likelihoods[-1] - likelihoods[-2] < ENOUGH:
            break
        shares = logs.softmax(dim=1)  # [N, K]
        counts = shares.sum(dim=0).clamp_min(1e-9)
        means = shares.T @ x / counts[:, None]
        factors = []
        for share, count, mean in zip(shares.T, counts, means, strict=True):
            centred = x - mean
            factors.append(torch.linalg.cholesky((centred * share[:, None]).T @ centred / count + least))
        found = Mixture(counts / counts.sum(), means, torch.stack(factors))
    return Mixture(found.weights, found.means, found.factors, tuple(likelihoods))
