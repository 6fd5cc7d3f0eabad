"""Whole caches: one of parts that were built on several machines, and a split of one by its sources."""

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import journal
from ..cache import PROPERTIES, BadCache, name_of, read_index, write_tables
from ..sources import natural

OURS = {"train", "val"}  # that `split_by_source` makes


def join(target: Path, parts: Sequence[Path]) -> None:
    """One cache of parts that were built on several machines; shards are linked where that is possible, else copied."""
    if target.exists():
        raise BadCache(f"{target} is there already")
    indices = [read_index(part) for part in parts]
    builds = [json.loads((part / "build.json").read_bytes()) for part in parts]
    order = sorted(range(len(parts)), key=lambda i: natural(str(builds[i]["recipe"].get("part"))))
    first = order[0]
    alike = [
        (i["storage"], i["height"], i["width"], i["labels"], b["recipe"] | {"part": None})
        for i, b in zip(indices, builds, strict=True)
    ]
    for part, one in zip(parts, alike, strict=True):
        if one != alike[first]:
            raise BadCache(f"{part} was built by another recipe than {parts[first]}")
    named = [builds[i]["recipe"].get("part") for i in order]
    if named != [f"{i + 1}/{len(parts)}" for i in range(len(parts))]:
        raise BadCache(
            f"these are the parts {', '.join(map(str, named))}, wanted all of 1/{len(parts)} and so on, once each"
        )
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a merge that was interrupted
    partial.mkdir()
    clips, rejected, absent, shards = {name: [] for name in PROPERTIES}, [], 0, 0
    storage = indices[first]["storage"]
    for i in order:
        mine = indices[i]["clips"]
        numbers = sorted(set(mine["shard"]))
        for number in numbers:
            link_or_copy(
                parts[i] / name_of(number, storage), partial / name_of(shards + numbers.index(number), storage)
            )
        for name in PROPERTIES:
            clips[name] += [shards + numbers.index(n) for n in mine[name]] if name == "shard" else mine[name]
        shards, absent = shards + len(numbers), max(absent, builds[i].get("absent", 0))
        with open(parts[i] / "rejected.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
            rejected += list(csv.reader(file))[1:]
    size = indices[first]["height"], indices[first]["width"]
    counted = dict(Counter(reason for _, reason, _ in rejected))
    facts = {"versions": builds[first]["versions"], "absent": absent, "rejected": counted}
    write_tables(partial, storage, size, indices[first]["labels"], clips, rejected, alike[first][-1], facts)
    os.replace(partial, target)


def split_by_source(folder: Path, validation: int, seed: int = 0) -> None:
    """Sources are drawn until they have so many clips, and are the split "val"; the others are "train" (S4 3.9).

    Of a cache that has a split "train" already, that one is split again; its other splits stay as they are.
    """
    index = read_index(folder)
    clips = index["clips"]
    words = [(split or "").split() for split in clips["split"]]
    mine = [i for i, known in enumerate(words) if OURS & set(known)] or list(range(len(words)))
    clips_of = Counter(clips["source"][i] for i in mine)
    sources = sorted(clips_of)
    drawn, count = set(), 0
    for place in np.random.default_rng(seed).permutation(len(sources)).tolist():
        if count >= validation:
            break
        drawn.add(sources[place])
        count += clips_of[sources[place]]
    if count < validation or len(drawn) == len(sources):
        raise BadCache(f"{folder} has {len(mine)} clips of {len(sources)} sources: {validation} leave no others")
    for i in mine:
        kept = [word for word in words[i] if word not in OURS]
        clips["split"][i] = " ".join([*kept, "val" if clips["source"][i] in drawn else "train"])
    journal.replace_durably(folder / "index.json", json.dumps(index).encode())


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
