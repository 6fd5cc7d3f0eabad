"""Faces out of trailers: shots, the faces in them, aligned, of one person each (S2 7: TrailerFaces; needs OpenCV).

A trailer is cut into shots (`shots.py`). Shots of 31 to 500 frames are kept (the thesis drops those "with too few or
too many" and gives no numbers: its shortest clips have 30 to 33 frames, its longest 423). In each frame of a shot a
face is found, followed and aligned (`faces.py`); at least 31 frames in a row with a face make a clip. A clip in which
two frames that follow each other have hardly a point in common shows two people, and is dropped.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..cache import Clip
from ..decode import Film, Rejected
from ..plugs import plugged
from ..pool import Pool
from ..resize import Fit
from ..sources import Listing, Source
from . import faces, ingest, shots
from .ingest import Found

LEAST, MOST = 31, 500  # frames of a shot, and the least of a clip


@dataclass(frozen=True)
class Trailers:
    side: int = 300
    detector: str = "haar"  # or package.module:function
    landmarks: str = "box"
    sound: ClassVar = ("no shots", "no faces")

    def __post_init__(self):
        object.__setattr__(self, "detect", plugged(self.detector, faces.DETECTORS))
        object.__setattr__(self, "points", plugged(self.landmarks, faces.LANDMARKS))

    def to_json(self) -> dict:
        own = {"side": self.side, "detector": self.detector, "landmarks": self.landmarks}
        return {"builder": "trailers", **own, "frames": [LEAST, MOST], "share": shots.SHARE, "least": shots.LEAST}

    def __call__(self, source: Source, root: Path, listing: Listing, pool: Pool) -> Found:
        path = root / source.path
        film = pool.probe(path)
        small = Fit(stretch=shots.small_size(film.height, round(film.width * film.aspect)))
        every = np.arange(len(film))
        found = shots.shots(ingest.frames(pool, path, film, every, small))
        usable = [(first, last) for first, last in found if LEAST <= last - first <= MOST]
        if not usable:
            raise Rejected("no shots", f"{len(found)} shots, none of {LEAST} to {MOST} frames")
        kept, rejected = [], []
        for first, last in usable:
            shot = f"{source.name}#{first:06}"
            pictures, sizes = self.faces_of(pool, path, film, every[first:last])
            whole = faces.runs([picture is not None for picture in pictures], LEAST)
            if not whole:
                rejected.append((shot, "no faces", f"{len(sizes)} of {last - first} frames have one"))
            for begin, end in whole:
                name = f"{source.name}#{first + begin:06}"
                clip = np.stack(pictures[begin:end])
                alike = one_person(clip)
                if alike < 1:
                    rejected.append((name, "no faces", f"two people: likeness {alike:.2g} of two frames"))
                    continue
                start = float((film.times[first + begin] - film.times[0]) * film.time_base)
                scores = {"face": float(np.median([sizes[i] for i in range(begin, end)])), "likeness": alike}
                facts = {"start": start, "scores": scores}
                kept.append((Clip(name, film.fps, source.label, source.split, source.path, **facts), clip))
        return Found(kept, rejected)

    def faces_of(
        self, pool: Pool, path: Path, film: Film, indices: np.ndarray
    ) -> tuple[list[np.ndarray | None], dict[int, float]]:
        """The aligned face of each frame, where there is one, and the height of its box."""
        pictures, sizes, box = [], {}, None
        square = Fit(stretch=(film.height, round(film.width * film.aspect)))
        for number, frame in enumerate(ingest.frames(pool, path, film, indices, square)):
            box = faces.follow(faces.checked(self.detector, self.detect(frame), None, 4), box)
            points = None if box is None else self.points(frame, box)
            if points is None:
                box = None
                pictures.append(None)
                continue
            sizes[number] = float(box[2])
            pictures.append(faces.aligned(frame, faces.checked(self.landmarks, points, 68, 2), self.side))
        return pictures, sizes


def one_person(clip: np.ndarray) -> float:
    """The least likeness of two faces that follow each other; what is around them does not count."""
    margin = round((1 - faces.INSIDE) / 2 * clip.shape[1])
    points = [shots.points(frame[margin:-margin, margin:-margin]) for frame in clip]
    return min(shots.likeness(a, b) for a, b in pairwise(points))
