"""Kinetics: ten-second films from YouTube, of 400 to 700 actions.

    {train,val,test}.csv    label,youtube_id,time_start,time_end,split[,is_cc]; of test, without the label
    <label>/<youtube_id>_<start>_<end>.mp4    seconds, six digits; or all in one folder, as mirrors have them

Films of a split are looked for beside its csv and in a folder of the split's name. Thousands are gone from YouTube:
what is not there is counted and left out.
"""

import csv
from pathlib import Path

from .sources import FILMS, Listing, NoDataSet, Source, below, wanted


def index(root: Path, split: str | None = "train") -> Listing:
    split = split or "train"
    table = wanted(root, f"{split}.csv", f"annotations/{split}.csv", f"kinetics_{split}.csv")
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "youtube_id" not in rows[0]:
        raise NoDataSet(f"{table} has no column youtube_id")
    labels = tuple(sorted({row["label"] for row in rows if row.get("label")}))
    folder = root / split if (root / split).is_dir() else root
    there = {Path(path).stem: path for path in below(root, folder, FILMS)}
    names = {f"{row['youtube_id']}_{int(row['time_start']):06}_{int(row['time_end']):06}": row for row in rows}
    found = [
        Source(name, there[name], label=labels.index(row["label"]) if row.get("label") else None, split=split)
        for name, row in sorted(names.items())
        if name in there
    ]
    if not found:
        raise NoDataSet(f"{folder} has none of the {len(names)} films of {table.name}")
    return Listing(tuple(found), {"class": labels} if labels else {}, absent=len(names) - len(found))
