"""The compat ops against explicit loops and PyTorch built-ins. (Long: a section per op, and its messages.)"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from vgen_fast.ops import compat
from vgen_fast.ops.compat import rosinality

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
LAST = torch.channels_last
HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def double(*shape, grad=True):
    return torch.randn(shape, dtype=torch.float64, requires_grad=grad)


def check_twice(function, *inputs):
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


# --------------------------------------------------------------------------------------------------------- bias_act

FORMULAS = {
    "linear": (lambda v: v, 1),
    "relu": (lambda v: max(v, 0.0), math.sqrt(2)),
    "lrelu": (lambda v: v if v > 0 else 0.2 * v, math.sqrt(2)),
    "tanh": (math.tanh, 1),
    "sigmoid": (lambda v: 1 / (1 + math.exp(-v)), 1),
    "elu": (lambda v: v if v > 0 else math.exp(v) - 1, 1),
    "selu": (lambda v: 1.0507009873554805 * (v if v > 0 else 1.6732632423543772 * (math.exp(v) - 1)), 1),
    "softplus": (lambda v: math.log1p(math.exp(v)), 1),
    "swish": (lambda v: v / (1 + math.exp(-v)), math.sqrt(2)),
}


@pytest.mark.parametrize("impl", ["cuda", "ref"])
@pytest.mark.parametrize("act", FORMULAS)
def test_bias_act_equals_the_formula_element_by_element(act, impl):
    x, b = double(2, 3, 2, 2, grad=False), double(3, grad=False)
    function, gain = FORMULAS[act]
    wanted = torch.empty_like(x)
    for n, c, i, j in itertools.product(range(2), range(3), range(2), range(2)):
        wanted[n, c, i, j] = function(x[n, c, i, j].item() + b[c].item()) * gain
    torch.testing.assert_close(compat.bias_act(x, b, act=act, impl=impl), wanted)
    torch.testing.assert_close(compat.bias_act(x, None, act=act, impl=impl), compat.bias_act(x, 0 * b, act=act))


@pytest.mark.parametrize("impl", ["cuda", "ref"])
@pytest.mark.parametrize("gain", [0.5, -2.0, 0.0, np.sqrt(3.0)])
@pytest.mark.parametrize("alpha", [0.0, 0.7, -0.3])
def test_bias_act_with_every_argument_off_its_default(alpha, gain, impl):
    x, b = double(4, 2, 3), double(3)
    z = x + b
    wanted = (torch.where(z > 0, z, alpha * z) * gain).clip(-0.6, 0.6)
    args = (x, b, 2, "lrelu", alpha, gain, 0.6, impl)
    torch.testing.assert_close(compat.bias_act(*args), wanted)
    torch.testing.assert_close(compat.bias_act(x, b, -1, *args[3:]), wanted)
    check_twice(lambda x, b: compat.bias_act(x, b, *args[2:]), x, b)
    check_twice(lambda x: compat.bias_act(x, None, *args[2:]), x)


@pytest.mark.parametrize("act", FORMULAS)
def test_bias_act_is_differentiable_twice(act):
    check_twice(lambda x, b: compat.bias_act(x, b, act=act), double(3, 2, 2), double(2))


def test_bias_act_clamp_of_zero_and_gain_of_relu_at_infinity():
    assert compat.bias_act(torch.randn(3, 2), clamp=0).abs().max() == 0
    assert compat.bias_act(torch.tensor([[-torch.inf]]), torch.ones(1), act="relu").item() == 0


def test_bias_act_changes_no_input():
    for b, act, gain in itertools.product((None, torch.randn(3)), FORMULAS, (1, 2)):
        x = torch.randn(2, 3)
        before = x.clone()
        compat.bias_act(x, b, act=act, gain=gain)
        assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
def test_bias_act_is_as_exact_as_plain_pytorch_in_half_precision(act, dtype):
    x, b = torch.randn(64, 32, 8, 8).to(dtype), torch.randn(32)
    exact = compat.bias_act(x.double(), b.to(dtype).double(), act=act)
    got, plain = compat.bias_act(x, b, act=act), compat.bias_act(x, b, act=act, impl="ref")
    assert got.dtype == dtype
    assert (got - exact).abs().mean() <= 2 * (plain - exact).abs().mean() + 1e-12
    assert (got - exact).abs().max() <= 2 * (plain - exact).abs().max()


# ------------------------------------------------------------------------------------------------------- upfirdn2d


def slow_upfirdn2d(x, f, up, down, padding, flip, gain):
    """Zero insertion, padding or cropping, convolution and decimation one after the other, by explicit loops."""
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, padding
    n, c, h, w = x.shape
    wide = np.zeros((n, c, h * uy, w * ux))
    for i, j in itertools.product(range(h), range(w)):
        wide[:, :, i * uy, j * ux] = x[:, :, i, j]
    wide = np.pad(wide, [(0, 0), (0, 0), (max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))])
    wide = wide[:, :, max(-y0, 0) : wide.shape[2] - max(-y1, 0), max(-x0, 0) : wide.shape[3] - max(-x1, 0)]
    f = np.outer(f, f) if f.ndim == 1 else f
    fh, fw = f.shape
    full = np.zeros((n, c, wide.shape[2] - fh + 1, wide.shape[3] - fw + 1))
    for i, j, a, b in itertools.product(range(full.shape[2]), range(full.shape[3]), range(fh), range(fw)):
        tap = f[a, b] if flip else f[fh - 1 - a, fw - 1 - b]
        full[:, :, i, j] += gain * tap * wide[:, :, i + a, j + b]
    return full[:, :, ::dy, ::dx]


FIR_CASES = {
    "plain": dict(),
    "up": dict(up=2, padding=[2, 1]),
    "up by axis": dict(up=[3, 1], padding=[1, 2, 3, 0]),
    "down": dict(down=2, padding=2),
    "down by axis": dict(down=[1, 3], padding=(0, 1, 2, 2)),
    "up and down": dict(up=[2, 3], down=[3, 2], padding=[4, 1, 0, 3], gain=2.5),
    "cropped": dict(padding=[-1, 0, -2, 1]),
    "cropped after up": dict(up=2, padding=[-2, 3, 1, -1], flip_filter=True, gain=-1.5),
    "padded beyond the filter": dict(padding=[6, 5, 7, 9], down=2),
    "shifted past the image": dict(padding=[-9, 14, 12, -8]),
}
FILTERS = {"2-D": (3, 4), "1-D": (3,), "even": (2, 2), "one": (1, 1)}


@pytest.mark.parametrize("impl", ["cuda", "ref"])
@pytest.mark.parametrize("shape", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("case", FIR_CASES.values(), ids=FIR_CASES)
def test_upfirdn2d_equals_explicit_loops(case, shape, impl):
    x, f = double(2, 2, 5, 6, grad=False), torch.randn(shape)
    pair = {
        name: [case.get(name, 1)] * 2 if isinstance(case.get(name, 1), int) else case[name] for name in ("up", "down")
    }
    pad = case.get("padding", 0)
    pad = [pad] * 4 if isinstance(pad, int) else [pad[0], pad[0], pad[1], pad[1]] if len(pad) == 2 else pad
    flip, gain = case.get("flip_filter", False), case.get("gain", 1)
    wanted = slow_upfirdn2d(x.numpy(), f.double().numpy(), pair["up"], pair["down"], pad, flip, gain)
    got = compat.upfirdn2d(x, f, impl=impl, **case)
    torch.testing.assert_close(got, torch.from_numpy(wanted.copy()), rtol=1e-6, atol=1e-6)  # f * gain is float32


def test_upfirdn2d_is_convolution_unless_flipped_and_counts_x_first():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    f = torch.arange(6.0).reshape(2, 3)
    impulse = compat.upfirdn2d(x, f)
    assert torch.equal(impulse[0, 0, 1:3, 0:3], f)
    assert torch.equal(compat.upfirdn2d(x, f, flip_filter=True)[0, 0, 1:3, 0:3], f.flip(0, 1))
    assert compat.upfirdn2d(x, None, up=[2, 3], padding=[1, 0, 0, 0]).shape == (1, 1, 15, 11)
    assert compat.upfirdn2d(x, None, padding=[1, 2]).shape == (1, 1, 9, 7)


def test_upfirdn2d_without_a_filter_only_resamples():
    x = double(2, 3, 4, 4, grad=False)
    torch.testing.assert_close(compat.upfirdn2d(x, None, down=2, gain=3), 3 * x[:, :, ::2, ::2])
    one = torch.ones(1, 1)
    torch.testing.assert_close(compat.upfirdn2d(x, None, 2, 3, [1, 0]), compat.upfirdn2d(x, one, 2, 3, [1, 0]))


@pytest.mark.parametrize("shape", [(3, 2), (3,), None], ids=str)
@pytest.mark.parametrize("case", FIR_CASES.values(), ids=FIR_CASES)
def test_upfirdn2d_is_differentiable_twice(case, shape):
    f = None if shape is None else torch.randn(shape, dtype=torch.float64)
    x = double(1, 2, 4, 5)
    case = case if case.get("padding") != [-9, 14, 12, -8] else dict(padding=[-6, 12, 11, -5])
    check_twice(lambda x: compat.upfirdn2d(x, f, **case), x)


def test_upfirdn2d_gradients_equal_plain_pytorch_and_reach_the_filter():
    x, f, g = double(2, 2, 6, 5), double(3, 4, grad=False), None
    for case in FIR_CASES.values():
        fast, plain = compat.upfirdn2d(x, f, **case), compat.upfirdn2d(x, f, impl="ref", **case)
        g = torch.randn_like(fast)
        torch.testing.assert_close(torch.autograd.grad(fast, x, g), torch.autograd.grad(plain, x, g))
    check_twice(lambda x, f: compat.upfirdn2d(x, f, up=2, down=[1, 3], padding=3), x, double(3))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("size", [7, 8])
def test_resampling_keeps_sizes_and_adds_padding_on_top(size, k):
    x, f = torch.randn(2, 3, size, size + 1), compat.setup_filter([1.0] * k)
    assert compat.filter2d(x, f).shape == x.shape
    for factor in (2, 3):
        assert compat.upsample2d(x, f, factor).shape == (2, 3, size * factor, (size + 1) * factor)
        assert compat.downsample2d(x, f, factor).shape == (2, 3, size // factor, (size + 1) // factor)
    assert compat.filter2d(x, f, padding=[1, 2, 0, 3]).shape == (2, 3, size + 3, size + 4)
    assert compat.upsample2d(x, f, [1, 2], [1, 0]).shape == (2, 3, size * 2, size + 3)


def test_resampling_equals_pytorch_where_a_built_in_exists():
    x = double(2, 3, 6, 6, grad=False)
    box = compat.setup_filter([1, 1])
    torch.testing.assert_close(compat.downsample2d(x, box), F.avg_pool2d(x, 2))
    torch.testing.assert_close(compat.upsample2d(x, box), F.interpolate(x, scale_factor=2))
    smooth = compat.setup_filter([1, 3, 3, 1])
    bilinear = F.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(compat.upsample2d(x, smooth)[:, :, 1:-1, 1:-1], bilinear[:, :, 1:-1, 1:-1])
    odd = compat.setup_filter([1, 2, 1])
    torch.testing.assert_close(
        compat.filter2d(x, odd), F.conv2d(x, odd.double().expand(3, 1, 3, 3), padding=1, groups=3)
    )
    torch.testing.assert_close(compat.filter2d(x, odd, gain=3, impl="ref"), 3 * compat.filter2d(x, odd))


def test_resampling_passes_flip_and_gain_on():
    x, f = double(1, 2, 6, 6, grad=False), torch.randn(4, 4)
    for op in (compat.filter2d, compat.upsample2d, compat.downsample2d):
        torch.testing.assert_close(op(x, f, flip_filter=True), op(x, f.flip(0, 1)))
        torch.testing.assert_close(op(x, f, gain=2.5), 2.5 * op(x, f), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(op(x, f), op(x, f.flip(0, 1)))
        check_twice(lambda x, op=op: op(x, f.double()), double(1, 2, 4, 4))


def test_setup_filter_by_hand():
    assert torch.equal(compat.setup_filter(None), torch.ones(1, 1))
    assert torch.equal(compat.setup_filter(3.0, normalize=False), torch.full((1, 1), 9.0))
    torch.testing.assert_close(compat.setup_filter([1, 3]), torch.tensor([[1.0, 3.0], [3.0, 9.0]]) / 16)
    assert torch.equal(
        compat.setup_filter([1, 2], normalize=False, flip_filter=True, separable=True), torch.tensor([2.0, 1.0])
    )
    assert torch.equal(
        compat.setup_filter([1, 3], gain=4, separable=True), torch.tensor([0.5, 1.5])
    )  # sqrt(4) per axis
    torch.testing.assert_close(compat.setup_filter([1, 1], gain=4), torch.ones(2, 2))
    assert compat.setup_filter(range(7)).shape == (7, 7)
    assert compat.setup_filter(range(8)).shape == (8,)
    assert compat.setup_filter(range(8), separable=False).shape == (8, 8)
    image = np.arange(6, dtype=np.float64).reshape(2, 3)
    got = compat.setup_filter(image, "cpu", False, True)
    assert got.dtype == torch.float32
    assert torch.equal(got, torch.from_numpy(image).float().flip(0, 1))


# ------------------------------------------------------------------------------------------------ modulated_conv2d


def slow_modulated_conv2d(x, weight, styles, noise, up, down, padding, f, demodulate, flip_weight):
    """Sample by sample: zero insertion and padding by hand, low-pass, one F.conv2d, low-pass, decimation."""
    f = torch.ones(1, 1) if f is None else f
    f = (torch.outer(f.double(), f.double()) if f.ndim == 1 else f).double()
    fh, fw = f.shape
    x0, x1, y0, y1 = padding
    if up > 1:
        x0, x1, y0, y1 = x0 + (fw + up - 1) // 2, x1 + (fw - up) // 2, y0 + (fh + up - 1) // 2, y1 + (fh - up) // 2
    if down > 1:
        x0, x1 = x0 + (fw - down + 1) // 2, x1 + (fw - down) // 2
        y0, y1 = y0 + (fh - down + 1) // 2, y1 + (fh - down) // 2
    rows = []
    for sample, style in zip(x, styles, strict=True):
        w = weight * style[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
        wide = sample.new_zeros(len(sample), sample.shape[1] * up, sample.shape[2] * up)
        wide[:, ::up, ::up] = sample
        wide = F.pad(wide, [x0, x1, y0, y1])
        blur = lambda y: F.conv2d(y[:, None], f.flip(0, 1)[None, None])[:, 0]  # noqa: E731
        wide = blur(wide) * up**2 if up > 1 else wide
        wide = F.conv2d(wide[None], w if flip_weight else w.flip(2, 3))[0]
        wide = blur(wide) if down > 1 else wide
        rows.append(wide[:, ::down, ::down])
    y = torch.stack(rows)
    return y if noise is None else y + noise


TAPS = [(3, 3), (1, 1), (2, 2), (3, 1), (4, 2)]
RESAMPLING = {
    "same": (1, 1, None),
    "up": (2, 1, [1, 3, 3, 1]),
    "up by 3": (3, 1, [1, 2, 1]),
    "up without a filter": (2, 1, None),
    "down": (1, 2, [1, 3, 3, 1]),
    "down without a filter": (1, 2, None),
    "up and down": (3, 2, [1, 2, 4]),
    "separable": (2, 1, list(range(1, 9))),
}


@pytest.mark.parametrize("taps", TAPS, ids=str)
@pytest.mark.parametrize(("up", "down", "f"), RESAMPLING.values(), ids=RESAMPLING)
def test_modulated_conv2d_equals_a_loop_over_samples(up, down, f, taps):
    x, weight, styles = double(3, 2, 5, 6, grad=False), double(4, 2, *taps, grad=False), double(3, 2, grad=False)
    f = None if f is None else compat.setup_filter(f)
    sides = {0: (0, 0, 0, 0), 1: (1, 1, 1, 1), 3: (3, 3, 3, 3), (2, 1): (2, 2, 1, 1), (1, 2, 0, 1): (1, 2, 0, 1)}
    for (padding, four), demodulate, flip in itertools.product(sides.items(), (True, False), (True, False)):
        if min(taps) == 4 and padding == 0:
            continue
        wanted = slow_modulated_conv2d(x, weight, styles, None, up, down, four, f, demodulate, flip)
        noise = torch.randn(3, 1, *wanted.shape[2:], dtype=torch.float64)
        got = compat.modulated_conv2d(x, weight, styles, noise, up, down, padding, f, demodulate, flip)
        torch.testing.assert_close(got, wanted + noise, rtol=1e-7, atol=1e-7)  # the filter is float32
        plain = compat.modulated_conv2d(x, weight, styles, None, up, down, padding, f, demodulate, flip, False)
        torch.testing.assert_close(plain, wanted, rtol=1e-7, atol=1e-7)


def test_modulated_conv2d_takes_any_broadcastable_noise():
    x, weight, styles = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    for k, shape in itertools.product((3, 2), ((), (4, 4), (2, 1, 4, 4), (5, 1, 1), (2, 5, 4, 4))):
        noise, pad = torch.randn(shape), 1 if k == 3 else [1, 0, 1, 0]
        w = weight[:, :, :k, :k]
        clean = compat.modulated_conv2d(x, w, styles, padding=pad)
        torch.testing.assert_close(compat.modulated_conv2d(x, w, styles, noise, padding=pad), clean + noise)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(("up", "down", "f"), RESAMPLING.values(), ids=RESAMPLING)
def test_modulated_conv2d_is_differentiable_twice(up, down, f, k):
    f = None if f is None else compat.setup_filter(f[:4]).double()
    options = dict(up=up, down=down, padding=1, resample_filter=f, flip_weight=k == 3)
    inputs = [double(1, 2, 3, 2), double(1, 2, k, k), double(1, 2)]
    shape = compat.modulated_conv2d(*inputs, **options).shape
    check_twice(lambda x, w, s, n: compat.modulated_conv2d(x, w, s, n, **options), *inputs, double(*shape[2:]))


def test_modulated_conv2d_keeps_float16_in_range():
    x, weight, styles = 100 * torch.randn(2, 64, 8, 8), 50 * torch.randn(32, 64, 3, 3), 300 * torch.randn(2, 64)
    f = compat.setup_filter([1, 3, 3, 1])
    for up, down in ((1, 1), (2, 1), (1, 2)):
        args = (weight, styles, None, up, down, 1, f)
        exact = compat.modulated_conv2d(x.half().double(), *args)
        got = compat.modulated_conv2d(x.half(), *args)
        assert got.dtype == torch.float16
        assert (got - exact).abs().max() <= 4e-3 * exact.abs().max()


def test_modulated_conv2d_gradients_in_float16_equal_float64():
    x, weight, styles = torch.randn(2, 8, 8, 8), torch.randn(4, 8, 3, 3), torch.randn(2, 8)
    g = torch.randn(2, 4, 16, 16)

    def gradients(dtype):
        inputs = [x.to(dtype).requires_grad_(), weight.clone().requires_grad_(), styles.clone().requires_grad_()]
        y = compat.modulated_conv2d(*inputs, up=2, padding=1, resample_filter=compat.setup_filter([1, 3, 3, 1]))
        return torch.autograd.grad(y, inputs, g.to(dtype))

    for got, exact in zip(gradients(torch.float16), gradients(torch.float64), strict=True):
        assert (got - exact).abs().max() <= 1e-2 * exact.abs().max()


# ------------------------------------------------------------------------------------------------------ rosinality


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2), (2, 4, 2, 3), (2, 4, 2, 1, 2)], ids=str)
def test_fused_leaky_relu_of_two_to_five_axes(shape):
    x, bias = double(*shape), double(4)
    z = x + bias.reshape(4, *[1] * (len(shape) - 2))
    torch.testing.assert_close(compat.fused_leaky_relu(x, bias), F.leaky_relu(z, 0.2) * math.sqrt(2))
    torch.testing.assert_close(compat.fused_leaky_relu(x, bias, 0.5, 3.0), F.leaky_relu(z, 0.5) * 3)
    torch.testing.assert_close(compat.fused_leaky_relu(x, None, 0.5, 1.0), F.leaky_relu(x, 0.5))
    check_twice(lambda x, bias: compat.fused_leaky_relu(x, bias, 0.3, 1.5), x, bias)
    check_twice(compat.fused_leaky_relu, x)


def test_rosinality_upfirdn2d_reads_two_pads_as_before_and_after():
    x, kernel = double(2, 3, 5, 4, grad=False), torch.randn(3, 4)
    for up, down, pad, four in ((2, 1, (2, 1), (2, 1, 2, 1)), ((1, 2), (3, 1), (4, 3, 2, 5), (4, 3, 2, 5))):
        pair = [(n, n) if isinstance(n, int) else n for n in (up, down)]
        wanted = slow_upfirdn2d(x.numpy(), kernel.double().numpy(), *pair, four, False, 1)
        torch.testing.assert_close(rosinality.upfirdn2d(x, kernel, up, down, pad), torch.from_numpy(wanted.copy()))
    assert rosinality.upfirdn2d(x, kernel).shape == (2, 3, 3, 1)
    check_twice(lambda x: rosinality.upfirdn2d(x, kernel.double(), 2, 3, (2, 1)), double(1, 1, 3, 3))


# ------------------------------------------------------------------------------------- formats, sizes and messages

F4 = compat.setup_filter([1, 3, 3, 1])
OPS = {  # an image op of x and its channel count
    "bias_act": lambda x: compat.bias_act(x, torch.ones(x.shape[1]), act="lrelu"),
    "swish": lambda x: compat.bias_act(x, torch.ones(x.shape[1]), act="swish", clamp=1),
    "filter2d": lambda x: compat.filter2d(x, F4),
    "separable": lambda x: compat.filter2d(x, compat.setup_filter(range(1, 9))),
    "upsample2d": lambda x: compat.upsample2d(x, F4),
    "downsample2d": lambda x: compat.downsample2d(x, F4),
    "decimated": lambda x: compat.upfirdn2d(x, None, down=2),
    "rosinality": lambda x: rosinality.upfirdn2d(x, F4, up=2, pad=(2, 1)),
    "fused_leaky_relu": lambda x: compat.fused_leaky_relu(x, torch.ones(x.shape[1])),
    "modulated": lambda x: modulated(x, 1, 1),
    "modulated up": lambda x: modulated(x, 2, 1),
    "modulated down": lambda x: modulated(x, 1, 2),
    "modulated even": lambda x: modulated(x, 1, 1, 2),
}


def modulated(x, up, down, k=3):
    weight, styles = torch.ones(4, x.shape[1], k, k), torch.ones(x.shape[:2])
    return compat.modulated_conv2d(x, weight, styles, torch.ones(()), up, down, 1, F4)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_output_keeps_type_and_memory_format(op):
    x = torch.randn(2, 3, 8, 6)
    wanted = op(x)
    assert wanted.is_contiguous()
    for other in (x.to(memory_format=LAST), torch.randn(4, 5, 9, 6).to(memory_format=LAST)[::2, 1:4, 1:].copy_(x)):
        got = op(other)
        assert got.is_contiguous(memory_format=LAST)
        assert not got.is_contiguous()
        torch.testing.assert_close(got, wanted)
    sliced = torch.randn(4, 3, 8, 13)[::2, :, :, 1::2].copy_(x)
    torch.testing.assert_close(op(sliced), wanted)
    for dtype in HALVES:
        got = op(x.to(dtype))
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), wanted, rtol=0.05, atol=0.05)
    assert op(x.double()).dtype == torch.float64
    assert op(torch.randn(1, 1, 8, 8)).is_contiguous()


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_empty_batch_passes_with_its_gradient(op):
    x = torch.randn(0, 3, 8, 6, requires_grad=True)
    y = op(x)
    assert y.shape == (0, *op(torch.randn(1, 3, 8, 6)).shape[1:])
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert g.shape == x.shape


def test_first_order_parts_compile_without_a_break():
    x, styles, weight = torch.randn(2, 3, 4, 4), torch.randn(2, 3), torch.randn(3, 3, 3, 3)

    def block(x, weight, styles):
        y = compat.modulated_conv2d(x, weight, styles, up=2, padding=1, resample_filter=F4)
        return compat.bias_act(compat.downsample2d(y, F4), styles[0], act="lrelu", clamp=2)

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, styles)]
    got, wanted = compiled(*leaves), block(*leaves)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(wanted.sum(), leaves))


X, W, S = torch.ones(2, 3, 4, 4), torch.ones(5, 3, 3, 3), torch.ones(2, 3)
REFUSED = [
    (lambda: compat.bias_act([1.0]), "bias_act: x must be a tensor, got list"),
    (lambda: compat.bias_act(X.int()), "bias_act: x must be float32, float64, bfloat16 or float16, got torch.int32"),
    (lambda: compat.bias_act(X, torch.ones(2)), "bias_act: b must be [x.shape[1]] = (3,), got shape (2,)"),
    (
        lambda: compat.bias_act(X, torch.ones(3), dim=4),
        "bias_act: dim must be an axis of x of shape (2, 3, 4, 4), got 4",
    ),
    (lambda: compat.bias_act(X, torch.ones(3, device="meta")), "bias_act: b must be on cpu like x, got meta"),
    (lambda: compat.bias_act(X, act="gelu"), "bias_act: act must be one of linear, relu, lrelu, tanh"),
    (lambda: compat.bias_act(X, clamp=-1), "bias_act: clamp must be a finite number of at least 0, got -1"),
    (lambda: compat.bias_act(X, gain="2"), "bias_act: gain must be a finite number, got '2'"),
    (lambda: compat.bias_act(X, alpha=math.nan), "bias_act: alpha must be a finite number, got nan"),
    (lambda: compat.bias_act(X, impl="fast"), "bias_act: impl must be 'ref' or 'cuda', got 'fast'"),
    (lambda: compat.upfirdn2d(X[0], F4), "upfirdn2d: x must be [N, C, H, W], got shape (3, 4, 4)"),
    (lambda: compat.upfirdn2d(X, [1, 2]), "upfirdn2d: f must be a tensor, got list"),
    (
        lambda: compat.upfirdn2d(X, X),
        "upfirdn2d: f must be [k] or [h, w] with at least one tap, got shape (2, 3, 4, 4)",
    ),
    (lambda: compat.upfirdn2d(X, F4, up=0), "upfirdn2d: up must be a positive integer or [x, y] of them, got 0"),
    (
        lambda: compat.upfirdn2d(X, F4, down=[1]),
        "upfirdn2d: down must be a positive integer or [x, y] of them, got [1]",
    ),
    (
        lambda: compat.upfirdn2d(X, F4, padding=[1, 2, 3]),
        "upfirdn2d: padding must be an integer, [x, y] or [x0, x1, y0, y1]",
    ),
    (lambda: compat.upfirdn2d(X, F4, padding=-1), "upfirdn2d: x must be large enough for a filter of (4, 4) taps"),
    (lambda: compat.upfirdn2d(X, F4, impl="x"), "upfirdn2d: impl must be"),
    (lambda: compat.upsample2d(X, F4, gain=None), "upsample2d: gain must be a finite number, got None"),
    (lambda: compat.downsample2d(X, F4, down=1.5), "downsample2d: down must be a positive integer or [x, y]"),
    (lambda: compat.filter2d(X[0], F4), "filter2d: x must be [N, C, H, W]"),
    (
        lambda: compat.setup_filter([]),
        "setup_filter: f must be a number or a filter of one or two axes, got shape (0,)",
    ),
    (
        lambda: compat.setup_filter(F4, separable=True),
        "setup_filter: f must be of one axis to be separable, got shape (4, 4)",
    ),
    (
        lambda: compat.modulated_conv2d(X, W[:, :2], S),
        "modulated_conv2d: weight must be [O, 3, k, k] for x of 3 channels",
    ),
    (lambda: compat.modulated_conv2d(X, W, S.T), "modulated_conv2d: styles must be [N, I] = (2, 3), got shape (3, 2)"),
    (lambda: compat.modulated_conv2d(X, W, S, padding=-1), "modulated_conv2d: padding must be not negative"),
    (lambda: compat.modulated_conv2d(X, W, S, X), "modulated_conv2d: noise must be broadcastable to (2, 5, 2, 2)"),
    (
        lambda: compat.modulated_conv2d(X, W, S, up=2, resample_filter=X),
        "modulated_conv2d: resample_filter must be [k]",
    ),
    (
        lambda: compat.modulated_conv2d(X[..., :2], W, S),
        "modulated_conv2d: x must be large enough for a weight of (3, 3) taps",
    ),
    (lambda: compat.fused_leaky_relu(X[0, 0, 0]), "fused_leaky_relu: input must be [N, C] with up to three more axes"),
    (lambda: compat.fused_leaky_relu(X, S), "fused_leaky_relu: bias must be [C] = (3,), got shape (2, 3)"),
    (lambda: compat.fused_leaky_relu(X, scale=None), "fused_leaky_relu: scale must be a finite number, got None"),
    (lambda: rosinality.upfirdn2d(X, S[0]), "upfirdn2d: kernel must be a tensor [h, w], got shape (3,)"),
    (lambda: rosinality.upfirdn2d(X, F4, pad=1), "upfirdn2d: pad must be (before, after) or (x0, x1, y0, y1), got 1"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED, ids=[sentence[:50] for _, sentence in REFUSED])
def test_refused_input_says_what_was_wanted(call, sentence):
    with pytest.raises(ValueError) as error:
        call()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
