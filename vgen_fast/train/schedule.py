"""Growing and rates as pure functions of clips seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..models.system import Stage

Recompute = Literal["nothing", "newest", "all"]  # levels whose activations are made again instead of kept


@dataclass(frozen=True)
class Phase:
    """A level of growth, in clips: blended in, then kept stable. The last one lasts as long as the run."""

    level: int
    fade_clips: int
    stable_clips: int
    batch: int
    micro_batch: int
    critic_rate: float
    generator_rate: float
    recompute: Recompute = "nothing"
    halving: int = 0  # stable clips in which the rates halve; 0 is never
    falling: int = 0  # stable clips in which they fall to 0, linearly; 0 is never
    constant: int = 0  # stable clips before they begin to do so
    cosine: int = 0  # clips of half a cosine along which they fall to 0, and rise again; 0 is never
    halved_at: tuple[int, ...] = ()  # stable clips, after each of which they are half as large

    @property
    def clips(self) -> int:
        return self.fade_clips + self.stable_clips


def phase_at(phases: Sequence[Phase], clips_seen: int) -> tuple[Phase, int]:
    """The phase of the step that starts there, and the clips seen when it began."""
    begin = 0
    for phase in phases[:-1]:
        if clips_seen < begin + phase.clips:
            return phase, begin
        begin += phase.clips
    return phases[-1], begin


def stage_at(phases: Sequence[Phase], clips_seen: int) -> Stage:
    """The share of a new level grows from 1 / steps to 1, linearly in the clips seen at the end of each step."""
    phase, begin = phase_at(phases, clips_seen)
    if phase.level == 0 or phase.fade_clips == 0:
        return Stage(phase.level)
    return Stage(phase.level, min((clips_seen - begin + phase.batch) / phase.fade_clips, 1.0))


def rates_at(phases: Sequence[Phase], clips_seen: int) -> tuple[float, float]:
    """The critics' rate and the generator's: exponential, linear or a cosine of the clips since the level is stable and
    its constant clips are over.
    """
    phase, begin = phase_at(phases, clips_seen)
    stable = max(clips_seen - begin - phase.fade_clips - phase.constant, 0)
    factor = 0.5 ** (stable / phase.halving) if phase.halving else 1.0
    factor *= max(1 - stable / phase.falling, 0.0) if phase.falling else 1.0
    factor *= (1 + math.cos(math.pi * stable / phase.cosine)) / 2 if phase.cosine else 1.0
    factor *= 0.5 ** sum(stable >= clips for clips in phase.halved_at)
    return phase.critic_rate * factor, phase.generator_rate * factor


def work(phases: Sequence[Phase], sizes: Sequence[tuple[int, int, int]], clips_seen: int) -> float:
    """About how much has been done by then, in voxels: a large level's clips take longer, a small one's not nothing."""
    total, begin = 0.0, 0
    for phase in phases:
        end = clips_seen if phase is phases[-1] else min(clips_seen, begin + phase.clips)
        if end <= begin:
            break
        total += (end - begin) * (math.prod(sizes[phase.level]) + 3_000)
        begin = end
    return total


def due(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]; 0 is never."""
    return every > 0 and after // every > before // every
