"""`verify`: every byte of a run's checkpoints, against their manifests."""

import argparse
import json
from pathlib import Path

from .sample import recorded
from .train import checkpoint, report
from .train.folder import run_name
from .train.run import DONE, NOTHING_VALID

DAMAGE = 1
EXAMPLES = f"""exit codes: {DONE} all are whole, {DAMAGE} some are, {NOTHING_VALID} none is

examples:
  python -m vgen_fast verify runs/shapes
  python -m vgen_fast verify runs/shapes --json"""


def verify(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vgen_fast verify",
        description="Checks every byte of a run's checkpoints, and tells where it would go on.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    given = parser.parse_args(words)
    config, name, damaged = recorded(given.run), run_name(given.run), []
    whole = checkpoint.candidates(given.run / "checkpoints", name, damaged.append)
    newest, best = (whole[0], checkpoint.best(whole, config.scores.best)) if whole else (None, None)
    if given.json:
        clips = lambda found: found and found.clips_seen  # noqa: E731
        rows = [{"path": str(w.path), "clips_seen": w.clips_seen, "bytes": size(w)} for w in whole]
        told = {"whole": rows, "damaged": damaged, "goes_on_from": clips(newest), "best": clips(best)}
        report.show(json.dumps({"run": name, **told}))
    else:
        for found in whole:
            marks = "".join(
                text for text, one in ((", the run goes on here", newest), (", best", best)) if found == one
            )
            report.show(f"{found.path}  {found.clips_seen:>10,} clips  {size(found) / 1e6:8.1f} MB  whole{marks}")
        for reason in damaged:
            report.show(f"damaged: {reason}")
        if not whole:
            report.show(f"{given.run} holds no whole checkpoint")
    return NOTHING_VALID if not whole else DAMAGE if damaged else DONE


def size(found: checkpoint.Checkpoint) -> int:
    return sum(entry["size"] for entry in found.manifest["files"].values())
