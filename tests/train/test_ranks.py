"""Two Gloo ranks: the numbers of one, a killed rank, a rank that left out a step."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vgen_fast.data import write
from vgen_fast.data.journal import whole_lines
from vgen_fast.options import Refused
from vgen_fast.train import checkpoint, distributed
from vgen_fast.train.__main__ import shared
from vgen_fast.train.distributed import PeerLost, Ranks, group_name
from vgen_fast.train.run import BAD_DATA

from .test_run import TINY, digests, newest, run

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def two_ranks(folder, *options, restarts=0):
    command = [*TORCHRUN, "--max-restarts", str(restarts), str(TINY), "--outdir", str(folder), *map(str, options)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair") / "run"
    process = two_ranks(folder, "--clips", 96)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return folder


def test_two_ranks_give_the_numbers_of_one_to_rounding(tmp_path):
    # Few steps: Adam without momentum makes a whole step of a gradient that is rounding alone.
    assert run(tmp_path / "one", "--clips", 24).returncode == 0
    process = two_ranks(tmp_path / "two", "--clips", 24)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    one, two = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert one.clips_seen == two.clips_seen == 24
    assert (one.manifest["ranks"], two.manifest["ranks"]) == (1, 2)
    for name in ("generator.safetensors", "video.safetensors", "average.safetensors"):
        a, b = load_file(one.path / name), load_file(two.path / name)
        for key, value in a.items():
            torch.testing.assert_close(b[key], value, rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    rows = [whole_lines(tmp_path / name / "stats.jsonl") for name in ("one", "two")]
    assert [row["clips_seen"] for row in rows[1]] == [8, 16, 24]
    for x, y in zip(*rows, strict=True):
        for name, value in x["losses"].items():
            assert y["losses"][name] == pytest.approx(value, rel=1e-3, abs=1e-3), (name, x["clips_seen"])


def test_a_killed_rank_is_restarted_and_changes_no_bit(tmp_path, pair):
    folder = tmp_path / "run"
    process = two_ranks(folder, "--clips", 96, restarts=5)
    while len(whole_lines(folder / "stats.jsonl")) < 5:
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()[0]
    os.kill(workers_of(folder)[-1], signal.SIGKILL)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert digests(folder) == digests(pair)
    assert not workers_of(folder)


def workers_of(folder):
    """The ranks, oldest first; not torchrun."""
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found if "torch.distributed.run" not in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_rank_that_hangs_is_lost_after_the_timeout_and_the_other_says_where(tmp_path):
    folder = tmp_path / "run"
    process = two_ranks(folder, "--clips", 4000, "--timeout", 4)
    while len(whole_lines(folder / "stats.jsonl")) < 3:
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()[0]
    hung = next(pid for pid in workers_of(folder) if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(hung, signal.SIGSTOP)
    began = time.monotonic()
    while not (folder / "lost-by-rank-0.txt").exists():
        time.sleep(0.05)
        assert time.monotonic() - began < 4 + 2
    where, calls = (folder / "lost-by-rank-0.txt").read_text().split("\nits newest collectives:\n")
    assert "vgen_fast/train/run.py" in where  # where it waited
    *done, last = calls.splitlines()
    assert len(done) == 9
    assert all(
        re.fullmatch(r"[\d:.]{15} (all_reduce of \[\d+\]|broadcast_object_list): \d+\.\d{3} s", call) for call in done
    )
    assert last.endswith(": not done")
    assert "rank_lost" in {event["event"] for event in whole_lines(folder / "events.jsonl")}
    os.kill(hung, signal.SIGCONT)
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert not workers_of(folder)


def test_a_restarted_group_never_takes_the_name_of_the_dead_one():
    store, minute = torch.distributed.HashStore(), timedelta(minutes=1)
    names = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):  # the first rank, whose name counts, starts early or late
        with ThreadPoolExecutor(3) as pool:
            tasks = []
            for rank in order:
                tasks.append(pool.submit(group_name, store, rank, 3, minute))
                time.sleep(0.1)
            found = {task.result() for task in tasks}
        assert len(found) == 1
        names += found
    assert len(set(names)) == 3
    with pytest.raises(PeerLost, match="rank 1 waited"):
        group_name(store, 1, 3, timedelta(seconds=0.2))


SKIPPING = """
import sys, torch
from vgen_fast.train.distributed import PeerLost, Ranks
ranks = Ranks()
gradients = [torch.ones(3), torch.full((2, 2), float(ranks.rank))]
ranks.total(gradients)
assert gradients[0].tolist() == [2, 2, 2] and gradients[1].tolist() == [[1, 1], [1, 1]], gradients
assert ranks.largest(ranks.rank) == 1 and ranks.from_first(ranks.rank) == 0
if ranks.rank == 1:
    ranks.reductions += 1  # as if it had left one out
