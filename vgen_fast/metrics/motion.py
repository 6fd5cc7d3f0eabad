"""What moves: the axis that a bright shape moves along, and a distance between how two sets of clips change in time.

FVD follows the quality of frames more than their order. `motion_features` see changes alone: of a clip whose frames are
all the same they are 0, whatever it shows. Their Frechet distance is this package's own; it stands beside FVD and is
compared with that of reals against other reals.

Legend: N clips, T frames, H x W pixels, G x G cells.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .content_distance import BRIGHT, FEWEST

CELLS = 4  # a side
LAGS = (1, 2, 4)  # frames


def motion_features(video: Tensor) -> Tensor:
    """uint8 [N, C, T, H, W] -> [N, 2 G G lags]: for each cell and lag, the mean and the deviation over time of the mean
    absolute difference of frames so far apart, from 0 to 1. Lags that a clip is too short for are left out.
    """
    if video.ndim != 5 or video.shape[2] < 2:
        raise ValueError(f"video must be [N, C, T, H, W] with two frames at least, got {list(video.shape)}")
    x, found = video.float() / 255, []
    for lag in (lag for lag in LAGS if lag < video.shape[2]):
        change = (x[:, :, lag:] - x[:, :, :-lag]).abs().mean(dim=1)  # [N, T - lag, H, W]
        cells = F.adaptive_avg_pool2d(change, CELLS).flatten(2)  # [N, T - lag, G G]
        found += [cells.mean(dim=1), cells.std(dim=1, correction=0)]
    return torch.cat(found, dim=1)


def centres(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] -> [frames that show something, 2]: the middle of what is bright, down and across."""
    seen = frames.max(axis=-1) > BRIGHT
    count = seen.sum(axis=(1, 2))
    seen, count = seen[count >= FEWEST], count[count >= FEWEST]
    down = (seen.sum(axis=2) * np.arange(seen.shape[1])).sum(axis=1) / count
    across = (seen.sum(axis=1) * np.arange(seen.shape[2])).sum(axis=1) / count
    return np.stack([down, across], axis=1)


def axes(videos: np.ndarray) -> np.ndarray:
    """[N]: 0 for clips whose shape moves up and down, 1 for those to the sides, -1 where that cannot be told."""
    found = []
    for frames in videos:
        places = centres(frames)
        down, across = np.ptp(places, axis=0) if len(places) > 1 else (0.0, 0.0)
        found.append(-1 if down == across else int(across > down))
    return np.array(found, dtype=np.int64)


def motion_accuracy(videos: np.ndarray, labels: np.ndarray) -> float:
    """Share of clips uint8 [N, T, H, W, 3] that move along the axis that they were asked for; 0 is up and down."""
    return float((axes(videos) == np.asarray(labels).ravel()).mean())
