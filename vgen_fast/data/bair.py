"""BAIR robot pushing, small: 43,264 + 256 videos of 30 frames of 64x64, raw in TFRecords.

    softmotion30_44k/{train,test}/traj_<a>_to_<b>.tfrecords    at most 256 records each
    <i>/image_aux1/encoded    64*64*3 bytes of RGB, for i from 0 to 29; image_main is the other camera

"train" and "test" are the published parts; "validation" is train/traj_256_to_511, as SAVP has it, and is left out of
"train-savp"; without a split, all that is there. The view is the auxiliary camera, which most work shows. Actions are
not kept.
"""

from pathlib import Path

import numpy as np

from . import tfrecord
from .decode import Rejected, opened
from .sources import Listing, NoDataSet, Source, below, wanted

VIEW, SIDE, FRAMES, FPS = "image_aux1", 64, 30, 15.0
VALIDATION = "traj_256_to_511"


def index(root: Path, split: str | None = None) -> Listing:
    folder = wanted(root, "softmotion30_44k", "train", "test")
    folder = folder if folder.name == "softmotion30_44k" else root
    if split not in (None, "train", "test", "validation", "train-savp"):
        raise NoDataSet(f"BAIR has the splits train, test, validation and train-savp, not {split!r}")
    parts = [part for part in ("train", "test") if (folder / part).exists()] if split is None else [part_of(split)]
    found = []
    for part in parts:
        for path in below(root, wanted(folder, part), (".tfrecords",)):
            splits = splits_of(part, Path(path).stem)
            if split not in (None, *splits):
                continue
            try:
                with opened(root / path) as file:
                    count = len(tfrecord.offsets(file))
            except Rejected:
                count = 1  # a source that will be rejected with the reason
            known = split or " ".join(splits)
            found += [Source(f"{part}/{Path(path).stem}/{n}", path, "record", n, split=known) for n in range(count)]
    if not found:
        raise NoDataSet(f"{folder} has no records" + ("" if split is None else f" of the split {split!r}"))
    return Listing(tuple(found), fps=FPS)


def part_of(split: str) -> str:
    return "test" if split == "test" else "train"


def splits_of(part: str, stem: str) -> tuple[str, ...]:
    """Of the records of a file."""
    return (part,) if part == "test" else (part, "validation" if stem == VALIDATION else "train-savp")


def frames(path: Path, number: int, view: str = VIEW) -> np.ndarray:
    """uint8 [30, 64, 64, 3] of a record."""
    with opened(path) as file:
        places = tfrecord.offsets(file)
        if number >= len(places):
            raise Rejected("truncated", f"{len(places)} records, wanted number {number}")
        features = tfrecord.example(file, *places[number])
    found = []
    for i in range(FRAMES):
        content = b"".join(features.get(f"{i}/{view}/encoded", []))
        if len(content) != SIDE * SIDE * 3:
            raise Rejected("damaged", f"frame {i} of record {number} has {len(content)} bytes, not {SIDE * SIDE * 3}")
        found.append(np.frombuffer(content, np.uint8).reshape(SIDE, SIDE, 3))
    return np.stack(found)
