"""Moving shapes, made from a seed: eight motions of three shapes in four colours, all three labelled. Nothing is read.

Legend: T frames, H x W pixels; lengths are in units of the frame's side, from -0.5 to 0.5.
"""

import math

import numpy as np
import torch
from torch import Tensor

from . import transforms

MOTIONS = ("left", "right", "up", "down", "clockwise", "counterclockwise", "grow", "shrink")
SHAPES = ("disc", "square", "triangle")
COLOURS = {"red": (255, 70, 60), "green": (70, 215, 90), "blue": (80, 125, 255), "yellow": (255, 215, 60)}
BACKGROUND = np.array((10, 10, 16), dtype=np.float32)
LABELS = {"motion": MOTIONS, "shape": SHAPES, "colour": tuple(COLOURS)}


class MovingShapes:
    """An endless list of labelled clips; clip i is a function of (seed, i) alone."""

    labels = LABELS  # what each label can be
    count = None  # of different clips: no end

    def __init__(self, size: tuple[int, int, int] = (8, 32, 32), seed: int = 0):
        self.size, self.seed = size, seed
        _, height, width = size
        y = (np.arange(height, dtype=np.float32) + 0.5) / height - 0.5
        x = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
        self.y, self.x = y[None, :, None], x[None, None, :]

    def clip(self, index: int) -> tuple[np.ndarray, list[int]]:
        """Frames uint8 [T, H, W, 3] and an index into the values of each label."""
        rng = np.random.default_rng((self.seed, index))
        chosen = [int(rng.integers(len(values))) for values in LABELS.values()]
        motion, shape, name = (values[i] for values, i in zip(LABELS.values(), chosen, strict=True))
        colour = np.array(COLOURS[name], dtype=np.float32)
        cx, cy, radius = (np.asarray(v, dtype=np.float32)[:, None, None] for v in path(motion, self.size[0], rng))
        distance = outline(shape, self.x - cx, self.y - cy, radius)
        covered = np.clip(0.5 - distance * self.size[1], 0, 1)[..., None]  # one pixel of soft edge
        frames = BACKGROUND + covered * (colour - BACKGROUND)
        return (frames + 0.5).astype(np.uint8), chosen

    def __call__(self, positions: Tensor, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """A batch for the training loop: video uint8 [B, 3, T, H, W] of that size, labels [B, A]."""
        clips, labels = zip(*(self.clip(int(i)) for i in positions), strict=True)
        video = transforms.to_video(torch.from_numpy(np.stack(clips))).contiguous()
        return transforms.shrink(video, size), torch.tensor(labels)


def path(motion: str, num_frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre x, centre y and radius in each frame; inside the frame all along."""
    t = np.linspace(0, 1, num_frames) if num_frames > 1 else np.array([0.5])
    still, radius = np.zeros(num_frames), np.full(num_frames, rng.uniform(0.17, 0.22))
    if motion in ("left", "right", "up", "down"):
        travel, aside = rng.uniform(0.42, 0.54), still + rng.uniform(-0.2, 0.2)
        along = travel * (t - 0.5) * (1 if motion in ("right", "down") else -1)
        return (along, aside, radius) if motion in ("left", "right") else (aside, along, radius)
    if motion in ("clockwise", "counterclockwise"):
        turn = 1 if motion == "clockwise" else -1  # y points down
        angle = rng.uniform(0, 2 * math.pi) + turn * math.pi * 1.5 * t
        orbit = rng.uniform(0.22, 0.26)
        return orbit * np.cos(angle), orbit * np.sin(angle), radius
    small, large = rng.uniform(0.08, 0.11), rng.uniform(0.30, 0.36)
    size = small + (large - small) * (t if motion == "grow" else 1 - t)
    return still + rng.uniform(-0.1, 0.1), still + rng.uniform(-0.1, 0.1), size


def outline(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance to the outline (negative inside), of shapes of about the same area."""
    if shape == "disc":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    side = np.maximum(np.abs(x) * math.sqrt(3) / 2 - y / 2, y)  # points up
    return side - 0.68 * radius
