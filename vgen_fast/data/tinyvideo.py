"""Tinyvideo, of VGAN (Golf, Beach; of iVGAN, Aeroplane): a picture for each clip, its 128x128 frames in a column.

    <list>.txt    a path a line, or a path and a label counted from 1
    <path>.jpg    128 wide, 128 times the number of frames high, 16 to 34 of them

A list's name is the split of its clips; without a split all lists are read, and a clip that several name has them all.
"""

from dataclasses import replace
from pathlib import Path

from .sources import PICTURES, Listing, NoDataSet, Source


def index(root: Path, split: str | None = None) -> Listing:
    lists = sorted(root.glob(f"{split or '*'}.txt"))
    if not lists:
        raise NoDataSet(f"{root} has no list of clips, {split or '<list>'}.txt")
    sources, labels = {}, set()
    for one in lists:
        for line in filter(str.strip, one.read_text().splitlines()):
            path, *label = line.rsplit(maxsplit=1) if line.rsplit(maxsplit=1)[-1].isdigit() else [line.strip()]
            if Path(path).suffix.lower() not in PICTURES or Path(path).is_absolute() or ".." in Path(path).parts:
                raise NoDataSet(f"{one} names {path!r}, which is no picture below the list")
            labels.update(map(int, label))
            found = Source(path, path, "strip", label=int(label[0]) - 1 if label else None, split=one.stem)
            known = sources.get(path, found)
            classes = {known.label, found.label} - {None}
            if len(classes) > 1:
                raise NoDataSet(f"{one} gives {path!r} another class than the lists before it")
            words = dict.fromkeys([*known.split.split(), one.stem])
            sources[path] = replace(found, split=" ".join(words), label=min(classes, default=None))
    there = tuple(source for source in sources.values() if (root / source.path).exists())
    names = {"class": tuple(map(str, range(1, max(labels) + 1)))} if labels else {}
    return Listing(there, names, absent=len(sources) - len(there), fps=25.0)
