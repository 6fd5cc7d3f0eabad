"""A run of layers whose activations can be computed again in the backward pass instead of being kept.

torch.utils.checkpoint would keep them all the same under a gradient penalty: what the first backward computes again,
the graph of that backward holds until the second. Here the first backward, too, keeps only what goes into it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import ops
from ..ops.choose import weight_gradients_wanted


class Segment(nn.Sequential):
    """With `recompute` only the input stays between the passes; values and gradients stay the same, up to order 2.

    Holds no layer that draws random numbers.
    """

    recompute = False

    def forward(self, x: Tensor) -> Tensor:
        parameters = tuple(self.parameters())
        if self.recompute and torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters)):
            return Again.apply(super().forward, x, *parameters)
        return super().forward(x)


@contextmanager
def recomputing(module: nn.Module, on: bool) -> Iterator[None]:
    """Whether the segments of this module compute again what the passes inside the block need."""
    segments = [part for part in module.modules() if isinstance(part, Segment)]
    before = [part.recompute for part in segments]
    for part in segments:
        part.recompute = on
    try:
        yield
    finally:
        for part, value in zip(segments, before, strict=True):
            part.recompute = value


def alone(tensors: tuple[Tensor, ...], wants: tuple[bool, ...]) -> list[Tensor]:
    """The same values, without a graph behind them."""
    return [t.detach().requires_grad_(want) for t, want in zip(tensors, wants, strict=True)]


class Again(torch.autograd.Function):
    """run(x), which reads `parameters`."""

    @staticmethod
    def forward(ctx, run, x, *parameters):
        ctx.run = run
        ctx.save_for_backward(x, *parameters)
        return run(x)

    @staticmethod
    def backward(ctx, gy):
        weights = weight_gradients_wanted()
        wanted = [i for i, want in enumerate(ctx.needs_input_grad[1:]) if want and (i == 0 or weights)]
        found = AgainBackward.apply(ctx.run, wanted, weights, gy, *ctx.saved_tensors)
        grads = dict(zip(wanted, found, strict=True))
        return None, *(grads.get(i) for i in range(len(ctx.saved_tensors)))


class AgainBackward(torch.autograd.Function):
    """The gradients of Again by the `wanted` of (x, *parameters)."""

    @staticmethod
    def forward(ctx, run, wanted, weights, gy, x, *parameters):
        ctx.run, ctx.wanted, ctx.weights = run, wanted, weights
        ctx.save_for_backward(gy, x, *parameters)
        return tuple(gradients(run, wanted, weights, gy, x.detach().requires_grad_(0 in wanted), parameters, False))

    @staticmethod
    @once_differentiable
    def backward(ctx, *vs):
        gy, x, *parameters = ctx.saved_tensors
        wants = ctx.needs_input_grad[3:]
        gy, x = alone((gy, x), (wants[0], wants[1] or 0 in ctx.wanted))
        found = gradients(ctx.run, ctx.wanted, ctx.weights, gy, x, parameters, True)
        inputs = [t for t, want in zip((gy, x, *parameters), wants, strict=True) if want]
        pairs = [(g, v) for g, v in zip(found, vs, strict=True) if g is not None and v is not None and g.requires_grad]
        outputs, vectors = [g for g, _ in pairs], [v for _, v in pairs]
        left = iter(torch.autograd.grad(outputs, inputs, vectors, allow_unused=True) if pairs else ())
        return None, None, None, *(next(left, None) if want else None for want in wants)


def gradients(run, wanted, weights, gy, x, parameters, graph: bool) -> list[Tensor | None]:
    with torch.enable_grad(), nullcontext() if weights else ops.no_weight_gradients():
        y = run(x)
        inputs = [(x, *parameters)[i] for i in wanted]
        return list(torch.autograd.grad(y, inputs, gy, create_graph=graph, allow_unused=True))
