"""The order of system calls in a save: what a power cut between any two of them could leave behind.

Legend: a file is durable once it was synced after its last write; a name, once the folder that holds it was synced.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

SAVE = """
import os, sys
from pathlib import Path
from tests.train.tiny import make, take
from vgen_fast.train import checkpoint
state, training = make()
take(state, training)
MUTANT
checkpoint.save(Path(sys.argv[1]), state, {"run": "r1", "threads": 2})
"""
MUTANTS = {
    "no sync at all": "os.fsync = lambda descriptor: None",
    "the folder of the checkpoint is not synced": "checkpoint.sync_folder = lambda path: None",
    "renamed before the manifest is there": """
honest = checkpoint.write_durably
def early(path, content):
    if path.name == "manifest.json":
        os.rename(path.parent, path.parent.with_name(path.parent.name.removeprefix(".partial-")))
        path = path.parent.with_name(path.parent.name.removeprefix(".partial-")) / path.name
    honest(path, content)
checkpoint.write_durably = early
checkpoint.sync_folder = checkpoint.read = lambda path: checkpoint.Checkpoint(path, {})
os.rename, rename = lambda a, b: Path(a).exists() and rename(a, b), os.rename
""",
}


def calls(tmp_path, mutant=""):
    """(name, arguments, result) of the calls that concern the folder, in order."""
    folder, log = tmp_path / "checkpoints", tmp_path / "log"
    root = Path(__file__).resolve().parents[2]
    traced = "openat,write,fsync,fdatasync,close,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat"
    subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-s", "0", "-o", log, "-e", f"trace={traced}", sys.executable, "-c",
         SAVE.replace("MUTANT", mutant), folder], cwd=root, check=mutant == "", timeout=120,
    )  # fmt: skip
    found = re.findall(r"^\d+ +(\w+)\((.*)\) += (-?\d+)", log.read_text(), flags=re.MULTILINE)
    return folder, [(name, arguments, int(result)) for name, arguments, result in found if int(result) >= 0]


def faults(folder, traced) -> list[str]:
    found, opened, dirty, unsynced, committed = [], {}, set(), set(), None
    for name, arguments, result in traced:
        paths = [Path(p) for p in re.findall(r'"([^"]*)"', arguments)]
        inside = [p for p in paths if p.is_relative_to(folder)]
        descriptor = int(arguments.split(",")[0]) if arguments.split(",")[0].isdigit() else None
        if name == "openat" and inside:
            opened[result] = inside[0]
            if "O_CREAT" in arguments:
                dirty.add(inside[0])
                unsynced.add(inside[0].parent)
        elif name == "write" and descriptor in opened:
            dirty.add(opened[descriptor])
        elif name in ("fsync", "fdatasync") and descriptor in opened:
            dirty.discard(opened[descriptor])
            unsynced.discard(opened[descriptor])
        elif name == "close":
            opened.pop(descriptor, None)
        elif name.startswith("rename") and len(inside) == 2:
            old, new = inside
            found += [f"{p} is renamed before it is synced" for p in dirty if p.is_relative_to(old)]
            found += [f"the names in {p} are not synced before the rename" for p in unsynced if p.is_relative_to(old)]
            unsynced.add(new.parent)
            committed = new
        elif name.startswith("unlink") and inside:
            found.append(f"{inside[0]} is removed")
    if committed is None:
        return [*found, "nothing is committed"]
    written_after = [p for p in dirty | unsynced if p.is_relative_to(committed) or p == committed.parent]
    return found + [f"{p} is not synced at the end" for p in written_after]


def test_every_byte_and_every_name_is_on_the_disk_before_the_next_depends_on_it(tmp_path):
    folder, traced = calls(tmp_path)
    assert faults(folder, traced) == []
    assert sum(name == "fsync" for name, *_ in traced) >= 6  # four files of tensors and moments, manifest, folders


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_save_in_the_wrong_order_is_seen(tmp_path, mutant):
    folder, traced = calls(tmp_path, MUTANTS[mutant])
    assert faults(folder, traced)
