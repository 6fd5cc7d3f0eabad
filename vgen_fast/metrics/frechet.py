"""How sure a Frechet distance is, from the features it was computed of.

A replicate of a bootstrap has fewer different samples than the set it is drawn from, and the distance is biased upwards
by as much: its quantiles need not even hold the estimate. So the distance is followed to first order in the weights of
the samples. With T the transport from N(m_f, S_f) to N(m_r, S_r), T S_f T = S_r, a fake x moves it by

    h(x) = 2 (m_f - m_r)^T d + M / (M - 1) d^T (1 - T) d - Tr (1 - T) S_f,      d = x - m_f

times its weight, a real one by the same with the sides exchanged; a replicate is the estimate and the mean of both. Of
covariances that are divided by M, as StyleGAN-V's are, M / (M - 1) is left out.

Legend: N real, M fake samples, D features, T frames, R replicates.
"""

import torch
from torch import Tensor

from .. import ops
from .interval import REPLICATES, weights


def moments(features: Tensor) -> ops.FeatureMoments:
    found = ops.FeatureMoments(features.shape[1])
    found.update(features)
    return found


def gaussian(found: ops.FeatureMoments, biased: bool) -> tuple[Tensor, Tensor]:
    """Mean and covariance, divided by M - 1 or, `biased`, by M."""
    return found.mean, found.covariance() * ((found.count - 1) / found.count if biased else 1)


def directions(d: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Variances [K] of centred samples [N, D] and their directions [D, K], without those that hold rounding only."""
    if len(d) < d.shape[1]:  # the smaller of d d^T and d^T d has the same values
        values, left = torch.linalg.eigh(d @ d.T)
    else:
        values, vectors = torch.linalg.eigh(d.T @ d)
    kept = values > values[-1].clamp_min(0) * max(d.shape) * torch.finfo(torch.float64).eps
    values = values[kept]
    vectors = d.T @ left[:, kept] / values.sqrt() if len(d) < d.shape[1] else vectors[:, kept]
    return values / divisor, vectors


def influence(samples: Tensor, other: ops.FeatureMoments, biased: bool = False) -> Tensor:
    """h [N] of samples [N, D], in float64. Directions in which they do not differ carry none."""
    x = samples.double()
    mean = x.mean(dim=0)
    d, divisor = x - mean, len(x) - (0 if biased else 1)
    values, vectors = directions(d, divisor)
    scale, (other_mean, covariance) = values.sqrt(), gaussian(other, biased)
    inner = scale[:, None] * (vectors.T @ covariance @ vectors) * scale  # S^1/2 S_r S^1/2 in the basis of S
    roots, turned = torch.linalg.eigh(inner)
    moved = (d @ vectors / scale @ turned) * roots.clamp_min(0).pow(0.25)  # |moved|^2 = d^T T d
    quadratic = (d.square().sum(dim=1) - moved.square().sum(dim=1)) * (len(x) / divisor)
    return 2 * d @ (mean - other_mean) + quadratic - quadratic.mean()


def replicates(real: Tensor, fake: Tensor, count: int = REPLICATES, seed: int = 0, *, biased: bool = False) -> Tensor:
    """[R]: frechet_distance of features [N, D] and [M, D] as it would be for other draws of both.

    Of features [N, T, D] the T rows of a clip are drawn together.
    """
    sides = [(x, moments(x.flatten(0, -2))) for x in (real, fake)]
    distance = ops.frechet_distance(*(gaussian(found, biased) for _, found in sides))
    for side, ((x, _), (_, other)) in enumerate(zip(sides, reversed(sides), strict=True)):
        each = influence(x.flatten(0, -2), other, biased).view(len(x), -1).mean(dim=1)
        distance = distance + weights(len(each), count, seed + side) @ each
    return distance


def over_time(real: Tensor, fake: Tensor) -> Tensor:
    """[T]: for each frame of a rollout, fake [M, T, D], the distance to all frames of real clips [N, T', D]."""
    reals = moments(real.flatten(0, -2))
    return torch.stack([ops.frechet_distance(reals, moments(frame)) for frame in fake.unbind(dim=1)])


def over_time_replicates(real: Tensor, fake: Tensor, count: int = REPLICATES, seed: int = 0) -> Tensor:
    """[R]: the mean of `over_time` for other draws of the fake clips, against the same real ones."""
    reals = moments(real.flatten(0, -2))
    each = torch.stack([influence(frame, reals) for frame in fake.unbind(dim=1)]).mean(dim=0)
    return over_time(real, fake).mean() + weights(len(fake), count, seed) @ each
