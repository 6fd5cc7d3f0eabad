"""BigGAN's residual blocks (spec/conditional.md B1) for frames [B, C, T, H, W] that are images, or a video.

Legend: B clips, I / O channels in / out, T frames, N numbers that a batch norm is told.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .batch_norm import BatchNorm


def of_frames(layer: nn.Module, x: Tensor, *, up: int = 1, **options) -> Tensor:
    """A 2D or 3D convolution of a video; 2D ones take each frame as an image."""
    weight = layer.weight if layer.weight.ndim == 5 else layer.weight[:, :, None]
    return ops.modulated_conv3d(x, weight, bias=layer.bias, up=(1, up, up), **options)


class Down(nn.Module):
    """ReLU, conv3, ReLU, conv3, half as large; beside them half as large, conv1. The odd last row is left out.

    A network's `first` block has no leading ReLU. `deep`: three taps in time, and half as many frames.
    """

    def __init__(self, inputs: int, outputs: int, *, first: bool = False, deep: bool = False):
        super().__init__()
        conv = nn.Conv3d if deep else nn.Conv2d
        self.first, self.halved = first, (2 if deep else 1, 2, 2)
        self.one, self.two = conv(inputs, outputs, 3), conv(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = of_frames(self.one, x if self.first else x.relu(), slope=0.0)
        y = of_frames(self.two, y, down=self.halved)
        return y + of_frames(self.shortcut, F.avg_pool3d(x, self.halved))


class ConditionalNorm(nn.Module):
    """Batch norm whose gains and biases are linear in what it is told [B, N]."""

    def __init__(self, channels: int, numbers: int, momentum: float):
        super().__init__()
        self.norm = BatchNorm(channels, momentum=momentum)
        self.gain = nn.Linear(numbers, channels, bias=False)
        self.shift = nn.Linear(numbers, channels, bias=False)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        spread = lambda numbers: numbers.to(x)[:, :, None, None, None]  # noqa: E731
        return (1 + spread(self.gain(told))) * self.norm(x) + spread(self.shift(told))


class Up(nn.Module):
    """BN, ReLU, (twice as large,) conv3, BN, ReLU, conv3; beside them (twice as large,) conv1.

    Batch norm is of all frames together; conditional, if it is `told` numbers. The shortcut's convolution comes first,
    which is the same and cheaper.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        up: Literal["nearest", "bilinear"] | None = None,
        momentum: float = 0.1,
        told: int = 0,
    ):
        super().__init__()
        norm = lambda channels: (  # noqa: E731
            ConditionalNorm(channels, told, momentum) if told else BatchNorm(channels, momentum=momentum)
        )
        self.up = up
        self.norms = nn.ModuleList([norm(inputs), norm(outputs)])
        self.one, self.two = nn.Conv2d(inputs, outputs, 3), nn.Conv2d(outputs, outputs, 3)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def enlarged(self, x: Tensor) -> Tensor:
        if self.up is None:
            return x
        options = dict(align_corners=False) if self.up == "bilinear" else {}
        frames = x.transpose(1, 2)
        large = F.interpolate(frames.flatten(0, 1), scale_factor=2, mode=self.up, **options)
        return large.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def forward(self, x: Tensor, *told: Tensor) -> Tensor:
        y = self.norms[0](x, *told).relu()
        if self.up == "nearest":
            y = of_frames(self.one, y, up=2)
        else:
            y = of_frames(self.one, self.enlarged(y))
        y = of_frames(self.two, self.norms[1](y, *told).relu())
        return y + self.enlarged(of_frames(self.shortcut, x))
