"""StyleGAN2's convolutions for frames that share a style (spec/conditional.md B2), and StyleGAN's with AdaIN.

Twice as large is a transposed convolution of stride 2, then [1, 3, 3, 1]^2 / 64 times 4. As [1, 3, 3, 1] is [1, 1] *
[1, 2, 1], that is the op's upsampling, a convolution of nearest neighbours, smoothed by [1, 2, 1] / 4.

Legend: B clips, I / O channels in / out, S numbers of a style, T frames.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .equalized import EqualizedLinear

SLOPE, GAIN = 0.2, math.sqrt(2)


class Smooth(torch.autograd.Function):
    """[.., H + 2, W + 2] -> [.., H, W], by [1, 2, 1]^2. Its gradient is itself, of the padded gradient: of any order.

    PyTorch's averages of two take four times as long.
    """

    @staticmethod
    def forward(ctx, x):
        rows = (x[..., :-2, :] + x[..., 2:, :]).add_(x[..., 1:-1, :], alpha=2)
        return (rows[..., :-2] + rows[..., 2:]).add_(rows[..., 1:-1], alpha=2)

    @staticmethod
    def backward(ctx, gy):
        return Smooth.apply(F.pad(gy, (2, 2, 2, 2)))


class StyledConv(nn.Module):
    """[B, I, T, H, W] and a style [B, S] -> [B, O, T, H, W], or twice as high and wide.

    Modulated weights, demodulated; noise [B, 1, T, H, W] times a scalar that begins at 0; bias, leaky ReLU, root of 2.
    With `adain` the weights are the same for all, and each channel of a frame is given its mean and deviation by the
    style, after all else.
    """

    def __init__(
        self, inputs: int, outputs: int, styles: int, *, up: bool = False, noise: bool = True, adain: bool = False
    ):
        super().__init__()
        self.up, self.adain = up, adain
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 3, 3))
        self.scale = 1 / math.sqrt(9 * inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(())) if noise else None
        self.style = EqualizedLinear(styles, 2 * outputs if adain else inputs, gain=1.0)
        with torch.no_grad():
            self.style.bias[: outputs if adain else inputs] = 1

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        weight, bias, s = self.weight * self.scale, self.bias, self.style(style)
        modulation = None if self.adain else s
        noise = None if noise is None or self.strength is None else self.strength * noise
        if self.up:
            large = ops.modulated_conv3d(x, weight, modulation, gain=GAIN / 16, up=(1, 2, 2), padding=(0, 2, 2))
            y = Smooth.apply(large).add_((GAIN * bias).to(large)[:, None, None, None])
            y = F.leaky_relu_(y if noise is None else y.add_((GAIN * noise).to(y)), SLOPE)
        else:
            y = ops.modulated_conv3d(x, weight, modulation, bias=bias, noise=noise, slope=SLOPE, gain=GAIN)
        return adapted(y, *s.chunk(2, dim=1)) if self.adain else y


def adapted(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Each channel of each frame with mean `shift` and deviation `scale` (eq. 3.9)."""
    spread = lambda numbers: numbers[:, :, None, None, None]  # noqa: E731
    return spread(scale) * F.instance_norm(x.transpose(1, 2).flatten(0, 1)).unflatten(
        0, (x.shape[0], x.shape[2])
    ).transpose(1, 2) + spread(shift)


class ToRGB(nn.Module):
    """[B, I, T, H, W] -> [B, 3, T, H, W]: one tap, modulated, not demodulated."""

    def __init__(self, inputs: int, styles: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1, 1))
        self.scale = 1 / math.sqrt(inputs)
        self.bias = nn.Parameter(torch.zeros(3))
        self.style = EqualizedLinear(styles, inputs, gain=1.0)
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight = self.weight * self.scale
        return ops.modulated_conv3d(x, weight, self.style(style), demodulate=False, bias=self.bias)
