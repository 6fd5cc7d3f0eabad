"""Every launcher against the reference without a GPU, in a process of its own: Triton reads TRITON_INTERPRET once."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

LAUNCHERS = Path(__file__).parent / "launchers"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the launchers' tests run compiled, on the GPU")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is interpreted already")
def test_launchers_match_the_reference_when_interpreted():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(LAUNCHERS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout, done.stdout[-1000:]
