"""Which networks may step, by the critics' loss over the generator's adversarial one (STGAN, eq. 4.9).

Critics that are far ahead rest, and so does the generator where it is. Losses that are not finite veto nothing: a step
sees them.
"""

import math

from .loop import Gate

LOW, HIGH = 0.1, 10.0
AGAIN = 0.5  # of the images' authors: critics that rest go on only above it


def balanced(weight: float, again: float = LOW) -> Gate:
    """`weight`: of the critics in the generator's loss."""

    def gate(losses: dict[str, float], before: tuple[bool, bool]) -> tuple[bool, bool]:
        critics = sum(value for name, value in losses.items() if name.endswith("/loss"))
        ratio = critics / max(losses["generator/adversarial"] / weight, 1e-12)
        if not math.isfinite(ratio):
            return True, True
        return ratio >= (LOW if before[0] else again), ratio <= HIGH

    return gate
