"""What `make cuda-check` times: every op in the shapes of a progressive video GAN, beside what people write in PyTorch.

Legend: x the op's first tensor, y its output; a set is one drawing of all input tensors; seconds unless said otherwise.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from vgen_fast import ops
from vgen_fast.ops import reference

PASSES = ("forward", "forward+backward", "double backward")
ROTATED_BYTES = 96 << 20  # of inputs, so that none is found in a cache of 60 MB
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 2e-4}  # |out - ref| / |ref|
# (name, batch, size of the output, channels) of the stages
STAGES = [
    ("256", 4, (32, 256, 256), 8), ("128", 8, (32, 128, 128), 16), ("64", 8, (16, 64, 64), 32),
    ("32", 16, (16, 32, 32), 64), ("16", 16, (8, 16, 16), 128), ("8", 32, (8, 8, 8), 128), ("4", 32, (4, 4, 4), 128),
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row: `ours(tensors, impl)` beside `eager(tensors)`; floors count each input and each output once."""

    op: str
    name: str
    shapes: dict[str, tuple[int, ...]]
    ours: Callable[[dict[str, Tensor], str], Tensor]
    eager: Callable[[dict[str, Tensor]], Tensor]
    out: tuple[int, ...]
    flops: float = 0.0  # of the forward pass
    passes: tuple[str, ...] = PASSES
    impls: tuple[str, ...] = ("cpp", "triton", "eager", "eager channels_last", "compile")
    traffic: dict[str, tuple[int, int]] = field(  # pass -> times x, times y
        default_factory=lambda: {PASSES[0]: (1, 1), PASSES[1]: (3, 3), PASSES[2]: (4, 5)}
    )
    products: tuple[int, ...] = (1, 3, 3)  # products of the forward's size per pass: with gradients of x and of w
    slack: float = 1.0  # times the tolerance: more where rounding may swap the ranks of near ties

    def __str__(self) -> str:
        return f"{self.op} {self.name}"

    @property
    def video(self) -> bool:
        return len(self.shapes["x"]) == 5

    def draw(self, dtype: torch.dtype, device: str, seed: int, channels_last: bool = False) -> dict[str, Tensor]:
        generator = torch.Generator(device).manual_seed(seed)
        drawn = {
            name: torch.randn(shape, generator=generator, device=device).mul_(scale_of(name, shape)).to(dtype)
            for name, shape in self.shapes.items()
        }
        if channels_last and self.video:
            drawn["x"] = drawn["x"].contiguous(memory_format=torch.channels_last_3d)
        return drawn

    def floor(self, which: str, element: int, bytes_per_s: float, flops_per_s: float) -> float:
        """No version runs much faster: the larger of bytes over bandwidth and operations over arithmetic rate."""
        times_x, times_y = self.traffic[which]
        moved = element * (times_x * math.prod(self.shapes["x"]) + times_y * math.prod(self.out))
        return max(moved / bytes_per_s, self.products[PASSES.index(which)] * self.flops / flops_per_s)


def scale_of(name: str, shape: tuple[int, ...]) -> float:
    return 1 / math.sqrt(math.prod(shape[1:])) if name in ("weight", "theta") else 1.0


def eager_conv(tensors: dict[str, Tensor], up=1, down=1, slope=0.2) -> Tensor:
    """As people write it; a style scales activations instead of weights, which spares a grouped convolution."""
    x, weight, bias, style = (tensors.get(name) for name in ("x", "weight", "bias", "style"))
    if style is not None:
        shape = (*style.shape, 1, 1, 1)
        wide = torch.promote_types(x.dtype, torch.float32)
        energy = weight.to(wide).square().sum((2, 3, 4)) @ style.to(wide).square().T
        norm = (energy + 1e-8).rsqrt().T.to(x.dtype)
        x = x * style.reshape(shape)
    x = F.interpolate(x, scale_factor=up, mode="nearest") if up > 1 else x
    if style is None and down == 1:
        return F.leaky_relu(F.conv3d(x, weight, bias, padding=1), slope)
    y = F.conv3d(x, weight, padding=1)
    y = F.avg_pool3d(y, down) if down > 1 else y
    y = y * norm[:, :, None, None, None] if style is not None else y
    return F.leaky_relu(y + bias[:, None, None, None], slope)


