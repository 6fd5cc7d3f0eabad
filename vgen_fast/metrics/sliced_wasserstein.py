"""PGAN's sliced Wasserstein metric: how far small pieces of pictures are from those of real ones, scale by scale.

Each picture becomes a Laplacian pyramid from its own size down to 16 pixels; of every level 128 pieces of 7x7 pixels
are taken at random, their colours brought to mean 0 and deviation 1 over the whole side (real and fake apart), and the
distance is the mean over 512 directions of W_1 between the projections, times 1000. Both sides have the same
directions, and picture i of both sides the same places: a set is at distance 0 from itself.

Legend: N pictures, C channels, H x W pixels, P pieces of a picture, D = C 7 7.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops

PIECE, PIECES, DIRECTIONS, SMALLEST = 7, 128, 4 * 128, 16
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
CHUNK = 64  # pictures whose pieces are gathered at once


def blurred(x: Tensor, gain: float) -> Tensor:
    """[N, C, H, W] under the 5x5 binomial filter, mirrored at its borders without repeating them."""
    taps = x.new_tensor(BINOMIAL) * gain
    for dim in (3, 2):
        pad = (2, 2, 0, 0) if dim == 3 else (0, 0, 2, 2)
        wide, length = F.pad(x, pad, mode="reflect"), x.shape[dim]
        x = sum(wide.narrow(dim, i, length) * taps[i] for i in range(5))
    return x


def halved(x: Tensor) -> Tensor:
    return blurred(x, 1.0)[:, :, ::2, ::2]


def doubled(x: Tensor) -> Tensor:
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    return blurred(wide, 2.0)


def pyramid(pictures: Tensor) -> list[Tensor]:
    """[N, C, H, W] -> a level for each size, the largest first; the last one holds what is left."""
    levels = [pictures.float()]
    while min(levels[-1].shape[2:]) >= 2 * SMALLEST:
        smaller = halved(levels[-1])
        levels[-1] = levels[-1] - doubled(smaller)
        levels.append(smaller)
    return levels


def pieces(level: Tensor, places: Tensor) -> Tensor:
    """[N, C, H, W] and the upper left corners [N, P, 2] -> [N P, D], each colour of mean 0 and deviation 1 in all."""
    count, channels, height, width = level.shape
    area = height * width
    inside = torch.arange(PIECE)[:, None] * width + torch.arange(PIECE)
    inside = (torch.arange(channels)[:, None] * area + inside.flatten()).flatten()  # [D], from the corner on
    corners = torch.arange(count)[:, None] * channels * area + places[..., 0] * width + places[..., 1]  # [N, P]
    flat, found = level.flatten(), level.new_empty(corners.numel(), len(inside))
    for out, some in zip(found.split(CHUNK * PIECES), corners.flatten().split(CHUNK * PIECES), strict=True):
        torch.take(flat, some[:, None] + inside, out=out)
    colours = found.unflatten(1, (channels, PIECE * PIECE))
    for colour in colours.unbind(1):
        deviation, mean = torch.std_mean(colour, correction=0)
        colour.sub_(mean).div_(deviation.clamp_min(torch.finfo(colour.dtype).tiny))
    return found


@torch.no_grad()
def piece_distance(real: Tensor, fake: Tensor, *, seed: int = 0) -> dict[int, float]:
    """1000 times the distance for each size of the pyramid, by the shorter side; uint8 [N, C, H, W] on both sides."""
    for name, side in (("real", real), ("fake", fake)):
        if side.ndim != 4 or not len(side) or min(side.shape[2:]) < SMALLEST:
            wanted = f"pictures [N, C, H, W] of {SMALLEST} pixels or more"
            raise ValueError(f"{name} must be {wanted}, got {list(side.shape)}")
    if real.shape[1:] != fake.shape[1:]:
        sizes = f"{list(real.shape[1:])} and {list(fake.shape[1:])}"
        raise ValueError(f"real and fake must have the same size, got {sizes}")
    found, generator = {}, torch.Generator().manual_seed(seed)
    for ours, theirs in zip(pyramid(real), pyramid(fake), strict=True):
        last = torch.tensor(ours.shape[2:]) - PIECE + 1
        drawn = torch.rand(max(len(real), len(fake)), PIECES, 2, generator=generator, dtype=torch.float64)
        places = (drawn * last).long()
        directions = torch.randn(ours.shape[1] * PIECE**2, DIRECTIONS, generator=generator)
        directions /= directions.norm(dim=0)
        sides = [pieces(level, places[: len(level)]) for level in (ours, theirs)]
        distance = ops.sliced_wasserstein(*sides, projections=directions, p=1)
        found[min(ours.shape[2:])] = 1000 * float(distance)
    return found
