"""Clips as they lie on a disk, to be scored: the videos of a folder, or an array; and who reads them. Each comes once.

Legend: N clips, T frames, H x W pixels.
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .data import folder
from .data.build.selection import Selection
from .data.decode import Rejected
from .data.pool import Holes, Pool
from .data.resize import Fit
from .data.sources import NoDataSet
from .options import refuse

ARRAYS = (".npy", ".npz")


def readers(workers: int = 1) -> Pool:
    """Processes that read strangers' files, if this FFmpeg may."""
    try:
        return Pool(workers)
    except Holes as error:
        refuse(str(error))


def array(path: Path) -> np.ndarray:
    """uint8 [N, T, H, W, 3] of a .npy, or of the only such array of an .npz, as `generate` writes it."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = [found] if path.suffix == ".npy" else [found[name] for name in found.files]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise NoDataSet(f"{path} is no array: {error}") from error
    clips = [one for one in arrays if one.dtype == np.uint8 and one.ndim == 5 and one.shape[-1] == 3]
    if len(clips) != 1 or 0 in clips[0].shape:
        there = ", ".join(f"{one.dtype} {list(one.shape)}" for one in arrays)
        raise NoDataSet(f"{path} must hold one array uint8 [N, T, H, W, 3], got {there}")
    return clips[0]


def fit(height: int, width: int) -> Fit:
    """The centre of the video with its shorter side made that long; another proportion than 1 is stretched to."""
    return Fit(shorter=height, crop=(height, width)) if height == width else Fit(stretch=(height, width))


def videos(
    root: Path, size: tuple[int, int, int], seed: int, pool: Pool, complain: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """The central frames uint8 [T, H, W, 3] of each video below a folder, in an order drawn from the seed.

    A bad or too short one is named by `complain` and left out.
    """
    frames, *sides = size
    listing, selection = folder.index(root), Selection(fit(*sides), take="central", frames=frames)
    for place in np.random.default_rng(seed).permutation(len(listing.sources)).tolist():
        source = listing.sources[place]
        try:
            ((_, clip),) = selection(source, root, listing, pool).clips
        except Rejected as error:
            complain(f"left out {root / source.path}: {error}")
            continue
        yield clip