try:
    ranks.total(gradients)
except PeerLost as error:
    print("noticed:", error, flush=True)
"""


def test_a_rank_that_left_out_a_step_is_noticed_by_all(tmp_path):
    script = tmp_path / "skipping.py"
    script.write_text(SKIPPING)
    done = subprocess.run([*TORCHRUN, str(script)], capture_output=True, text=True, timeout=100)
    assert done.stdout.count("a step was left out") == 2, done.stdout + done.stderr


@pytest.mark.parametrize("size", [2, 24, 500, 4_000])
def test_many_ranks_that_are_at_one_step_are_not_told_apart(size, monkeypatch):
    """Added up in float32, in any order."""
    ranks, order = Ranks(), torch.Generator().manual_seed(0)

    def added(flat):
        marks = flat[-2:].repeat(size, 1)[torch.randperm(size, generator=order)]
        flat[-2:] = sum(part.sum(dim=0) for part in marks.split(7))

    monkeypatch.setattr(distributed.dist, "all_reduce", added)
    ranks.size = size
    for _ in range(130):
        ranks.total([torch.zeros(3)])
    another = lambda flat: added(flat) or flat[-2:].add_(1.0)  # noqa: E731
    monkeypatch.setattr(distributed.dist, "all_reduce", another)
    with pytest.raises(PeerLost, match="is at reduction 131, another is not"):
        ranks.total([torch.zeros(3)])


DRIFT = """
import os, sys
import torch
sys.path.insert(0, {root!r})
from tests.train import tiny_recipe
from vgen_fast.train import run

real = run.step
def step(state, *given):
    losses = real(state, *given)
    if os.environ["RANK"] == "1" and state.clips_seen == 16:
        weight = state.system.critics[0].module.state_dict()[{name!r}].view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    return losses
run.step, run.AGREE = step, 2
sys.exit(tiny_recipe.command())
"""


def test_a_rank_whose_weights_drift_by_one_bit_is_noticed(tmp_path):
    (tmp_path / "drift.py").write_text(DRIFT.format(root=str(ROOT), name="head.weight"))
    command = [*TORCHRUN, str(tmp_path / "drift.py"), "--outdir", str(tmp_path / "run"), "--clips", "96"]
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=one_core)
    assert done.returncode != 0
    assert re.search(r"[1-9]\d* tensors are not those of another rank, the first is video/", done.stderr), done.stderr
    (lost,) = [e for e in whole_lines(tmp_path / "run" / "events.jsonl") if e["event"] == "rank_lost"]
    assert "tensors are not those" in lost["reason"]


def test_what_looks_at_the_whole_batch_is_refused_on_several_ranks():
    shared((), 1, True, 1)
    shared((), 1, False, 2)
    with pytest.raises(Refused, match="look at the whole batch: not on 2 ranks"):
        shared((), 1, True, 2)


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path):
    process = two_ranks(tmp_path / "run", "--batch", 4)
    said, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "cannot be shared by 2 ranks" in said
    assert not (tmp_path / "run").exists()


def test_too_much_bad_data_on_one_rank_stops_all(tmp_path):
    for index in range(20):
        path = tmp_path / "data" / str(index % 2) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"torn")
        if index > 1:
            write.png(path, np.full((32, 32 * 16, 3), index, np.uint8))
    command = [*TORCHRUN, "-m", "vgen_fast.train", "shape-motion", "--data", str(tmp_path / "data")]
    done = subprocess.run(
        [*command, "--outdir", str(tmp_path / "run"), "--clips", "80"], capture_output=True, text=True, timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    *_, cause = re.findall(r"exitcode  : (-?\d+)", done.stderr)  # what failed first is what torchrun names last
    assert int(cause) == BAD_DATA, done.stderr
    assert "lost another rank" in done.stderr
    assert "2 of 20 files are bad: " in done.stderr


def test_candidates_are_told_by_the_first_rank_alone(pair):
    assert len(checkpoint.candidates(pair / "checkpoints", newest(pair).manifest["run"], pytest.fail)) == 3
