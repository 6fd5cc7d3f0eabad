"""The ops of StyleGAN2-ADA, StyleGAN3 and their descendants: same signatures, written from the formulas.

Legend: N batch, C / I / O channels, k taps. Axes are listed x first in `up`, `down` and `padding`, as callers do.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import expect
from ..layout import channels_last
from ..modulated_conv3d import modulated_conv3d

ORDER = 2
ROOT2 = math.sqrt(2)
ACTIVATIONS = {  # act: (function of the biased input and alpha, default alpha, default gain)
    "linear": (lambda z, alpha: z, 0.0, 1.0),
    "relu": (lambda z, alpha: F.relu(z), 0.0, ROOT2),
    "lrelu": (F.leaky_relu, 0.2, ROOT2),
    "tanh": (lambda z, alpha: z.tanh(), 0.0, 1.0),
    "sigmoid": (lambda z, alpha: z.sigmoid(), 0.0, 1.0),
    "elu": (lambda z, alpha: F.elu(z), 0.0, 1.0),
    "selu": (lambda z, alpha: F.selu(z), 0.0, 1.0),
    "softplus": (lambda z, alpha: F.softplus(z), 0.0, 1.0),
    "swish": (lambda z, alpha: F.silu(z), 0.0, ROOT2),
}
Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


# ------------------------------------------------------------------------------------------------------- activation


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> Tensor:
    """y = clamp(act(x + b along `dim`) * gain). Twice differentiable; alpha is the slope of "lrelu".

    x        any shape; b [x.shape[dim]]
    returns  x's shape, type and memory format; x itself where there is nothing to do
    """
    op = "bias_act"
    expect.tensor(op, "x", x)
    if act not in ACTIVATIONS:
        expect.fail(op, "act", f"one of {', '.join(ACTIVATIONS)}", repr(act))
    if b is not None:
        if not isinstance(dim, int) or not -x.ndim <= dim < x.ndim:
            expect.fail(op, "dim", f"an axis of x of {expect.shape(x)}", repr(dim))
        _vector(op, "b", b, x, dim)
    _, default_alpha, default_gain = ACTIVATIONS[act]
    alpha, gain = default_alpha if alpha is None else alpha, default_gain if gain is None else gain
    expect.finite_number(op, "alpha", alpha)
    expect.finite_number(op, "gain", gain)
    if clamp is not None:
        expect.finite_number(op, "clamp", clamp, 0)
    y = activate(x, b, dim, act, float(alpha), float(gain), _plain(op, impl))
    return y if clamp is None else y.clamp(-clamp, clamp)


def activate(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, plain: bool = False) -> Tensor:
    """act(x + b) * gain. For piecewise linear acts the gain goes in first: act(gain x + gain b), in one pass less."""
    if b is not None:
        b = b.to(x.dtype).reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])
    if plain or gain <= 0 or act not in ("linear", "relu", "lrelu"):
        z = x if b is None else x + b
        y = ACTIVATIONS[act][0](z, alpha)
        return y if gain == 1 else y * gain
    if b is not None:
        z = torch.add(b * gain, x, alpha=gain)
    else:
        z = x if gain == 1 else x * gain
    if act == "linear":
        return z
    fresh = z is not x
    return F.relu(z, inplace=fresh) if act == "relu" else F.leaky_relu(z, alpha, inplace=fresh and alpha >= 0)


# --------------------------------------------------------------------------------------------------------------- FIR


def setup_filter(
    f,
    device="cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A float32 filter for `upfirdn2d` from a number, a sequence, an array or a tensor of one or two axes.

    `separable` keeps one axis; by default eight taps or more do, and shorter filters become their outer product.
    """
    op = "setup_filter"
    f = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32)
    if f.ndim > 2 or f.numel() == 0:
        expect.fail(op, "f", "a number or a filter of one or two axes", expect.shape(f))
    f = f.reshape(1) if f.ndim == 0 else f
    if separable and f.ndim == 2:
        expect.fail(op, "f", "of one axis to be separable", expect.shape(f))
    expect.finite_number(op, "gain", gain)
    if f.ndim == 1 and not (len(f) >= 8 if separable is None else separable):
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | list[int] = 1,
    down: int | list[int] = 1,
    padding: int | list[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """Zero-insert upsampling -> pad or crop -> FIR filter * gain -> every `down`-th sample. Twice differentiable.

    x           [N, C, H, W]
    f           [h, w], or [k] for both axes in turn, or None; convolved, or correlated with `flip_filter`
    up, down    int or [x, y]; each sample is followed by up - 1 zeros
    padding     int, [x, y] or [x0, x1, y0, y1] of the upsampled image; negative crops
    returns     [N, C, H', W'] in x's type and memory format
    """
    return _upfirdn2d("upfirdn2d", x, f, up, down, padding, flip_filter, gain, impl)


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda") -> Tensor:
    """`upfirdn2d` keeping x's size; `padding` comes on top."""
    return _centred_fir("filter2d", x, f, 1, 1, padding, flip_filter, gain, impl)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda") -> Tensor:
    """`upfirdn2d` to exactly `up` times x's size and the same mean; `padding` comes on top."""
    return _centred_fir("upsample2d", x, f, up, 1, padding, flip_filter, gain, impl)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda") -> Tensor:
    """`upfirdn2d` to x's size divided by `down`, rounded down; `padding` comes on top."""
    return _centred_fir("downsample2d", x, f, 1, down, padding, flip_filter, gain, impl)


def _centred_fir(op, x, f, up, down, padding, flip_filter, gain, impl):
    _check_filter(op, "f", f, x)
    up, down = _pair(op, "up", up), _pair(op, "down", down)
    padding = _add(_sides(op, padding), _centred(_taps(f), up, down))
    expect.finite_number(op, "gain", gain)
    return _upfirdn2d(op, x, f, up, down, padding, flip_filter, gain * math.prod(up), impl)


def _upfirdn2d(op, x, f, up, down, padding, flip_filter, gain, impl):
    _check_filter(op, "f", f, x)
    up, down, padding = _pair(op, "up", up), _pair(op, "down", down), _sides(op, padding)
    expect.finite_number(op, "gain", gain)
    plain = _plain(op, impl)
    size = [
        n * u + padding[2 * axis] + padding[2 * axis + 1] - k
        for axis, (n, u, k) in enumerate(zip(x.shape[:1:-1], up, _taps(f), strict=True))
    ]
    if min(size) < 0 or x.shape[1] < 1 or min(x.shape[2:]) < 1:
        expect.fail(op, "x", f"large enough for a filter of {_taps(f)} taps and padding {padding}", expect.shape(x))
    if f is None:
        y = _insert_zeros(x, up, padding)[:, :, :: down[1], :: down[0]]
        y = y * gain if gain != 1 else y
    else:
        f = f if flip_filter else f.flip(list(range(f.ndim)))
        run = _fir if plain or f.requires_grad else _Fir.apply
        if f.ndim == 2:
            y = run(x, f * gain, up, down, padding)
        else:  # one axis after the other; the whole gain sits in the second
            y = run(x, f[None, :], (up[0], 1), (down[0], 1), (*padding[:2], 0, 0))
            y = run(y, f[:, None] * gain, (1, up[1]), (1, down[1]), (0, 0, *padding[2:]))
    return _keep_format(y, x)


class _Fir(torch.autograd.Function):
    """`_fir` with its gradient as another `_fir`: up and down change places, the filter is reversed."""

    @staticmethod
    def forward(x, f, up, down, padding):
        return _fir(x, f, up, down, padding)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, f, ctx.up, ctx.down, ctx.padding = inputs
        ctx.save_for_backward(f)
        ctx.sizes = x.shape[:1:-1], output.shape[:1:-1]

    @staticmethod
    def backward(ctx, g):
        (f,) = ctx.saved_tensors
        padding = []
        for axis, (n_in, n_out) in enumerate(zip(*ctx.sizes, strict=True)):
            left = ctx.padding[2 * axis]
            right = (n_in - 1) * ctx.up[axis] + 1 - n_out * ctx.down[axis] + left
            padding += [f.shape[1 - axis] - 1 - left, right]
        return _Fir.apply(g, f.flip([0, 1]), ctx.down, ctx.up, tuple(padding)), None, None, None, None


def _fir(x: Tensor, f: Tensor, up: Pair, down: Pair, padding: Sides) -> Tensor:
    """Correlation of the padded, zero-inserted x with f `[h, w]`, in plain PyTorch."""
    weight = f.to(x.dtype).expand(x.shape[1], 1, *f.shape)
    return F.conv2d(_insert_zeros(x, up, padding), weight, stride=down[::-1], groups=x.shape[1])


def _insert_zeros(x: Tensor, up: Pair, padding: Sides) -> Tensor:
    left, right, top, bottom = grown = [max(side, 0) for side in padding]
    if up == (1, 1):
        y = F.pad(x, grown) if any(grown) else x
    else:
        height, width = x.shape[2] * up[1], x.shape[3] * up[0]
        shape = (*x.shape[:2], height + top + bottom, width + left + right)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_memory_format(x)).zero_()
        y[:, :, top : top + height : up[1], left : left + width : up[0]] = x
    left, right, top, bottom = [max(-side, 0) for side in padding]
    return y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right]


