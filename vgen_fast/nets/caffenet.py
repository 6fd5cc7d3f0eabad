"""CaffeNet and AlexNet: five convolutions, two local response norms, three dense layers, in 227x227 pixels.

CaffeNet pools before it norms, AlexNet norms first; `small` is a narrow one for frames of few pixels. Caffe's pools
count a window that begins inside, and its norm divides by (1 + alpha / 5 sum x^2)^beta over five channels, which is
torch's.

Legend: B pictures, K classes.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import weights
from .weights import BadWeights, Published

CAFFENET = Published("bvlc_reference_caffenet.caffemodel", "CaffeNet", "https://github.com/BVLC/caffe")
ALEXNET = Published("bvlc_alexnet.caffemodel", "AlexNet", "https://github.com/BVLC/caffe")

MEAN = (104.0, 117.0, 123.0)  # of blue, green and red, as Caffe's networks see colours
SIDE = 227


class Row(NamedTuple):
    """A convolution; a pool follows the first two and the last."""

    channels: int
    size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


ROWS = (Row(96, 11, 4), Row(256, 5, 1, 2, 2), Row(384, 3, 1, 1), Row(384, 3, 1, 1, 2), Row(256, 3, 1, 1, 2))
SMALL = (Row(16, 5), Row(32, 3, 1, 1), Row(48, 3, 1, 1), Row(48, 3, 1, 1), Row(32, 3, 1, 1))

SMALL_SCALE = 1 / 64  # on pictures, so that weights as He et al. draw them make codes about as large as CaffeNet's


class Convolutions(nn.Module):
    """conv1 to pool5: [B, 3, 227, 227] -> [B, C, 6, 6]."""

    def __init__(self, rows: tuple[Row, ...] = ROWS, norm_first: bool = False, scale: float = 1.0):
        super().__init__()
        self.norm_first, self.scale, inside = norm_first, scale, 3
        for number, row in enumerate(rows, 1):
            layer = nn.Conv2d(inside, row.channels, row.size, row.stride, row.padding, groups=row.groups)
            self.add_module(f"conv{number}", layer)
            inside = row.channels

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.scale == 1 else self.scale * x
        for number, layer in enumerate(self.children(), 1):
            x = F.relu(layer(x))
            steps = [pool, norm] if number in (1, 2) else [pool] if number == 5 else []
            for step in reversed(steps) if self.norm_first else steps:
                x = step(x)
        return x


def pooled(rows: tuple[Row, ...], side: int) -> int:
    """Height and width of pool5 of pictures of that side."""
    for row, pools in zip(rows, (True, True, False, False, True), strict=True):
        side = (side + 2 * row.padding - row.size) // row.stride + 1
        side = math.ceil((side - 3) / 2) + 1 if pools else side
    return side


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


def norm(x: Tensor) -> Tensor:
    return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)


class Seen(NamedTuple):
    pool5: Tensor  # [B, 256, 6, 6]
    fc6: Tensor  # [B, 4096], after the ReLU
    fc7: Tensor  # [B, 4096], after the ReLU
    logits: Tensor  # [B, K]


class CaffeNet(nn.Module):
    def __init__(
        self,
        classes: int = 1000,
        norm_first: bool = False,
        *,
        rows: tuple[Row, ...] = ROWS,
        side: int = SIDE,
        codes: int = 4096,
        scale: float = 1.0,
    ):
        super().__init__()
        self.convolutions = Convolutions(rows, norm_first, scale)
        self.fc6 = nn.Linear(rows[-1].channels * pooled(rows, side) ** 2, codes)
        self.fc7, self.fc8 = nn.Linear(codes, codes), nn.Linear(codes, classes)

    def forward(self, pictures: Tensor) -> Seen:
        """[B, 3, 227, 227], as `prepare` makes them."""
        pool5 = self.convolutions(pictures)
        fc6 = F.relu(self.fc6(pool5.flatten(1)))
        fc7 = F.relu(self.fc7(F.dropout(fc6, 0.5, self.training)))
        return Seen(pool5, fc6, fc7, self.fc8(F.dropout(fc7, 0.5, self.training)))


class Encoded(NamedTuple):
    pool5: Tensor  # [B, C, 6, 6]
    fc6: Tensor  # [B, Z], after the ReLU


class Encoder(nn.Module):
    """The layers of a CaffeNet up to fc6."""

    def __init__(self, of: CaffeNet):
        super().__init__()
        self.convolutions, self.fc6 = of.convolutions, of.fc6
        self.codes = of.fc6.out_features

    def forward(self, pictures: Tensor) -> Encoded:
        pool5 = self.convolutions(pictures)
        return Encoded(pool5, F.relu(self.fc6(pool5.flatten(1))))


def small(classes: int, side: int, codes: int = 256) -> CaffeNet:
    """To be trained from scratch in minutes on a CPU."""
    return CaffeNet(classes, rows=SMALL, side=side, codes=codes, scale=SMALL_SCALE)


def prepare(pictures: Tensor, mean: tuple[float, float, float] = MEAN) -> Tensor:
    """Red, green, blue from 0 to 255, [..., 3, H, W] -> blue, green, red less their means."""
    return pictures.flip(-3).float() - torch.tensor(mean, device=pictures.device)[:, None, None]


def load(path: Path, norm_first: bool = False) -> CaffeNet:
    """CaffeNet's file, or with `norm_first` AlexNet's, whose layers have the same names."""
    tensors = named(weights.read(path))
    if "fc8.bias" not in tensors:
        raise BadWeights(f"{path} is no CaffeNet: it has no fc8, only {', '.join(list(tensors)[:20])}")
    return weights.filled(lambda: CaffeNet(tensors["fc8.bias"].numel(), norm_first), tensors, path)


def named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Blobs 0 and 1 of a layer are its weight and its bias."""
    found = {}
    for name, value in tensors.items():
        layer, _, blob = name.rpartition(".")
        place = f"convolutions.{layer}" if layer.startswith("conv") else layer
        found[f"{place}.{({'0': 'weight', '1': 'bias'}).get(blob, blob)}"] = value
    return found
