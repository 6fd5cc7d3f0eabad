"""Every launcher against the reference without a GPU, in a process of its own: Triton reads TRITON_INTERPRET once."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

PATHS = sorted((Path(__file__).parent / "launchers").glob("test_*.py"))


@pytest.fixture(scope="module")
def interpreted():
    """path -> what a process said that ran its tests, two at a time and the longest first."""

    def run(path: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(path)]
        environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    with ThreadPoolExecutor(2) as threads:
        return {path: threads.submit(run, path) for path in sorted(PATHS, key=lambda path: -path.stat().st_size)}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the launchers' tests run compiled, on the GPU")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is interpreted already")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_launchers_match_the_reference_when_interpreted(path, interpreted):
    done = interpreted[path].result()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout, done.stdout[-1000:]
