"""Bootstrap: how far a score would move if as many samples were drawn again. Legend: R replicates, N samples."""

import torch
from torch import Tensor

REPLICATES, LEVEL = 1000, 0.95


def weights(count: int, replicates: int = REPLICATES, seed: int = 0) -> Tensor:
    """[R, N] in float64: which share of a replicate, drawn from the samples with replacement, each sample is."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (replicates, count), generator=generator)
    ones = torch.full(drawn.shape, 1 / count, dtype=torch.float64)
    return torch.zeros(replicates, count, dtype=torch.float64).scatter_add_(1, drawn, ones)


def interval(replicates: Tensor, level: float = LEVEL) -> tuple[float, float]:
    """The quantiles of replicates [R] between which so much of them lies."""
    low, high = replicates.double().quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return float(low), float(high)


def means(values: Tensor, replicates: int = REPLICATES, seed: int = 0) -> Tensor:
    """[R]: the mean of other draws of as many independent values [N]."""
    return weights(len(values), replicates, seed) @ values.double()
