"""The landscape set of style-based prediction's thesis, which its authors cut out of films of rivers (S4 3.9).

    info.csv                      video_id,file_name,resolution,fps,start,end: a row for each clip of ten seconds
    train_info.csv, val_info.csv  the rows of each split; no film is in both
    <file_name>                   640x360; looked for by its name, beside the lists and in folders below

Without a split all rows of all lists that are there. What is not there is counted and left out.
"""

import csv
from pathlib import Path

from .sources import FILMS, Listing, NoDataSet, Source, below, wanted

SPLITS = ("train", "val")


def index(root: Path, split: str | None = None) -> Listing:
    if split not in (None, *SPLITS):
        raise NoDataSet(f"the landscape set has the splits train and val, not {split!r}")
    lists = [f"{split}_info.csv"] if split else ["info.csv", *(f"{one}_info.csv" for one in SPLITS)]
    wanted(root, *lists)
    tables = {name: names_of(root / name) for name in lists if (root / name).exists()}
    listed = set().union(*tables.values())
    found = {}
    for path in below(root, root, FILMS):
        name = Path(path).name
        if name in listed:
            if name in found:
                raise NoDataSet(f"{root} has {name} twice: {found[name].path} and {path}")
            of = [one for one in SPLITS if name in tables.get(f"{one}_info.csv", ())]
            found[name] = Source(Path(name).stem, path, split=" ".join(of) or None)
    if not found:
        raise NoDataSet(f"{root} has none of the {len(listed)} clips that {' and '.join(tables)} name")
    return Listing(tuple(found.values()), absent=len(listed) - len(found))


def names_of(table: Path) -> set[str]:
    """Of the clips' files."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "file_name" not in rows[0]:
        raise NoDataSet(f"{table} has no column file_name")
    return {Path(row["file_name"] or "").name for row in rows}
