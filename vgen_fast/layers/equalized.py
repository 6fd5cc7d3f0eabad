"""Layers with equalised learning rate: weights are N(0, 1) parameters, scaled by gain / sqrt(fan in) at run time.

Under torch.autocast convolutions run in its type. Dense layers keep that of their weights: they take no time, and what
leaves a critic needs the digits.

Legend: B batch, I / O channels in / out, k taps.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops import autocast


class EqualizedLinear(nn.Module):
    """[B, I] -> [B, O]. `bias_repeat`: outputs that share an entry of the bias (a dense layer that is a map later)."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = math.sqrt(2), bias_repeat: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs // bias_repeat))
        self.scale = gain / math.sqrt(inputs)
        self.bias_repeat = bias_repeat

    def forward(self, x: Tensor) -> Tensor:
        if autocast.wanted(x):
            with autocast.off(x):
                return self(x.to(self.weight.dtype))
        bias = self.bias if self.bias_repeat == 1 else self.bias.repeat_interleave(self.bias_repeat)
        return F.linear(x, (self.weight * self.scale).to(x.dtype), bias.to(x.dtype))


class EqualizedConv3d(nn.Module):
    """[B, I, T, H, W] -> [B, O, T', H', W'] with "same" padding, everything after the product in the same pass."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: int | tuple[int, int, int] = 3,
        *,
        gain: float = math.sqrt(2),
        slope: float | None = 0.2,
        pixel_norm: bool = False,
        up: tuple[int, int, int] = (1, 1, 1),
        down: tuple[int, int, int] = (1, 1, 1),
    ):
        super().__init__()
        taps = (taps,) * 3 if isinstance(taps, int) else taps
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *taps))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs * math.prod(taps))
        self.options = dict(slope=slope, pixel_norm=pixel_norm, up=up, down=down)

    def forward(self, x: Tensor, **options) -> Tensor:
        """`options` replace those the layer was made with."""
        weight = self.weight * self.scale
        return ops.modulated_conv3d(x, weight, bias=self.bias, **{**self.options, **options})
