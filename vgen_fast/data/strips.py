"""Clips kept as one picture each, frames side by side or one above the other, in a folder for each class (MoCoGAN).

Legend: T frames, H x W pixels. A frame's side is the shorter side of the picture.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import clips, decode, transforms
from .decode import Rejected, TooMuchBadData
from .sources import PICTURES, Listing, NoDataSet, Source, below

MOST_BAD = 0.05  # of the files


def read_strip(path: Path) -> np.ndarray:
    """uint8 [T, H, W, 3] with H = W."""
    with decode.opened(path) as file:
        return cut(decode.picture(os.pread(file, os.fstat(file).st_size, 0)))


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


class Strips:
    """Windows of T frames, as far apart as the length of a file allows, in an order drawn anew each time round.

    Item i is a function of (seed, i) alone. A bad file is left out and named by `complain`, and the next one of the
    order takes its place. Frames of larger files are shrunk to `size` by boxes, to their mean or, with `pick`, to
    their first pixel: drawn shapes then keep hard edges, and no colours that they do not have.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int, int],
        seed: int,
        complain: Callable[[str], None] = lambda text: None,
        pick: bool = False,
    ):
        self.size, self.seed, self.complain, self.pick = size, seed, complain, pick
        self.classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in PICTURES
        ]
        if not self.files:
            raise NoDataSet(f"{folder} has no folders of pictures, one for each class")
        self.labels = {"class": self.classes}  # what each label can be
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
        frames, (num_frames, height, width) = read_strip(path), self.size
        if len(frames) < num_frames or frames.shape[1] % height or frames.shape[2] % width:
            was = "x".join(map(str, frames.shape[:3]))
            raise Rejected("too small", f"{was} gives no clip of {num_frames}x{height}x{width}")
        apart = len(frames) // num_frames
        first = int(rng.integers(len(frames) - (num_frames - 1) * apart))
        down, across = (n // m if self.pick else 1 for n, m in zip(frames.shape[1:], (height, width), strict=False))
        return frames[first : first + (num_frames - 1) * apart + 1 : apart, ::down, ::across]

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
