"""Clips whose camera stands still: every frame is laid over the first one of its clip (VGAN; needs OpenCV).

Legend: T frames, H x W pixels.

As published, for each film: the first two frames are dropped, then up to 100 clips follow one another. For each new
frame of a clip: the points of SIFT in it and in the frame before, those that match by Lowe's ratio of 0.7, at least 10;
a homography by RANSAC within 5 pixels; the product of all of them leads to the clip's first frame. What the frame does
not cover stays as it was; its border, worn off by a 5x5 erosion, does not count. A clip ends with 34 frames, or where
nothing of the frame is left in the picture; fewer than 16 frames, or a frame that does not match, and it is dropped.

Two things differ. Points are compared each with each, where the published code has an approximate search that draws by
chance. And the way to the first frame is not only the product, whose errors add up (to 6 pixels at the corners after 19
frames of a smooth scene): where 10 points match, the frame is laid over the first one directly (1.4 pixels there, 0.1
where there is detail). With `similarity`, only scale, rotation and translation are allowed, as the paper says; the code
allows all of a homography.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np

from ..cache import Clip
from ..decode import Rejected
from ..pool import Pool
from ..resize import Fit
from ..sources import Listing, Source
from . import ingest, shots
from .ingest import Found

DROPPED, MOST_CLIPS = 2, 100  # of a film
MOST, LEAST = 34, 16  # frames of a clip
RATIO, PIXELS, MATCHES, WORN = 0.7, 5.0, 10, 5
FAR = 4 * PIXELS  # between two ways to the first frame, at a corner
Motion = Literal["homography", "similarity"]


def motion(now: shots.Points, before: shots.Points, kind: Motion) -> np.ndarray | None:
    """[3, 3]: where the points of a frame were in the one before; None where that cannot be told."""
    pairs = shots.matches(now, before, RATIO)
    if len(pairs) < MATCHES:
        return None
    here, there = now.places[pairs[:, 0]], before.places[pairs[:, 1]]
    if kind == "homography":
        return cv2.findHomography(here, there, cv2.RANSAC, PIXELS)[0]
    found = cv2.estimateAffinePartial2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=PIXELS)[0]
    return None if found is None else np.vstack([found, [0.0, 0.0, 1.0]])


def stabilised(frames: Iterable[np.ndarray], kind: Motion = "homography") -> Iterator[np.ndarray | None]:
    """Each frame of one clip, laid over the first; None, and no more, where the camera's movement cannot be told."""
    before = first = canvas = None
    whole = np.eye(3)
    for frame in frames:
        now = shots.points(frame, most=0)
        if before is None:
            canvas, first = frame, now
        else:
            step = motion(now, before, kind)
            if step is None:
                yield None
                return
            size = frame.shape[1::-1]
            whole = nearer(motion(now, first, kind), whole @ step, size)
            moved = cv2.warpPerspective(frame, whole, size)
            mask = cv2.warpPerspective(np.ones(frame.shape[:2], np.uint8), whole, size)
            mask = cv2.erode(mask, np.ones((WORN, WORN), np.uint8))
            if not mask.any():
                return
            canvas = np.where(mask[..., None] > 0, moved, canvas)
        yield canvas
        before = now


def nearer(direct: np.ndarray | None, product: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The direct way, unless it leads elsewhere than the product of the steps."""
    if direct is None:
        return product
    width, height = size
    corners = np.array([[[0, 0], [width, 0], [0, height], [width, height]]], np.float64)
    apart = cv2.perspectiveTransform(corners, direct) - cv2.perspectiveTransform(corners, product)
    return direct if np.hypot(*apart[0].T).max() < FAR else product


@dataclass(frozen=True)
class Stabilised:
    fit: Fit
    motion: Motion = "homography"
    sound: ClassVar = ("unsteady",)

    def to_json(self) -> dict:
        return {"builder": "stabilised", **asdict(self), "filter": "bicubic, antialiased"}

    def __call__(self, source: Source, root: Path, listing: Listing, pool: Pool) -> Found:
        path = root / source.path
        film = pool.probe(path)
        crop = self.fit.window(film.height, film.width, film.aspect)
        frames = ingest.frames(pool, path, film, np.arange(DROPPED, len(film)))
        kept, rejected, first, failed = [], [], DROPPED, 0
        while len(kept) + failed < MOST_CLIPS and first < len(film):
            taken = Counting(frames, MOST)
            clip = [None if frame is None else self.fit(frame) for frame in stabilised(taken, self.motion)]
            name = f"{source.name}#{len(kept) + failed:03}"
            if not clip or clip[-1] is None or len(clip) < LEAST:
                why = "a frame that does not match" if clip and clip[-1] is None else f"{len(clip)} frames"
                rejected.append((name, "unsteady", f"{why}, at frame {first + taken.count - 1}"))
                failed += 1
            else:
                start = float((film.times[first] - film.times[0]) * film.time_base)
                known = Clip(name, film.fps, source.label, source.split, source.path, crop, start)
                kept.append((known, np.stack(clip)))
            first += taken.count
        if first == DROPPED:
            raise Rejected("too short", f"{len(film)} frames")
        return Found(kept, rejected)


class Counting:
    """At most so many of an iterator's items, and how many have been taken."""

    def __init__(self, items: Iterator, most: int):
        self.items, self.most, self.count = items, most, 0

    def __iter__(self) -> Iterator:
        while self.count < self.most:
            try:
                item = next(self.items)
            except StopIteration:
                return
            self.count += 1
            yield item
