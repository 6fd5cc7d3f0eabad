"""Modulated convolution with resampling, noise, bias, leaky ReLU, gain and pixel norm in one pass. (Over 400 lines: its
three ops differentiate into one another.)

Legend: B batch, I / O channels in / out, k taps (t, h, w), g gradient of the output, z the value before the activation.

Three registered ops are closed under differentiation, so a penalty's second backward runs the same kernels:

    conv_act              z = conv(x, w) + noise + bias, y = act(z)
    conv_weight_gradient  the derivative of conv by w: bilinear in (x, g), and the sum of g for the bias
    act_backward          g -> derivative of act at z, read from the sign of y; linear in g

The input gradient of a convolution is `conv_act` with flipped weights; up turns into down and down into up.
Where no graph of the gradient is asked for, CPU runs all of it as one `conv_act_backward`: g passes the activation
while it is read, and the tensor between, as large as y, is never there.
"""

import math

import torch
from torch import Tensor

from . import autocast, expect
from .choose import choose, weight_gradients_wanted
from .layout import dense_like, empty_like_layout, memory_format
from .native import _C, ISA, address, compute_dtype, where
from .reference import modulated_conv3d as reference
from .reference.pixel_norm import pixel_norm as reference_pixel_norm
from .registered import autograd, call, implements

ORDER = 2
OP = "modulated_conv3d"
Triple = tuple[int, int, int]
# On CPU the library is faster for short rows and where weights are used at few places: it neither transforms weights
# nor pads rows to a vector. Measured, both ways and through a penalty.
SHORT_ROW = 12 if ISA == "avx512" else 4
FEW_PLACES = 1024  # of the convolution, before a pool and after an enlargement, that share their weights


