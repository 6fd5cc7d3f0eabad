"""A score with what it was measured under: numbers of different protocols are not compared.

A protocol is a line of facts, the same for the same measurement and for no other: formula, network and digest of its
weights, number of clips, their size, where the reals come from, seed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
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
    values: tuple[float, ...] = ()  # those it is the mean of: splits, seeds or the frames of a rollout
    deviation: float | None = None  # of these, where they are repetitions
    invalid: str | None = None  # why there is no number

    @property
    def amount(self) -> float:
        """The less of it the better."""
        return {"low": self.value, "high": -self.value, "near": abs(self.value - self.real)}[self.better]


def over_seeds(scores: Sequence[Score]) -> Score:
    """The same measurement of several draws of samples; the interval is that of one of them, on the mean."""
    if len(scores) == 1 or (bad := next((score for score in scores if score.invalid), None)):
        return scores[0] if len(scores) == 1 else bad
    values = tuple(score.value for score in scores)
    low, high, real = (fmean(getattr(score, name) for score in scores) for name in ("low", "high", "real"))
    return replace(scores[0], value=fmean(values), low=low, high=high, real=real, values=values,
                   deviation=pstdev(values), protocol=f"{scores[0].protocol}, {len(scores)} times")  # fmt: skip


NUMBERS = ("value", "low", "high", "real")


def write(path: Path, scores: Mapping[str, Score], facts: dict) -> None:
    path.write_text(json.dumps({"facts": facts, "scores": to_json(scores)}, indent=1, allow_nan=False) + "\n")


def to_json(scores: Mapping[str, Score]) -> dict[str, dict]:
    """What is no number is null: JSON has no NaN."""
    entries = {name: asdict(score) for name, score in scores.items()}
    for entry in entries.values():
        entry.update({key: None for key in NUMBERS if not math.isfinite(entry[key])})
    return entries


def read(path: Path) -> dict[str, Score]:
    try:
        entries = json.loads(path.read_bytes())["scores"]
        for entry in entries.values():
            entry.update({key: math.nan for key in NUMBERS if entry[key] is None})
            entry["values"] = tuple(entry["values"])
        return {name: Score(**entry) for name, entry in entries.items()}
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
