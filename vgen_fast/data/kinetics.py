"""Kinetics: ten-second films from YouTube, of 400 to 700 actions.

    {train,val,test}.csv    label,youtube_id,time_start,time_end,split[,is_cc]; of test, without the label
    <label>/<youtube_id>_<start>_<end>.mp4    seconds, six digits; or all in one folder, as mirrors have them

Films of a split are looked for beside its csv and in a folder of the split's name; without a split, those of every csv
that is there. Thousands are gone from YouTube: what is not there is counted and left out.
"""

import csv
from dataclasses import replace
from pathlib import Path

from .sources import FILMS, Listing, NoDataSet, Source, below, wanted

SPLITS = ("train", "val", "test")


def index(root: Path, split: str | None = None) -> Listing:
    there_are = [one for one in SPLITS if any((root / place).exists() for place in places(one))]
    tables = {one: rows_of(wanted(root, *places(one))) for one in ([split] if split else there_are or SPLITS)}
    labels = tuple(sorted({row["label"] for rows in tables.values() for row in rows if row.get("label")}))
    found, listed = {}, set()
    for one, rows in tables.items():
        folder = root / one if (root / one).is_dir() else root
        there = {Path(path).stem: path for path in below(root, folder, FILMS)}
        for row in rows:
            name = f"{row['youtube_id']}_{int(row['time_start']):06}_{int(row['time_end']):06}"
            listed.add(name)
            if name in found and one not in found[name].split.split():
                found[name] = replace(found[name], split=f"{found[name].split} {one}")
            elif name in there and name not in found:
                label = labels.index(row["label"]) if row.get("label") else None
                found[name] = Source(name, there[name], label=label, split=one)
    if not found:
        raise NoDataSet(f"{root} has none of the {len(listed)} films of {' '.join(tables)}")
    sources = tuple(found[name] for name in sorted(found))
    return Listing(sources, {"class": labels} if labels else {}, absent=len(listed) - len(found))


def places(split: str) -> tuple[str, ...]:
    return f"{split}.csv", f"annotations/{split}.csv", f"kinetics_{split}.csv"


def rows_of(table: Path) -> list[dict[str, str]]:
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "youtube_id" not in rows[0]:
        raise NoDataSet(f"{table} has no column youtube_id")
    return rows
