"""Clips of ten seconds out of long films of landscapes, without those in which nothing moves (S4 3.9).

Legend: T frames, H x W pixels.

A film gives at most 20 clips: its first and last 20 seconds are left out, the clips start at least 15 seconds apart and
evenly over the rest. A clip is still, and left out, if the variance of its pixels over time (eq. 3.18, 3.19: population
variance of values in [0, 1], the mean over pixels and channels) is below 0.001. The published code does otherwise, as
`difference` does here: in none of eight places do a tenth of the pixels change by 1/1000 within five frames.
"""

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from ..cache import Clip
from ..decode import Film, Rejected
from ..pool import Pool
from ..resize import Fit
from ..sources import Listing, Source
from . import ingest
from .ingest import Found

SECONDS, MARGIN, APART, MOST = 10, 20, 15, 20
VARIANCE = 0.001
TRIES, STEP, CHANGE, SHARE = 8, 5, 1e-3, 0.1


def starts(seconds: Fraction) -> list[Fraction]:
    """When the clips of a film of this length start."""
    step = max(Fraction(APART), (seconds - 2 * MARGIN) / MOST - Fraction(1, 2))
    all_of_them = (MARGIN + number * step for number in range(MOST))
    return [start for start in all_of_them if start + SECONDS <= seconds - MARGIN]


class Variance:
    """Of each value over time, exact: sums of bytes and of their squares are whole numbers."""

    def __init__(self):
        self.count, self.sum, self.squares = 0, np.uint32(0), np.uint32(0)

    def add(self, frame: np.ndarray) -> None:
        """uint8, at most 66,051 of them."""
        self.count, self.sum = self.count + 1, self.sum + frame
        self.squares = self.squares + np.square(frame, dtype=np.uint32)

    def score(self) -> float:
        """The mean over pixels and channels, of values in [0, 1]."""
        spread = self.squares * np.float64(self.count) - np.square(self.sum, dtype=np.float64)
        return float(spread.mean()) / (self.count * 255) ** 2


class Difference:
    """The largest share of pixels that change within STEP frames, in TRIES places of a clip."""

    def __init__(self, num_frames: int):
        self.places = set(np.linspace(0, max(0, num_frames - 1 - STEP), TRIES).astype(int).tolist())
        self.count, self.before, self.share = 0, {}, 0.0

    def add(self, frame: np.ndarray) -> None:
        if self.count in self.places:
            self.before[self.count] = frame.astype(np.int16)
        if (before := self.before.pop(self.count - STEP, None)) is not None:
            self.share = max(self.share, float((abs(frame - before).mean(-1) > 255 * CHANGE).mean()))
        self.count += 1

    def score(self) -> float:
        return self.share


@dataclass(frozen=True)
class Landscape:
    fit: Fit
    fps: Fraction = Fraction(25)
    still: Literal["variance", "difference"] = "variance"
    sound: ClassVar = ("still", "too short")

    def to_json(self) -> dict:
        return {"builder": "landscape", **asdict(self), "fps": str(self.fps), "filter": "bicubic, antialiased"}

    def __call__(self, source: Source, root: Path, listing: Listing, pool: Pool) -> Found:
        path = root / source.path
        film = pool.probe(path)
        begins = starts(Fraction(film.end - int(film.times[0])) * film.time_base)
        if not begins:
            raise Rejected("too short", f"{film.seconds:.0f} seconds, wanted {2 * MARGIN + SECONDS}")
        indices, length = film.at(self.fps), round(SECONDS * self.fps)
        crop = self.fit.window(film.height, film.width, film.aspect)
        kept, rejected = [], []
        for number, start in enumerate(begins):
            first = round(start * self.fps)
            frames, score = self.read(pool, path, film, indices[first : first + length])
            name = f"{source.name}#{number:03}"
            least, text = (VARIANCE, "variance") if self.still == "variance" else (SHARE, "share of pixels that change")
            if score < least:
                rejected.append((name, "still", f"{text} {score:.2g}, wanted {least}"))
                continue
            facts = {"crop": crop, "start": float(start), "scores": {"motion": score}}
            clip = Clip(name, float(self.fps), source.label, source.split, source.path, **facts)
            kept.append((clip, frames))
        return Found(kept, rejected)

    def read(self, pool: Pool, path: Path, film: Film, indices: np.ndarray) -> tuple[np.ndarray, float]:
        """A clip's frames, made to fit, and how much moves in the whole picture."""
        kept, motion = [], Variance() if self.still == "variance" else Difference(len(indices))
        for frame in ingest.frames(pool, path, film, indices):
            kept.append(self.fit(frame))  # its pixels are square by now
            motion.add(frame)
        return np.stack(kept), motion.score()
