"""Where a film is cut: two frames that follow each other and have hardly a point in common (S2 7, needs OpenCV).

A frame's points are those of SIFT in its grey picture; two points match if the second nearest is at least a third
farther away than the nearest (Lowe's ratio of 0.75). No thresholds are printed: here two frames belong to two shots
if fewer than 12% of the points of the poorer one match, or fewer than 10; of fewer than 20 points, half of them are
enough, at least 2. Two frames that both have fewer than 10 points, as black ones, belong together.
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

WIDTH, POINTS = 480, 500  # of the grey picture, at most; and of its points
RATIO, SHARE, LEAST = 0.75, 0.12, 10

cv2.setNumThreads(1)  # films are read side by side


class Points(NamedTuple):
    places: np.ndarray  # float32 [N, 2]: x, y
    descriptors: np.ndarray  # float32 [N, 128]

    def __len__(self) -> int:
        return len(self.places)


def points(frame: np.ndarray, most: int = POINTS) -> Points:
    """uint8 [H, W, 3]."""
    found, descriptors = cv2.SIFT_create(most).detectAndCompute(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), None)
    if not found:
        return Points(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32))
    return Points(np.array([point.pt for point in found], np.float32), descriptors)


def matches(a: Points, b: Points, ratio: float = RATIO) -> np.ndarray:
    """int [M, 2]: which point of a is which of b. Every pair is compared, so that nothing is left to chance.

    Descriptors are whole numbers of at most 255 and a length of about 512: their products are exact in float32.
    """
    if not len(a) or len(b) < 2:
        return np.empty((0, 2), int)
    lengths = [np.square(points.descriptors).sum(1) for points in (a, b)]
    apart = lengths[0][:, None] + lengths[1] - 2 * (a.descriptors @ b.descriptors.T)
    rows, nearest = np.arange(len(a)), apart.argmin(1)
    near = apart[rows, nearest]
    apart[rows, nearest] = np.inf
    good = near < ratio**2 * apart.min(1)
    return np.column_stack([rows, nearest])[good]


def likeness(a: Points, b: Points) -> float:
    """1 or more, up to 8 or so: the frames belong together; less, and they do not."""
    if max(len(a), len(b)) < LEAST:
        return 1.0
    poorer = min(len(a), len(b))
    return len(matches(a, b)) / max(SHARE * poorer, min(LEAST, max(2.0, poorer / 2)))


def small_size(height: int, width: int) -> tuple[int, int]:
    """Of the pictures that are compared."""
    scale = min(1.0, WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def shots(frames: Iterable[np.ndarray]) -> list[tuple[int, int]]:
    """First frame of each shot, and the one after its last. `frames` are of the small size."""
    cuts, before, count = [0], None, 0
    for number, frame in enumerate(frames):
        now, count = points(frame), number + 1
        if before is not None and likeness(before, now) < 1:
            cuts.append(number)
        before = now
    return list(zip(cuts, [*cuts[1:], count], strict=True))
