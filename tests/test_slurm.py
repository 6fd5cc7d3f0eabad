"""examples/slurm.sbatch under bash, with SLURM's variables and a scontrol that writes down how it is called."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.test_run import committed

SCRIPT = Path(__file__).parents[1] / "examples/slurm.sbatch"


@pytest.fixture
def job(tmp_path):
    """Starts the job in a folder of its own, with two ranks; gives the process."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text('#!/bin/bash\necho "$@; $(tail -qn1 runs/*/events.jsonl)" >> calls\n')
    (programs / "scontrol").chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "vgen", "SLURM_GPUS_ON_NODE": "2", "OMP_NUM_THREADS": "1"}
    started = []

    def start(*options):
        started.append(subprocess.Popen(
            ["bash", str(SCRIPT), "shapes", "--device", "cpu", "--every.tick", "8", *options], cwd=tmp_path,
            env={**os.environ, **slurm, "PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        ))  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


def test_the_signal_saves_then_requeues_once_and_the_next_job_goes_on_and_ends(tmp_path, job):
    first = job()
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs/vgen/stats.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGUSR1)
    said, _ = first.communicate(timeout=60)
    (call,) = calls(tmp_path)
    assert call.startswith("requeue 77; "), said
    assert '"event": "exit", "code": 143' in call  # the run had ended
    seen = committed(tmp_path / "runs/vgen")
    assert len(seen) == 1
    second = job("--clips", str(seen[0] + 16))
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert committed(tmp_path / "runs/vgen") == [seen[0], seen[0] + 16]
    assert len(calls(tmp_path)) == 1  # a job that is done is not put back
