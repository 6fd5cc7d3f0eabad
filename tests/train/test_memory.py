"""What a step will hold is foretold from shapes, and the least that has to be computed again is found from it."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from vgen_fast.models import progressive
from vgen_fast.models.progressive import Config, Row
from vgen_fast.train import loop
from vgen_fast.train.memory import Live, OverBudget, fitting, foretold
from vgen_fast.train.objectives import OBJECTIVES

from .tiny import phase

ROWS = (Row(32, 4, 4), Row(16, 2, 2), Row(8, 1, 2), Row(2, 1, 2))  # levels of about the same size
LAST = replace(phase(3, batch=8), fade_clips=32)


def build():
    torch.manual_seed(0)
    cfg = Config(rows=ROWS, latents=8, features=8, classes=(5,))
    return progressive.build(cfg), loop.Training((), {"video": OBJECTIVES["wgan_gp"]})


def test_live_counts_storages_once_and_forgets_what_is_gone():
    with Live() as live:
        a = torch.zeros(100)
        b = a[:50]  # the same memory
        c = torch.ones(25)
        del c
        d = torch.ones(10)
    assert (live.now, live.most) == (440, 500)
    del a
    assert live.now == 440
    del b, d
    assert live.now == 0


@pytest.mark.parametrize(
    ("recompute", "micro_batch"), [("nothing", 8), ("newest", 8), ("all", 8), ("nothing", 2), ("all", 1)]
)
def test_what_is_foretold_is_what_a_step_holds(recompute, micro_batch):
    one = replace(LAST, recompute=recompute, micro_batch=micro_batch)
    with Live() as live:
        system, training = build()
        training = replace(training, phases=(one,))
        state = loop.start(system, training)
        video = torch.zeros(8, 3, 8, 32, 32, dtype=torch.uint8)
        labels = torch.zeros(8, 1, dtype=torch.long)
        batches = lambda positions, size: (video[: len(positions)], labels[: len(positions)])  # noqa: E731
        for _ in range(2):  # the first one makes Adam's moments after its height
            loop.step(state, training, batches, lambda gradients: None)
    assert foretold(build, one, 1) == pytest.approx(live.most, rel=0.03)


def test_recomputing_and_smaller_micro_batches_need_less():
    needs = [foretold(build, replace(LAST, recompute=passes), 1) for passes in ("nothing", "newest", "all")]
    assert needs[2] < needs[1] < 0.9 * needs[0]
    assert foretold(build, replace(LAST, micro_batch=4), 1) < 0.7 * needs[0]


def test_no_more_is_computed_again_than_the_budget_asks_for():
    nothing, newest, everything = (foretold(build, replace(LAST, recompute=r), 1) for r in ("nothing", "newest", "all"))
    assert fitting(build, LAST, 1, nothing).recompute == "nothing"
    assert fitting(build, LAST, 1, nothing - 1).recompute == "newest"
    assert fitting(build, LAST, 1, newest - 1).recompute == "all"
    with pytest.raises(OverBudget) as caught:
        fitting(build, LAST, 1, everything - 1)
    assert caught.value.bytes == everything


SCATTERED = """
import torch
from vgen_fast.train.memory import give_back
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4 // 1024
blocks = [torch.ones(1 << 16) for _ in range(800)]  # 200 MiB, each too small for a mapping of its own
before = resident()
del blocks[::2], blocks[:-1:2]
kept = resident()
give_back()
print(before, kept, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_freed_memory_goes_back_to_the_system():
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}
    done = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, text=True, env=environment)
    before, kept, left = map(int, done.stdout.split())
    assert kept > before - 100  # it does not by itself
    assert left < before - 100
