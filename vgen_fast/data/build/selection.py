"""Chosen frames of each source, whatever it is, made to fit."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from .. import bair, cached, clips, moving_mnist, strips
from ..cache import Clip
from ..decode import Rejected
from ..pool import Pool
from ..resize import Fit
from ..sources import PICTURES, Listing, Source, below
from . import ingest
from .ingest import Found


@dataclass(frozen=True)
class Selection:
    fit: Fit
    fps: Fraction | None = None  # the nearest frame for each 1 / fps seconds; None keeps all
    take: Literal["all", "central", "groups"] = "all"
    frames: int | None = None  # of the central clip or of each group; at least that many of all
    short: Literal["reject", "repeat"] = "reject"  # fewer frames than that: or repeat the last one
    sound: ClassVar = ()

    def to_json(self) -> dict:
        return {**asdict(self), "fps": None if self.fps is None else str(self.fps), "filter": "bicubic, antialiased"}

    def chosen(self, count: int) -> np.ndarray:
        """[clips, frames]: which of `count` frames."""
        wanted = self.frames or 1
        if count < wanted and (self.short == "reject" or not count):
            raise Rejected("too short", f"{count} frames, wanted {wanted}")
        if self.take == "groups" and count >= wanted:
            return clips.groups(count, wanted)
        if self.take == "all" and count >= wanted:
            return np.arange(count)[None]
        return clips.central(count, wanted)[None]

    def __call__(self, source: Source, root: Path, listing: Listing, pool: Pool) -> Found:
        path = root / source.path
        known = Clip(source.name, listing.fps, source.label, source.split, source.path)
        if source.kind == "film":
            film = pool.probe(path)
            size, known = (film.height, film.width, film.aspect), replace(known, fps=film.fps)
            indices = np.arange(len(film)) if self.fps is None else film.at(self.fps)

            def read(chosen: np.ndarray) -> Iterator[np.ndarray]:
                return ingest.frames(pool, path, film, chosen, self.fit)

        else:
            if source.kind == "clip":
                known, frames = cached.clip(path, source.number)
                known = replace(known, label=source.label)
                whole, count = frames.__getitem__, len(frames)
            else:
                whole, count = frames_of(source, path, pool)
            indices = np.arange(count)
            if self.fps is not None and known.fps is not None:
                base = 1 / Fraction(known.fps).limit_denominator(1001)
                indices = clips.resample(indices, base, count, self.fps)
            size = (*whole(0).shape[:2], 1)

            def read(chosen: np.ndarray) -> Iterator[np.ndarray]:
                return (self.fit(whole(index)) for index in chosen.tolist())

        crop = within(known.crop, size, self.fit.window(*size))
        known = replace(known, crop=crop, fps=known.fps if self.fps is None else float(self.fps))
        chosen = self.chosen(len(indices))
        names = [known.id] if len(chosen) == 1 else [f"{known.id}#{number}" for number in range(len(chosen))]
        frames = read(indices[chosen.ravel()])  # of all clips, in one pass
        return Found([(replace(known, id=name), np.stack(list(islice(frames, chosen.shape[1])))) for name in names], [])


def within(outer: list[int] | None, size: tuple, inner: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part of what was already cut out of a source, and has `size` now."""
    if outer is None:
        return inner
    down, across = outer[2] / size[0], outer[3] / size[1]
    return (
        round(outer[0] + inner[0] * down),
        round(outer[1] + inner[1] * across),
        round(inner[2] * down),
        round(inner[3] * across),
    )


def frames_of(source: Source, path: Path, pool: Pool) -> tuple[Callable[[int], np.ndarray], int]:
    """A frame by its number, uint8 [H, W, 3], and how many there are."""
    if source.kind == "pictures":
        names = [name for name in below(path, path, PICTURES) if "/" not in name]
        return (lambda index: pool.picture(path / names[index])), len(names)
    if source.kind == "picture":
        frames = pool.picture(path)[None]
    elif source.kind == "strip":
        frames = strips.cut(pool.picture(path))
    elif source.kind == "record":
        frames = bair.frames(path, source.number)
    else:
        frames = moving_mnist.frames(path, source.number)
    return frames.__getitem__, len(frames)
