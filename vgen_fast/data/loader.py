"""Clips of a cache for the training loop. Batch and item are functions of (seed, position): nothing else is remembered.

Every clip comes once each time round, in an order drawn anew; its window, stride and mirroring are drawn for its
position. So the order depends neither on processes and threads nor on where a run was resumed.
"""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import clips, transforms
from .cache import BadCache, Cache


@dataclass(frozen=True)
class Window:
    """Which frames of a clip are shown."""

    frames: int
    strides: tuple[int, int] = (1, 1)  # the least and the most frames from one to the next
    mirror: bool = False  # every second clip, left to right
    short: str = "refuse"  # or "repeat": the last frame of clips that are too short
    left: tuple[int, int] | None = None  # the least and the most first column, of `width`; None shows all columns
    width: int = 0


class CachedClips:
    """Batches for the loop: video uint8 [B, 3, T, H, W], labels [B, 1]."""

    def __init__(self, cache: Cache, window: Window, seed: int, split: str | None = None):
        self.cache, self.window, self.seed = cache, window, seed
        self.labels = cache.labels
        self.chosen = cache.of(split)
        self.count = len(self.chosen)
        shortest = int(cache.frames[self.chosen].min())
        if window.left and not 0 <= window.left[0] <= window.left[1] <= cache.size[1] - window.width:
            raise BadCache(f"{cache.folder}: {window.width} of {cache.size[1]} columns cannot start at {window.left}")
        needed = 1 if window.short == "repeat" else (window.frames - 1) * window.strides[0] + 1
        if shortest < needed:
            raise BadCache(f"{cache.folder} has clips of {shortest} frames, {needed} are needed")

    def clip(self, position: int) -> tuple[np.ndarray, int]:
        """Frames uint8 [T, H, W, 3], a view where that is possible, and the label."""
        time_round, place = divmod(position, len(self.chosen))
        clip = int(self.chosen[clips.order(self.seed, time_round, len(self.chosen))[place]])
        drawn = draw(self.seed, position)
        length, (least, most) = int(self.cache.frames[clip]), self.window.strides
        most = max(least, min(most, (length - 1) // max(1, self.window.frames - 1)))
        stride = least + drawn[0] % (most + 1 - least)
        starts = clips.num_starts(length, self.window.frames, stride)
        if starts:
            first = drawn[1] % starts
            frames = self.cache.read(clip, slice(first, first + (self.window.frames - 1) * stride + 1, stride))
        else:
            frames = self.cache.read(clip, np.minimum(clips.window(0, self.window.frames, stride), length - 1))
        if self.window.left:
            least, most = self.window.left
            first = least + draw(self.seed, position, "left")[0] % (most + 1 - least)
            frames = frames[:, :, first : first + self.window.width]
        if self.window.mirror and drawn[2] % 2:
            frames = frames[:, :, ::-1]
        return frames, int(self.cache.label[clip])

    def phases(self, positions: Tensor, levels: int) -> Tensor:
        """[B, levels - 1]: 0 or 1, for `transforms.nested`."""
        drawn = [draw(self.seed, position, "phases")[0] for position in positions.tolist()]
        return torch.tensor([[number >> level & 1 for level in range(levels - 1)] for number in drawn])

    def __call__(self, positions: Tensor, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        height, width = self.cache.size
        width = self.window.width if self.window.left else width
        batch = np.empty((len(positions), 3, self.window.frames, height, width), np.uint8)
        labels = np.empty((len(positions), 1), np.int64)
        for video, label, position in zip(batch, labels, positions.tolist(), strict=True):
            frames, label[:] = self.clip(position)
            video[:] = frames.transpose(3, 0, 1, 2)
        return transforms.shrink(torch.from_numpy(batch), size), torch.from_numpy(labels)


def draw(seed: int, position: int, *use: str) -> tuple[int, int, int]:
    """Three numbers of 64 bits: a generator of NumPy takes 20 times as long to be made."""
    key = " ".join(map(str, (seed, position, *use)))
    return struct.unpack("<3Q", hashlib.blake2b(key.encode(), digest_size=24).digest())
