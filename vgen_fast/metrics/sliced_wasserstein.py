"""PGAN's sliced Wasserstein metric: how far small pieces of pictures are from those of real ones, scale by scale.

Each picture becomes a Laplacian pyramid from its own size down to 16 pixels; of every level 128 pieces of 7x7 pixels
are taken at random, their colours brought to mean 0 and deviation 1 over the whole side (real and fake apart), and the
distance is the mean over 512 directions of W_1 between the projections, times 1000. Both sides have the same
directions, and picture i of both sides the same places: a set is at distance 0 from itself.

Legend: N pictures, C channels, H x W pixels, P pieces of a picture, D = C 7 7.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops

PIECE, PIECES, DIRECTIONS, SMALLEST = 7, 128, 4 * 128, 16
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
CHUNK = 64  # pictures whose pieces are gathered at once


@lru_cache(maxsize=32)
def blurring(side: int) -> Tensor:
    """[side, side]: the binomial filter along a side, mirrored at its ends without repeating them."""
    wide = F.pad(torch.eye(side)[None, None], (0, 0, 2, 2), mode="reflect")[0, 0]
    return sum(wide[i : i + side] * tap for i, tap in enumerate(BINOMIAL))


def filtered(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Pictures [N, C, H, W] by a matrix for each side: products of matrices take a tenth of the time of five shifts."""
    return down.to(x) @ x @ across.T.to(x)


def halved(x: Tensor) -> Tensor:
    return filtered(x, *(blurring(side)[::2] for side in x.shape[2:]))


def doubled(x: Tensor, size: Sequence[int]) -> Tensor:
    """Zeros between the pixels, and the filter with four times the weight; `size` has twice x's sides, or one less."""
    return filtered(x, *(2 * blurring(2 * side)[:whole, ::2] for side, whole in zip(x.shape[2:], size, strict=True)))


def below(level: Tensor) -> Tensor:
    """The next smaller level of the Gaussian pyramid, float32; some pictures at a time."""
    return torch.cat([halved(some.float()) for some in level.split(CHUNK)])


def pieces(level: Tensor, smaller: Tensor | None, places: Tensor) -> Tensor:
    """[N P, D], each colour of mean 0 and deviation 1 in all: pieces of a Gaussian level [N, C, H, W] less what the
    smaller one tells of it, at the upper left corners `places` [N, P, 2].
    """
    count, channels, height, width = level.shape
    starts = torch.arange(channels)[:, None] * height * width + torch.arange(PIECE) * width
    starts = starts.flatten() + (places[..., 0] * width + places[..., 1])[..., None]  # [N, P, C 7]: of a piece's lines
    starts += torch.arange(count)[:, None, None] % CHUNK * channels * height * width
    found = torch.empty(count * PIECES, channels * PIECE**2)
    some = found.split(CHUNK * PIECES)
    each = lambda columns: columns.view(channels, -1).sum(dim=1).repeat_interleave(PIECE * PIECE)  # noqa: E731
    columns = lambda x: (x.new_ones(1, len(x)) @ x)[0]  # noqa: E731  a product sums columns three times as fast as sum does
    sums, squares = torch.zeros(2, found.shape[1], dtype=torch.float64)
    for out, first in zip(some, range(0, count, CHUNK), strict=True):
        x = level[first : first + CHUNK].float()
        if smaller is not None:
            x = x - doubled(smaller[first : first + CHUNK], x.shape[2:])
        lines = x.contiguous().as_strided((x.numel() - PIECE + 1, PIECE), (1, 1))  # every line that a piece could have
        torch.index_select(lines, 0, starts[first : first + CHUNK].flatten(), out=out.view(-1, PIECE))
        sums += columns(out)
    numbers = len(found) * PIECE * PIECE  # of a colour
    mean = (each(sums) / numbers).float()
    for out in some:
        squares += columns(out.sub_(mean).square())
    deviation = (each(squares) / numbers).sqrt().float()
    return found.div_(deviation.clamp_min(torch.finfo(torch.float32).tiny))


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
    found, generator, sides = {}, torch.Generator().manual_seed(seed), [real, fake]
    while sides[0] is not None:
        channels, *size = sides[0].shape[1:]
        last = torch.tensor(size) - PIECE + 1
        drawn = torch.rand(max(map(len, sides)), PIECES, 2, generator=generator, dtype=torch.float64)
        places = (drawn * last).long()
        directions = torch.randn(channels * PIECE**2, DIRECTIONS, generator=generator)
        directions /= directions.norm(dim=0)
        smaller = [below(side) if min(size) >= 2 * SMALLEST else None for side in sides]
        cut = [pieces(side, less, places[: len(side)]) for side, less in zip(sides, smaller, strict=True)]
        found[min(size)] = 1000 * float(ops.sliced_wasserstein(*cut, projections=directions, p=1))
        sides = smaller
    return found
