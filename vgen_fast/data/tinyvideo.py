"""Tinyvideo, of VGAN (Golf, Beach; of iVGAN, Aeroplane): a picture for each clip, its 128x128 frames in a column.

    <list>.txt    a path a line, or a path and a label counted from 1
    <path>.jpg    128 wide, 128 times the number of frames high, 16 to 34 of them

The list is the only text file of the folder, or the one that the split names.
"""

from pathlib import Path

from .sources import PICTURES, Listing, NoDataSet, Source


def index(root: Path, split: str | None = None) -> Listing:
    lists = sorted(root.glob(f"{split or '*'}.txt"))
    if len(lists) != 1:
        names = ", ".join(path.name for path in lists) or "none"
        raise NoDataSet(f"{root} should have one list of clips: it has {names}; the split is the name of one")
    sources, labels = [], set()
    for line in lists[0].read_text().splitlines():
        if not line.strip():
            continue
        path, *label = line.rsplit(maxsplit=1) if line.rsplit(maxsplit=1)[-1].isdigit() else [line.strip()]
        if Path(path).suffix.lower() not in PICTURES or Path(path).is_absolute() or ".." in Path(path).parts:
            raise NoDataSet(f"{lists[0]} names {path!r}, which is no picture below the list")
        labels.update(map(int, label))
        sources.append(Source(path, path, "strip", label=int(label[0]) - 1 if label else None, split=split))
    there = tuple(source for source in sources if (root / source.path).exists())
    names = {"class": tuple(map(str, range(1, max(labels) + 1)))} if labels else {}
    return Listing(there, names, absent=len(sources) - len(there), fps=25.0)
