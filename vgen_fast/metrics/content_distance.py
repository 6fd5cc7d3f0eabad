"""Average content distance of MoCoGAN on moving shapes: how much what a clip shows changes from frame to frame.

A frame's descriptor is the mean colour (0-255) of its foreground: the pixels whose largest channel is above 32. A frame
with fewer than 9 of them is left out. A clip's distance is the mean Euclidean one over all pairs of its frames; 0 for
clips that show one object of one colour.
"""

import numpy as np

BRIGHT, FEWEST = 32, 9


def descriptors(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] -> [frames that show something, 3]."""
    seen = frames.max(axis=-1) > BRIGHT  # [T, H, W]
    count = seen.sum(axis=(1, 2))
    total = (frames * seen[..., None]).sum(axis=(1, 2), dtype=np.float64)
    return total[count >= FEWEST] / count[count >= FEWEST, None]


def distances(videos: np.ndarray) -> np.ndarray:
    """uint8 [N, T, H, W, 3] -> float64, that of each clip that shows something in two frames."""
    each = []
    for frames in videos:
        found = descriptors(frames)
        if len(found) > 1:
            i, j = np.triu_indices(len(found), 1)
            each.append(np.linalg.norm(found[i] - found[j], axis=1).mean())
    return np.array(each, dtype=np.float64)


def content_distance(videos: np.ndarray) -> float:
    """The mean over the clips that show something in two frames; nan if there are none."""
    found = distances(videos)
    return float(found.mean()) if len(found) else float("nan")
