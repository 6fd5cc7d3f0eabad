"""Memory formats: an op's output keeps its input's."""

from collections.abc import Sequence

import torch
from torch import Tensor


def channels_last(x: Tensor) -> bool:
    """Whether x `[B, C, T, H, W]` keeps its channels innermost (contiguous wins where both readings fit)."""
    if x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last_3d) or (x.stride(1) == 1 and x.shape[1] > 1)


def memory_format(x: Tensor) -> torch.memory_format:
    return torch.channels_last_3d if channels_last(x) else torch.contiguous_format


def empty_like_layout(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Uninitialised `[B, C, T, H, W]` of another shape in x's memory format, type and device."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def dense_like(x: Tensor, other: Tensor) -> Tensor:
    """x with the strides (and type) of the dense tensor `other` of the same shape; x itself where it has them."""
    if x.stride() == other.stride() and x.dtype == other.dtype:
        return x
    return torch.empty_like(other).copy_(x)
