"""Moving MNIST: mnist_test_seq.npy, uint8 [20 frames, 10,000 videos, 64, 64]."""

from pathlib import Path

import numpy as np

from .decode import Rejected
from .sources import Listing, NoDataSet, Source, wanted


def index(root: Path, split: str | None = None) -> Listing:
    path = wanted(root, "mnist_test_seq.npy")
    shape = mapped(path).shape
    if len(shape) != 4 or split is not None:
        raise NoDataSet(f"{path} is {shape}, wanted [frames, videos, height, width]; it has no splits")
    return Listing(tuple(Source(f"{n:05}", path.name, "array", n) for n in range(shape[1])), fps=10.0)


def mapped(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Rejected("format", f"{path}: {error}") from error
    if array.dtype != np.uint8:
        raise Rejected("format", f"{path} holds {array.dtype}, not uint8")
    return array


def frames(path: Path, number: int) -> np.ndarray:
    """uint8 [T, H, W, 3] of a video."""
    return np.repeat(mapped(path)[:, number, :, :, None], 3, axis=-1)
