"""The CUDA sources, run on the CPU by emulator.h, against the PyTorch references."""

import importlib

import emulated
import pytest
import torch
from emulated import TOLERANCE, Guarded, address, compute_dtype, error, laid_out, where

from vgen_fast.ops.reference import minibatch_stddev as stddev_reference
from vgen_fast.ops.reference import pixel_norm as norm_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
TYPES = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def randn(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------------------------- pixel norm

NORM_SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 8, 1, 4, 8),
    (1, 3, 1, 5, 7),
    (2, 16, 2, 3, 8),
    (1, 24, 1, 1, 9),
    (3, 17, 1, 2, 8),
    (1, 64, 1, 3, 11),
    (1, 260, 1, 1, 5),
    (1, 8, 3, 19, 23),
]


@TYPES
@LAYOUTS
@pytest.mark.parametrize("shape", NORM_SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0, 1])
def test_pixel_norm_matches_reference(emulated_module, shape, channels_last, dtype, offset):
    if offset and shape not in NORM_SHAPES[1:3]:
        pytest.skip("misaligned buffers are tried on two shapes")
    slope, gain, eps = 0.3, 1.7, 1e-3
    x, g = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1)
    wide = x.double().requires_grad_()
    exact = norm_reference.pixel_norm(wide, slope=slope, eps=eps)
    (exact_gx,) = torch.autograd.grad(exact, wide, g.double())
    x, g = laid_out(x, channels_last, offset), laid_out(g, channels_last, offset)
    y = Guarded(shape, dtype, channels_last, offset)
    r = Guarded((shape[0], *shape[2:]), compute_dtype(dtype))
    at = where(emulated_module, x)
    emulated_module.pixel_norm_forward(
        at, address(x), address(y.tensor), address(r.tensor), shape, x.stride(), slope, eps
    )
    assert error(y.result(), exact) < TOLERANCE[dtype]
    a = torch.where(wide > 0, wide, wide * slope)
    assert error(r.result(), (a.square().mean(1) + eps).rsqrt()) < TOLERANCE[compute_dtype(dtype)]
    gz = Guarded(shape, dtype, channels_last, offset)
    tensors = (address(g), address(y.tensor), address(r.tensor), address(gz.tensor))
    emulated_module.pixel_norm_backward(at, *tensors, shape, x.stride(), slope, gain)
    # y is rounded, so the gradient is exact only for the y that was stored.
    assert float((gz.result().double() - exact_gx * gain).norm()) < 8 * TOLERANCE[dtype] * float(g.double().norm())


@TYPES
@pytest.mark.parametrize("size", [1, 7, 64, 1027])
@pytest.mark.parametrize("offset", [0, 1])
def test_mask_matches_derivative(emulated_module, size, offset, dtype):
    shape = (1, 1, 1, 1, size)
    g, y = (
        laid_out(randn(*shape, dtype=dtype), False, offset),
        laid_out(randn(*shape, dtype=dtype, seed=2), False, offset),
    )
    gz = Guarded(shape, dtype, False, offset)
    at = where(emulated_module, g)
    emulated_module.pixel_norm_backward(at, address(g), address(y), 0, address(gz.tensor), shape, g.stride(), 0.25, 1.5)
    exact = g.double() * torch.where(y > 0, 1.5, 0.375).double()
    assert error(gz.result(), exact) < TOLERANCE[dtype]


# ------------------------------------------------------------------------------------------------- minibatch stddev


