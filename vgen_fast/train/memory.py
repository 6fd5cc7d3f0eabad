"""How much memory a call takes at its height, and giving some of it for time."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..layers.segment import Segment
from ..models.system import System
from .loop import networks


def peak_megabytes(run: Callable[[], object]) -> float:
    """Growth over one call: of the resident set, from the kernel's high-water mark, or of what CUDA has given out."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        run()
        return math.nan
    status = lambda key: next(  # noqa: E731
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)
    )
    before = status("VmRSS")
    run()
    return max(status("VmHWM") - before, 0) / 1024


def recompute(system: System, on: bool) -> None:
    """Whether the blocks of every network keep their activations between the passes or make them again."""
    for module in networks(system).values():
        for part in module.modules():
            if isinstance(part, Segment):
                part.recompute = on
