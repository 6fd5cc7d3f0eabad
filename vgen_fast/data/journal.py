"""Files that a kill leaves readable: replaced whole, on the disk for good, or written a line at a time."""

import json
import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file by one rename, so that a reader finds the old or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def write_durably(path: Path, content: bytes) -> None:
    """A new file with this content, on the disk before it returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes) -> None:
    """As `write_whole`, and on the disk before it returns."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    write_durably(partial, content)
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def whole_lines(path: Path) -> list[dict]:
    """The records of a JSON Lines file; a last line that a kill tore is dropped."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def cut_torn_line(path: Path) -> None:
    """Cuts off a line that was being written when a process died."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        write_whole(path, content[: content.rfind(b"\n") + 1])
