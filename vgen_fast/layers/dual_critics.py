"""A critic of frames and one of the clip, of DVD-GAN's kind, and TrIVD-GAN's ways to share a clip among critics
(spec/conditional.md B5).

Which frames and which window a critic sees is drawn for each clip, the same for a real one and the fake beside it.

Legend: B clips, C channels, T frames, K of them that the critic of frames sees, H x W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import spectral_norm
from .labels import one_hot
from .orthogonal import orthogonal
from .residual import Down, of_frames
from .segment import Segment

View = Callable[[Tensor, Tensor | None, Tensor], Tensor]  # (clip, first frames or None, uniform draws) -> seen


@dataclass(frozen=True)
class Critics:
    spatial: tuple[int, ...] = (64, 128, 256, 512, 512)  # channels of the critic of frames, a block each
    temporal: tuple[int, ...] = (64, 128, 256, 512, 512)  # of the critic of the clip, whose first two halve time too
    frames: int = 8  # K, without repetition
    decomposition: Literal["dvd", "faster", "stronger"] = "dvd"
    shrink: int = 1  # of what the clip's critic sees; of frames, and of the window, where it is not "dvd"
    attention: bool = True  # behind the first block with a quarter of the last one's channels
    spectral_norm: bool = True
    weights: tuple[float, float] = (1.0, 5.0)  # of the critics of frames and of the clip; DVD-GAN's are equal
    third: float = 1.0  # of the third critic, where it is "stronger": no source has it

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def check(self, frames: int, size: int, given: bool) -> None:
        """Refuses clips that these critics cannot see."""
        if self.shrink < 1:
            raise ValueError(f"critics.shrink must be 1 or more, got {self.shrink}")
        shown = size // self.shrink if self.decomposition != "dvd" else size
        least = 2 ** max(len(self.spatial), len(self.temporal))
        if frames < 4:
            raise ValueError(f"the critic of the clip halves time twice: frames must be 4 and more, got {frames}")
        if not 1 <= self.frames <= frames - given:
            raise ValueError(f"critics.frames must be 1 to {frames - given} of a clip's {frames}, got {self.frames}")
        if size % self.shrink or min(shown, size // self.shrink) < least:
            seen = min(shown, size // self.shrink)
            raise ValueError(f"critics of {least} pixels and more see {seen}, {size} made {self.shrink} times smaller")


CRITICS = Critics()


class SelfAttention(nn.Module):
    """[B, C, T, H, W] -> the same, x + gamma v softmax(q k) within each frame; gamma begins at 0."""

    def __init__(self, channels: int):
        super().__init__()
        self.q, self.k = nn.Conv2d(channels, channels // 8, 1), nn.Conv2d(channels, channels // 8, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (of_frames(layer, x).transpose(1, 2).flatten(3) for layer in (self.q, self.k, self.v))
        shares = torch.softmax(q.transpose(2, 3) @ k, dim=-1)  # [B, T, H W, H W]
        found = (v @ shares.transpose(2, 3)).transpose(1, 2).unflatten(3, x.shape[3:])
        return x + self.gamma.to(x) * found


class DualCritic(nn.Module):
    """[B, C, T, H, W] -> [B], the mean over frames of a linear score of each frame's summed features.

    The first `deep` blocks are 3D and halve time too: 25 frames are 12, then 6. With `classes` it is given a pair, with
    labels [B, A], and a score also has the product of the features with the class's vector.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], cfg: Critics, *, deep: int = 0, classes: tuple = ()):
        super().__init__()
        self.blocks = nn.Sequential()
        for i, (c, o) in enumerate(pairwise((inputs, *widths))):
            self.blocks.append(Segment(Down(c, o, first=i == 0, deep=i < deep)))
            if cfg.attention and 4 * o == widths[-1] and o not in widths[:i]:
                self.blocks.append(Segment(SelfAttention(o)))
        self.last = nn.Linear(widths[-1], 1)
        self.classes = classes
        self.embed = nn.Linear(sum(classes), widths[-1], bias=False) if classes else None
        orthogonal(self)
        if cfg.spectral_norm:
            spectral_norm.normalised(self)

    def forward(self, seen: Tensor | tuple[Tensor, Tensor], stage: object = None) -> Tensor:
        x, labels = seen if self.classes else (seen, None)
        y = self.blocks(x).relu().sum(dim=(3, 4)).to(self.last.bias.dtype).transpose(1, 2)  # [B, T', C]
        scores = self.last(y)[..., 0]
        if self.embed is not None:
            scores = scores + (y * self.embed(one_hot(labels, self.classes, y))[:, None]).sum(dim=2)
        return scores.mean(dim=1)


