"""25 clips as one looping film: a browser that plays one film keeps them in step, one that plays 25 does not.

Legend: T frames, H x W pixels.
"""

import tempfile
import zipfile
from pathlib import Path

import av
import numpy as np

from ..data import write
from ..data.cache import Cache

SIDE = 5  # clips in a row and in a column
FRAMES, PIXELS = 64, 160  # at most, of a clip and of a cell's longer side
FPS = 12.0  # of clips that do not tell theirs
MARGIN = 2


def fewer_pixels(frames: np.ndarray) -> np.ndarray:
    """[T, H, W, 3] by means of boxes, so that a cell's longer side is at most PIXELS."""
    box = -(-max(frames.shape[1:3]) // PIXELS)
    if box == 1:
        return frames
    height, width = frames.shape[1] // box * box, frames.shape[2] // box * box
    total = sum(frames[:, y:height:box, x:width:box].astype(np.uint16) for y in range(box) for x in range(box))
    return (total // (box * box)).astype(np.uint8)


def unreadable(size: tuple[int, int]) -> np.ndarray:
    """[1, H, W, 3]: a cross on grey, for a clip whose bytes are no pictures any more."""
    height, width = size
    y, x = np.arange(height)[:, None] * width, np.arange(width) * height
    near = np.minimum(abs(y - x), abs(y - (width * height - x))) < width * height / 40
    return np.where(near, 96, 48).astype(np.uint8)[None, :, :, None].repeat(3, axis=-1)


def seen(count: int, length: int) -> np.ndarray:
    """[length]: which of a clip's frames are shown; of more than there is room for, some from the first to the last."""
    return np.arange(length) % count if count <= length else np.arange(length) * (count - 1) // (length - 1)


def mosaic(cache: Cache, clips: list[int]) -> tuple[bytes, list[int]]:
    """An MP4 of these clips, and those that cannot be read. Every clip is played again until the longest one ends."""
    length = min(FRAMES, int(cache.frames[clips].max()))
    videos, bad = [], []
    for clip in clips:
        try:
            videos.append(fewer_pixels(cache.read(clip, seen(int(cache.frames[clip]), length))))
        except (OSError, ValueError, zipfile.BadZipFile, av.FFmpegError):
            bad.append(clip)
            videos.append(fewer_pixels(unreadable(cache.size)).repeat(length, axis=0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.mp4"
        cells = write.grid(np.stack(videos), SIDE, MARGIN)
        rates = cache.fps[clips]
        rates = rates[np.isfinite(rates)]
        write.mp4(path, cells, fps=float(np.median(rates)) if len(rates) else FPS)
        return path.read_bytes(), bad
