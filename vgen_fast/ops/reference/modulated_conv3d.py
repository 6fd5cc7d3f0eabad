"""Modulated convolution (StyleGAN2 style block, eq. 3.10-3.11; spec/conditional.md B2) with everything around it.

Legend: B batch, I / O channels in / out, k taps (t, h, w).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .pixel_norm import pixel_norm as normalise

Triple = tuple[int, int, int]


def modulate(weight: Tensor, style: Tensor, demodulate: bool, eps: float) -> Tensor:
    """Per-sample weights w_boik = s_bi w_oik, each (b, o) then divided by its norm sqrt(sum_ik w_boik^2 + eps).

    weight `[O, I, *k]`, style `[B, I]` -> `[B, O, I, *k]`, in float32 at least.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    taps = [1] * (weight.ndim - 2)
    w_BOIk = weight.to(wide)[None] * style.to(wide).reshape(style.shape[0], 1, style.shape[1], *taps)
    if demodulate:
        norm = (w_BOIk.square().flatten(2).sum(dim=2) + eps).sqrt()
        w_BOIk = w_BOIk / norm.reshape(*norm.shape, 1, *taps)
    return w_BOIk


def repeated(x: Tensor, dim: int, factor: int) -> Tensor:
    """x[floor(i / factor)] on one axis, as fast as `F.interpolate`; its derivative adds in one order on CUDA too."""
    return torch.stack([x] * factor, dim=dim + 1).flatten(dim, dim + 1) if factor > 1 else x


def averaged(z: Tensor, dim: int, factor: int) -> Tensor:
    """The mean of pairs on one axis, an odd last one dropped, as `F.avg_pool3d` does it more slowly.

    Halves are added: the sum of two 16-bit numbers may be too large for one.
    """
    if factor == 1:
        return z
    pairs = z.shape[dim] // 2
    first, second = z.narrow(dim, 0, 2 * pairs).unflatten(dim, (pairs, 2)).unbind(dim + 1)
    return torch.add(first / 2, second, alpha=0.5)


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
    up: Triple = (1, 1, 1),
    down: Triple = (1, 1, 1),
    padding: Triple = (1, 1, 1),
    eps: float = 1e-8,
) -> Tensor:
    """nearest up -> convolution -> average pool -> + noise -> + bias -> leaky ReLU -> * gain -> pixel norm.

    x `[B, I, T, H, W]`, weight `[O, I, kt, kh, kw]`, style `[B, I]` -> `[B, O, T', H', W']`.
    """
    dtype = x.dtype
    if x.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        # torch 2.13 and 2.14 on CPU: the 16-bit conv3d weight gradient reads memory nobody wrote.
        x = x.float()
    for axis, factor in reversed(list(enumerate(up))):
        x = repeated(x, 2 + axis, factor)
    if style is None or len(x) == 0:
        z = F.conv3d(x, weight.to(x.dtype), padding=padding)
    else:
        w_BOIk = modulate(weight, style, demodulate, eps).to(x.dtype)
        z = F.conv3d(x.reshape(1, -1, *x.shape[2:]), w_BOIk.flatten(0, 1), padding=padding, groups=len(x))
        z = z.reshape(len(x), -1, *z.shape[2:])
    for axis, factor in enumerate(down):
        z = averaged(z, 2 + axis, factor)
    z = z if noise is None else z + noise.to(z.dtype)
    z = z if bias is None else z + bias.to(z.dtype)[:, None, None, None]
    z = z if slope is None else F.leaky_relu(z, slope)
    z = z * gain if gain != 1 else z
    return (normalise(z, eps=eps) if pixel_norm else z).to(dtype)
