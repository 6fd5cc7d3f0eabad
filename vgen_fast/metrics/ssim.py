"""Structural similarity (Wang et al. 2004), and of several scales (2003) as PGAN measures how alike its samples are.

    l = (2 mx my + C1) / (mx^2 + my^2 + C1)      cs = (2 sxy + C2) / (sx^2 + sy^2 + C2)      ssim = mean of l cs

m and s are moments under a Gaussian window of 11x11 (sigma 1.5) where it lies inside the picture; of a smaller picture
it shrinks with its sigma to the shorter side, so that five scales work from 16 pixels on. Between the scales pictures
are halved by boxes. MS-SSIM = prod_j max(0, cs_j)^w_j max(0, ssim_5)^w_5: means over pixels and channels of one pair
first, then powers. Of the two variances only the sum is needed: four pictures are smoothed, not five.

Legend: N pairs, C channels, H x W pixels, P pictures, k taps, R replicates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .interval import weights

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # times the square of the peak
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = 2 ** (len(WEIGHTS) - 1)  # pixels of a side: at least one at the last scale
TILE = 64  # pixels that are smoothed by one product of matrices
CHUNK = 1 << 19  # numbers of x at once: what is made of them stays in the caches


def taps(size: int) -> Tensor:
    """[k] in float64, k <= 11; an even window has its middle between two pixels."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weight = torch.exp(-0.5 * (place / (SIGMA * size / WINDOW)) ** 2)
    return weight / weight.sum()


def band(weight: Tensor, count: int) -> Tensor:
    """[count + k - 1, count]: the product with it filters `count` places."""
    matrix = weight.new_zeros(count + len(weight) - 1, count)
    for i, value in enumerate(weight.tolist()):
        matrix.diagonal(-i).fill_(value)
    return matrix


def smooth(x: Tensor, weight: Tensor) -> Tensor:
    """[P, H, W] -> [P, H - k + 1, W - k + 1] by products with banded matrices, along W and then along H."""
    k = len(weight)
    height, width = (side - k + 1 for side in x.shape[1:])
    matrix = band(weight, min(TILE, max(height, width)))

    def tiles(count: int) -> list[tuple[slice, Tensor]]:
        starts = range(0, count, TILE)
        sizes = [min(TILE, count - start) for start in starts]
        return [(slice(s, s + n + k - 1), matrix[: n + k - 1, :n]) for s, n in zip(starts, sizes, strict=True)]

    x = torch.cat([x[:, :, place] @ part for place, part in tiles(width)], dim=2)
    return torch.cat([part.T @ x[:, place] for place, part in tiles(height)], dim=1)


def parts(x: Tensor, y: Tensor, peak: float) -> tuple[Tensor, Tensor]:
    """Means over pixels and channels [N] of ssim and cs; x, y [N, C, H, W] around 0."""
    shape, middle = x.shape, peak / 2
    weight = taps(min(WINDOW, *shape[2:])).to(x)
    pictures = torch.stack([x, y, x * x + y * y, x * y]).flatten(0, 2)  # [4 N C, H, W]
    mean_x, mean_y, squares, product = smooth(pictures, weight).unflatten(0, (4, shape[0], -1))
    squares -= mean_x.square() + mean_y.square()
    product -= mean_x * mean_y
    contrast = (2 * product + C2 * peak**2) / (squares + C2 * peak**2)
    mean_x, mean_y = mean_x + middle, mean_y + middle
    light = (2 * mean_x * mean_y + C1 * peak**2) / (mean_x.square() + mean_y.square() + C1 * peak**2)
    return (light * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def checked(x: Tensor, y: Tensor, smallest: int) -> None:
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[2:]) < smallest:
        raise ValueError(
            f"x and y must be pictures [N, C, H, W] of the same shape and at least {smallest} pixels each way, "
            f"got {list(x.shape)} and {list(y.shape)}"
        )


def chunks(x: Tensor, y: Tensor, peak: float) -> list[tuple[Tensor, Tensor]]:
    """Some pairs at a time, around 0, where float32 leaves more of the variances."""
    count = max(1, CHUNK // max(1, x[:1].numel()))
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return [(a.to(kind) - peak / 2, b.to(kind) - peak / 2) for a, b in zip(x.split(count), y.split(count), strict=True)]


@torch.no_grad()
def ssim(x: Tensor, y: Tensor, *, peak: float = 255.0) -> Tensor:
    """[N]: 1 where both are the same. x, y [N, C, H, W] from 0 to `peak`, of any type."""
    checked(x, y, 1)
    return torch.cat([parts(a, b, peak)[0] for a, b in chunks(x, y, peak)])


@torch.no_grad()
def ms_ssim(x: Tensor, y: Tensor, *, peak: float = 255.0) -> Tensor:
    """[N]: 1 where both are the same. x, y [N, C, H, W] from 0 to `peak`, at least 16 pixels each way."""
    checked(x, y, SMALLEST)
    found = []
    for a, b in chunks(x, y, peak):
        value = 1
        for scale, weight in enumerate(WEIGHTS, 1):
            whole, contrast = parts(a, b, peak)
            value = value * (whole if scale == len(WEIGHTS) else contrast).clamp_min(0) ** weight
            a, b = (F.avg_pool2d(side, 2, ceil_mode=True) for side in (a, b))
        found.append(value)
    return torch.cat(found)


def drawn_pairs(count: int, num_pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """The numbers of two pictures, never the same: [num_pairs] each."""
    if count < 2:
        raise ValueError(f"a pair takes two pictures, got {count}")
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(count, (num_pairs,), generator=generator)
    return first, (first + torch.randint(1, count, (num_pairs,), generator=generator)) % count


def similarity_of_pairs(pictures: Tensor, num_pairs: int = 10_000, seed: int = 0) -> Tensor:
    """MS-SSIM [num_pairs] of pairs drawn from pictures uint8 [N, C, H, W]: high means little variety."""
    first, second = drawn_pairs(len(pictures), num_pairs, seed)
    count = max(1, CHUNK // pictures[0].numel())
    pairs = zip(first.split(count), second.split(count), strict=True)
    return torch.cat([ms_ssim(pictures[i], pictures[j]) for i, j in pairs])


def pairs_replicates(values: Tensor, count: int, seed: int = 0) -> Tensor:
    """[R]: the mean of `values`, those of similarity_of_pairs, for other draws of as many pictures: pairs share them,
    so a picture takes its pairs along. Draws that hold no pair, which come of few pictures, are left out.
    """
    drawn = weights(count, seed=seed)  # [R, N]
    first, second = drawn_pairs(count, len(values), seed)
    both = drawn[:, first] * drawn[:, second]
    both = both[both.sum(dim=1) > 0]
    return both @ values.double() / both.sum(dim=1)


def coherence(video: Tensor) -> Tensor:
    """[N]: mean MS-SSIM from one frame to the next; uint8 [N, C, T, H, W]."""
    if video.shape[2] < 2:
        raise ValueError(f"coherence takes clips of two frames at least, got {video.shape[2]}")
    frames = video.transpose(1, 2)  # [N, T, C, H, W]
    return torch.stack([ms_ssim(clip[:-1], clip[1:]).mean() for clip in frames])