def conv(name: str, batch: int, size: tuple[int, ...], num_in: int, num_out: int, style=False, up=1, down=1) -> Case:
    """size is that of the larger of x and y."""
    small = tuple(n // 2 for n in size)
    shapes = {
        "x": (batch, num_in, *(small if up > 1 else size)),
        "weight": (num_out, num_in, 3, 3, 3),
        "bias": (num_out,),
    }
    shapes |= {"style": (batch, num_in)} if style else {}
    out = (batch, num_out, *(small if down > 1 else size))
    # Summing taps first leaves 8 of 27 products per output for up, and 64 of 216 for down.
    products = {(2, 1): 8, (1, 2): 64}.get((up, down), 27)
    return Case(
        "modulated_conv3d", name, shapes,
        lambda tensors, impl: ops.modulated_conv3d(**tensors, slope=0.2, up=up, down=down, impl=impl),
        lambda tensors: eager_conv(tensors, up, down),
        out, flops=2.0 * products * num_in * math.prod(out),
    )  # fmt: skip


def cases() -> list[Case]:
    """Dearest last within an op, so that a budget that ends early has seen most of it."""
    found = [conv(f"{name} C{c} N{n}", n, size, c, c) for name, n, size, c in STAGES]
    for name, batch, size, wide, narrow in [
        ("16", 16, (8, 16, 16), 128, 128), ("32", 16, (16, 32, 32), 128, 64), ("64", 8, (16, 64, 64), 64, 32),
        ("128", 8, (32, 128, 128), 32, 16), ("256", 4, (32, 256, 256), 16, 8),
    ]:  # fmt: skip
        found.append(conv(f"up to {name} C{wide}-{narrow} N{batch}", batch, size, wide, narrow, up=2))
        found.append(conv(f"down from {name} C{narrow}-{wide} N{batch}", batch, size, narrow, wide, down=2))
    found += [conv(f"style {name} C{c} N{n}", n, size, c, c, style=True) for name, n, size, c in STAGES[1:5]]
    norm = {PASSES[0]: (1, 1), PASSES[1]: (2, 3), PASSES[2]: (5, 5)}
    for name, batch, size, channels in STAGES:
        shape = (batch, channels, *size)
        found.append(
            Case(
                "pixel_norm",
                f"{name} C{channels} N{batch}",
                {"x": shape},
                lambda tensors, impl: ops.pixel_norm(**tensors, slope=0.2, impl=impl),
                lambda tensors: reference.pixel_norm.pixel_norm(**tensors, slope=0.2),
                shape,
                traffic=norm,
            )
        )
    deviation = {PASSES[0]: (1, 1), PASSES[1]: (3, 2), PASSES[2]: (6, 4)}
    for name, batch, size, channels in STAGES[-2:]:
        found.append(
            Case(
                "minibatch_stddev",
                f"{name} C{channels} N{batch}",
                {"x": (batch, channels, *size)},
                lambda tensors, impl: ops.minibatch_stddev(**tensors, impl=impl),
                lambda tensors: reference.minibatch_stddev.minibatch_stddev(**tensors),
                (batch, channels + 1, *size),
                traffic=deviation,
            )
        )
    plain = ("triton", "eager", "compile")
    for batch in (64, 512):
        found.append(
            Case(
                "sliced_wasserstein",
                f"B{batch} D128 L256",
                {"x": (batch, 128), "y": (batch, 128), "projections": (128, 256)},
                lambda tensors, impl: ops.sliced_wasserstein(**tensors, impl=impl),
                lambda tensors: reference.sliced_wasserstein.sliced_wasserstein(**tensors),
                (1,),
                flops=4.0 * batch * 128 * 256,
                slack=10,
                impls=plain,
                passes=PASSES[:2],
            )
        )
    found.append(
        Case(
            "sliced_head",
            "B32 K128",
            {"x": (32, 128), "theta": (128, 128), "scale": (128,), "offset": (128,)},
            lambda tensors, impl: ops.sliced_head(*tensors.values(), impl=impl),
            lambda tensors: reference.sliced_wasserstein.sliced_head(*tensors.values()),
            (32,),
            flops=2.0 * 32 * 128 * 128,
            impls=plain,
        )
    )
    for dim in (400, 2048):
        found.append(
            Case(
                "FeatureMoments",
                f"2048 rows, d {dim}",
                {"x": (2048, dim)},
                _moments,
                lambda tensors: torch.cov(tensors["x"].double().T),
                (dim, dim),
                flops=2.0 * 2048 * dim * dim,
                impls=plain[:2],
                passes=PASSES[:1],
            )
        )
    return found


def _moments(tensors: dict[str, Tensor], impl: str) -> Tensor:
    x = tensors["x"]
    moments = ops.FeatureMoments(x.shape[1], device=x.device, impl=impl)
    moments.update(x)
    return moments.covariance()


def small(case: Case) -> Case:
    """The same case in a size for a CPU: two samples, eight channels, four voxels an axis."""
    if case.op != "modulated_conv3d":
        shapes = {"x": (4, *(min(n, 8) for n in case.shapes["x"][1:]))} if case.video else case.shapes
        return replace(case, shapes=shapes)
    shapes = {
        "x": (2, 8, *(min(n, 4) for n in case.shapes["x"][2:])),
        "weight": (8, 8, 3, 3, 3),
        "bias": (8,),
        "style": (2, 8),
    }
    return replace(case, shapes={name: shapes[name] for name in case.shapes})


# ---------------------------------------------------------------------------------------------------------- running


def function_of(case: Case, impl: str) -> Callable[[dict[str, Tensor]], Tensor]:
    if impl in ("cpp", "triton"):
        return lambda tensors: case.ours(tensors, impl)
    if impl == "compile":
        return torch.compile(case.eager, dynamic=False)
    return case.eager


def run(function: Callable, tensors: dict[str, Tensor], which: str, dtype: torch.dtype | None = None) -> list[Tensor]:
    """One pass: the output, or the gradients of every tensor of <output, g>, or of its squared input gradient.

    dtype is the one g is rounded to, where the tensors are wider.
    """
    if which == PASSES[0]:
        with torch.no_grad():
            return [function(tensors)]
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    output = function(leaves)
    g = direction(output, dtype or output.dtype)
    if which == PASSES[1]:
        return list(torch.autograd.grad(output, list(leaves.values()), g))
    with ops.no_weight_gradients():
        (gx,) = torch.autograd.grad(output, leaves["x"], g, create_graph=True)
    wide = gx.to(torch.promote_types(gx.dtype, torch.float32))
    options = dict(allow_unused=True, materialize_grads=True)
    return list(torch.autograd.grad(wide.square().sum(), list(leaves.values()), **options))


def penalty_gradients(function: Callable, tensors: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The double backward by forward over reverse: |J^T g|^2 has the gradients of <g, J v> at the constant v = 2 J^T g.

    Independent of every double-backward formula, and free of PyTorch's slow one for the weights of a convolution.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    output = function(leaves)
    g = direction(output, dtype)
    (gx,) = torch.autograd.grad(output, leaves["x"], g)
    with forward_ad.dual_level():
        dual = function({**leaves, "x": forward_ad.make_dual(leaves["x"], 2 * gx)})
        along = forward_ad.unpack_dual(dual).tangent
        options = dict(allow_unused=True, materialize_grads=True)
        return list(torch.autograd.grad((along * g).sum(), list(leaves.values()), **options))


_directions: dict[tuple, Tensor] = {}  # the last one
_exact: dict[tuple, list[Tensor]] = {}  # of the last case


def direction(output: Tensor, dtype: torch.dtype) -> Tensor:
    """A fixed random gradient in the output's layout, drawn once."""
    key = (output.shape, output.stride(), output.dtype, output.device, dtype)
    if key not in _directions:
        _directions.clear()
        generator = torch.Generator(output.device).manual_seed(1)
        drawn = torch.randn(output.shape, generator=generator, device=output.device).to(dtype)
        _directions[key] = torch.empty_like(output).copy_(drawn)
    return _directions[key]


def exact(case: Case, which: str, dtype: torch.dtype, device: str, seed: int) -> list[Tensor]:
    """The pass on upcast inputs, in float64 for float32 and in float32 for 16 bits."""
    key = (str(case), dtype, device, seed)
    if any(known[:-1] != key for known in _exact):
        _exact.clear()
    if (*key, which) not in _exact:
        wide = torch.float64 if dtype == torch.float32 else torch.float32
        tensors = {name: tensor.to(wide) for name, tensor in case.draw(dtype, device, seed).items()}
        if which == PASSES[2]:
            found = penalty_gradients(case.eager, tensors, dtype)
        else:
            found = run(case.eager, tensors, which, dtype)
        _exact[(*key, which)] = found
    return _exact[(*key, which)]


def wrong(case: Case, impl: str, which: str, dtype: torch.dtype, device: str, seed: int) -> str | None:
    """What is wrong with one pass on inputs drawn for the case, fresh memory poisoned with NaN; None if nothing is."""
    true = exact(case, which, dtype, device, seed)
    tensors = case.draw(dtype, device, seed, channels_last=impl != "eager")
    torch.use_deterministic_algorithms(impl in ("cpp", "triton"), warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        got = run(function_of(case, impl), tensors, which)
    finally:
        torch.use_deterministic_algorithms(False)
    names = ["the output"] if which == PASSES[0] else [f"the gradient of {name}" for name in case.shapes]
    for name, mine, theirs in zip(names, got, true, strict=True):
        scale = theirs.double().norm().item()
        error = (mine.double() - theirs.double()).norm().item()
        if not error <= case.slack * TOLERANCE[dtype] * scale + 1e-12:
            return f"{name} is off by {error / scale if scale else error:.1e} of its norm"
    return None


def input_sets(case: Case, element: int, most: int = 64) -> int:
    """How many drawings to rotate through, so that what one call reads has left the cache when its turn comes again."""
    one = element * sum(math.prod(shape) for shape in case.shapes.values())
    return max(2, min(most, math.ceil(ROTATED_BYTES / one) + 1))


def timed(call: Callable[[int], object], target: float = 0.25, least: int = 7, most: int = 60) -> float:
    """Median seconds of one call by device events; call(i) runs on input set i."""

    def events(count: int) -> Iterator[float]:
        pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(count)]
        for i, (start, end) in enumerate(pairs):
            start.record()
            call(i)
            end.record()
        torch.cuda.synchronize()
        return (start.elapsed_time(end) / 1e3 for start, end in pairs)

    once = min(events(2))
    if once > target:
        return once
    found = sorted(events(max(least, min(most, int(target / max(once, 1e-6))))))
    return found[len(found) // 2]


def measure(case: Case, impl: str, which: str, dtype: torch.dtype) -> tuple[float, int]:
    """Median seconds, and bytes allocated at the peak beyond the inputs."""
    last, count = impl != "eager", input_sets(case, dtype.itemsize)
    sets = [case.draw(dtype, "cuda", seed, channels_last=last) for seed in range(count)]
    function = function_of(case, impl)
    run(function, sets[0], which)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(function, sets[0], which)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return timed(lambda i: run(function, sets[i % len(sets)], which)), peak


def copy_rate() -> float:
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / timed(lambda i: target.copy_(source))


def product_rate(dtype: torch.dtype, n: int) -> float:
    a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / timed(lambda i: torch.mm(a, b, out=out))


def ceilings() -> dict[str, float]:
    """Measured rates: bytes a second of a copy (read plus written), operations a second of matrix products."""
    rates = {"bfloat16": product_rate(torch.bfloat16, 8192), "float32": product_rate(torch.float32, 4096)}
    return {"copy": copy_rate(), **rates}
