"""Sky Time-lapse: clouds, as folders of frames of 640x360.

    sky_{train,test}/<YouTube id>/<clip>/<id>_frames_<number>.jpg

A source is a folder of one clip. Without a split, those of all that are there.
"""

from pathlib import Path

from .folder import pictures
from .sources import Listing, NoDataSet, wanted


def index(root: Path, split: str | None = None) -> Listing:
    if split not in (None, "train", "test"):
        raise NoDataSet(f"Sky Time-lapse has the splits train and test, not {split!r}")
    if split is None:
        wanted(root, "sky_train", "sky_test")
    parts = [split] if split else [part for part in ("train", "test") if (root / f"sky_{part}").exists()]
    found = (source for part in parts for source in pictures(root, wanted(root, f"sky_{part}"), part))
    return Listing(tuple(found), fps=30.0)
