"""`python examples/animate_shapes.py FOLDER`: style-based prediction and DVD-GAN-S from first frames, on MoCoGAN's
shape-motion set, with as many parameters and as much time for each.

FOLDER holds 0 and 1, folders of film strips. Every tenth clip is held out. A classifier of motions is trained on
the others, then each system for at most 30 minutes of one core; `evaluate` scores what they make of held-out first
frames, and what they made before the first step. What is done already is not done again: the same command goes on.
OUT/table.md has the scores, and how far the colour of predicted shapes is from the given one's and from another clip's;
OUT/strips.png held-out clips and what each makes of their first frames, OUT/frames.svg the distance of each frame.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from shapes import cell, run, scored, trained

from vgen_fast.data import transforms, write
from vgen_fast.dataset import dataset
from vgen_fast.metrics.content_distance import colours
from vgen_fast.sample import inputs_of, restored, videos
from vgen_fast.train.report import frames_plot

SYSTEMS = {"style-based": "shape-motion-style", "DVD-GAN-S": "shape-motion-dvdgan-s"}
SCORES = {
    "FID, all frames": "frechet, all frames",
    "FID, mean of each frame's": "frechet, frame by frame",
    "FVD": "frechet, clips",
    "content distance": "content distance",
}
SHOWN = 8  # clips of each system in the picture
COLOURED = 64  # whose colours are compared


def parted(folder: Path, out: Path) -> tuple[Path, Path]:
    """Folders of nine tenths of the clips and of the last tenth; copies, as readers follow no links."""
    parts = out / "data" / "train", out / "data" / "held-out"
    for label in ("0", "1"):
        for part in parts:
            (part / label).mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(sorted((folder / label).iterdir())):
            shutil.copy(path, parts[number % 10 == 9] / label)
    return parts


def continued(out: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """What it makes of the first frames of held-out clips, uint8 [N, T, H, W, 3], and these clips."""
    system, config, clips_seen = restored(out)
    config = config.model_copy(update={"data": str(data)})
    made = videos(system, config, inputs_of(system, config, list(range(COLOURED)), None), clips_seen)
    real = dataset(config)(torch.arange(COLOURED), config.system.sizes[-1])[0]
    return made, transforms.to_frames(real).numpy()


def off_colour(clips: np.ndarray) -> tuple[float, float]:
    """The mean distance (0-255) of a predicted shape's colour from the first frame's, and from that of another clip."""
    given = [colours(clip[:1]) for clip in clips]
    mine, others = [], []
    for clip, first, other in zip(clips, given, [*given[1:], given[0]], strict=True):
        if len(first) and len(other):
            mine.extend(np.linalg.norm(colours(clip[1:]) - first, axis=1))
            others.extend(np.linalg.norm(colours(clip[1:]) - other, axis=1))
    return float(np.mean(mine)), float(np.mean(others))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of folders 0 and 1 with film strips")
    parser.add_argument("--out", type=Path, default=Path("runs/animate-shapes"))
    parser.add_argument("--clips", type=int, default=256, help="held-out ones that are continued")
    given = parser.parse_args()
    train, held_out = parted(given.folder, given.out)
    classifier = given.out / "classifier"
    words = ("--data", train, "--size", 8, 32, 32, "--shrink", "crop", "--outdir", classifier)
    run("vgen_fast.train", "classifier", *words)
    head = ["system", "clips", "CPU minutes", *(f"{name}: untrained, trained" for name in SCORES)]
    head.append("colour from the given, from another's")
    rows, pictures, curves = [], [], {}
    for system, recipe in SYSTEMS.items():
        out = given.out / recipe
        minutes = trained(given.out, train, recipe)
        scores = scored(out, classifier, given.clips, "--data", held_out)
        seen = json.loads((out / "scores.json").read_text())["facts"]["clips_seen"]
        cells = [f"{cell(scores['untrained'], name)}, {cell(scores['newest'], name)}" for name in SCORES.values()]
        made, real = continued(out, held_out)
        rows.append([system, f"{seen:,}", f"{minutes:.1f}", *cells, "{:.3g}, {:.3g}".format(*off_colour(made))])
        pictures = pictures or [real[:SHOWN]]
        pictures.append(made[:SHOWN])
        each = scores["newest"]["frechet, frame by frame"]
        curves[f"{system}: distance of each frame"] = each["values"], each["real"]
    reals = [cell(scores["newest"], name, "real") for name in SCORES.values()]
    rows.append(["held-out clips", "", "", *reals, "{:.3g}, {:.3g}".format(*off_colour(real))])
    table = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"
    (given.out / "table.md").write_text(table)
    write.png(given.out / "strips.png", np.concatenate([write.strip(write.enlarge(v, 2)) for v in pictures], axis=1))
    (given.out / "frames.svg").write_text(frames_plot(curves))
    print(table)


if __name__ == "__main__":
    main()
