"""Sliced Wasserstein distance between two sets of samples, and the sliced head of a critic.

Legend: N / M samples of x / y, D features, L directions; B batch, K directions of the head, q projected samples.
"""

from functools import lru_cache

import torch
from torch import Tensor

from . import autocast, expect
from .choose import choose
from .native import _C, address, compute_dtype, where
from .reference import sliced_wasserstein as reference
from .registered import autograd, call, implements

ORDER = 2
OP = "sliced_wasserstein"
HEAD = "sliced_head"
BINNED_SAMPLES = 4096  # from here on W_1 is found by bins
PROJECTED = 1 << 26  # projections that are kept at once: fewer directions at a time take the product longer
TRITON_SAMPLES = 1024  # kernels/sliced_wasserstein.py sorts a column inside one program


def lacks(impl: str, device: str) -> str | None:
    """Why this op has no such implementation for this kind of device, or None."""
    if impl == "cpp" and device == "cuda":
        return "the C++ kernels run on CPU; CUDA tensors have triton or the reference"
    return None


@autocast.keeps_types
def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    projections: Tensor | None = None,
    num_projections: int = 128,
    p: float = 2,
    seed: int | None = None,
    impl: str | None = None,
) -> Tensor:
    """(mean over directions of W_p^p)^(1/p) between the projected samples. The gradient at distance 0 is 0.

    x, y         [N, D] and [M, D]; N and M may differ
    projections  [D, L], used as given; None draws `num_projections` unit directions, from `seed` or, where that is
                 None, from torch's default generator (the same seed draws other directions on another device)
    p            at least 1
    returns      a scalar in x's type; computed in float32, or float64 for float64. NaN in, NaN out
    """
    projections = _check(x, y, projections, num_projections, p, seed)

    def supports(impl: str) -> str | None:
        if reason := lacks(impl, x.device.type):
            return reason
        if impl == "triton" and max(len(x), len(y)) > TRITON_SAMPLES:
            return f"one program sorts at most {TRITON_SAMPLES} samples, got {max(len(x), len(y))}"
        return None

    impl = choose(OP, impl, x.device, supports)
    if impl == "reference":
        return reference.sliced_wasserstein(x, y, projections.to(x.dtype), p=p)
    compute = compute_dtype(x.dtype)
    samples_x, samples_y, projections = x.to(compute), y.to(compute), projections.to(compute)
    gradient = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad or projections.requires_grad)
    if impl == "cpp" and not gradient:
        return call("distance_along", samples_x, samples_y, projections, float(p)).to(x.dtype)
    samples_x, samples_y = samples_x @ projections, samples_y @ projections
    distance, *_ = call("projected_wasserstein", samples_x, samples_y, float(p), gradient, impl)
    return distance.to(x.dtype)


def _check(x, y, projections, num_projections, p, seed) -> Tensor:
    """Refuses what cannot be computed; returns the directions `[D, L]`."""
    for name, samples, legend in (("x", x, "[N, D]"), ("y", y, "[M, D]")):
        expect.tensor(OP, name, samples)
        if samples.ndim != 2 or 0 in samples.shape:
            wanted = f"{legend} with at least one sample and one feature (a distance to nothing is undefined)"
            expect.fail(OP, name, wanted, expect.shape(samples))
    if y.shape[1] != x.shape[1]:
        expect.fail(OP, "y", f"[M, {x.shape[1]}] like x", expect.shape(y))
    if y.dtype != x.dtype:
        expect.fail(OP, "y", f"{x.dtype} like x", y.dtype)
    expect.same_device(OP, "y", y, x)
    expect.finite_number(OP, "p", p, 1)
    if projections is not None:
        expect.tensor(OP, "projections", projections)
        if projections.ndim != 2 or projections.shape[0] != x.shape[1] or projections.shape[1] == 0:
            expect.fail(OP, "projections", f"[{x.shape[1]}, L], L > 0", expect.shape(projections))
        expect.same_device(OP, "projections", projections, x)
        return projections
    expect.positive_integer(OP, "num_projections", num_projections)
    generator = None
    if seed is not None:
        if not isinstance(seed, int) or isinstance(seed, bool):
            expect.fail(OP, "seed", "an integer or None", repr(seed))
        generator = torch.Generator(x.device).manual_seed(seed)
    shape, dtype = (x.shape[1], num_projections), compute_dtype(x.dtype)
    directions = torch.randn(shape, generator=generator, dtype=dtype, device=x.device)
    return directions / directions.norm(dim=0).clamp_min(torch.finfo(dtype).tiny)


