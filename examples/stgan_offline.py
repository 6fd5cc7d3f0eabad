"""`python examples/stgan_offline.py`: STGAN from images to videos of classes, and what these are worth, offline.

What the thesis does with ImageNet, UCF-101 and published networks, at 32x32 and 8 frames within 90 minutes of one
core: a cache of built-in videos, of which 400 have labels; an encoder of frames, a small LRCN that starts from it and
a small C3D, trained on these 400; the GAN of images, its inflation, tuned on videos; videos of every class from both
generators, led by both classifiers; all of them scored by both; the best ones by the other's score; and a C3D trained
on generated clips, on the 400 and on both, then with 40 in place of the 400. What is done already is not done again:
the same command goes on.

OUT/sets.md, OUT/augment.md and OUT/augment-few.md have the tables, OUT/strips.png clips of every class, OUT/path.png
classes over the steps, OUT/selected.svg how many of each class were taken.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from vgen_fast.data import write
from vgen_fast.data.cache import Cache, Clip, Writer
from vgen_fast.data.synthetic import LABELS, MovingShapes

SIZE = (8, 32, 32)
PARTS = {"train few": 40, "train": 360, "test": 800, "unlabelled": 2_800}  # few is a part of train
SOURCES = {"images": "runs/shapes-stgan-images", "tuned": "runs/shapes-stgan"}
MADE = {f"{source}-{leader}.vgc": (source, leader) for source in SOURCES for leader in ("c3d", "lrcn")}
ONE_CORE = {**os.environ, "OMP_NUM_THREADS": "1"}


def data(path: Path) -> None:
    """The first built-in videos, labelled by motion; the networks that learn from labels see the part "train" alone."""
    if (path / "index.json").exists():
        return
    clips, parts = MovingShapes(SIZE, 0), [part for part, count in PARTS.items() for _ in range(count)]
    writer = Writer(path, SIZE[1:], {"built-in videos": len(parts), "seed": 0})
    for i, part in enumerate(parts):
        frames, labels = clips.clip(i)
        if f"{i:06}" not in writer.done:
            writer.add(f"{i:06}", [(Clip(f"{i:06}", 8.0, labels[0], part), frames)])
    writer.finish({"motion": LABELS["motion"]}, {})


def steps(count: int, seeds: str) -> dict[str, list]:
    """The commands, by the name under which their minutes are kept."""
    real = ["--data", "shapes.vgc", "--split", "train", "--test-split", "test"]
    classifier = ["vgen_fast.train", "classifier", *real, "--outdir"]
    from_encoder = ["--network", "small-lrcn", "--weights", "runs/encoder", "--clips", 12_000]
    found = {
        "encoder": [*classifier, "runs/encoder", "--network", "frames"],
        "lrcn": [*classifier, "runs/lrcn", *from_encoder],
        "c3d": [*classifier, "runs/c3d"],
        "images": ["vgen_fast.train", "shapes-stgan-images"],
        "tuned": ["vgen_fast.train", "shapes-stgan", "--inflate", SOURCES["images"]],
    }
    for name, (source, leader) in MADE.items():
        led = ["vgen_fast", "maximize", SOURCES[source], "--condition", f"runs/{leader}", "--frames", SIZE[0]]
        found[name] = [*led, "--batch", 16, "--count", count, "--out", name]
    path = ["vgen_fast", "maximize", SOURCES["images"], "--condition", "runs/lrcn", "--frames", SIZE[0]]
    augment = ["vgen_fast", "sets", "augment", "selected.vgc", "--real", "shapes.vgc", "--test-every", 50]
    augment += ["--seeds", seeds]
    scored, chosen = ["vgen_fast", "sets", "score", *MADE], "tuned-lrcn.vgc"
    return found | {
        "path": [*path, "--every", 10, "--out", "path.png"],
        "score": [*scored, "--scorers", "runs/c3d,runs/lrcn", "--real", "shapes.vgc", "--split", "test"],
        "select": ["vgen_fast", "sets", "select", chosen, "--classifier", "runs/c3d", "--out", "selected.vgc"],
        "augment": augment,
        "augment-few": [*augment, "--train-split", "few", "--out", "augment-few.json"],
    }


def strips(out: Path) -> None:
    """Two clips of every class of each set, every second frame, below real ones."""
    rows = []
    for name in ("shapes.vgc", *MADE):
        cache = Cache(out / name)
        shown = [clip for label in range(len(LABELS["motion"])) for clip in np.flatnonzero(cache.label == label)[:2]]
        rows.append(write.strip(write.enlarge(np.stack([cache.read(clip)[::2] for clip in shown]), 2)))
    write.png(out / "strips.png", np.concatenate(rows, axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("stgan-offline"))
    parser.add_argument("--count", type=int, default=200, help="videos of each set")
    parser.add_argument("--seeds", default="0-2", help="trainings of each kind in the augmentation study")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    data(given.out / "shapes.vgc")
    clock = given.out / "minutes.json"
    minutes = json.loads(clock.read_text()) if clock.exists() else {}
    for name, words in steps(given.count, given.seeds).items():
        if name in minutes:
            continue
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", *map(str, words)], check=True, env=ONE_CORE, cwd=given.out)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        minutes[name] = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
        clock.write_text(json.dumps(minutes, indent=1))
    strips(given.out)
    print(*((given.out / f"{table}.md").read_text() for table in ("sets", "augment", "augment-few")), sep="\n")
    print("minutes of processor time:", ", ".join(f"{name} {m:.1f}" for name, m in minutes.items()))
    print(f"in all {sum(minutes.values()):.1f}")


if __name__ == "__main__":
    main()
