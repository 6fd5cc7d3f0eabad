"""Average content distance of MoCoGAN (ACD): how much what a clip shows changes from frame to frame.

A clip's distance is the mean Euclidean one over all pairs of its frames' descriptors. On moving shapes that of a frame
is the mean colour (0-255) of its foreground, the pixels whose largest channel is above 32; a frame with fewer than 9 of
them is left out: 0 for clips that show one object of one colour. MoCoGAN's of faces is an embedding of 128 numbers
(OpenFace), for which any function can stand in.
"""

from collections.abc import Callable

import numpy as np

BRIGHT, FEWEST = 32, 9
Describe = Callable[[np.ndarray], np.ndarray]  # frames uint8 [T, H, W, 3] -> [frames that show something, D]


def colours(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] -> [frames that show something, 3]."""
    seen = frames.max(axis=-1) > BRIGHT  # [T, H, W]
    count = seen.sum(axis=(1, 2))
    total = (frames * seen[..., None]).sum(axis=(1, 2), dtype=np.float64)
    return total[count >= FEWEST] / count[count >= FEWEST, None]


def distances(videos: np.ndarray, describe: Describe = colours) -> np.ndarray:
    """uint8 [N, T, H, W, 3] -> float64 [N]; nan for clips that do not show something in two frames."""
    each = np.full(len(videos), np.nan)
    for clip, frames in enumerate(videos):
        found = np.asarray(describe(frames), np.float64)
        if found.ndim != 2 or len(found) > len(frames):
            raise ValueError(f"descriptors must be [{len(frames)} or fewer, D], got {list(found.shape)}")
        if len(found) > 1:
            i, j = np.triu_indices(len(found), 1)
            each[clip] = np.linalg.norm(found[i] - found[j], axis=1).mean()
    return each


def content_distance(videos: np.ndarray, describe: Describe = colours) -> float:
    """The mean over the clips that show something in two frames; nan if there are none."""
    found = distances(videos, describe)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