def modulated_conv3d(
    x: Tensor,
    weight: Tensor,
    style: Tensor | None = None,
    *,
    demodulate: bool = True,
    bias: Tensor | None = None,
    noise: Tensor | None = None,
    slope: float | None = None,
    gain: float = 1.0,
    pixel_norm: bool = False,
    up: int | tuple[int, ...] = 1,
    down: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = "same",
    eps: float = 1e-8,
    impl: str | None = None,
) -> Tensor:
    """nearest up -> convolution (per-sample weights if `style`) -> average pool -> + noise -> + bias -> leaky ReLU
    -> * gain -> pixel norm. Twice differentiable by x, weight, style, bias and noise.

    x       [B, I, T, H, W] or [B, I, H, W]
    weight  [O, I, t, h, w] or [O, I, h, w], odd taps; equalised-rate scaling is the caller's
    style   [B, I]; weights become s_bi w_oik, and with `demodulate` each (b, o) is divided by its norm
    bias    [O]
    noise   broadcastable to the output, already scaled
    up/down int or (t, h, w) of 1s and 2s; not both in one call
    padding "same", "valid", or zeros per side: int or (t, h, w)
    returns [B, O, T', H', W'] in x's type, or in autocast's, and in x's memory format
    """
    image = _check(x, weight, style, bias, noise, slope, gain, eps)
    x, weight = x.resolve_neg(), weight.resolve_neg()  # kernels read memory
    if dtype := autocast.wanted(x):
        with autocast.off(x):  # weights and bias stay as wide as they are
            return modulated_conv3d(
                x.to(dtype), weight, style, demodulate=demodulate, bias=bias, noise=noise, slope=slope, gain=gain,
                pixel_norm=pixel_norm, up=up, down=down, padding=padding, eps=eps, impl=impl,
            )  # fmt: skip
    expect.flag(OP, "demodulate", demodulate)
    expect.flag(OP, "pixel_norm", pixel_norm)
    axes = 2 if image else 3
    up, down = (_factors(name, value, axes) for name, value in (("up", up), ("down", down)))
    if max(up) > 1 and max(down) > 1:
        raise ValueError(f"{OP}: up and down cannot meet in one call, got up={up}, down={down}")
    if image:
        x, weight = x.unsqueeze(2), weight.unsqueeze(2)
        noise = noise.unsqueeze(-3) if noise is not None and noise.ndim > 2 else noise
    kernel = tuple(weight.shape[2:])
    padding = _padding(padding, kernel, image)
    conv_size = [n * u + 2 * p - k + 1 for n, u, p, k in zip(x.shape[2:], up, padding, kernel, strict=True)]
    size = [n // d for n, d in zip(conv_size, down, strict=True)]
    if min(size) < 1 or min(x.shape[2:]) < 1:
        expect.fail(OP, "x", f"large enough for taps {kernel}, padding {padding} and down {down}", expect.shape(x))
    if noise is not None:
        shape = (x.shape[0], weight.shape[0], *size)
        if noise.ndim > 5 or any(n not in (1, m) for n, m in zip(noise.shape[::-1], shape[::-1], strict=False)):
            expect.fail(OP, "noise", f"broadcastable to {shape}", expect.shape(noise))

    def supports(impl: str) -> str | None:
        if not (slope is None or slope >= 0) or gain <= 0:
            return "the fused backward reads the sign of the output, which needs slope >= 0 and gain > 0"
        if x.numel() == 0:
            return "an empty tensor has nothing to fuse"
        return f"taps {kernel} are more than 15 on an axis" if max(kernel) > 15 else None

    places = math.prod(conv_size) * (x.shape[0] if style is None else 1)
    small = places < FEW_PLACES or (size[2] <= SHORT_ROW and max(up) == max(down) == 1)
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    impl = choose(OP, impl if x.numel() else None, x.device, supports, small and on_cpu)
    if impl == "reference":
        options = dict(slope=slope, gain=gain, pixel_norm=pixel_norm, up=up, down=down, padding=padding, eps=eps)
        y = reference.modulated_conv3d(x, weight, style, demodulate=demodulate, bias=bias, noise=noise, **options)
        y = y.contiguous(memory_format=memory_format(x))
    else:
        w = weight if style is None else _modulated(weight, style, demodulate, eps)
        slope = 1.0 if slope is None else float(slope)
        wanted = any(t is not None and t.requires_grad for t in (x, w, bias, noise))
        keep_r = bool(pixel_norm) and torch.is_grad_enabled() and wanted
        flags = (slope, float(gain), bool(pixel_norm), list(up), list(down), list(padding), size, float(eps), keep_r)
        y, _ = call("conv_act", x, w, bias, noise, *flags, impl)
    return y.squeeze(2) if image else y


def _modulated(weight: Tensor, style: Tensor, demodulate: bool, eps: float) -> Tensor:
    """`reference.modulate` with the norms from sum_ik (s_bi w_oik)^2 = sum_i s_bi^2 sum_k w_oik^2: the per-sample
    weights are written once, and nothing reads them on the way.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    weight, factor = weight.to(wide), style.to(wide)[:, None]
    if demodulate:
        norm = factor[:, 0].square() @ weight.square().sum((2, 3, 4)).T + eps
        factor = factor * norm.rsqrt()[:, :, None]
    return weight * factor[..., None, None, None]


def _check(x, weight, style, bias, noise, slope, gain, eps) -> bool:
    expect.video_or_image(OP, "x", x)
    expect.tensor(OP, "weight", weight)
    if weight.ndim != x.ndim:
        legend = "[O, I, t, h, w] for video" if x.ndim == 5 else "[O, I, h, w] for images"
        expect.fail(OP, "weight", legend, expect.shape(weight))
    if weight.shape[1] != x.shape[1] or weight.shape[0] < 1 or weight.shape[1] < 1:
        expect.fail(OP, "weight", f"[O, {x.shape[1]}, ...] for x of {x.shape[1]} channels", expect.shape(weight))
    if any(k % 2 == 0 for k in weight.shape[2:]):
        expect.fail(OP, "weight", "of odd taps", expect.shape(weight))
    for name, other in (("weight", weight), ("style", style), ("bias", bias), ("noise", noise)):
        if other is not None:
            expect.tensor(OP, name, other)
            expect.same_device(OP, name, other, x)
    if style is not None:
        expect.has_shape(OP, "style", style, x.shape[:2], "[B, I]")
    if bias is not None:
        expect.has_shape(OP, "bias", bias, weight.shape[:1], "[O]")
    if slope is not None:
        expect.finite_number(OP, "slope", slope)
    expect.finite_number(OP, "gain", gain)
    expect.finite_number(OP, "eps", eps, 0)
    return x.ndim == 4


def _factors(name: str, value: int | tuple[int, ...], axes: int) -> Triple:
    factors = (value,) * axes if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    known = len(factors) in (axes, 3) and all(isinstance(f, int) and f in (1, 2) for f in factors)
    if not known or (axes == 2 and len(factors) == 3 and factors[0] != 1):
        expect.fail(OP, name, "1, 2 or one of them per axis", repr(value))
    return factors if len(factors) == 3 else (1, *factors)


def _padding(padding: str | int | tuple[int, ...], kernel: Triple, image: bool) -> Triple:
    if isinstance(padding, str) and padding in ("same", "valid"):
        return tuple((k - 1) // 2 for k in kernel) if padding == "same" else (0, 0, 0)
    axes = 2 if image else 3
    sides = (padding,) * axes if isinstance(padding, int) else padding
    if (
        not isinstance(sides, (tuple, list))
        or len(sides) != axes
        or any(not isinstance(n, int) or n < 0 for n in sides)
    ):
        expect.fail(OP, "padding", f"'same', 'valid', an integer or {axes} of them", repr(padding))
    return (0, *sides) if image else tuple(sides)


# ---------------------------------------------------------------------------------------------------- registered ops

FLAGS = "SymInt[] up, SymInt[] down, SymInt[] padding"
torch.library.define(
    "vgen_fast::conv_act",
    "(Tensor x, Tensor w, Tensor? bias, Tensor? noise, float slope, float gain, bool pixel_norm, "
    f"{FLAGS}, SymInt[] size, float eps, bool keep_r, str impl) -> (Tensor, Tensor)",
)
torch.library.define(
    "vgen_fast::conv_weight_gradient",
    f"(Tensor x, Tensor g, SymInt[] kernel, {FLAGS}, bool per_sample, str impl) -> (Tensor, Tensor)",
)
torch.library.define(
    "vgen_fast::act_backward",
    "(Tensor g, Tensor y, Tensor r, float slope, float gain, bool pixel_norm, str impl) -> Tensor",
)
torch.library.define(
    "vgen_fast::conv_act_backward",
    f"(Tensor g, Tensor y, Tensor x, Tensor w, float slope, float gain, {FLAGS}, bool wants_x, bool wants_w) "
    "-> (Tensor, Tensor, Tensor)",
)


def _outputs(x: Tensor, w: Tensor, keep_r: bool, size: list[int]) -> tuple[Tensor, Tensor]:
    """y, and the factor r of pixel norm for the backward (empty unless it is kept)."""
    y = empty_like_layout(x, (x.shape[0], w.shape[-5], *size))
    r = torch.empty((x.shape[0], *size) if keep_r else (0,), dtype=compute_dtype(x.dtype), device=x.device)
    return y, r


@implements("conv_act")
def _conv_act(x, w, bias, noise, slope, gain, pixel_norm, up, down, padding, size, eps, keep_r, impl):
    y, r = _outputs(x, w, keep_r, size)
    if y.numel() == 0:
        return y, r
    wide = compute_dtype(x.dtype)
    w = w.to(wide).contiguous()
    bias = None if bias is None else bias.to(wide).contiguous()
    noise = None if noise is None else noise.to(x.dtype).expand(y.shape)
    factor = r if keep_r else None
    if impl == "triton":
        from vgen_fast.kernels import modulated_conv3d as kernel

        kernel.conv_act(x, w, bias, noise, y, factor, slope, gain, pixel_norm, up, down, padding, eps)
        return y, r
    tensors = (address(t) for t in (x, w, bias, noise, y, factor))
    _C.modulated_conv3d_forward(
        where(x), *tensors, [x.shape[0], x.shape[1], y.shape[1]], x.shape[2:], size, w.shape[-3:], padding, up, down,
        x.stride(), y.stride(), [0] * 5 if noise is None else noise.stride(), w.ndim == 6, pixel_norm, slope, gain, eps,
    )  # fmt: skip
    return y, r


@torch.library.register_fake("vgen_fast::conv_act")
def _conv_act_fake(x, w, bias, noise, slope, gain, pixel_norm, up, down, padding, size, eps, keep_r, impl):
    return _outputs(x, w, keep_r, size)


@implements("conv_weight_gradient")
def _conv_weight_gradient(x, g, kernel, up, down, padding, per_sample, impl):
    gw, gb = _conv_weight_gradient_fake(x, g, kernel, up, down, padding, per_sample, impl)
    if x.numel() == 0 or g.numel() == 0:
        return gw.zero_(), gb.zero_()
    if impl == "triton":
        from vgen_fast.kernels import modulated_conv3d as kernel_module

        kernel_module.conv_weight_gradient(x, g, gw, up, down, padding)
        return gw, g.sum((0, 2, 3, 4), dtype=gb.dtype)
    sums = gw.new_empty(x.shape[0] if per_sample else 1, g.shape[1])
    _C.modulated_conv3d_weight_gradient(
        where(x), address(x), address(g), address(gw), address(sums), [x.shape[0], x.shape[1], g.shape[1]], x.shape[2:],
        g.shape[2:], kernel, padding, up, down, x.stride(), g.stride(), per_sample,
    )  # fmt: skip
    return gw, sums.sum(0)


@torch.library.register_fake("vgen_fast::conv_weight_gradient")
def _conv_weight_gradient_fake(x, g, kernel, up, down, padding, per_sample, impl):
    shape = (g.shape[1], x.shape[1], *kernel)
    gw = torch.empty((x.shape[0], *shape) if per_sample else shape, dtype=compute_dtype(x.dtype), device=x.device)
    return gw, gw.new_empty(g.shape[1])


@implements("act_backward")
def _act_backward(g, y, r, slope, gain, pixel_norm, impl):
    gz = torch.empty_like(y)
    g = dense_like(g, y)
    if impl == "triton":
        from vgen_fast.kernels import pixel_norm as kernel

        kernel.pixel_norm_backward(g, y, r if pixel_norm else None, gz, slope, gain)
    elif y.numel():
        _C.pixel_norm_backward(
            where(y), address(g), address(y), address(r if pixel_norm else None), address(gz), y.shape, y.stride(),
            slope, gain,
        )  # fmt: skip
    return gz


@torch.library.register_fake("vgen_fast::act_backward")
def _act_backward_fake(g, y, r, slope, gain, pixel_norm, impl):
    return torch.empty_like(y)


@torch.library.register_fake("vgen_fast::conv_act_backward")
def _gradients(g, y, x, w, slope, gain, up, down, padding, wants_x, wants_w):
    """Room for gx, gw and gb; empty where not wanted."""
    gx = empty_like_layout(x, x.shape) if wants_x else x.new_empty(0)
    gw = torch.empty(w.shape if wants_w else (0,), dtype=compute_dtype(x.dtype), device=x.device)
    return gx, gw, gw.new_empty(g.shape[1] if wants_w else 0)


@implements("conv_act_backward")
def _conv_act_backward_kernel(g, y, x, w, slope, gain, up, down, padding, wants_x, wants_w):
    gx, gw, gb = _gradients(g, y, x, w, slope, gain, up, down, padding, wants_x, wants_w)
    g = dense_like(g, y)
    weights = w.to(gw.dtype).contiguous()
    sums = gw.new_empty((x.shape[0], len(gb))) if w.ndim == 6 else gb
    found = (address(out if want else None) for out, want in ((gx, wants_x), (gw, wants_w), (sums, wants_w)))
    _C.modulated_conv3d_backward(
        where(x), address(g), address(y), address(x), address(weights), *found,
        [x.shape[0], x.shape[1], g.shape[1]], x.shape[2:], g.shape[2:], w.shape[-3:], padding, up, down,
        x.stride(), y.stride(), gx.stride() if wants_x else x.stride(), w.ndim == 6, slope, gain,
    )  # fmt: skip
    return gx, gw, sums.sum(0) if w.ndim == 6 else gb


# --------------------------------------------------------------------------------------------------------- autograd


def _flipped(w: Tensor) -> Tensor:
    """[..., O, I, t, h, w] -> [..., I, O, t, h, w], taps reversed: the weights of the input gradient."""
    return w.flip(-1, -2, -3).transpose(-5, -4)


def _input_gradient(g, w, up, down, padding, size, impl, gain=1.0) -> Tensor:
    mirrored = [k - 1 - p for k, p in zip(w.shape[-3:], padding, strict=True)]
    gain *= math.prod(up) / math.prod(down)  # the sum over copies is `prod(up)` times their average
    flags = (1.0, gain, False, down, up, mirrored, size, 0.0, False, impl)
    return call("conv_act", g, _flipped(w), None, None, *flags)[0]


def _conv_act_setup(ctx, inputs, output):
    x, w, bias, noise, slope, gain, pixel_norm, *rest = inputs
    y, r = output
    keep_y = slope != 1 or pixel_norm
    ctx.save_for_backward(x, w, bias, noise, y if keep_y else None, r)
    ctx.mark_non_differentiable(r)
    ctx.flags = (slope, gain, pixel_norm, *rest)


def _gated(impl: str, y: Tensor | None) -> bool:
    """Whether the kernels take g through the activation while they read it: the C++ on CPU, with w innermost."""
    return impl == "cpp" and y is not None and y.device.type == "cpu" and y.is_contiguous()


def _conv_act_backward(ctx, gy, _):
    x, w, bias, noise, y, r = ctx.saved_tensors
    slope, gain, pixel_norm, up, down, padding, _, _, keep_r, impl = ctx.flags
    wants = list(ctx.needs_input_grad[:4])
    if not weight_gradients_wanted() and w.ndim == 5:
        wants[1:3] = False, False
    graph, wants_w = torch.is_grad_enabled(), wants[1] or wants[2]
    if pixel_norm and (graph or not keep_r):
        return *_through_reference(ctx, gy, wants), *[None] * 10
    gx = gw = gb = gz = None
    if _gated(impl, y) and not (graph or pixel_norm or wants[3]):
        flags = (slope, gain, up, down, padding)
        gx, gw, gb = call("conv_act_backward", gy, y, x, w, *flags, wants[0], wants_w)
    else:
        gz, linear = gy, gain  # what a gain alone does to g is left to those who read it
        if y is not None:
            gz, linear = call("act_backward", gy, y, r, slope, gain, pixel_norm, impl), 1.0
        if wants[0]:
            gx = _input_gradient(gz, w, up, down, padding, x.shape[2:], impl, linear)
        if wants_w:
            gw, gb = call("conv_weight_gradient", x, gz, w.shape[-3:], up, down, padding, w.ndim == 6, impl)
            gw, gb = (gw, gb) if linear == 1 else (gw * linear, gb * linear)
        if wants[3]:
            gz = gz if linear == 1 else gz * linear
    return (
        gx if wants[0] else None,
        gw.to(w.dtype) if wants[1] else None,
        gb.to(bias.dtype) if wants[2] else None,
        gz.sum_to_size(noise.shape).to(noise.dtype) if wants[3] else None,
        *[None] * 10,
    )


def _through_reference(ctx, gy, wants):
    """Gradients through pixel norm in the epilogue where a graph is wanted, or its factor was not kept: the convolution
    stays fused, the norm is PyTorch's.
    """
    slope, gain, _, *axes, eps, _, impl = ctx.flags
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [None if t is None else t.view_as(t) for t in ctx.saved_tensors[:4]]  # two may be one tensor
        a, _ = call("conv_act", *inputs, slope, gain, False, *axes, eps, False, impl)
        y = reference_pixel_norm(a, eps=eps)
    chosen = [tensor for tensor, want in zip(inputs, wants, strict=True) if want]
    found = iter(torch.autograd.grad(y, chosen, gy, create_graph=graph))
    return [next(found) if want else None for want in wants]


autograd("conv_act", _conv_act_setup, _conv_act_backward)


def _weight_gradient_setup(ctx, inputs, output):
    x, g, _, up, down, padding, _, impl = inputs
    ctx.save_for_backward(x, g)
    ctx.flags = (up, down, padding, impl)


def _weight_gradient_backward(ctx, vw, vb):
    x, g = ctx.saved_tensors
    up, down, padding, impl = ctx.flags
    gx = _input_gradient(g, vw, up, down, padding, x.shape[2:], impl) if ctx.needs_input_grad[0] else None
    gg = None
    if ctx.needs_input_grad[1]:
        flags = (1.0, 1.0, False, up, down, padding, g.shape[2:], 0.0, False, impl)
        gg, _ = call("conv_act", x, vw, vb, None, *flags)
    return gx, gg, *[None] * 6


autograd("conv_weight_gradient", _weight_gradient_setup, _weight_gradient_backward)


def _act_backward_setup(ctx, inputs, output):
    _, y, r, *ctx.flags = inputs
    ctx.save_for_backward(y, r)


def _act_backward_backward(ctx, v):
    slope, gain, pixel_norm, impl = ctx.flags
    if pixel_norm:
        raise RuntimeError("vgen_fast::act_backward with pixel norm is differentiated through the reference, not here")
    y, r = ctx.saved_tensors
    return call("act_backward", v, y, r, slope, gain, False, impl), *[None] * 6


autograd("act_backward", _act_backward_setup, _act_backward_backward)
