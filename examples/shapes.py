"""`python examples/shapes.py FOLDER`: all video systems on MoCoGAN's shape-motion set, with the same time for each.

FOLDER holds 0 and 1, folders of film strips. A classifier of the two motions is trained, then each system for at most
20 minutes of one core; `evaluate` scores what they make, what they made before the first step, and real clips. What is
done already is not done again: the same command goes on. OUT/table.md has the scores, OUT/strips.png clips of each.
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

SYSTEMS = {
    "VGAN": "shape-motion-vgan",
    "TGAN": "shape-motion-tgan",
    "TGANv2": "shape-motion-tgan2",
    "MoCoGAN": "shape-motion-mocogan",
    "progressive": "shape-motion",
}
SCORES = {
    "content distance": "content distance",
    "motion as asked": "label as asked",
    "Frechet, clips": "frechet, clips",
    "inception score": "inception score",
}
ONE_CORE = {**os.environ, "OMP_NUM_THREADS": "1"}
SHOWN = 6  # clips of each system in the picture
SEEDS = f"0-{SHOWN - 1}"


def run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True, env=ONE_CORE)


def trained(folder: Path, data: Path, recipe: str) -> float:
    """Minutes of processor time, since the last interruption."""
    out, clock = folder / recipe, folder / recipe / "minutes.json"
    if not clock.exists():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("vgen_fast.train", recipe, "--data", data, "--outdir", out)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
        clock.write_text(json.dumps(taken))
    return json.loads(clock.read_text())


def scored(out: Path, classifier: Path, clips: int, *more: object) -> dict[str, dict]:
    """The scores of the trained and of the untrained generator, by checkpoint."""
    found = {}
    for checkpoint, name in (("newest", "scores.json"), ("untrained", "scores-untrained.json")):
        if not (out / name).exists():
            words = ("--classifier", classifier, "--clips", clips, "--checkpoint", checkpoint)
            run("vgen_fast", "evaluate", out, *words, *more)
        found[checkpoint] = json.loads((out / name).read_text())["scores"]
    return found


def cell(scores: dict, name: str, which: str = "value") -> str:
    return f"{scores[name][which]:.3g}" if name in scores and scores[name][which] is not None else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of folders 0 and 1 with film strips")
    parser.add_argument("--out", type=Path, default=Path("runs/shape-motion-all"))
    parser.add_argument("--clips", type=int, default=256, help="of each side that are compared")
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    given = parser.parse_args()
    classifier = given.out / "classifier"
    words = ("--data", given.folder, "--size", 16, 32, 32, "--shrink", "crop", "--outdir", classifier)
    run("vgen_fast.train", "classifier", *words)
    head = ["system", "clips", "CPU minutes", *(f"{name}: untrained, trained" for name in SCORES)]
    rows, strips, real = [], [], {}
    for system in given.only:
        out = given.out / SYSTEMS[system]
        minutes = trained(given.out, given.folder, SYSTEMS[system])
        scores = scored(out, classifier, given.clips)
        real = scores["newest"]
        seen = json.loads((out / "scores.json").read_text())["facts"]["clips_seen"]
        cells = [f"{cell(scores['untrained'], name)}, {cell(scores['newest'], name)}" for name in SCORES.values()]
        rows.append([system, f"{seen:,}", f"{minutes:.1f}", *cells])
        made = out / "shown.npz"
        run("vgen_fast", "generate", out, "--seeds", SEEDS, "--out", made)
        with np.load(made) as file:
            strips.append(write.strip(write.enlarge(file["videos"][:, ::4], 2)))
    rows.append(["real clips", "", "", *(cell(real, name, "real") for name in SCORES.values())])
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"
    (given.out / "table.md").write_text(table)
    write.png(given.out / "strips.png", np.concatenate(strips, axis=1))
    print(table)


if __name__ == "__main__":
    main()
