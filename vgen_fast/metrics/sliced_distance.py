"""A distance between two sets of clips that takes seconds: between their pixels, seen from random directions.

It tells checkpoints of one run apart; it is no published score, and it says nothing across sizes.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops

COARSE, DIRECTIONS = 8, 256


def coarse(video: Tensor) -> Tensor:
    """[N, C, T, H, W] -> [N, D]: the pixels of at most 8 frames of 8x8, each the mean of its box."""
    return F.adaptive_avg_pool3d(video.float(), [min(n, COARSE) for n in video.shape[2:]]).flatten(1)


def sliced_distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Sliced 2-Wasserstein distance of what `coarse` leaves of real and fake videos, some of each at a time."""
    real, fake = zip(*((coarse(a), coarse(b)) for a, b in pairs), strict=True)
    return float(ops.sliced_wasserstein(torch.cat(real), torch.cat(fake), num_projections=DIRECTIONS, seed=0))