def picked(clip: Tensor, draws: Tensor, number: int, first: int) -> Tensor:
    """[B, C, K, H, W]: frames of each clip from `first` on, those with the smallest draws [B, T - first]."""
    chosen = draws.argsort(dim=1)[:, :number] + first
    return clip[torch.arange(len(clip), device=clip.device)[:, None], :, chosen].transpose(1, 2)


def window(clip: Tensor, draws: Tensor, shrink: int) -> Tensor:
    """[B, C, T, H / shrink, W / shrink], of each clip a window whose corner is drawn by [B, 2]."""
    height, width = (side // shrink for side in clip.shape[3:])
    corners = [(draws[:, i] * (side - size + 1)).long() for i, (side, size) in
               enumerate(zip(clip.shape[3:], (height, width), strict=True))]  # fmt: skip
    y, x = (corner[:, None] + torch.arange(size, device=clip.device)
            for corner, size in zip(corners, (height, width), strict=True))  # fmt: skip
    rows = torch.arange(len(clip), device=clip.device)[:, None, None]
    return clip.permute(0, 3, 4, 1, 2)[rows, y[:, :, None], x[:, None]].permute(0, 3, 4, 1, 2)


def smaller(clip: Tensor, shrink: int) -> Tensor:
    return clip if shrink == 1 else F.avg_pool3d(clip, (1, shrink, shrink))


def num_draws(frames: int) -> int:
    """Uniform numbers a clip that views read: one for each frame, two for a window."""
    return frames + 2


class Part(NamedTuple):
    """One critic of the two or three; its name says what it sees."""

    name: str
    module: DualCritic
    view: View
    weight: float  # in the generator's loss

    def follow(self, steps: int) -> None:
        """After each step of the optimizer."""
        spectral_norm.follow(self.module)


def critics(cfg: Critics, *, given: bool, classes: tuple[int, ...] = ()) -> tuple[Part, ...]:
    """Those named "frames" and "video", and TrIVD-GAN's "small" video. `given`: a clip's first frame is what it was
    made from, which the critic of frames sees behind each of the others.

    "dvd": K frames as they are, the clip `shrink` times smaller. "faster": frames `shrink` times smaller, and a window
    of the clip, of that size. "stronger": that, and the clip `shrink` times smaller.
    """
    dvd = cfg.decomposition == "dvd"

    def frames(clip: Tensor, first: Tensor | None, draws: Tensor) -> Tensor:
        seen = picked(clip, draws[:, int(given) : clip.shape[2]], cfg.frames, int(given))
        if given:
            seen = torch.cat([seen, first[:, :, None].expand_as(seen)], dim=1)
        return seen if dvd else smaller(seen, cfg.shrink)

    def small(clip: Tensor, first: Tensor | None, draws: Tensor) -> Tensor:
        return smaller(clip, cfg.shrink)

    def crop(clip: Tensor, first: Tensor | None, draws: Tensor) -> Tensor:
        return window(clip, draws[:, -2:], cfg.shrink)

    def of_clip(name: str, view: View, weight: float) -> Part:
        return Part(name, DualCritic(3, cfg.temporal, cfg, deep=2, classes=classes), view, weight)

    spatial = DualCritic(6 if given else 3, cfg.spatial, cfg, classes=classes)
    parts = Part("frames", spatial, frames, cfg.weights[0]), of_clip("video", small if dvd else crop, cfg.weights[1])
    return (*parts, of_clip("small", small, cfg.third)) if cfg.decomposition == "stronger" else parts


def pixels(cfg: Critics, frames: int, height: int, width: int) -> int:
    """That the critics see of a clip (eq. 3.14)."""
    part = (height // cfg.shrink) * (width // cfg.shrink)
    if cfg.decomposition == "dvd":
        return cfg.frames * height * width + frames * part
    return (cfg.frames + frames * (2 if cfg.decomposition == "stronger" else 1)) * part
