"""Statistics in TensorBoard's event files, read back by its own reader; Weights & Biases offline where it is there."""

import os
import subprocess
import sys

import pytest

from vgen_fast.data.journal import whole_lines
from vgen_fast.train import sinks

from .test_run import command, run


def test_tensorboard_reads_what_the_run_wrote_and_nothing_twice_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    for clips in (48, 96):
        done = run(folder, "--log", "tensorboard", "--clips", clips)
        assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rows = whole_lines(folder / "stats.jsonl")
    for name in ("video/loss", "generator/loss"):
        found = [(scalar.step, scalar.value) for scalar in events.Scalars(name)]
        assert found == [(row["clips_seen"], pytest.approx(row["losses"][name], rel=1e-6)) for row in rows]
    assert "clips_per_second" in events.Tags()["scalars"]


def test_rows_that_a_resume_does_again_replace_those_there(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, loss in ((0, 1.0), (3, 2.0)):  # a run of five rows, killed, that goes on from the third
        sink = sinks.tensorboard(tmp_path, "r")
        for clips in range(start, 5):
            sink({"clips_seen": clips, "losses": {"loss": loss}, "clips_per_second": 1.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(s.step, s.value) for s in events.Scalars("loss")] == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)]


def test_wandb_keeps_an_offline_run_in_the_folder(tmp_path):
    pytest.importorskip("wandb")
    folder = tmp_path / "run"
    offline = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run(
        command(folder, "--log", "wandb", "--clips", 48), env=offline, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert list((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_sink_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(sinks.Missing, match=r"wandb is not installed: pip install 'vgen_fast\[wandb\]'"):
        sinks.wandb(tmp_path, "r")
