"""Faces in frames: found, followed, and turned so that eyes and mouth are always at the same place (S2 7).

Legend: H x W pixels, N points, (x, y) in pixels; a box is (top, left, height, width).

Finding a face and its 68 points are jobs for others, and anybody's function can do them:

    detector    frame uint8 [H, W, 3] -> boxes [N, 4], or none
    landmarks   frame, box -> [68, 2], the points of the iBUG scheme, or None where it finds none

The thesis uses OpenCV's Haar cascade, as `haar` does, and a Deep Alignment Network, whose weights are nobody's to ship:
`box_landmarks` stands in for it, which puts the points of an average face where the box is, and so turns nothing.
"""

import threading
from collections.abc import Callable

import cv2
import numpy as np

from ..plugs import BadPlug
from ..resize import resize

Detector = Callable[[np.ndarray], np.ndarray]
Landmarks = Callable[[np.ndarray, np.ndarray], np.ndarray | None]
INSIDE = 2 / 3  # a face's box in the picture that is kept: as much of its side
CASCADE = "haarcascade_frontalface_default.xml"
SMALLEST = 1 / 8  # a face's side in the picture's shorter side


def checked(name: str, found: object, *shape: int | None) -> np.ndarray:
    """float64 of this shape, all finite."""
    array = np.asarray(found, np.float64)
    array = array.reshape(0, 4) if array.size == 0 and shape[0] is None else array
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=False)
    )
    if not fits or not np.isfinite(array).all():
        wanted = "x".join("N" if size is None else str(size) for size in shape)
        raise BadPlug(f"{name} gave {'x'.join(map(str, array.shape))} numbers, wanted {wanted}, all of them finite")
    return array


def haar() -> Detector:
    """OpenCV's frontal faces; a cascade for each thread, as it has a state."""
    kept = threading.local()

    def detect(frame: np.ndarray) -> np.ndarray:
        if not hasattr(kept, "cascade"):
            kept.cascade = cv2.CascadeClassifier(cv2.data.haarcascades + CASCADE)
        grey = cv2.equalizeHist(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        least = round(SMALLEST * min(grey.shape))
        found = kept.cascade.detectMultiScale(grey, 1.1, 5, minSize=(least, least))
        return np.array(found, float).reshape(-1, 4)[:, [1, 0, 3, 2]]

    return detect


def average_face() -> np.ndarray:
    """[68, 2] in the unit square of a face's box: a drawing of our own, in the order of the iBUG scheme."""

    def arc(centre: tuple, radius: tuple, degrees: np.ndarray) -> np.ndarray:
        angle = np.deg2rad(degrees)
        return np.stack([centre[0] + radius[0] * np.cos(angle), centre[1] + radius[1] * np.sin(angle)], 1)

    jaw = arc((0.5, 0.42), (0.4, 0.56), np.linspace(180, 0, 17))
    brows = [arc((x, 0.36), (0.14, 0.09), np.linspace(200, 340, 5)) for x in (0.31, 0.69)]
    bridge = np.stack([np.full(4, 0.5), np.linspace(0.42, 0.58, 4)], 1)
    nostrils = arc((0.5, 0.6), (0.09, 0.04), np.linspace(180, 0, 5))
    eyes = [arc((x, 0.42), (0.08, 0.035), np.arange(180, 540, 60)) for x in (0.31, 0.69)]
    lips = arc((0.5, 0.76), (0.17, 0.07), np.arange(180, 540, 30))
    mouth = arc((0.5, 0.76), (0.12, 0.03), np.arange(180, 540, 45))
    return np.concatenate([jaw, *brows, bridge, nostrils, *eyes, lips, mouth])


def box_landmarks() -> Landmarks:
    face = average_face()
    return lambda frame, box: box[[1, 0]] + face * box[[3, 2]]


DETECTORS = {"haar": haar}
LANDMARKS = {"box": box_landmarks}


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[2, 3]: scale, rotation and translation that bring points [N, 2] nearest to their targets (Umeyama 1991).

    With centred p and q: U S V' = q' p, R = U diag(1, sign) V', s = tr(S diag(1, sign)) / |p|^2; sign = det(U V') keeps
    a mirror image from being the answer.
    """
    p, q = points - points.mean(0), target - target.mean(0)
    u, sizes, v = np.linalg.svd(q.T @ p)
    flip = np.array([1.0, np.sign(np.linalg.det(u @ v))])
    matrix = (sizes * flip).sum() / np.square(p).sum() * (u * flip) @ v
    return np.column_stack([matrix, target.mean(0) - matrix @ points.mean(0)])


def follow(boxes: np.ndarray, before: np.ndarray | None) -> np.ndarray | None:
    """Of several faces the one that covers most of the one before; at first the largest."""
    if not len(boxes):
        return None
    if before is None:
        return boxes[np.argmax(boxes[:, 2] * boxes[:, 3])]
    corner = np.minimum(boxes[:, :2] + boxes[:, 2:], before[:2] + before[2:])
    common = (corner - np.maximum(boxes[:, :2], before[:2])).clip(0).prod(1)
    return boxes[np.argmax(common)] if common.any() else None


def aligned(frame: np.ndarray, points: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the face with its 68 points brought to the average face's; mirrored beyond the frame."""
    goal = (average_face() * INSIDE + (1 - INSIDE) / 2) * side
    matrix = similarity(points, goal)
    scale = np.sqrt(np.linalg.det(matrix[:, :2]))
    if scale < 1:  # nothing may alias: first smaller, then turned
        height, width = (max(1, round(n * scale)) for n in frame.shape[:2])
        factor = np.array([width / frame.shape[1], height / frame.shape[0]])
        frame, matrix = resize(frame, height, width), similarity(points * factor, goal)
    return cv2.warpAffine(frame, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def runs(found: list[bool], least: int) -> list[tuple[int, int]]:
    """First and one after last of at least so many in a row."""
    edges = np.flatnonzero(np.diff([False, *found, False]))
    return [(first, last) for first, last in edges.reshape(-1, 2).tolist() if last - first >= least]