@TYPES
@LAYOUTS
@pytest.mark.parametrize(
    ("shape", "group"),
    [
        ((1, 1, 1, 1, 1), 1),
        ((4, 3, 1, 2, 5), 2),
        ((8, 16, 1, 4, 4), 4),
        ((6, 7, 2, 5, 9), 3),
        ((9, 5, 1, 3, 3), 9),
        ((2, 1, 1, 1, 700), 2),
    ],
    ids=str,
)
def test_minibatch_stddev_matches_reference(emulated_module, shape, group, channels_last, dtype):
    eps, wide_shape = 1e-2, (shape[0], shape[1] + 1, *shape[2:])
    x, v, g = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1), randn(*wide_shape, dtype=dtype, seed=2)
    wide, wide_g = x.double().requires_grad_(), g.double().requires_grad_()
    exact = stddev_reference.minibatch_stddev(wide, group_size=group, eps=eps)
    (exact_gx,) = torch.autograd.grad(exact, wide, wide_g, create_graph=True)
    exact_gg, exact_gxx = torch.autograd.grad(exact_gx, (wide_g, wide), v.double(), allow_unused=True)
    x, v, g = (laid_out(t, channels_last) for t in (x, v, g))
    at = where(emulated_module, x)
    sizes = [shape[0], shape[1], shape[2] * shape[3] * shape[4]]
    y = Guarded(wide_shape, dtype, channels_last)
    emulated_module.minibatch_stddev_forward(at, address(x), address(y.tensor), sizes, group, channels_last, eps)
    assert error(y.result(), exact) < TOLERANCE[dtype]
    gx = Guarded(shape, dtype, channels_last)
    emulated_module.minibatch_stddev_backward(
        at, address(g), address(x), address(gx.tensor), sizes, group, channels_last, eps
    )
    assert error(gx.result(), exact_gx) < TOLERANCE[dtype]
    gg, gxx = Guarded(wide_shape, dtype, channels_last), Guarded(shape, dtype, channels_last)
    tensors = (address(t) for t in (v, g, x, gg.tensor, gxx.tensor))
    emulated_module.minibatch_stddev_double_backward(at, *tensors, sizes, group, channels_last, eps)
    assert error(gg.result(), exact_gg) < TOLERANCE[dtype]
    assert float((gxx.result().double() - exact_gxx).abs().max()) <= 2 * TOLERANCE[dtype] * max(
        1e-3, float(exact_gxx.abs().max())
    )


# ------------------------------------------------------------------------------------------------------ convolution

IDENTITY = (1, 1, 1)


