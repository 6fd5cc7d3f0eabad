"""C3D (Tran et al. 2015), which videos are scored by: as published, and a small one to be trained here.

    conv1a 64 | conv2a 128 | conv3a conv3b 256 | conv4a conv4b 512 | conv5a conv5b 512 | fc6 4096 | fc7 4096 | fc8

Convolutions are 3x3x3 with padding 1 and ReLU, a pool follows each group: (1,2,2), then (2,2,2). At 16x112x112 the last
one goes from 7x7 to 4x4: as in Caffe its windows may reach past the end, and there is no padding before the start.

Legend: B clips, K classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import weights
from .weights import BadWeights, Published

SPORTS = Published(
    "conv3d_deepnetA_sport1m_iter_1900000", "C3D trained on Sports-1M", "https://github.com/facebookarchive/C3D"
)
UCF = Published(
    "c3d_ucf101_finetune_whole_iter_20000", "C3D trained on UCF-101", "https://github.com/facebookarchive/C3D"
)
CHAINER = Published("conv3d_deepnetA_ucf.npz", "the same for Chainer", "https://github.com/pfnet-research/tgan")
DAVIDEA = Published("c3d.pickle", "C3D trained on Sports-1M, for torch", "https://github.com/DavideA/c3d-pytorch")

GROUPS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
SMALL_GROUPS, SMALL_HIDDEN = ((16,), (32,), (64,), (128,), (128,)), 256


class Seen(NamedTuple):
    """What C3D makes of clips, from the picture to the classes."""

    pool5: Tensor  # [B, 8192], in the order channel, height, width
    before_fc6: Tensor  # [B, 4096], before the ReLU
    fc6: Tensor  # [B, 4096]
    fc7: Tensor  # [B, 4096]
    logits: Tensor  # [B, K]


class C3D(nn.Module):
    """`size` is that of its clips. `double_stride` is for clips of twice the height and width: only conv1a's stride."""

    def __init__(
        self,
        classes: int = 101,
        groups: tuple[tuple[int, ...], ...] = GROUPS,
        hidden: int = 4096,
        size: tuple[int, int, int] = (16, 112, 112),
        double_stride: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.groups, self.size, self.dropout = groups, size, dropout
        channels = 3
        for number, widths in enumerate(groups, 1):
            for letter, width in zip("ab", widths, strict=False):
                stride = (1, 2, 2) if double_stride and number == 1 else 1
                self.add_module(f"conv{number}{letter}", nn.Conv3d(channels, width, 3, stride, padding=1))
                channels = width
        time, *sides = size
        sides = [side // 2 if double_stride else side for side in sides]
        for number in range(len(groups)):
            time, sides = (-(-time // 2) if number else time), [-(-side // 2) for side in sides]
        self.fc6 = nn.Linear(channels * time * sides[0] * sides[1], hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, classes)

    def forward(self, video: Tensor) -> Seen:
        """[B, 3, T, H, W], prepared as the weights want it."""
        if video.shape[1:] != (3, *self.size):
            raise ValueError(f"video must be [B, 3, {', '.join(map(str, self.size))}], got {list(video.shape)}")
        x = video
        for number, widths in enumerate(self.groups, 1):
            for letter, _ in zip("ab", widths, strict=False):
                x = F.relu(getattr(self, f"conv{number}{letter}")(x))
            x = F.max_pool3d(x, (1 if number == 1 else 2, 2, 2), ceil_mode=True)
        pool5 = x.flatten(1)
        before = self.fc6(pool5)
        fc6 = F.relu(before)
        fc7 = F.relu(self.fc7(F.dropout(fc6, self.dropout, self.training)))
        return Seen(pool5, before, fc6, fc7, self.fc8(F.dropout(fc7, self.dropout, self.training)))


def small(classes: int, size: tuple[int, int, int]) -> C3D:
    """To be trained from scratch in minutes on a CPU: one convolution a group, a quarter of the channels."""
    return C3D(classes, SMALL_GROUPS, SMALL_HIDDEN, size)


def load(path: Path, *, rows: str = "chw", double_stride: bool = False) -> C3D:
    """The network of a published file, whichever of the four namings it has. Its number of classes is the file's.

    `rows` is the order in which wd1 of TensorFlow's files takes pool5: "hwc" where it was trained there from the start,
    "chw" where it was converted from Sports-1M's. `double_stride`: for clips of 224x224, with the same weights.
    """
    tensors = renamed(weights.read(path), rows)
    if "fc8.bias" not in tensors:
        raise BadWeights(f"{path} is no C3D: it has no fc8, only {', '.join(list(tensors)[:20])}")
    how = {"size": (16, 224, 224), "double_stride": True} if double_stride else {}
    return weights.filled(lambda: C3D(tensors["fc8.bias"].numel(), **how), tensors, path)


# ------------------------------------------------------------------------------------------------- what it is shown
#
# Each takes clips as bytes, uint8 [B, 3, 16, H, W] in red, green, blue, and gives float32 [B, 3, 16, 112, 112]. Cubes
# are the published means in blue, green, red, [3, 16, 128, 171]. They differ in what they cut out of frames and means,
# so their scores are not comparable; resizing is antialiased, and not rounded to bytes again.


def resized(video: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    frames = video.transpose(1, 2).flatten(0, 1).float()
    if tuple(frames.shape[2:]) != size:
        frames = F.interpolate(frames, size, mode=mode, align_corners=False, antialias=True)
    return frames.clamp(0, 255).unflatten(0, (len(video), -1)).transpose(1, 2)


def as_trained(video: Tensor, cube: Tensor) -> Tensor:
    """C3D's own: 128x171, less the mean, the centre."""
    x = resized(video, (128, 171), "bilinear").flip(1) - cube
    return x[..., 8:120, 29:141]


def as_tgan(video: Tensor, cube: Tensor) -> Tensor:
    """TGAN's inception score: 128x128, bicubic, less the mean's columns 21 to 148, the centre."""
    x = resized(video, (128, 128), "bicubic").flip(1) - cube[..., 21:149]
    return x[..., 8:120, 8:120]


def as_tgan2(video: Tensor, cube: Tensor) -> Tensor:
    """TGANv2's: 112x112 at once, less the mean's rows and columns 8 to 119, which is not its centre."""
    return resized(video, (112, 112), "bilinear").flip(1) - cube[..., 8:120, 8:120]


def as_davidea(video: Tensor) -> Tensor:
    """The means of Sports-1M's channels instead of a cube."""
    mean = torch.tensor([90.25, 97.66, 101.41])[:, None, None, None]
    return resized(video, (112, 112), "bilinear").flip(1) - mean


def as_stgan(video: Tensor, mean: Tensor) -> Tensor:
    """hx173149's, in red, green, blue: the shorter side to 112, the centre, less its file's mean [16, 112, 112, 3]."""
    height, width = video.shape[3:]
    scale = 112 / min(height, width)
    size = (112, int(width * scale + 1)) if height <= width else (int(height * scale + 1), 112)
    x = resized(video, size, "bilinear")
    top, left = (size[0] - 112) // 2, (size[1] - 112) // 2
    return x[..., top : top + 112, left : left + 112] - mean.permute(3, 0, 1, 2)


def doubled_cube(cube: Tensor) -> Tensor:
    """Of twice the height and width, for `double_stride`."""
    return F.interpolate(cube.transpose(0, 1), scale_factor=2, mode="bilinear", align_corners=False).transpose(0, 1)


def as_condition(video: Tensor, cube: Tensor) -> Tensor:
    """224x224 for `double_stride`: the doubled mean, and its centre, 16 rows and 58 columns in."""
    if tuple(video.shape[3:]) != (224, 224):
        raise ValueError(f"video must be 224x224 pixels, got {list(video.shape[3:])}")
    return video.flip(1).float() - doubled_cube(cube)[..., 16:240, 58:282]


# ----------------------------------------------------------------------------------------------------- names of others


PLACES = ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")
TENSORFLOW = {
    **{f"c{place.replace('1a', '1').replace('2a', '2')}": f"conv{place}" for place in PLACES},
    **{"d1": "fc6", "d2": "fc7", "out": "fc8"},
}


def renamed(tensors: Mapping[str, Tensor], rows: str) -> dict[str, Tensor]:
    """To this network's names and layouts, from those of Caffe, Chainer, torch and TensorFlow."""
    names = {}
    for ours in (*(f"conv{place}" for place in PLACES), "fc6", "fc7", "fc8"):
        for theirs in (ours, f"{ours}-1", ours.replace("1a", "1").replace("2a", "2")):
            names |= {f"{theirs}{weight}": f"{ours}.weight" for weight in (".weight", ".0", "/W")}
            names |= {f"{theirs}{bias}": f"{ours}.bias" for bias in (".bias", ".1", "/b")}
    found = {}
    for name, value in tensors.items():
        kind, place = name.removeprefix("var_name/")[:1], name.removeprefix("var_name/")[1:]
        if place in TENSORFLOW and kind == "b":
            found[f"{TENSORFLOW[place]}.bias"] = value
        elif place in TENSORFLOW and kind == "w":
            found[f"{TENSORFLOW[place]}.weight"] = turned(value, place, rows)
        else:
            found[names.get(name, name)] = value
    return found


def turned(weight: Tensor, place: str, rows: str) -> Tensor:
    """TensorFlow's [t, h, w, in, out] and [in, out] to [out, in, t, h, w] and [out, in]."""
    if weight.ndim == 5:
        return weight.permute(4, 3, 0, 1, 2)
    if place == "d1" and rows == "hwc" and len(weight) == 4 * 4 * 512:
        return weight.view(4, 4, 512, -1).permute(3, 2, 0, 1).flatten(1)
    return weight.T