# ------------------------------------------------------------------------------------------------------- convolution


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | list[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> Tensor:
    """Convolution with weights s_ni w_oik, each (n, o) over its norm (eps 1e-8), plus noise. Twice differentiable.

    x, weight, styles   [N, I, H, W], [O, I, h, w], [N, I]; `flip_weight` means correlation, as torch convolves
    noise               broadcastable to the output
    up                  zero insertion before the convolution, then the low-pass filter with gain up^2
    down                the low-pass filter, then every `down`-th sample
    padding             of the upsampled image, not negative: int, [x, y] or [x0, x1, y0, y1]
    resample_filter     from `setup_filter`
    fused_modconv       accepted for the signature; the values are the same either way
    """
    op = "modulated_conv2d"
    up, down, sides = _pair(op, "up", up), _pair(op, "down", down), _sides(op, padding)
    _check_modulated(op, x, weight, styles, resample_filter, sides)
    taps = weight.shape[:1:-1]
    total = sides
    for to, by in ((up, (1, 1)), ((1, 1), down)):
        if max(*to, *by) > 1:
            total = _add(total, _centred(_taps(resample_filter), to, by))
    size = []
    for axis, n in enumerate(x.shape[:1:-1]):
        filters = (max(up) > 1) + (max(down) > 1)
        room = n * up[axis] + total[2 * axis] + total[2 * axis + 1] - taps[axis]
        size.insert(0, (room - filters * (_taps(resample_filter)[axis] - 1)) // down[axis] + 1)
    if min(size) < 1 or min(x.shape[2:]) < 1:
        expect.fail(op, "x", f"large enough for a weight of {tuple(taps)} taps and padding {sides}", expect.shape(x))
    if noise is not None:
        _check_noise(op, noise, x, (x.shape[0], weight.shape[0], *size))
    weight = weight if flip_weight else weight.flip([2, 3])
    symmetric = sides[0] == sides[1] and sides[2] == sides[3]
    if up == down == (1, 1) and symmetric and all(k % 2 for k in taps):
        return modulated_conv3d(x, weight, styles, demodulate=demodulate, noise=noise, padding=sides[2::-2])
    y = _resampled(x, weight, styles, noise, up, down, total, resample_filter, demodulate)
    return _keep_format(y, x)


def _resampled(x, weight, styles, noise, up, down, padding, f, demodulate, eps=1e-8):
    """y_no = d_no conv(s_ni x_ni, w_oi) with d the demodulation: one dense convolution for the whole batch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    w, s = weight.to(wide), styles.to(wide)
    d = (s.square() @ w.square().sum(dim=[2, 3]).T + eps).rsqrt() if demodulate else s.new_ones(1, 1)
    if x.dtype == torch.float16:  # its range: s and w are brought to one and d takes what they lost
        s_max = s.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
        w_max = w.detach().abs().amax().clamp(min=1e-6) * math.sqrt(w[0].numel())
        s, w, d = s / s_max, w / w_max, d * s_max * w_max
    x, w, d = x * s.to(x.dtype)[:, :, None, None], w.to(x.dtype), d.to(x.dtype)[:, :, None, None]
    if max(up) > 1:
        y = F.conv_transpose2d(x, w.flip([2, 3]).transpose(0, 1), stride=up[::-1])
        margin = [side for k, u in zip(w.shape[:1:-1], up, strict=True) for side in (1 - k, u - k)]
        y = upfirdn2d(y, f, padding=_add(padding, margin), gain=math.prod(up))
        y = upfirdn2d(y, f, down=down) if max(down) > 1 else y
    elif max(down) > 1:
        y = F.conv2d(upfirdn2d(x, f, padding=padding), w, stride=down[::-1])
    else:
        y = F.conv2d(F.pad(x, padding), w)
    return y * d if noise is None else torch.addcmul(noise.to(x.dtype), y, d)


# ---------------------------------------------------------------------------------------------- arguments and layout


def _plain(op: str, impl: str) -> bool:
    if impl not in ("ref", "cuda"):
        expect.fail(op, "impl", "'ref' or 'cuda'", repr(impl))
    return impl == "ref"


def _pair(op: str, name: str, value) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(pair) != 2 or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in pair):
        expect.fail(op, name, "a positive integer or [x, y] of them", repr(value))
    return pair


def _sides(op: str, value) -> Sides:
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(sides) not in (2, 4) or any(not isinstance(n, int) for n in sides):
        expect.fail(op, "padding", "an integer, [x, y] or [x0, x1, y0, y1]", repr(value))
    return sides if len(sides) == 4 else (sides[0], sides[0], sides[1], sides[1])


def _add(a, b) -> Sides:
    return tuple(m + n for m, n in zip(a, b, strict=True))


def _taps(f: Tensor | None) -> Pair:
    """Taps of a filter along x and y."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def _centred(taps: Pair, up: Pair, down: Pair) -> Sides:
    """Padding that centres each output on the samples it covers: n -> n * up or n // down samples."""
    sides = []
    for k, u, d in zip(taps, up, down, strict=True):
        left = (k + u - d) // 2
        sides += [left, k - d - left]
    return tuple(sides)


def _vector(op: str, name: str, b: Tensor, x: Tensor, dim: int) -> None:
    expect.tensor(op, name, b)
    expect.same_device(op, name, b, x)
    expect.has_shape(op, name, b, (x.shape[dim],), f"[x.shape[{dim}]]")


def _image(op: str, x: Tensor) -> None:
    expect.tensor(op, "x", x)
    if x.ndim != 4:
        expect.fail(op, "x", "[N, C, H, W]", expect.shape(x))


def _check_filter(op: str, name: str, f: Tensor | None, x: Tensor) -> None:
    _image(op, x)
    if f is None:
        return
    expect.tensor(op, name, f)
    expect.same_device(op, name, f, x)
    if f.ndim not in (1, 2) or f.numel() == 0:
        expect.fail(op, name, "[k] or [h, w] with at least one tap", expect.shape(f))


def _check_modulated(op, x, weight, styles, f, padding) -> None:
    _check_filter(op, "resample_filter", f, x)
    for name, other in (("weight", weight), ("styles", styles)):
        expect.tensor(op, name, other)
        expect.same_device(op, name, other, x)
    if weight.ndim != 4 or weight.shape[1] != x.shape[1] or weight.numel() == 0:
        expect.fail(op, "weight", f"[O, {x.shape[1]}, k, k] for x of {x.shape[1]} channels", expect.shape(weight))
    expect.has_shape(op, "styles", styles, x.shape[:2], "[N, I]")
    if min(padding) < 0:
        expect.fail(op, "padding", "not negative", padding)


def _check_noise(op: str, noise: Tensor, x: Tensor, shape) -> None:
    expect.tensor(op, "noise", noise)
    expect.same_device(op, "noise", noise, x)
    if noise.ndim > 4 or any(n not in (1, m) for n, m in zip(noise.shape[::-1], shape[::-1], strict=False)):
        expect.fail(op, "noise", f"broadcastable to {tuple(shape)}", expect.shape(noise))


def _memory_format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if channels_last(x.unsqueeze(2)) else torch.contiguous_format


def _keep_format(y: Tensor, x: Tensor) -> Tensor:
    return y.contiguous(memory_format=_memory_format(x))