class Case:
    def __init__(
        self, batch, inputs, outputs, size, kernel=(3, 3, 3), padding=None, up=IDENTITY, down=IDENTITY, **options
    ):
        self.batch, self.inputs, self.outputs, self.size, self.kernel = batch, inputs, outputs, size, kernel
        self.padding = padding or tuple((k - 1) // 2 for k in kernel)
        self.up, self.down = up, down
        self.out_size = options.pop("out_size", None) or tuple(
            (n * u + 2 * p - k + 1) // d for n, u, p, k, d in zip(size, up, self.padding, kernel, down, strict=True)
        )
        self.per_sample = options.pop("per_sample", False)
        self.noise = options.pop("noise", False)
        self.pixel_norm = options.pop("pixel_norm", False)
        self.slope = options.pop("slope", 1.0)
        self.gain = options.pop("gain", 1.0)
        self.offset = options.pop("offset", 0)
        assert not options

    def __str__(self):
        parts = [
            f"{self.batch}x{self.inputs}-{self.outputs}",
            "x".join(map(str, self.size)),
            "k" + "".join(map(str, self.kernel)),
        ]
        parts += [
            f"{name}{''.join(map(str, factor))}"
            for name, factor in (("up", self.up), ("down", self.down))
            if factor != IDENTITY
        ]
        parts += [name for name in ("per_sample", "noise", "pixel_norm", "offset") if getattr(self, name)]
        return "-".join(parts)

    def weight_shape(self):
        return (*((self.batch,) if self.per_sample else ()), self.outputs, self.inputs, *self.kernel)

    def sizes(self):
        channels = [self.batch, self.inputs, self.outputs]
        return (
            channels,
            list(self.size),
            list(self.out_size),
            list(self.kernel),
            list(self.padding),
            list(self.up),
            list(self.down),
        )


def convolution(x, w, case):
    """up -> convolution -> average pool in float64, of x extended by zeros to give case.out_size."""
    for axis, factor in enumerate(case.up):
        x = x.repeat_interleave(factor, dim=2 + axis)
    pad = []
    for n, k, p, out, down in reversed(
        list(zip(x.shape[2:], case.kernel, case.padding, case.out_size, case.down, strict=True))
    ):
        pad += [p, out * down + k - 1 - p - n]
    x = torch.nn.functional.pad(x, pad)
    if case.per_sample:
        z = torch.cat([torch.nn.functional.conv3d(x[i : i + 1], w[i]) for i in range(len(x))])
    else:
        z = torch.nn.functional.conv3d(x, w)
    return torch.nn.functional.avg_pool3d(z, case.down) if max(case.down) > 1 else z


FORWARD = [
    Case(1, 1, 1, (1, 1, 1), (1, 1, 1)),
    Case(2, 3, 5, (2, 5, 7)),
    Case(1, 8, 8, (5, 9, 17), noise=True, slope=0.2, gain=1.4, pixel_norm=True),
    Case(2, 16, 12, (1, 7, 9), (1, 3, 3), slope=0.1, per_sample=True),
    Case(1, 24, 72, (2, 3, 5), pixel_norm=True, noise=True),
    Case(1, 40, 20, (4, 4, 4), (3, 1, 5), padding=(0, 1, 3), slope=0.2),
    Case(1, 8, 130, (1, 3, 3), (1, 1, 3), pixel_norm=True, slope=0.2),
    Case(2, 8, 8, (2, 3, 5), up=(2, 2, 2), noise=True, pixel_norm=True, per_sample=True, slope=0.2),
    Case(1, 16, 24, (2, 3, 3), up=(1, 2, 2), gain=0.5),
    Case(1, 5, 8, (3, 4, 3), (3, 3, 5), up=(2, 1, 2), out_size=(5, 4, 7), slope=0.3),
    Case(1, 8, 16, (4, 6, 10), down=(2, 2, 2), slope=0.2),
    Case(2, 6, 7, (3, 7, 6), down=(1, 2, 2), noise=True),
    Case(1, 8, 8, (5, 5, 7), (3, 5, 3), down=(2, 1, 2), padding=(2, 0, 1), per_sample=True),
    Case(1, 8, 8, (2, 3, 4), up=(1, 2, 1), down=(1, 1, 2)),
    Case(1, 8, 8, (3, 4, 9), offset=1, out_size=(6, 5, 11)),
    Case(1, 1, 2, (3, 3, 3), (7, 7, 7)),
]


def close(value, exact, dtype, scale=1.0):
    tolerance = TOLERANCE[dtype] * scale
    assert error(value, exact) < tolerance
    assert float((value.double() - exact).abs().max()) <= 4 * tolerance * float(exact.abs().max().clamp_min(1e-3))


@TYPES
@LAYOUTS
@pytest.mark.parametrize("case", FORWARD, ids=str)
def test_convolution_matches_reference(emulated_module, case, channels_last, dtype):
    wide, eps = compute_dtype(dtype), 1e-3
    x = laid_out(randn(case.batch, case.inputs, *case.size, dtype=dtype), channels_last, case.offset)
    w = randn(*case.weight_shape(), dtype=wide, seed=1) / (case.inputs * torch.Size(case.kernel).numel()) ** 0.5
    bias = randn(case.outputs, dtype=wide, seed=2)
    shape = (case.batch, case.outputs, *case.out_size)
    noise = randn(case.batch, 1, *case.out_size, dtype=dtype, seed=3).expand(shape) if case.noise else None
    y = Guarded(shape, dtype, channels_last, case.offset)
    r = Guarded((case.batch, *case.out_size), wide) if case.pixel_norm else None
    tensors = (address(t) for t in (x, w, bias, noise, y.tensor, r and r.tensor))
    emulated_module.modulated_conv3d_forward(
        where(emulated_module, x), *tensors, *case.sizes(), x.stride(), y.tensor.stride(),
        [0] * 5 if noise is None else noise.stride(), case.per_sample, case.pixel_norm, case.slope, case.gain, eps,
    )  # fmt: skip
    # The tensor cores round the weights (after summing taps) to x's type; every other rounding is ours to answer for.
    exact = convolution(x.double(), w.double(), case) + bias.double()[:, None, None, None]
    exact = exact if noise is None else exact + noise.double()
    exact = torch.where(exact > 0, exact, exact * case.slope) * case.gain
    if case.pixel_norm:
        factor = (exact.square().mean(1) + eps).rsqrt()
        exact = exact * factor[:, None]
        assert error(r.result(), factor) < 2 * TOLERANCE[dtype]
    close(y.result(), exact, dtype, 1.5)


GRADIENT = [
    Case(1, 1, 1, (1, 1, 1), (1, 1, 1)),
    Case(2, 3, 5, (2, 5, 7)),
    Case(2, 8, 20, (3, 4, 9), (1, 3, 3), per_sample=True),
    Case(1, 24, 8, (4, 5, 5), (3, 1, 3), padding=(0, 1, 2)),
    Case(2, 8, 8, (2, 3, 5), up=(2, 2, 2)),
    Case(1, 5, 8, (3, 4, 3), (3, 3, 5), up=(2, 1, 2), out_size=(5, 4, 7), per_sample=True),
    Case(1, 16, 17, (4, 6, 10), down=(2, 2, 2)),
    Case(2, 6, 7, (3, 7, 6), down=(1, 2, 2), per_sample=True),
    Case(3, 8, 8, (1, 9, 20), (1, 3, 3)),
    Case(1, 8, 8, (2, 3, 4), up=(1, 2, 1), down=(1, 1, 2)),
    Case(1, 8, 8, (3, 4, 9), offset=1),
    Case(1, 40, 40, (2, 8, 8)),
]


@TYPES
@LAYOUTS
@pytest.mark.parametrize("case", GRADIENT, ids=str)
def test_weight_gradient_matches_reference(emulated_module, case, channels_last, dtype):
    wide = compute_dtype(dtype)
    x = laid_out(randn(case.batch, case.inputs, *case.size, dtype=dtype), channels_last, case.offset)
    g = laid_out(randn(case.batch, case.outputs, *case.out_size, dtype=dtype, seed=1), channels_last, case.offset)
    w = torch.zeros(case.weight_shape(), dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(convolution(x.double(), w, case), w, g.double())
    gw, gb = Guarded(case.weight_shape(), wide), Guarded((case.batch if case.per_sample else 1, case.outputs), wide)
    tensors = (address(t) for t in (x, g, gw.tensor, gb.tensor))
    emulated_module.modulated_conv3d_weight_gradient(
        where(emulated_module, x), *tensors, *case.sizes(), x.stride(), g.stride(), case.per_sample
    )
    close(gw.result(), exact, wide)
    sums = g.double().sum((2, 3, 4))
    close(gb.result(), sums if case.per_sample else sums.sum(0, keepdim=True), wide)


# ------------------------------------------------------------------------------------------- which path, which order

HALF = [torch.bfloat16, torch.float16]


def test_sixteen_bit_types_use_the_tensor_cores(emulated_module):
    case = FORWARD[2]
    before = emulated_module.emulator.count_mma(), emulated_module.emulator.count_cp_async()
    test_convolution_matches_reference(emulated_module, case, True, torch.bfloat16)
    after = emulated_module.emulator.count_mma(), emulated_module.emulator.count_cp_async()
    assert after[0] > before[0]
    assert after[1] > before[1]
    test_convolution_matches_reference(emulated_module, case, True, torch.float32)
    assert emulated_module.emulator.count_mma() == after[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", [FORWARD[4], FORWARD[5], FORWARD[7], FORWARD[11]], ids=str)
def test_convolution_holds_whatever_the_order_of_threads_and_the_device(emulated_module, case, dtype):
    """Threads in reverse order, many multiprocessors (small tiles, narrow blocks), little shared memory."""
    emulator = emulated_module.emulator
    settings = [(1, 4, 227 << 10), (0, 1000, 227 << 10), (1, 1000, 100 << 10), (0, 4, 24 << 10), (0, 4, 8 << 10)]
    try:
        for reverse, multiprocessors, shared in settings:
            emulator.run_reversed(reverse)
            emulator.set_multiprocessors(multiprocessors)
            emulator.set_max_shared(shared)
            test_convolution_matches_reference(emulated_module, case, True, dtype)
            test_weight_gradient_matches_reference(emulated_module, case, True, dtype)
    finally:
        emulator.run_reversed(0)
        emulator.set_multiprocessors(4)
        emulator.set_max_shared(227 << 10)


def test_reductions_hold_in_reverse_order(emulated_module):
    emulated_module.emulator.run_reversed(1)
    try:
        for last in (False, True):
            test_pixel_norm_matches_reference(emulated_module, (1, 24, 1, 3, 9), last, torch.bfloat16, 0)
            test_minibatch_stddev_matches_reference(emulated_module, (6, 7, 2, 5, 9), 3, last, torch.float32)
    finally:
        emulated_module.emulator.run_reversed(0)


def test_same_input_gives_the_same_bits(emulated_module):
    x, g = randn(2, 8, 3, 6, 7, dtype=torch.bfloat16), randn(2, 8, 3, 6, 7, dtype=torch.bfloat16, seed=1)
    case, results = Case(2, 8, 8, (3, 6, 7)), []
    for _ in range(2):
        gw, gb = torch.empty(8, 8, 3, 3, 3), torch.empty(1, 8)
        tensors = (address(t) for t in (x, g, gw, gb))
        emulated_module.modulated_conv3d_weight_gradient(
            where(emulated_module, x), *tensors, *case.sizes(), x.stride(), g.stride(), False
        )
        results.append((gw, gb))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_autograd_holds_to_second_order_through_the_emulated_kernels(emulated_module, monkeypatch):
    calls = {}
    for op in ("modulated_conv3d", "pixel_norm", "minibatch_stddev"):
        module = importlib.import_module(f"vgen_fast.ops.{op}")
        monkeypatch.setattr(module, "_C", emulated_module)
        monkeypatch.setattr(module, "where", lambda x: where(emulated_module, x))
        calls[op] = getattr(module, op)
    conv = importlib.import_module("vgen_fast.ops.modulated_conv3d")
    monkeypatch.setattr(conv, "_gated", lambda impl, y: False)  # as for a tensor on a GPU
    x = randn(2, 3, 2, 3, 4, dtype=torch.float64).requires_grad_()
    w = randn(2, 3, 1, 3, 3, dtype=torch.float64, seed=1).requires_grad_()
    bias = randn(2, dtype=torch.float64, seed=2).requires_grad_()
    for up, down in (((1, 1, 1), (1, 1, 1)), ((1, 2, 2), (1, 1, 1)), ((1, 1, 1), (2, 1, 2))):

        def run(x, w, bias, up=up, down=down):
            return calls["modulated_conv3d"](x, w, bias=bias, slope=0.2, up=up, down=down, impl="cpp")

        assert torch.autograd.gradgradcheck(run, (x, w, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: calls["pixel_norm"](x, slope=0.2, impl="cpp"), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(
        lambda x: calls["minibatch_stddev"](x, group_size=2, impl="cpp"), (x,), fast_mode=True
    )


# ------------------------------------------------------------------------------------------------ the harness itself


def test_harness_catches_a_wrong_pixel_norm(emulated_module, tmp_path):
    planted = emulated.build(tmp_path, "pixel_norm.cu", [("y * (sum * scale)", "y * sum")], emulated_module)
    with pytest.raises(AssertionError):
        test_pixel_norm_matches_reference(planted, (1, 24, 1, 1, 9), True, torch.float32, 0)


def test_harness_catches_a_missing_wait_and_a_missing_barrier(emulated_module, tmp_path):
    edits = [
        (
            "            wait_copies<0>();\n          }\n          __syncthreads();",
            "            wait_copies<9>();\n          }\n          __syncthreads();",
        ),
        ("rounds; ++round) {\n        __syncthreads();", "rounds; ++round) {"),
    ]
    planted = emulated.build(tmp_path, "modulated_conv3d.cu", edits, emulated_module)
    with pytest.raises(AssertionError):
        test_convolution_matches_reference(planted, FORWARD[2], True, torch.bfloat16)
    with pytest.raises(AssertionError):
        test_convolution_matches_reference(planted, FORWARD[5], True, torch.float32)
    test_weight_gradient_matches_reference(planted, GRADIENT[1], True, torch.float32)
