"""Pixel norm: every voxel's channel vector scaled to unit mean square (progressive GAN, eq. 4.1 of seed 000)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_norm(x: Tensor, *, slope: float | None = None, eps: float = 1e-8) -> Tensor:
    """y = a / sqrt(mean_c a^2 + eps) with a = leaky_relu(x, slope), or a = x without a slope.

    x `[B, C, ...]` -> y of the same shape. The mean is taken in float32 (float64 for float64 input).
    """
    a = x if slope is None else F.leaky_relu(x, slope)
    wide = a.to(torch.promote_types(a.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + eps)).to(x.dtype)