def _kernel():
    from vgen_fast.kernels import sliced_wasserstein as kernel

    return kernel


torch.library.define(
    "vgen_fast::projected_wasserstein",
    "(Tensor x, Tensor y, float p, bool gradient, str impl) -> (Tensor, Tensor, Tensor, Tensor)",
)


@implements("projected_wasserstein")
def _projected_wasserstein(x, y, p, gradient, impl):
    x, y = x.contiguous(), y.contiguous()
    if impl == "triton":
        value, gx, gy = _from_sorted(x, y, p, gradient)
        distance = reference.root(value, p)
        factor = torch.where(value == 0, 0, distance / (p * value)) if gradient else x.new_empty(0)
        return distance, factor, gx, gy
    gx, gy = _gradients(x, y, gradient)
    sizes = (x.shape[0], y.shape[0], 0, x.shape[1])
    value = _C.sliced_wasserstein(where(x), address(x), address(y), 0, address(gx), address(gy), *sizes, p)
    distance = value ** (1 / p)
    factor = x.new_full((), distance / (p * value) if value else 0.0) if gradient else x.new_empty(0)
    return x.new_full((), distance), factor, gx, gy


# Without a gradient nobody needs the projected samples: the kernel projects them itself, block by block, in the cache.
torch.library.define("vgen_fast::distance_along", "(Tensor x, Tensor y, Tensor projections, float p) -> Tensor")


@implements("distance_along")
def _distance_along(x, y, projections, p):
    x, y, projections = x.contiguous(), y.contiguous(), projections.contiguous()
    if p == 1 and len(x) + len(y) >= BINNED_SAMPLES:
        return x.new_full((), _binned(x, y, projections))
    tensors = (address(t) for t in (x, y, projections))
    value = _C.sliced_wasserstein(where(x), *tensors, 0, 0, x.shape[0], y.shape[0], *projections.shape, p)
    return x.new_full((), value ** (1 / p))


