"""The run folder: one writer at a time, an event log, statistics that join up after a resume, the machine."""

import fcntl
import json
import os
import platform
import secrets
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from ..data.journal import cut_torn_line, replace_durably, whole_lines, write_whole
from .sinks import Sink

UNREADABLE = (OSError, ValueError, KeyError, TypeError)  # what reading a record of JSON may end in


class InUse(RuntimeError):
    """Another process writes into the folder."""


class Folder:
    """`path` and what the loop writes there: config.yaml, command.txt, env.json, stats.jsonl, scores.jsonl,
    events.jsonl, samples/, checkpoints/, report.html."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints, self.samples = path / "checkpoints", path / "samples"
        for folder in (path, self.checkpoints, self.samples):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process ends
        except OSError as error:
            os.close(self._lock)
            raise InUse(f"another process is training in {path}") from error
        cut_torn_line(path / "events.jsonl")
        cut_torn_line(path / "stats.jsonl")
        cut_torn_line(path / "scores.jsonl")
        self.run, self.segment = self._identify()
        self.sinks: list[Sink] = []
        self._events = os.open(path / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def close(self) -> None:
        os.close(self._events)
        os.close(self._lock)

    def _identify(self) -> tuple[str, int]:
        """This run's name, drawn once, and the number of this start of it."""
        path = self.path / "env.json"
        record = recorded_starts(self.path)
        record["starts"].append(environment())
        replace_durably(path, json.dumps(record, indent=1).encode() + b"\n")
        return record["run"], len(record["starts"])

    def event(self, name: str, *, sync: bool = False, **facts: object) -> None:
        record = {"time": round(time.time(), 3), "segment": self.segment, "event": name, **facts}
        os.write(self._events, (json.dumps(record) + "\n").encode())
        if sync:
            os.fsync(self._events)

    def stats(self, row: dict) -> None:
        with open(self.path / "stats.jsonl", "ab", buffering=0) as file:
            file.write((json.dumps({"segment": self.segment, **row}) + "\n").encode())
        for sink in self.sinks:
            sink(row)

    def scores(self, clips_seen: int, scores: dict[str, dict]) -> None:
        row = {"segment": self.segment, "clips_seen": clips_seen, "scores": scores}
        with open(self.path / "scores.jsonl", "ab", buffering=0) as file:
            file.write((json.dumps(row, allow_nan=False) + "\n").encode())
        for sink in self.sinks:
            sink(row)

    def forget_after(self, clips_seen: int) -> None:
        """Drops statistics and scores of steps that a resume will do again."""
        for path in (self.path / "stats.jsonl", self.path / "scores.jsonl"):
            rows = whole_lines(path)
            kept = [row for row in rows if row["clips_seen"] <= clips_seen]
            if len(kept) < len(rows):
                write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))


def recorded_starts(path: Path) -> dict:
    """What env.json of a run folder says; where it is lost, the name that the newest checkpoint has, or a new one."""
    try:
        record = json.loads((path / "env.json").read_bytes())
        return {"run": str(record["run"]), "starts": list(record["starts"])}
    except UNREADABLE:
        return {"run": name_in_checkpoints(path) or secrets.token_hex(8), "starts": []}


def name_in_checkpoints(path: Path) -> str | None:
    for manifest in sorted(path.glob("checkpoints/[0-9]*/manifest.json"), reverse=True):
        try:
            return str(json.loads(manifest.read_bytes())["run"])
        except UNREADABLE:
            continue  # a damaged one, of which the run will tell
    return None


def run_name(path: Path) -> str:
    """The name drawn for the run in a folder."""
    return recorded_starts(path)["run"]


def environment() -> dict:
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "host": platform.node(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "huge_pages": os.environ.get("THP_MEM_ALLOC_ENABLE") == "1",
    }
