"""Clips kept as one picture each, frames side by side or one above the other, in a folder for each class (MoCoGAN).

Legend: T frames, H x W pixels. A frame's side is the shorter side of the picture.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from . import transforms

PICTURES = (".png", ".jpg", ".jpeg")
MOST_BAD = 0.05  # of the files


class BadClip(ValueError):
    """A file that holds no clip of the wanted size."""


class TooMuchBadData(RuntimeError):
    """More files are bad than a data set may have."""


def read_strip(path: Path) -> np.ndarray:
    """uint8 [T, H, W, 3] with H = W."""
    try:
        with av.open(str(path)) as file:
            picture = next(file.decode(video=0)).to_ndarray(format="rgb24")
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise BadClip(f"{path} is no picture: {error}") from error
    height, width, _ = picture.shape
    side = min(height, width)
    if max(height, width) % side:
        raise BadClip(f"{path} is {height}x{width}: not a whole number of square frames")
    if width >= height:
        return picture.reshape(side, -1, side, 3).swapaxes(0, 1)
    return picture.reshape(-1, side, side, 3)


@lru_cache(maxsize=2)  # a batch may reach into the next time round
def order(seed: int, time_round: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, time_round)).permutation(count)


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
            raise BadClip(f"{folder} has no folders of pictures, one for each class")
        self.labels = {"class": self.classes}  # what each label can be
        self.rejected: dict[Path, str] = {}

    def clip(self, index: int) -> tuple[np.ndarray, list[int]]:
        """Frames uint8 [T, H, W, 3] and the class."""
        time_round, place = divmod(index, len(self.files))
        while True:
            path, label = self.files[order(self.seed, time_round, len(self.files))[place % len(self.files)]]
            if path not in self.rejected:
                try:
                    return self.window(path, np.random.default_rng((self.seed, 1, index))), [label]
                except BadClip as error:
                    self.reject(path, str(error))
            place += 1

    def window(self, path: Path, rng: np.random.Generator) -> np.ndarray:
        frames, (num_frames, height, width) = read_strip(path), self.size
        if len(frames) < num_frames or frames.shape[1] % height or frames.shape[2] % width:
            was = "x".join(map(str, frames.shape[:3]))
            raise BadClip(f"{path} is {was}, which gives no clip of {num_frames}x{height}x{width}")
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
        clips, labels = zip(*(self.clip(int(i)) for i in positions), strict=True)
        videos = (transforms.to_video(torch.from_numpy(frames.copy()))[None] for frames in clips)
        return torch.cat([transforms.shrink(video, size) for video in videos]).contiguous(), torch.tensor(labels)
