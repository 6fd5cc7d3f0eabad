"""Sky Time-lapse: clouds, as folders of frames of 640x360.

    sky_{train,test}/<YouTube id>/<clip>/<id>_frames_<number>.jpg

A source is a folder of one clip.
"""

from pathlib import Path

from .folder import pictures
from .sources import Listing, NoDataSet, wanted


def index(root: Path, split: str | None = "train") -> Listing:
    split = split or "train"
    if split not in ("train", "test"):
        raise NoDataSet(f"Sky Time-lapse has the splits train and test, not {split!r}")
    return Listing(pictures(root, wanted(root, f"sky_{split}"), split), fps=30.0)
