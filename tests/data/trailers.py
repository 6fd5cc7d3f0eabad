"""Trailers made up: scenes of a textured world that a camera moves over, cut hard; faces are drawn in some of them.

A face is a magenta disc with a cyan and a yellow eye, and the dots of its person; `detect` and `landmarks` know it by
its colours, as somebody's own detector and landmark network would by what they have learnt.
"""

import cv2
import numpy as np

from vgen_fast.data.build.faces import average_face, similarity

HEIGHT, WIDTH, FPS = 180, 320, 24
EYES = average_face()[[*range(36, 42)]].mean(0), average_face()[[*range(42, 48)]].mean(0)


def world(seed: int, fine: float = 0.0, side: int = 900) -> np.ndarray:
    """uint8 [side, side, 3]: blots of many sizes, and small ones if they have a weight."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side, 3), np.float32)
    for cells, weight in ((9, 60), (30, 45), (90, 40), (300, fine)):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32) * weight
        picture += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return (picture + rng.uniform(90, 160, 3)).clip(0, 255).astype(np.uint8)


def view(picture: np.ndarray, x: float, y: float, zoom: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """What a camera sees whose middle is at (x, y)."""
    matrix = cv2.getRotationMatrix2D((x, y), angle, zoom)
    matrix[:, 2] += (WIDTH / 2 - x, HEIGHT / 2 - y)
    return cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


def scene(seed: int, num_frames: int, speed: float = 5.0) -> np.ndarray:
    """uint8 [T, H, W, 3]: a pan, a zoom and a slow turn."""
    rng, picture = np.random.default_rng(seed), world(seed)
    x, y = rng.uniform(300, 600, 2)
    dx, dy = speed * rng.uniform(0.4, 1) * rng.choice((-1, 1)), speed * rng.uniform(-0.3, 0.3)
    zoom, turn = rng.uniform(-0.004, 0.004), rng.uniform(-0.3, 0.3)
    steps = np.arange(num_frames) - num_frames / 2
    return np.stack([view(picture, x + dx * s, y + dy * s, 1 + zoom * s, turn * s) for s in steps])


def draw_face(frame: np.ndarray, person: int, x: float, y: float, side: float, angle: float) -> None:
    """In place; (x, y) is the middle of the face's box."""
    turn = cv2.getRotationMatrix2D((0, 0), angle, side)
    at = lambda point: (turn[:, :2] @ (np.asarray(point) - 0.5) + (x, y)).round().astype(int).tolist()  # noqa: E731
    cv2.ellipse(frame, at((0.5, 0.5)), (round(side * 0.5), round(side * 0.5)), -angle, 0, 360, (230, 20, 230), -1)
    rng = np.random.default_rng(person)
    for spot in rng.uniform(0.2, 0.85, (40, 2)):
        dark = int(rng.integers(20, 130))
        cv2.circle(frame, at(spot), max(1, round(side * rng.uniform(0.015, 0.04))), (200, 10, 200 - dark), -1)
    for eye, colour in zip(EYES, ((0, 255, 255), (255, 255, 0)), strict=True):
        cv2.circle(frame, at(eye), round(side * 0.08), colour, -1)


def face_scene(seed: int, num_frames: int, persons: tuple[int, ...], away: range = range(0)) -> np.ndarray:
    """A face that nods and wanders; `away` are frames without it; of several persons, one after the other."""
    frames = scene(seed, num_frames, speed=2.0)
    for i, frame in enumerate(frames):
        if i not in away:
            person = persons[i * len(persons) // num_frames]
            draw_face(frame, person, 160 + 20 * np.sin(i / 9), 90 + 6 * np.cos(i / 7), 100 + i / 4, 12 * np.sin(i / 11))
    return frames


def mask(frame: np.ndarray, colour: tuple[int, int, int], reach: int = 70) -> np.ndarray:
    return (abs(frame.astype(int) - colour) < reach).all(-1)


def spots(frame: np.ndarray, colour: tuple[int, int, int], reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Left, top, width, height and pixels of each spot of a colour, the largest first, and (x, y) of its middle."""
    _, _, found, middles = cv2.connectedComponentsWithStats(mask(frame, colour, reach).astype(np.uint8))
    order = np.argsort(-found[1:, 4], kind="stable") + 1
    return found[order], middles[order]


def eyes(frame: np.ndarray) -> np.ndarray | None:
    """[2, 2]: (x, y) of both, if they can be seen."""
    found = [spots(frame, colour, 70)[1] for colour in ((0, 255, 255), (255, 255, 0))]
    return np.stack([middles[0] for middles in found]) if all(map(len, found)) else None


def detect(frame: np.ndarray) -> np.ndarray:
    found, _ = spots(frame, (230, 20, 230), 50)
    return found[found[:, 4] > 2000][:, [1, 0, 3, 2]]


def landmarks(frame: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    top, left, height, width = box.astype(int)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = (y * y + x * x < 0.9)[..., None]  # of the disc: around it there are all colours
    found = eyes(frame[top : top + height, left : left + width] * inside)
    if found is None:
        return None
    matrix = similarity(np.array(EYES), found + np.array((left, top)))
    return average_face() @ matrix[:, :2].T + matrix[:, 2]
