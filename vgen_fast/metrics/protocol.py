"""A score with what it was measured under: numbers of different protocols are not compared.

A protocol is a line of facts, the same for the same measurement and for no other: formula, network and digest of its
weights, number of clips, their size, where the reals come from, seed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Better = Literal["low", "high", "near"]  # near to that of the reals


class Incomparable(ValueError):
    """Scores of different protocols, or none."""


@dataclass(frozen=True)
class Score:
    value: float
    low: float  # the 95% interval
    high: float
    real: float  # the same measurement of reals, against other reals where it takes two sets
    better: Better
    protocol: str


def write(path: Path, scores: Mapping[str, Score], facts: dict) -> None:
    content = {"facts": facts, "scores": {name: asdict(score) for name, score in scores.items()}}
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> dict[str, Score]:
    try:
        return {name: Score(**entry) for name, entry in json.loads(path.read_bytes())["scores"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Incomparable(f"{path} holds no scores: {error}") from error


def compared(a: Mapping[str, Score], b: Mapping[str, Score]) -> dict[str, tuple[Score, Score]]:
    """The scores that both have. Refused where one was measured in two ways; all of these are told at once."""
    shared = [name for name in a if name in b]
    if not shared:
        raise Incomparable("they have no score in common")
    different = [name for name in shared if a[name].protocol != b[name].protocol]
    if different:
        told = "; ".join(f"{name}: {a[name].protocol} against {b[name].protocol}" for name in different)
        raise Incomparable(f"measured in different ways: {told}")
    return {name: (a[name], b[name]) for name in shared}
