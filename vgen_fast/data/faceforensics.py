"""FaceForensics++ and FaceForensics: faces of news readers, original and altered.

    ++   original_sequences/youtube/<compression>/videos/<000 to 999>.mp4
         manipulated_sequences/<method>/<compression>/videos/<target>_<source>.mp4
         {train,val,test}.json    pairs of the numbers of originals
    1    {train,val,test}/{original,altered,mask}/*.avi

The originals are taken, of ++ in the best compression that is there: raw or c0, c23, c40; of 1 with their masks.
"""

import json
from pathlib import Path

from .sources import FILMS, Listing, NoDataSet, Source, below, wanted

PARTS = ("train", "val", "test")


def index(root: Path, split: str | None = None) -> Listing:
    if not (root / "original_sequences").exists():
        parts = [split] if split else [name for name in PARTS if (root / name).is_dir()]
        if not parts:
            raise NoDataSet(f"{root} has neither original_sequences nor train, val and test")
        found = []
        for part in parts:
            masks = {Path(path).stem: path for path in below(root, root / part / "mask", FILMS)}
            for path in below(root, wanted(root, f"{part}/original"), FILMS):
                name = Path(path).stem
                found.append(Source(f"{part}/{name}", path, split=part, mask=masks.get(name)))
        return Listing(tuple(found))
    folder = wanted(root, *(f"original_sequences/youtube/{c}/videos" for c in ("raw", "c0", "c23", "c40")))
    paths = {Path(path).stem: path for path in below(root, folder, FILMS)}
    splits = {} if split else dict.fromkeys(paths)
    for one in [split] if split else PARTS:
        if split or (root / f"{one}.json").exists() or (root / f"splits/{one}.json").exists():
            pairs = json.loads(wanted(root, f"{one}.json", f"splits/{one}.json").read_text())
            splits |= {name: one for pair in pairs for name in pair}
    there = sorted(name for name in splits if name in paths)
    found = tuple(Source(name, paths[name], split=splits[name]) for name in there)
    return Listing(found, absent=len(splits) - len(there))
