"""Which clips people keep: a file that only grows, a line for each decision, the last one of a reviewer counting.

    {"id": "film#3", "sha256": "...", "decision": "reject", "reviewer": "ann", "batch": 7, "time": "..."}

A batch is what was decided by one press of Enter; taking it back appends a batch with `undoes`, and what its clips had
before. A line is on the disk before anybody is told that it is. Decisions name clips by their id; one whose digest is
not that of the clip was made about other frames, and does not count on the screen. A build goes by ids alone: what was
rejected at one size stays out at another.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from ..data import journal

Decision = Literal["keep", "reject", "undecided"]


class Busy(RuntimeError):
    """Another screen writes to the file."""


class Decisions:
    """One reviewer's decisions, by clip number, and the file that holds everybody's."""

    def __init__(self, path: Path, ids: list[str], digests: list[str], reviewer: str):
        self.path, self.ids, self.digests, self.reviewer = path, ids, digests, reviewer
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self.file)
            raise Busy(f"another review screen writes to {path}") from error
        self._end_torn_line()
        journal.sync_folder(path.absolute().parent)
        number = {name: clip for clip, name in enumerate(ids)}
        self.everybody: dict[str, dict[int, Decision]] = {reviewer: {}}
        self.others = 0  # decisions about other frames
        self.batches: list[tuple[int, dict[int, Decision]]] = []  # mine that can be taken back: what was decided before
        self.last = 0
        for batch, lines in batches(journal.whole_lines(path)):
            self.last = max(self.last, batch)
            known = [(number.get(line["id"]), line) for line in lines]
            right = {clip: line for clip, line in known if clip is not None and digests[clip] == line["sha256"]}
            self.others += len(lines) - len(right)
            if right:
                decided = {clip: line["decision"] for clip, line in right.items()}
                self._take(lines[0]["reviewer"], batch, decided, lines[0].get("undoes"))

    def _end_torn_line(self) -> None:
        """A line that a kill or a full disk tore is ended, not cut: nothing is ever taken from the file."""
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.write(self.file, b"\n")

    @property
    def mine(self) -> dict[int, Decision]:
        return self.everybody[self.reviewer]

    def _take(self, reviewer: str, batch: int, decided: dict[int, Decision], undoes: int | None) -> None:
        now = self.everybody.setdefault(reviewer, {})
        if reviewer == self.reviewer:
            if undoes is None:
                self.batches.append((batch, {clip: now.get(clip, "undecided") for clip in decided}))
            else:
                self.batches = [(number, before) for number, before in self.batches if number != undoes]
        now.update(decided)

    def add(self, decided: dict[int, Decision], undoes: int | None = None) -> None:
        """On the disk before it returns; OSError, and nothing is decided."""
        batch = self.last + 1
        when = datetime.now().isoformat(timespec="seconds")
        head = {"reviewer": self.reviewer, "batch": batch, "time": when}
        head |= {} if undoes is None else {"undoes": undoes}
        lines = [
            json.dumps({"id": self.ids[clip], "sha256": self.digests[clip], "decision": decision, **head})
            for clip, decision in decided.items()
        ]
        content = "".join(line + "\n" for line in lines).encode()
        length = os.fstat(self.file).st_size
        try:
            if os.write(self.file, content) != len(content):
                raise OSError(28, "the disk is full")
            os.fsync(self.file)
        except OSError:
            os.ftruncate(self.file, length)  # nobody was told of these lines
            raise
        self.last = batch
        self._take(self.reviewer, batch, decided, undoes)

    def undo(self) -> dict[int, Decision]:
        """Takes back my last batch; what its clips have now."""
        if not self.batches:
            return {}
        batch, before = self.batches[-1]
        self.add(before, undoes=batch)
        return before

    def counts(self) -> dict[str, int]:
        found = list(self.mine.values())
        return {"kept": found.count("keep"), "rejected": found.count("reject")}

    def agreement(self) -> dict[str, tuple[int, int]]:
        """For each other reviewer: how many clips both decided, and how many of them alike."""
        found = {}
        for name, theirs in self.everybody.items():
            both = [clip for clip in theirs if "undecided" not in (theirs[clip], self.mine.get(clip, "undecided"))]
            if name != self.reviewer and both:
                found[name] = (len(both), sum(theirs[clip] == self.mine[clip] for clip in both))
        return found

    def close(self) -> None:
        os.close(self.file)


def batches(lines: list[dict]) -> Iterator[tuple[int, list[dict]]]:
    """Lines of one batch after the other; lines that are none of ours are left out."""
    found: dict[tuple[str, int], list[dict]] = {}
    for line in lines:
        if isinstance(line, dict) and {"id", "sha256", "decision", "reviewer", "batch"} <= line.keys():
            found.setdefault((line["reviewer"], line["batch"]), []).append(line)
    for (_, batch), members in found.items():
        yield batch, members


def rejected(path: Path) -> set[str]:
    """Ids of the clips that some reviewer's last decision rejects."""
    latest: dict[tuple[str, str], Decision] = {}
    for _, lines in batches(journal.whole_lines(path)):
        for line in lines:
            latest[line["reviewer"], line["id"]] = line["decision"]
    return {name for (_, name), decision in latest.items() if decision == "reject"}