def _binned(x: Tensor, y: Tensor, projections: Tensor) -> float:
    """Mean over directions of W_1, of which most samples need no sorting; some directions at a time."""
    directions, total = projections.T.contiguous(), 0.0
    rows = min(max(1, PROJECTED // (len(x) + len(y))), len(directions))
    room = [side.new_empty(rows * len(side)) for side in (x, y)]
    for some in directions.split(rows):
        tensors = [address(_along(some, side, out)) for side, out in zip((x, y), room, strict=True)]
        total += len(some) * _C.binned_wasserstein(where(x), *tensors, len(x), len(y), len(some))
    return total / len(directions)


def _along(directions: Tensor, side: Tensor, out: Tensor) -> Tensor:
    """Projections of [N, D] on [L, D] in `out`: [L, SAMPLE_BLOCK] for each block of samples, and [L, the rest]."""
    (count, dim), lines = side.shape, len(directions)
    block = _C.SAMPLE_BLOCK
    blocks, rest = divmod(count, block)
    whole = blocks * block
    here = out[: lines * whole].view(blocks, lines, block)
    torch.bmm(directions.expand(blocks, -1, -1), side[:whole].view(blocks, block, dim).mT, out=here)
    torch.mm(directions, side[whole:].T, out=out[lines * whole : lines * count].view(lines, rest))
    return out


@torch.library.register_fake("vgen_fast::distance_along")
def _distance_along_fake(x, y, projections, p):
    return x.new_empty(())


def _gradients(x: Tensor, y: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    return (torch.empty_like(x), torch.empty_like(y)) if wanted else (x.new_empty(0), y.new_empty(0))


def _from_sorted(x: Tensor, y: Tensor, p: float, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over directions of W_p^p and its gradients, the sorting done by Triton."""

    def sort(samples: Tensor) -> tuple[Tensor, Tensor | None]:
        values = torch.empty_like(samples)
        ranks = torch.empty_like(samples, dtype=torch.int32) if gradient else None
        _kernel().sorted_columns(samples, values, ranks)
        return values, ranks

    (values_x, ranks_x), (values_y, ranks_y) = sort(x), sort(y)
    equal = x.shape[0] == y.shape[0]
    if equal:
        difference, length = values_x - values_y, 1 / x.shape[0]
    else:
        piece_x, piece_y, length = _pieces(x.shape[0], y.shape[0], x.device)
        difference, length = values_x[piece_x] - values_y[piece_y], length.to(x.dtype)[:, None]
    value = (difference.abs().pow(p) * length).sum(dim=0).mean()
    value = torch.where(_any_nan(x, y), torch.nan, value)
    if not gradient:
        return value, *_gradients(x, y, False)
    slope = p / x.shape[1] * length * difference.abs().pow(p - 1) * difference.sign()
    by_x = slope if equal else torch.zeros_like(x).index_add_(0, piece_x, slope)
    by_y = slope if equal else torch.zeros_like(y).index_add_(0, piece_y, slope)
    return (
        value,
        torch.empty_like(x).scatter_(0, ranks_x.long(), by_x),
        torch.empty_like(y).scatter_(0, ranks_y.long(), -by_y),
    )


def _any_nan(x: Tensor, y: Tensor) -> Tensor:
    return x.isnan().any() | y.isnan().any()


@lru_cache(maxsize=16)
def _pieces(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(part.to(device) for part in reference.quantile_pieces(n, m))


@torch.library.register_fake("vgen_fast::projected_wasserstein")
def _projected_wasserstein_fake(x, y, p, gradient, impl):
    return x.new_empty(()), x.new_empty(() if gradient else 0), *_gradients(x.contiguous(), y.contiguous(), gradient)


def _setup(ctx, inputs, output):
    x, y, ctx.p, ctx.gradient, _ = inputs
    _, factor, gx, gy = output
    ctx.save_for_backward(x, y, factor, gx, gy)
    ctx.mark_non_differentiable(factor, gx, gy)


def _backward(ctx, g, *_):
    x, y, factor, gx, gy = ctx.saved_tensors
    if torch.is_grad_enabled() or not ctx.gradient:
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            x, y = x.view_as(x), y.view_as(y)  # one tensor may be both
            distance = reference.projected_distance(x, y, ctx.p)
            wanted = [t for t, needed in zip((x, y), ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(distance, wanted, g, create_graph=create))
        return *(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), None, None, None
    g = g * factor
    return (
        *(t * g if needed else None for t, needed in zip((gx, gy), ctx.needs_input_grad, strict=False)),
        None,
        None,
        None,
    )


autograd("projected_wasserstein", _setup, _backward)


@autocast.keeps_types
def sliced_head(
    y: Tensor, theta: Tensor, scale: Tensor, offset: Tensor, *, slope: float = 0.2, impl: str | None = None
) -> Tensor:
    """mean_i lrelu(scale_i <theta_i, y> + offset_i), differentiable any number of times by every tensor.

    y              [B, D]
    theta          [K, D], rows are directions
    scale, offset  [K]
    returns        [B]
    """
    expect.tensor(HEAD, "y", y)
    if y.ndim != 2:
        expect.fail(HEAD, "y", "[B, D]", expect.shape(y))
    for name, tensor in (("theta", theta), ("scale", scale), ("offset", offset)):
        expect.tensor(HEAD, name, tensor)
        expect.same_device(HEAD, name, tensor, y, "y")
        if tensor.dtype != y.dtype:
            expect.fail(HEAD, name, f"{y.dtype} like y", tensor.dtype)
    if theta.ndim != 2 or theta.shape[1] != y.shape[1] or theta.shape[0] == 0:
        expect.fail(HEAD, "theta", f"[K, {y.shape[1]}], K > 0", expect.shape(theta))
    for name, tensor in (("scale", scale), ("offset", offset)):
        expect.has_shape(HEAD, name, tensor, (theta.shape[0],), "[K]")
    expect.finite_number(HEAD, "slope", slope)

    def supports(impl: str) -> str | None:
        if reason := lacks(impl, y.device.type):
            return reason
        return "an empty batch has nothing to fuse" if y.shape[0] == 0 else None

    impl = choose(HEAD, impl if y.shape[0] else None, y.device, supports)
    if impl == "reference":
        return reference.sliced_head(y, theta, scale, offset, slope=slope)
    # The product stays outside: autograd then skips the gradient of theta where a penalty does not ask for it.
    return call("sliced_head", y @ theta.T, scale, offset, float(slope), impl)


torch.library.define(
    "vgen_fast::sliced_head", "(Tensor q, Tensor scale, Tensor offset, float slope, str impl) -> Tensor"
)
torch.library.define(
    "vgen_fast::sliced_head_backward",
    "(Tensor g, Tensor q, Tensor scale, Tensor offset, float slope, str impl) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "vgen_fast::sliced_head_double_backward",
    "(Tensor v, Tensor vs, Tensor vo, Tensor g, Tensor q, Tensor scale, Tensor offset, float slope, str impl)"
    " -> (Tensor, Tensor, Tensor)",
)


@implements("sliced_head")
def _head(q, scale, offset, slope, impl):
    q, scale, offset = q.contiguous(), scale.contiguous(), offset.contiguous()
    out = _head_fake(q, scale, offset, slope, impl)
    if impl == "triton":
        _kernel().sliced_head_forward(q, scale, offset, out, slope)
    else:
        _C.sliced_head_forward(where(q), address(q), address(scale), address(offset), address(out), *q.shape, slope)
    return out


@torch.library.register_fake("vgen_fast::sliced_head")
def _head_fake(q, scale, offset, slope, impl):
    return q.new_empty(q.shape[0])


@implements("sliced_head_backward")
def _head_backward(g, q, scale, offset, slope, impl):
    g, q, scale, offset = g.contiguous(), q.contiguous(), scale.contiguous(), offset.contiguous()
    gq, gscale, goffset = _head_backward_fake(g, q, scale, offset, slope, impl)
    if impl == "triton":
        _kernel().sliced_head_backward(q, g, scale, offset, gq, gscale, goffset, slope)
    else:
        tensors = (address(t) for t in (q, scale, offset, g, gq, gscale, goffset))
        _C.sliced_head_backward(where(q), *tensors, *q.shape, slope)
    return gq, gscale, goffset


@torch.library.register_fake("vgen_fast::sliced_head_backward")
def _head_backward_fake(g, q, scale, offset, slope, impl):
    return q.new_empty(q.shape), q.new_empty(q.shape[1]), q.new_empty(q.shape[1])


def _head_second(v, vs, vo, g, q, scale, offset, slope) -> tuple[Tensor, Tensor, Tensor]:
    """The double backward in plain PyTorch, differentiable itself: multilinear, as the mask is constant."""
    z = (scale * q + offset).detach()
    mask = torch.where(z > 0, 1.0, slope).to(q.dtype) / q.shape[1]
    weighted = g[:, None] * mask
    return (mask * (v * scale + vs * q + vo)).sum(dim=1), weighted * vs, (weighted * v).sum(dim=0)


@implements("sliced_head_double_backward")
def _head_double_backward(v, vs, vo, g, q, scale, offset, slope, impl):
    tensors = [t.contiguous() for t in (q, scale, offset, g, v, vs, vo)]
    q, scale, offset, g, v, vs, vo = tensors
    if impl == "triton":
        return _head_second(v, vs, vo, g, q, scale, offset, slope)
    gg, gq, gscale = _head_double_backward_fake(v, vs, vo, g, q, scale, offset, slope, impl)
    outputs = (address(t) for t in (gg, gq, gscale))
    _C.sliced_head_double_backward(where(q), *(address(t) for t in tensors), *outputs, *q.shape, slope)
    return gg, gq, gscale


@torch.library.register_fake("vgen_fast::sliced_head_double_backward")
def _head_double_backward_fake(v, vs, vo, g, q, scale, offset, slope, impl):
    return q.new_empty(q.shape[0]), q.new_empty(q.shape), q.new_empty(q.shape[1])


def _head_setup(ctx, inputs, output):
    *tensors, ctx.slope, ctx.impl = inputs
    ctx.save_for_backward(*tensors)


def _head_first(ctx, g):
    gradients = call("sliced_head_backward", g, *ctx.saved_tensors, ctx.slope, ctx.impl)
    return *gradients, None, None


def _head_of_backward(ctx, v, vs, vo):
    tensors = ctx.saved_tensors
    gg, gq, gscale = call("sliced_head_double_backward", v, vs, vo, *tensors, ctx.slope, ctx.impl)
    return gg, gq, gscale, None, None, None


def _head_of_double_backward(ctx, *gradients):
    tensors, create = ctx.saved_tensors, torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = [t.view_as(t) for t in tensors]  # one tensor may be two of them
        wanted = [t for t, needed in zip(tensors, ctx.needs_input_grad, strict=False) if needed]
        outputs = _head_second(*tensors, ctx.slope)
        found = torch.autograd.grad(
            outputs, wanted, gradients, create_graph=create, allow_unused=True, materialize_grads=True
        )
    found = iter(found)
    return *(next(found) if needed else None for needed in ctx.needs_input_grad[:7]), None, None


autograd("sliced_head", _head_setup, _head_first)
autograd("sliced_head_backward", _head_setup, _head_of_backward)
autograd("sliced_head_double_backward", _head_setup, _head_of_double_backward)
