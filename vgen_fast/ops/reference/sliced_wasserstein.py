"""Sliced Wasserstein distance and the sliced critic head (SWGAN, eq. 5.1-5.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def quantile_pieces(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces of [0, 1] on which both empirical quantile functions are constant: (rank in x, rank in y, length).

    They depend on the two sample counts alone, never on the data: n + m - gcd(n, m) pieces.
    """
    edges = torch.unique(torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]))  # in units of 1 / (n m)
    starts = torch.cat([edges.new_zeros(1), edges[:-1]])
    return starts // m, starts // n, (edges - starts).double() / (n * m)


def projected_wasserstein(x: Tensor, y: Tensor, p: float) -> Tensor:
    """Mean over the columns of x `[N, L]` and y `[M, L]` of W_p^p between the two empirical distributions."""
    rank_x, rank_y, length = (part.to(x.device) for part in quantile_pieces(x.shape[0], y.shape[0]))
    difference = x.sort(dim=0).values[rank_x] - y.sort(dim=0).values[rank_y]
    return (difference.abs().pow(p) * length.to(x.dtype)[:, None]).sum(dim=0).mean()


def root(value: Tensor, p: float) -> Tensor:
    """value^(1/p) with gradient 0 at value 0, where the distance has a kink."""
    zero = value == 0
    return torch.where(zero, 0, torch.where(zero, 1, value).pow(1 / p))


def projected_distance(x: Tensor, y: Tensor, p: float) -> Tensor:
    """(mean over the columns of x `[N, L]` and y `[M, L]` of W_p^p)^(1/p) -> scalar."""
    return root(projected_wasserstein(x, y, p), p)


def sliced_wasserstein(x: Tensor, y: Tensor, projections: Tensor, *, p: float = 2) -> Tensor:
    """(mean over directions of W_p^p)^(1/p): x `[N, D]`, y `[M, D]`, projections `[D, L]` -> scalar."""
    return projected_distance(x @ projections, y @ projections, p)


def sliced_head(y: Tensor, theta: Tensor, scale: Tensor, offset: Tensor, *, slope: float = 0.2) -> Tensor:
    """mean_i lrelu(scale_i <theta_i, y> + offset_i): y `[B, D]`, theta `[K, D]` (rows are directions) -> `[B]`."""
    return F.leaky_relu(scale * (y @ theta.T) + offset, slope).mean(dim=1)
