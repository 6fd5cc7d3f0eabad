"""Classifiers that were trained here: a folder with weights.pt, a state dict, and classifier.json, what it is.

A score that was computed with one names it by `Trained.name`, which ends in the digest of its weights.

Legend: B clips, T frames, H x W pixels, K classes.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from . import caffenet, lrcn, weights
from .c3d import C3D, small
from .caffenet import CaffeNet
from .lrcn import LRCN
from .weights import BadWeights

Kind = Literal["small", "c3d", "lrcn", "small-lrcn", "frames"]
FACTS, WEIGHTS = "classifier.json", "weights.pt"


@dataclass(frozen=True)
class Facts:
    kind: Kind
    size: tuple[int, int, int]  # T, H, W of the clips that it was trained on
    label: str  # which one of the data's it tells
    values: tuple[str, ...]
    data: str
    clips: int
    seed: int
    recipe: str = "own"  # how it was trained
    weights: str | None = None  # the digest of those that it started from
    accuracy: float | None = None  # on clips that it was not trained on
    video_accuracy: float | None = None  # on the videos that they are from


def network(facts: Facts) -> nn.Module:
    if facts.kind in ("small-lrcn", "frames"):
        make = lrcn.small if facts.kind == "small-lrcn" else caffenet.small
        return make(len(facts.values), facts.size[1])
    if facts.kind == "lrcn":
        return LRCN(len(facts.values))
    return small(len(facts.values), facts.size) if facts.kind == "small" else C3D(len(facts.values))


class Trained(nn.Module):
    """Takes clips as bytes; what they need to be for the network is its own affair."""

    def __init__(self, facts: Facts, inner: nn.Module, name: str):
        super().__init__()
        self.facts, self.inner, self.name = facts, inner, name

    def features(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, T, H, W] -> what the last layer sees [B, D], and logits [B, K], where the network is."""
        video = video.to(next(self.parameters()).device)
        if isinstance(self.inner, LRCN):
            if self.facts.kind == "lrcn":
                shown = lrcn.prepare(video)[:, 4]  # the middle of the ten crops
            else:
                shown = for_caffe(video, self.facts.size, lrcn.MEAN)
            logits, hidden = self.inner.seen(shown)
            return hidden.mean(dim=1), logits.mean(dim=1)
        if isinstance(self.inner, CaffeNet):
            frames = for_caffe(video, self.facts.size, caffenet.MEAN).transpose(1, 2)
            seen = self.inner(frames.flatten(0, 1))
            return tuple(x.unflatten(0, frames.shape[:2]).mean(dim=1) for x in (seen.fc7, seen.logits))
        seen = self.inner(prepare(video, self.inner.size))
        return seen.fc7, seen.logits

    def forward(self, video: Tensor) -> Tensor:
        """uint8 [B, 3, T, H, W] -> logits [B, K]."""
        return self.features(video)[1]

    def probabilities(self, video: Tensor) -> Tensor:
        """[B, K], with all the care that the network's authors take: LRCN looks at ten crops."""
        if self.facts.kind == "lrcn":
            return self.inner.probabilities(lrcn.prepare(video.to(next(self.parameters()).device)))
        return self(video).softmax(dim=1)


def central(video: Tensor, frames: int) -> Tensor:
    """The frames in the middle of clips that have more."""
    extra = video.shape[2] - frames
    if extra < 0:
        raise ValueError(f"video must have {frames} frames at least, got {video.shape[2]}")
    return video[:, :, extra // 2 : extra // 2 + frames]


def prepare(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    """uint8 [B, 3, T, H, W] -> the middle frames, in pixels as many as the network takes, from -1 to 1."""
    return resized(video, size) / 127.5 - 1


def for_caffe(video: Tensor, size: tuple[int, int, int], mean: tuple[float, float, float]) -> Tensor:
    """The same in Caffe's colours."""
    return caffenet.prepare(resized(video, size).transpose(1, 2), mean).transpose(1, 2)


def resized(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    """From 0 to 255."""
    time, *sides = size
    frames = central(video, time).transpose(1, 2).flatten(0, 1).float()
    if list(frames.shape[2:]) != sides:
        frames = F.interpolate(frames, sides, mode="bilinear", align_corners=False, antialias=True)
    return frames.unflatten(0, (len(video), time)).transpose(1, 2)


def load(folder: Path) -> Trained:
    """Of a folder that `python -m vgen_fast.train classifier` wrote."""
    try:
        told = json.loads((folder / FACTS).read_bytes())
        facts = Facts(**told | {"size": tuple(told["size"]), "values": tuple(told["values"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadWeights(f"{folder} is no trained classifier: {FACTS}: {error}") from error
    path = folder / WEIGHTS
    inner = weights.filled(lambda: network(facts), weights.read(path), path)
    return Trained(facts, inner, f"{facts.kind}-{facts.label}@{weights.digest(path)[:12]}")


def facts_json(facts: Facts) -> bytes:
    return (json.dumps(asdict(facts), indent=1) + "\n").encode()
