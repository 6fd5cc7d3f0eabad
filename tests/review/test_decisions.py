"""The file of decisions: it only grows, and what was acknowledged is in it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from vgen_fast.review.decisions import Busy, Decisions, rejected

IDS = [f"clip {i}" for i in range(10)]
DIGESTS = [f"{i:064x}" for i in range(10)]


def opened(path, reviewer="me", digests=DIGESTS):
    return Decisions(path, IDS, digests, reviewer)


def test_decisions_are_there_again(tmp_path):
    path = tmp_path / "d.jsonl"
    one = opened(path)
    one.add({0: "reject", 1: "keep"})
    one.add({1: "reject", 2: "keep"})
    assert one.counts() == {"kept": 1, "rejected": 2}
    with pytest.raises(Busy, match="another review screen"):
        opened(path)
    one.close()
    again = opened(path)
    assert again.mine == {0: "reject", 1: "reject", 2: "keep"}
    line = json.loads(path.read_text().splitlines()[0])
    assert {
        "id": "clip 0",
        "sha256": DIGESTS[0],
        "decision": "reject",
        "reviewer": "me",
        "batch": 1,
    }.items() <= line.items()
    assert rejected(path) == {"clip 0", "clip 1"}


def test_undo_goes_back_batch_by_batch_even_after_a_restart(tmp_path):
    path = tmp_path / "d.jsonl"
    one = opened(path)
    one.add({0: "keep", 1: "reject"})
    one.add({1: "keep", 2: "reject"})
    one.close()
    one = opened(path)
    assert one.undo() == {1: "reject", 2: "undecided"}
    assert one.counts() == {"kept": 1, "rejected": 1}
    one.add({3: "keep"})
    one.close()
    one = opened(path)
    assert [one.undo(), one.undo(), one.undo()] == [{3: "undecided"}, {0: "undecided", 1: "undecided"}, {}]
    assert one.counts() == {"kept": 0, "rejected": 0}
    assert rejected(path) == set()


def test_two_reviewers_and_how_often_they_agree(tmp_path):
    path = tmp_path / "d.jsonl"
    ann = opened(path, "ann")
    ann.add({0: "reject", 1: "keep", 2: "keep", 3: "keep"})
    ann.close()
    ben = opened(path, "ben")
    assert ben.mine == {}
    ben.add({0: "reject", 1: "reject", 2: "keep", 5: "keep"})
    assert ben.agreement() == {"ann": (3, 2)}
    assert rejected(path) == {"clip 0", "clip 1"}  # by anybody
    ben.undo()
    assert rejected(path) == {"clip 0"}


def test_decisions_about_other_frames_do_not_count(tmp_path):
    path = tmp_path / "d.jsonl"
    one = opened(path)
    one.add({0: "reject", 1: "reject"})
    one.close()
    again = opened(path, digests=["f" * 64, *DIGESTS[1:]])
    assert again.mine == {1: "reject"}
    assert again.others == 1
    again.add({0: "keep"})
    assert rejected(path) == {"clip 1"}  # the last word on a clip, whatever its frames were before


@pytest.mark.parametrize("torn", [b'{"id": "clip 3", "sha', b"\xff\xfe", b'{"id": 3}\n[]\n{"id": "clip 9"'])
def test_a_torn_or_foreign_line_costs_no_other(tmp_path, torn):
    path = tmp_path / "d.jsonl"
    one = opened(path)
    one.add({0: "reject"})
    one.close()
    before = path.read_bytes()
    path.write_bytes(before + torn)
    one = opened(path)
    one.add({1: "keep"})
    one.close()
    assert path.read_bytes().startswith(before + torn)  # nothing is taken away
    assert opened(path).mine == {0: "reject", 1: "keep"}


def test_a_full_disk_decides_nothing(tmp_path):
    path = tmp_path / "d.jsonl"
    one = opened(path)
    one.add({0: "reject"})
    before = path.read_bytes()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limit[1]))
    try:
        with pytest.raises(OSError, match=r"disk is full|too large"):
            one.add({1: "reject", 2: "reject"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert one.mine == {0: "reject"}
    one.add({2: "keep"})
    assert len(path.read_bytes().splitlines()) == 2


WRITER = """
import sys
from vgen_fast.review.decisions import Decisions
one = Decisions(__import__("pathlib").Path(sys.argv[1]), [str(i) for i in range(10**6)], ["0"] * 10**6, "me")
for i in range(10**6):
    one.add({i: "reject", 10**6 - 1 - i: "keep"})
    print(i, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    """Mutant: a writer that buffers (a file opened by `open` and not flushed) loses all of them."""
    path = tmp_path / "d.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=os.environ)
    for _ in range(30):
        process.stdout.readline()
    time.sleep(0.05)
    process.kill()
    last = [int(word) for word in process.stdout.read().split()][-1:] or [29]
    process.wait()
    one = Decisions(path, [str(i) for i in range(10**6)], ["0"] * 10**6, "me")
    assert all(one.mine[i] == "reject" and one.mine[10**6 - 1 - i] == "keep" for i in range(last[0] + 1))
