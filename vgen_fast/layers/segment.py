"""A run of layers whose activations can be computed again in the backward pass instead of being kept.

torch.utils.checkpoint would keep them all the same under a gradient penalty: what the first backward computes again,
the graph of that backward holds until the second. Here the first backward, too, keeps only what goes into it. A batch
of large samples is taken apart, so that what is made on the way (a second derivative makes ten tensors of it) is there
for one part at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .. import ops
from ..ops import autocast
from ..ops.choose import weight_gradients_wanted

AT_ONCE = 2**14  # places of the samples of a part; less costs time: weights are made ready for each part
_again = False


def again() -> bool:
    """Whether layers run to make their activations a second time: what they count, they have counted."""
    return _again


@contextmanager
def _second_time() -> Iterator[None]:
    global _again
    before, _again = _again, True
    try:
        yield
    finally:
        _again = before


class Recomputed(nn.Module):
    """A part of a generator, which is differentiated once. While it recomputes, only what goes into the functions that
    `remade` runs stays between the passes.
    """

    recompute, level = False, 0

    def remade(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*tensors)
        contexts = lambda: (nullcontext(), _second_time())  # noqa: E731
        options = dict(use_reentrant=False, preserve_rng_state=False)
        return checkpoint(function, *tensors, context_fn=contexts, **options)


class Segment(Recomputed, nn.Sequential):
    """With `recompute` only the input stays between the passes; values and gradients stay the same, up to order 2.

    Its layers draw no random numbers and look at each sample alone; those of a `together` segment look at the batch as
    a whole, which is then not taken apart. `level`: of the growing network it belongs to. A layer of another module may
    go `first` or `last` for once: between a block and its toRGB or fromRGB lies a network's largest tensor, which then
    is never there for a whole batch.
    """

    def __init__(self, *layers: nn.Module, level: int = 0, together: bool = False):
        super().__init__(*layers)
        self.level, self.together = level, together

    def forward(self, x: Tensor, *, first: nn.Module | None = None, last: nn.Module | None = None) -> Tensor:
        layers = [layer for layer in (first, *self, last) if layer is not None]

        def run(x: Tensor) -> Tensor:
            for layer in layers:
                x = layer(x)
            return x

        if not (self.recompute and torch.is_grad_enabled()):
            return run(x)
        parameters = [p for layer in layers for p in layer.parameters()]
        if not any(t.requires_grad for t in (x, *parameters)):
            return run(x)
        return Again.apply(in_the_same_type(run, x), self.together, x, *parameters)


@contextmanager
def recomputing(module: nn.Module, level: float = 0) -> Iterator[None]:
    """Parts of this module from that level on compute again what the passes inside the block need."""
    segments = [part for part in module.modules() if isinstance(part, Recomputed)]
    before = [part.recompute for part in segments]
    for part in segments:
        part.recompute = part.level >= level
    try:
        yield
    finally:
        for part, value in zip(segments, before, strict=True):
            part.recompute = value


def in_the_same_type(run: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """run as it is now under autocast, for a backward pass outside it."""
    device, dtype = x.device.type, autocast.wanted(x)
    if dtype is None:
        return run

    def again(x: Tensor) -> Tensor:
        with torch.autocast(device, dtype, cache_enabled=False):
            return run(x)

    return again


def alone(tensors: tuple[Tensor, ...], wants: tuple[bool, ...]) -> list[Tensor]:
    """The same values, without a graph behind them."""
    return [t.detach().requires_grad_(want) for t, want in zip(tensors, wants, strict=True)]


class Again(torch.autograd.Function):
    """run(x), which reads `parameters`."""

    @staticmethod
    def forward(ctx, run, together, x, *parameters):
        ctx.run, ctx.together = run, together
        ctx.save_for_backward(x, *parameters)
        return run(x)

    @staticmethod
    def backward(ctx, gy):
        weights = weight_gradients_wanted()
        wanted = [i for i, want in enumerate(ctx.needs_input_grad[2:]) if want and (i == 0 or weights)]
        found = AgainBackward.apply(ctx.run, ctx.together, wanted, weights, gy, *ctx.saved_tensors)
        grads = dict(zip(wanted, found, strict=True))
        return None, None, *(grads.get(i) for i in range(len(ctx.saved_tensors)))


class AgainBackward(torch.autograd.Function):
    """The gradients of Again by the `wanted` of (x, *parameters)."""

    @staticmethod
    def forward(ctx, run, together, wanted, weights, gy, x, *parameters):
        ctx.run, ctx.together, ctx.wanted, ctx.weights = run, together, wanted, weights
        ctx.save_for_backward(gy, x, *parameters)
        found = Sums(len(x))
        for rows in parts(x, together):
            some = x[rows].detach().requires_grad_(0 in wanted)
            some_found = gradients(run, wanted, weights, gy[rows], some, parameters, False)
            found.add(rows, some_found, [i == 0 for i in wanted])
        return tuple(found.values)

    @staticmethod
    @once_differentiable
    def backward(ctx, *vs):
        gy, x, *parameters = ctx.saved_tensors
        wants = ctx.needs_input_grad[4:]
        sums = Sums(len(x))
        for rows in parts(x, ctx.together):
            some_gy, some = alone((gy[rows], x[rows]), (wants[0], wants[1] or 0 in ctx.wanted))
            found = gradients(ctx.run, ctx.wanted, ctx.weights, some_gy, some, parameters, True)
            inputs = [t for t, want in zip((some_gy, some, *parameters), wants, strict=True) if want]
            some_vs = [v[rows] if i == 0 and v is not None else v for i, v in zip(ctx.wanted, vs, strict=True)]
            usable = lambda g, v: g is not None and v is not None and g.requires_grad  # noqa: E731
            pairs = [(g, v) for g, v in zip(found, some_vs, strict=True) if usable(g, v)]
            outputs, vectors = [g for g, _ in pairs], [v for _, v in pairs]
            left = torch.autograd.grad(outputs, inputs, vectors, allow_unused=True) if pairs else [None] * len(inputs)
            sums.add(rows, left, [i < 2 for i, want in enumerate(wants) if want])
        left = iter(sums.values)
        return None, None, None, None, *(next(left) if want else None for want in wants)


def parts(x: Tensor, together: bool) -> list[slice]:
    """Samples to take at once."""
    if together:
        return [slice(None)]
    count = max(1, AT_ONCE // max(1, x[:1, :1].numel()))
    return [slice(i, i + count) for i in range(0, len(x), count)] or [slice(None)]


class Sums:
    """Gradients of a batch from those of its parts: by samples, a row each; by parameters, added up."""

    def __init__(self, batch: int):
        self.batch, self.values = batch, []

    def add(self, rows: slice, found: Sequence[Tensor | None], by_samples: Sequence[bool]) -> None:
        self.values = self.values or [None] * len(found)
        for i, (gradient, by_sample) in enumerate(zip(found, by_samples, strict=True)):
            if gradient is None:
                continue
            if by_sample and len(gradient) < self.batch:
                if self.values[i] is None:
                    self.values[i] = gradient.new_zeros(self.batch, *gradient.shape[1:])
                self.values[i][rows] = gradient
            elif self.values[i] is None:
                self.values[i] = gradient.detach()
            else:
                self.values[i] = self.values[i] + gradient


def gradients(run, wanted, weights, gy, x, parameters, graph: bool) -> list[Tensor | None]:
    with torch.enable_grad(), nullcontext() if weights else ops.no_weight_gradients():
        with _second_time():
            y = run(x)
        inputs = [(x, *parameters)[i] for i in wanted]
        return list(torch.autograd.grad(y, inputs, gy, create_graph=graph, allow_unused=True))
