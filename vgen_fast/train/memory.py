"""How much memory a step takes, measured or foretold from shapes, and what to compute again to stay in a budget."""

import ctypes
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.system import System
from .loop import State, Training, begin, networks, only
from .schedule import Phase, Recompute


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


def give_back() -> None:
    """Returns freed memory to the system. glibc keeps it, in pieces that the next large aligned tensor does not fit
    into: without this a CPU run grows by half a megabyte a step, three times what it uses after some thousand.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim:
        trim(0)


class OverBudget(ValueError):
    """A step needs at least `bytes`."""

    def __init__(self, need: int):
        super().__init__(f"a step needs {need} bytes")
        self.bytes = need


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors made inside that are alive, and the most there have been at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def foretold(build: Callable[[], tuple[System, Training]], phase: Phase, num_labels: int) -> int:
    """Bytes that training holds at the height of a step of this phase: weights, Adam's moments, the averaged copy, and
    all that the step makes on its way. From shapes alone, nothing is computed; the work space of kernels (some tens of
    MB) is not in it.
    """

    def batches(positions: Tensor, size: tuple[int, int, int]) -> tuple[Tensor, Tensor | None]:
        labels = torch.zeros(len(positions), num_labels, dtype=torch.long) if num_labels else None
        return torch.zeros(len(positions), 3, *size, dtype=torch.uint8), labels

    with FakeTensorMode(), Live() as live:
        system, training = build()
        training = replace(training, phases=(phase,))
        state = State(system, system.generator, {}, steps=dict.fromkeys(networks(system), 0))
        step = begin(state, training, batches, lambda gradients: None)
        step.rows = step.rows[:2]  # the second has all that later ones have: gradients of one before it
        step.load()
        kept = sum(p.untyped_storage().nbytes() for p in system.generator.parameters())  # of the averaged copy
        critics = [critic.module for critic in system.critics]
        for modules, run in (critics, partial(step.critics, 0)), ([system.generator], step.generator):
            with only(system, *modules):
                run()
            for parameter in chain.from_iterable(module.parameters() for module in modules):
                if parameter.grad is not None:
                    kept += 2 * parameter.grad.untyped_storage().nbytes()
                    parameter.grad = None
    return live.most + kept


def fitting(build: Callable[[], tuple[System, Training]], phase: Phase, num_labels: int, budget: int) -> Phase:
    """The phase with as little computed again as the budget, in bytes, allows; OverBudget if even all is too little."""
    for recompute in get_args(Recompute):
        phase = replace(phase, recompute=recompute)
        if (need := foretold(build, phase, num_labels)) <= budget:
            return phase
    raise OverBudget(need)
