"""What the figures of a table were measured on."""

import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

from vgen_fast import _C

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def machine() -> dict[str, object]:
    cpu = next(
        (s.split(":")[1].strip() for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s), "?"
    )
    try:
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "?"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"), "commit": commit, "cpu": cpu,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "isa": _C.isa(),
        "huge_pages": os.environ.get(HUGE_PAGES) == "1",
    }  # fmt: skip


def with_huge_pages() -> None:
    """Starts the script again with huge pages, where it was started without: torch reads the variable once."""
    if os.environ.get(HUGE_PAGES) != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, HUGE_PAGES: "1"})


def told(about: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in about.items())
