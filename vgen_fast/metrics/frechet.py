"""How sure a Frechet distance is, from the features it was computed of.

A replicate of a bootstrap has fewer different samples than the set it is drawn from, and the distance is biased upwards
by as much: its quantiles need not even hold the estimate. So the distance is followed to first order in the weights of
the samples. With T the transport from N(m_f, S_f) to N(m_r, S_r), T S_f T = S_r, a fake x moves it by

    h(x) = 2 (m_f - m_r)^T d + M / (M - 1) d^T (1 - T) d - Tr (1 - T) S_f,      d = x - m_f

times its weight, a real one by the same with the sides exchanged; a replicate is the estimate and the mean of both.

Legend: N real, M fake samples, D features, R replicates.
"""

import torch
from torch import Tensor

from .. import ops
from .interval import REPLICATES, weights


def moments(features: Tensor) -> ops.FeatureMoments:
    found = ops.FeatureMoments(features.shape[1])
    found.update(features)
    return found


def influence(samples: Tensor, other: Tensor) -> Tensor:
    """h [N] of samples [N, D], in float64. Directions in which they do not differ carry none."""
    x = samples.double()
    mean, (other_mean, other_covariance) = x.mean(dim=0), (moments(other).mean, moments(other).covariance())
    d = x - mean
    values, vectors = torch.linalg.eigh(d.T @ d / (len(x) - 1))
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(torch.float64).eps
    scale, vectors = values[kept].sqrt(), vectors[:, kept]
    inner = scale[:, None] * (vectors.T @ other_covariance @ vectors) * scale  # S^1/2 S_r S^1/2 in the basis of S
    roots, turned = torch.linalg.eigh(inner)
    moved = (d @ vectors / scale @ turned) * roots.clamp_min(0).pow(0.25)  # |moved|^2 = d^T T d
    quadratic = (d.square().sum(dim=1) - moved.square().sum(dim=1)) * (len(x) / (len(x) - 1))
    return 2 * d @ (mean - other_mean) + quadratic - quadratic.mean()


def replicates(real: Tensor, fake: Tensor, count: int = REPLICATES, seed: int = 0) -> Tensor:
    """[R]: frechet_distance of features [N, D] and [M, D] as it would be for other draws of both."""
    distance = ops.frechet_distance(moments(real), moments(fake))
    for side, (x, y) in enumerate(((real, fake), (fake, real))):
        distance = distance + weights(len(x), count, seed + side) @ influence(x, y)
    return distance
