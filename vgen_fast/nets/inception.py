"""Inception v3 as FID is computed with it: the network of 2015, whose poolings differ from torchvision's.

Averages leave the padding out, the last block's pool takes the maximum, and there are 1008 classes. Every convolution
has batch norm (eps 1e-3) and ReLU and no bias. Names are those of the published state dict.

Legend: B pictures.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import weights
from .weights import BadWeights, Published

FID = Published(
    "pt_inception-2015-12-05-6726825d.pth", "Inception v3 for FID", "https://github.com/mseitzer/pytorch-fid/releases"
)
SIDE = 299


class Unit(nn.Module):
    """A convolution, batch norm, ReLU. `size` is that of the kernel; `pad` keeps the size of the picture."""

    def __init__(self, inside: int, outside: int, size: int | tuple[int, int] = 1, stride: int = 1, pad: bool = True):
        super().__init__()
        size = (size, size) if isinstance(size, int) else size
        padding = (size[0] // 2, size[1] // 2) if pad and stride == 1 else 0
        self.conv = nn.Conv2d(inside, outside, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class Block(nn.Module):
    """Branches side by side: each a chain of units, by the names of the units."""

    chains: tuple[tuple[str, ...], ...]

    def branches(self, x: Tensor) -> list[Tensor]:
        found = []
        for chain in self.chains:
            y = x
            for name in chain:
                y = getattr(self, name)(y)
            found.append(y)
        return found


class A(Block):
    chains = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    )

    def __init__(self, inside: int, pooled: int):
        super().__init__()
        self.branch1x1 = Unit(inside, 64)
        self.branch5x5_1, self.branch5x5_2 = Unit(inside, 48), Unit(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inside, 64), Unit(64, 96, 3)
        self.branch3x3dbl_3 = Unit(96, 96, 3)
        self.branch_pool = Unit(inside, pooled)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*self.branches(x), self.branch_pool(average(x))], dim=1)


class B(Block):
    chains = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))

    def __init__(self, inside: int):
        super().__init__()
        self.branch3x3 = Unit(inside, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inside, 64), Unit(64, 96, 3)
        self.branch3x3dbl_3 = Unit(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*self.branches(x), F.max_pool2d(x, 3, 2)], dim=1)


class C(Block):
    chains = (
        ("branch1x1",),
        ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
        ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
    )

    def __init__(self, width: int):
        super().__init__()
        self.branch1x1 = Unit(768, 192)
        self.branch7x7_1 = Unit(768, width)
        self.branch7x7_2, self.branch7x7_3 = Unit(width, width, (1, 7)), Unit(width, 192, (7, 1))
        self.branch7x7dbl_1 = Unit(768, width)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = Unit(width, width, (7, 1)), Unit(width, width, (1, 7))
        self.branch7x7dbl_4, self.branch7x7dbl_5 = Unit(width, width, (7, 1)), Unit(width, 192, (1, 7))
        self.branch_pool = Unit(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*self.branches(x), self.branch_pool(average(x))], dim=1)


class D(Block):
    chains = (
        ("branch3x3_1", "branch3x3_2"),
        ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"),
    )

    def __init__(self):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Unit(768, 192), Unit(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Unit(768, 192), Unit(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = Unit(192, 192, (7, 1)), Unit(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*self.branches(x), F.max_pool2d(x, 3, 2)], dim=1)


class E(Block):
    chains = (
        ("branch1x1",),
        ("branch3x3_1", "branch3x3_2a"),
        ("branch3x3_1", "branch3x3_2b"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3b"),
    )

    def __init__(self, inside: int, last: bool):
        super().__init__()
        self.last = last
        self.branch1x1 = Unit(inside, 320)
        self.branch3x3_1 = Unit(inside, 384)
        self.branch3x3_2a, self.branch3x3_2b = Unit(384, 384, (1, 3)), Unit(384, 384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inside, 448), Unit(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Unit(384, 384, (1, 3)), Unit(384, 384, (3, 1))
        self.branch_pool = Unit(inside, 192)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 3, 1, 1) if self.last else average(x)
        return torch.cat([*self.branches(x), self.branch_pool(pooled)], dim=1)


class Seen(NamedTuple):
    first: Tensor  # [B, 64, 73, 73]
    second: Tensor  # [B, 192, 35, 35]
    third: Tensor  # [B, 768, 17, 17]
    features: Tensor  # [B, 2048]
    logits: Tensor  # [B, 1008]


class Inception(nn.Module):
    def __init__(self, classes: int = 1008):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = Unit(32, 32, 3, pad=False), Unit(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Unit(64, 80), Unit(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = C(128), C(160), C(160), C(192)
        self.Mixed_7a = D()
        self.Mixed_7b, self.Mixed_7c = E(1280, last=False), E(2048, last=True)
        self.fc = nn.Linear(2048, classes)

    def forward(self, pictures: Tensor) -> Seen:
        """[B, 3, 299, 299], as `prepare` makes them."""
        first = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pictures))), 3, 2)
        second = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(first)), 3, 2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(second))))
        third = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(third))).mean(dim=(2, 3))
        return Seen(first, second, third, features, self.fc(features))


def prepare(pictures: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> [B, 3, 299, 299] from -1 to 1, bilinear."""
    x = F.interpolate(pictures.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return 2 * x - 1


def load(path: Path) -> Inception:
    """The network of the published state dict."""
    tensors = weights.read(path)
    if "fc.bias" not in tensors:
        raise BadWeights(f"{path} is no Inception: it has no fc, only {', '.join(list(tensors)[:20])}")
    return weights.filled(lambda: Inception(tensors["fc.bias"].numel()), tensors, path)
