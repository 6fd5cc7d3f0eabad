"""Batch normalisation over all that passes through the networks at once, on every rank.

Legend: B samples, C channels, N numbers of a channel, on all ranks together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import segment

Total = Callable[[Sequence[Tensor]], None]  # adds tensors up over the ranks, in place
_total: Total | None = None


@contextmanager
def across(total: Total | None) -> Iterator[None]:
    """Layers inside take their statistics from all ranks' samples; from this process's alone without a `total`."""
    global _total
    before, _total = _total, total
    try:
        yield
    finally:
        _total = before


class Sum(torch.autograd.Function):
    """Over the ranks. Each rank's loss is its share of the whole one, so gradients add up alike."""

    @staticmethod
    def forward(ctx, x):
        ctx.total, found = _total, x.clone()
        ctx.total([found])
        return found

    @staticmethod
    def backward(ctx, gy):
        found = gy.contiguous().clone()
        ctx.total([found])
        return found


class BatchNorm(nn.Module):
    """[B, C, ...], float statistics; a micro-batch has its own, so that accumulation changes numbers.

    In evaluation the running mean and variance count. `bias=False`: a scale alone, as Chainer's without beta.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1, bias: bool = True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if _total is not None and self.training:
            return self.together(x)
        kept = (self.mean, self.variance)
        if self.training and segment.again():
            kept = tuple(t.clone() for t in kept)  # counted once, in the first pass
        return F.batch_norm(x, *kept, self.weight, self.bias, self.training, self.momentum, self.eps)

    def together(self, x: Tensor) -> Tensor:
        wide, axes = x.to(self.weight.dtype), [axis for axis in range(x.ndim) if axis != 1]
        shape = (1, -1, *[1] * (x.ndim - 2))
        sums = Sum.apply(torch.cat([wide.sum(axes), wide.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()  # N
        centred = wide - (mean := sums[:-1] / count).reshape(shape)
        variance = Sum.apply(centred.square().sum(axes)) / count
        if not segment.again():
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance * count / (count - 1), self.momentum)
        found = centred * (self.weight * (variance + self.eps).rsqrt()).reshape(shape)
        return (found if self.bias is None else found + self.bias.reshape(shape)).to(x.dtype)
