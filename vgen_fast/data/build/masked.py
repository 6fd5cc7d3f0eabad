"""The square around what a film's mask shows, as TGANv2 has faces of FaceForensics (spec/unconditional.md 3.4).

One square for the whole film, so that it stays where it is: around all that is white in any frame of the mask, as wide
as that is high or wide, moved into the picture where it would reach out of it.

Legend: H x W pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..decode import Rejected
from ..pool import Pool
from ..sources import Listing, Source
from . import ingest
from .ingest import Found
from .selection import Selection

WHITE = 64  # at least, of 255: what a codec makes of black is below it


def square(frames: Iterable[np.ndarray]) -> tuple[int, int, int, int] | None:
    """Top, left, height and width around all that is white in these frames, uint8 [H, W, 3]; None if nothing is."""
    white = None
    for frame in frames:
        here = frame.max(axis=2) >= WHITE  # [H, W]
        white = here if white is None else white | here
    if white is None or not white.any():
        return None
    first, last = zip(*(np.flatnonzero(white.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0)), strict=True)
    side = min(*white.shape, max(b - a + 1 for a, b in zip(first, last, strict=True)))
    top, left = (
        min(max((a + b + 1 - side) // 2, 0), whole - side) for a, b, whole in zip(first, last, white.shape, strict=True)
    )
    return top, left, side, side


@dataclass(frozen=True)
class Masked(Selection):
    def to_json(self) -> dict:
        return {**super().to_json(), "square": f"around all of the mask of at least {WHITE}"}

    def __call__(self, source: Source, root: Path, listing: Listing, pool: Pool) -> Found:
        if source.mask is None:
            raise Rejected("no mask", f"{source.path} has none beside it")
        path = root / source.mask
        film, mask = pool.probe(root / source.path), pool.probe(path)
        if (film.height, film.width) != (mask.height, mask.width):
            raise Rejected("no mask", f"{source.mask} is of {mask.height}x{mask.width}, not {film.height}x{film.width}")
        box = square(ingest.frames(pool, path, mask, np.arange(len(mask))))
        if box is None:
            raise Rejected("no mask", f"{source.mask} is black")
        return Selection.__call__(replace(self, fit=replace(self.fit, box=box)), source, root, listing, pool)
