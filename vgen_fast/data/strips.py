"""Clips kept as one picture each, frames side by side or one above the other, in a folder for each class (MoCoGAN).

Legend: T frames, H x W pixels. A frame's side is the shorter side of the picture.
"""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from . import clips, transforms
from .decode import Rejected, TooMuchBadData
from .pool import Pool
from .sources import PICTURES, Listing, NoDataSet, Source, below

MOST_BAD = 0.05  # of the files
BRIGHT = 32  # the largest channel of what stands out from black

# How frames become smaller: the mean of boxes; their first pixel, so that drawn shapes keep hard edges, and no colours
# that they do not have; or a window of the frames, which then follow each other as in the file.
Shrink = Literal["mean", "pick", "crop"]


def index(root: Path, split: str | None = None) -> Listing:
    """As `Strips` reads it: a folder for each class."""
    found = below(root, root, PICTURES)
    classes = tuple(sorted({Path(path).parts[0] for path in found if len(Path(path).parts) > 1}))
    if split is not None or not classes:
        raise NoDataSet(f"{root} has no folders of pictures, one for each class, and no splits")
    inside = [path for path in found if len(Path(path).parts) > 1]
    sources = (Source(path, path, "strip", label=classes.index(Path(path).parts[0])) for path in inside)
    return Listing(tuple(sources), {"class": classes})


def cut(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> [T, side, side, 3], side by side or one below the other."""
    height, width, _ = picture.shape
    side = min(height, width)
    if max(height, width) % side:
        raise Rejected("damaged", f"{height}x{width} pixels are not a whole number of square frames")
    if width >= height:
        return picture.reshape(side, -1, side, 3).swapaxes(0, 1)
    return picture.reshape(-1, side, side, 3)


def cropped(frames: np.ndarray, size: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Frames in a row and a window in them, drawn from those that hold all that is bright; else the nearest to that."""
    num_frames, *sides = size
    red, green, blue = np.moveaxis(frames, 3, 0)
    bright = np.maximum(np.maximum(red, green), blue) > BRIGHT  # max takes nine times as long
    ends = []  # of what is bright, down and across, in the frames from each start: first, last [2, starts]
    for axis in (2, 1):
        seen = bright.any(axis=axis)  # [T, H] or [T, W]
        seen = np.lib.stride_tricks.sliding_window_view(seen, num_frames, axis=0).any(axis=2)  # [starts, H or W]
        ends.append((seen.argmax(axis=1), seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)))
    beyond = sum((last - first + 1 - side).clip(0) for (first, last), side in zip(ends, sides, strict=True))  # [starts]
    start = int(rng.choice(np.flatnonzero(beyond == beyond.min())))
    window = [slice(start, start + num_frames)]
    for (first, last), side, whole in zip(ends, sides, frames.shape[1:], strict=False):
        low, high = sorted((int(last[start]) + 1 - side, int(first[start])))
        place = min(max(int(rng.integers(low, high + 1)), 0), whole - side)
        window.append(slice(place, place + side))
    return frames[tuple(window)]


class Strips:
    """Windows of T frames, as far apart as the length of a file allows, in an order drawn anew each time round.

    Item i is a function of (seed, i) alone. A bad file is left out and named by `complain`, and the next one of the
    order takes its place. Frames of larger files become `size` as Shrink tells. A process of its own reads the files.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int, int],
        seed: int,
        complain: Callable[[str], None] = lambda text: None,
        shrink: Shrink = "mean",
    ):
        self.size, self.seed, self.complain, self.shrink = size, seed, complain, shrink
        self.classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in PICTURES
        ]
        self.count = len(self.files)
        if not self.files:
            raise NoDataSet(f"{folder} has no folders of pictures, one for each class")
        self.labels = {"class": self.classes}  # what each label can be
        self.pool = Pool()
        weakref.finalize(self, self.pool.close)
        self.rejected: dict[Path, str] = {}

    def clip(self, index: int) -> tuple[np.ndarray, list[int]]:
        """Frames uint8 [T, H, W, 3] and the class."""
        time_round, place = divmod(index, len(self.files))
        while True:
            path, label = self.files[clips.order(self.seed, time_round, len(self.files))[place % len(self.files)]]
            if path not in self.rejected:
                try:
                    return self.window(path, np.random.default_rng((self.seed, 1, index))), [label]
                except Rejected as error:
                    self.reject(path, f"{path}: {error}")
            place += 1

    def window(self, path: Path, rng: np.random.Generator) -> np.ndarray:
        frames, (num_frames, height, width) = cut(self.pool.picture(path)), self.size
        side = frames.shape[1]
        fits = side >= max(height, width) if self.shrink == "crop" else side % height == side % width == 0
        if len(frames) < num_frames or not fits:
            was = "x".join(map(str, frames.shape[:3]))
            raise Rejected("too small", f"{was} gives no clip of {num_frames}x{height}x{width}")
        if self.shrink == "crop":
            return cropped(frames, self.size, rng)
        apart = len(frames) // num_frames
        first = int(rng.integers(len(frames) - (num_frames - 1) * apart))
        frames = frames[first : first + (num_frames - 1) * apart + 1 : apart]
        return frames if self.shrink == "mean" else frames[:, :: side // height, :: side // width]

    def reject(self, path: Path, reason: str) -> None:
        self.rejected[path] = reason
        self.complain(reason)
        if len(self.rejected) > MOST_BAD * len(self.files):
            shown = "; ".join(list(self.rejected.values())[:20])
            raise TooMuchBadData(f"{len(self.rejected)} of {len(self.files)} files are bad: {shown}")

    def __call__(self, positions: Tensor, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """A batch for the training loop: video uint8 [B, 3, T, H, W] of that size, labels [B, 1]."""
        found, labels = zip(*(self.clip(int(i)) for i in positions), strict=True)
        videos = (transforms.to_video(torch.from_numpy(frames.copy()))[None] for frames in found)
        return torch.cat([transforms.shrink(video, size) for video in videos]).contiguous(), torch.tensor(labels)
