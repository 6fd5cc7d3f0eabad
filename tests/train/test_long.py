"""Kills by the hundred: what a run of a minute cannot show. pytest -m long -s prints the figures."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from vgen_fast.data.journal import whole_lines
from vgen_fast.train import checkpoint
from vgen_fast.train.folder import run_name
from vgen_fast.train.report import show

from .test_ranks import ROOT, digests, two_ranks, workers_of
from .test_run import committed

pytestmark = pytest.mark.long
WIDE = """
import sys
from dataclasses import replace
from tests.train import tiny_recipe
from vgen_fast.config import Every

small = tiny_recipe.tiny()
tiny_recipe.tiny = lambda: small.model_copy(
    update={"system": replace(small.system, latents=8192), "every": Every(tick=8, checkpoint=8)}
)
"""  # 67 MB of state, saved at every step
GO = "sys.exit(tiny_recipe.command())"

# A save that writes where the checkpoint will be: what the harness has to find.
IN_PLACE = """
from vgen_fast.train import checkpoint
honest = checkpoint.save
def in_place(folder, state, facts):
    name, checkpoint.PARTIAL = checkpoint.PARTIAL, ""
    real, checkpoint._set_aside = checkpoint._set_aside, lambda target, run: None
    try:
        return honest(folder, state, facts)
    finally:
        checkpoint.PARTIAL, checkpoint._set_aside = name, real
checkpoint.save = in_place
"""


def in_saving(folder) -> bool:
    events = [e["event"] for e in whole_lines(folder / "events.jsonl") if e["event"].startswith("checkpoint_")]
    return bool(events) and events[-1] == "checkpoint_begin"


def killed(folder, program: str, rng) -> tuple[int, int]:
    """Starts the run, kills it at random, every second time while it saves; damaged and partial checkpoints left."""
    before = len(committed(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--outdir", str(folder), "--clips", "1000000"], cwd=ROOT, text=True,
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    while len(committed(folder)) == before:
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()[1]
    if rng.random() < 0.5:
        while not in_saving(folder):
            time.sleep(0.001)
    time.sleep(rng.random())  # a save takes as long
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    damaged = []
    found = checkpoint.candidates(folder / "checkpoints", run_name(folder), damaged.append)
    assert found[0].clips_seen >= committed(folder)[-1] or damaged
    return len(damaged), len(list((folder / "checkpoints").glob(".partial-*")))


def test_two_hundred_kills_leave_no_damaged_checkpoint(tmp_path):
    rng, damaged, leftovers = random.Random(1), 0, []
    for _ in range(200):
        bad, left = killed(tmp_path / "run", WIDE + GO, rng)
        damaged += bad
        leftovers.append(left)
    segments = {e["segment"] for e in whole_lines(tmp_path / "run/events.jsonl") if e["event"] == "resume"}
    show(f"\n200 kills: {damaged} damaged, at most {max(leftovers)} partial, in {sum(map(bool, leftovers))} of them")
    assert damaged == 0
    assert max(leftovers) <= 1
    assert len(segments) == 199


def test_a_save_in_place_would_be_found(tmp_path):
    rng = random.Random(1)
    damaged = [killed(tmp_path / "run", WIDE + IN_PLACE + GO, rng)[0] for _ in range(10)]
    show(f"\nin place: {sum(map(bool, damaged))} of 10 kills leave damage")
    assert any(damaged)


def test_twenty_killed_ranks_change_no_bit(tmp_path):
    undisturbed, folder, rng = tmp_path / "pair", tmp_path / "run", random.Random(2)
    assert two_ranks(undisturbed, "--clips", 1000).wait() == 0
    process, waits = two_ranks(folder, "--clips", 1000, restarts=60), []
    for _ in range(20):
        seen = len(whole_lines(folder / "stats.jsonl")) + rng.randrange(2, 6)
        while len(whole_lines(folder / "stats.jsonl")) < seen:
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()[0]
        rows = whole_lines(folder / "stats.jsonl")[-1]
        os.kill(rng.choice(workers_of(folder)), signal.SIGKILL)
        began = time.monotonic()
        while not (now := whole_lines(folder / "stats.jsonl")) or now[-1]["segment"] == rows["segment"]:
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()[0]
        waits.append(time.monotonic() - began)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    show(f"\n20 of 20 recovered, {max(waits):.1f} s at most to the next step")
    assert max(waits) <= 15
    assert digests(folder) == digests(undisturbed)
