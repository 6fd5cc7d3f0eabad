"""Checkpoints: a folder each, committed by one rename, every byte covered by a digest.

A folder holds one safetensors file for each network, for the averaged generator and for the optimizers, and last a
manifest: format, run, clips seen, everything of the state that is not a tensor, and size and SHA-256 of every file. All
of it is written beside the target, flushed, synced and read back before the rename; then the parent is synced. What was
committed is never written again. The newest valid one is found by reading manifests; a damaged one is skipped aloud.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from ..data.journal import sync_folder, write_durably
from .loop import State, networks

FORMAT = 4
DISTANCE = "distance"  # of a checkpoint's clips from real ones, in its manifest
MANIFEST = "manifest.json"
PARTIAL = ".partial-"
FIELDS = (
    "clips_seen",
    "clips_drawn",
    "steps",
    "events",
    "structure",
    "scale",
    "good_steps",
    "signals",
    "allowed",
)  # of State, beside its tensors


class CannotSave(RuntimeError):
    """A checkpoint could not be committed; the ones before are untouched."""


class NotFinite(RuntimeError):
    """The state has numbers that are none; the checkpoints before are untouched."""


class Damaged(RuntimeError):
    """A folder is no checkpoint that this code wrote: says which file, and how."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    manifest: dict

    @property
    def clips_seen(self) -> int:
        return self.manifest["state"]["clips_seen"]


# ------------------------------------------------------------------------------------------------------------- state


def tensors_of(state: State) -> dict[str, dict[str, Tensor]]:
    """File name -> name -> tensor."""
    files = {name: dict(module.state_dict()) for name, module in networks(state.system).items()}
    files["average"] = dict(state.average.state_dict())
    moments = {}
    for name, optimizer in state.optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            moments |= {f"{name}/{index}/{key}": value for key, value in values.items()}
    return {f"{name}.safetensors": tensors for name, tensors in {**files, "optimizers": moments}.items()}


def put_back(state: State, files: dict[str, dict[str, Tensor]], values: dict) -> None:
    """The state a checkpoint was made from; keys and shapes must be exactly those."""
    modules = {**networks(state.system), "average": state.average}
    for name, module in modules.items():
        found, wanted = files[f"{name}.safetensors"], module.state_dict()
        if found.keys() != wanted.keys():
            differing = ", ".join(sorted(found.keys() ^ wanted.keys())[:5])
            raise Damaged(f"{name}.safetensors and this configuration differ in {differing}")
        module.load_state_dict(found, strict=True)
    for name, optimizer in state.optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in files["optimizers.safetensors"].items():
            owner, index, field = key.rsplit("/", 2)
            if owner == name:
                like = parameters[int(index)]
                if value.shape == like.shape:  # fused steps walk through memory: moments lie as their parameter does
                    value = torch.empty_like(like, dtype=value.dtype).copy_(value)
                moments.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for field in FIELDS:
        setattr(state, field, values[field])
    state.structure, state.allowed = tuple(state.structure), tuple(state.allowed)


def nonfinite(files: dict[str, dict[str, Tensor]]) -> list[str]:
    return [
        f"{file}: {name}"
        for file, tensors in files.items()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]


# ------------------------------------------------------------------------------------------------------------- files


def as_text(manifest: dict) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def save(folder: Path, state: State, facts: dict) -> Checkpoint:
    """Commits the state as `folder`/<clips seen>; raises CannotSave or NotFinite, with everything older left as it was.

    facts: what else the manifest shall say: run, configuration digest, versions, threads.
    """
    files = tensors_of(state)
    if bad := nonfinite(files):
        raise NotFinite(f"{len(bad)} tensors are not finite, the first is {bad[0]}")
    target = folder / f"{state.clips_seen:010d}"
    partial = folder / f"{PARTIAL}{target.name}"
    try:
        folder.mkdir(exist_ok=True)
        if target.exists() and (there := _set_aside(target, facts["run"])):
            return there
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        listed = {}
        for name, tensors in files.items():
            content = tensor_bytes({key: t.detach().cpu().contiguous() for key, t in tensors.items()})
            write_durably(partial / name, content)
            listed[name] = {"size": len(content), "sha256": digest(content)}
        values = {name: getattr(state, name) for name in FIELDS}
        manifest = {"format": FORMAT, **facts, "state": values, "files": listed}
        manifest["digest"] = digest(as_text(manifest))
        write_durably(partial / MANIFEST, as_text(manifest))
        sync_folder(partial)
        found = read(partial)
        os.rename(partial, target)
        sync_folder(folder)
    except (OSError, Damaged) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CannotSave(f"{target}: {error}") from error
    return Checkpoint(target, found.manifest)


def _set_aside(target: Path, run: str) -> Checkpoint | None:
    """The checkpoint that is there already, if it is this run's; a damaged one is renamed, another run's refused."""
    try:
        there = read(target)
    except Damaged:
        os.rename(target, target.with_name(f"{target.name}.damaged-{os.getpid()}"))
        return None
    if there.manifest.get("run") != run:
        raise CannotSave(f"{target} belongs to another run")
    return there


def no_duplicates(pairs: list[tuple[str, object]]) -> dict:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise Damaged("the manifest names a key twice")
    return dict(pairs)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a folder, each file checked against the manifest; raises Damaged."""
    return Checkpoint(path, dict(_contents(path))[MANIFEST])


def _contents(path: Path) -> Iterator[tuple[str, object]]:
    """The manifest, then the bytes of every file it lists, each checked."""
    try:
        text = (path / MANIFEST).read_bytes()
        manifest = json.loads(text, object_pairs_hook=no_duplicates)
        if manifest["format"] != FORMAT:
            raise Damaged(f"{path / MANIFEST}: format {manifest['format']}, this code reads {FORMAT}")
        unsigned = {key: value for key, value in manifest.items() if key != "digest"}
        if text != as_text(manifest) or manifest["digest"] != digest(as_text(unsigned)):
            raise Damaged(f"{path / MANIFEST}: not what was written")
        listed, values = manifest["files"], manifest["state"]
        if not path.name.startswith(PARTIAL) and path.name != f"{values['clips_seen']:010d}":
            raise Damaged(f"{path}: its manifest is that of {values['clips_seen']} clips")
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path / MANIFEST}: {type(error).__name__}: {error}") from error
    yield MANIFEST, manifest
    for name, (size, sha256) in expected.items():
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            raise Damaged(f"{path / name}: {error.strerror}") from error
        if len(content) != size:
            raise Damaged(f"{path / name}: {len(content)} bytes, its manifest says {size}")
        if digest(content) != sha256:
            raise Damaged(f"{path / name}: its content is not what its manifest says")
        yield name, content


def load(checkpoint: Checkpoint, state: State) -> None:
    """Puts a checkpoint back; raises Damaged if it is not whole or not of this configuration."""
    contents = dict(_contents(checkpoint.path))
    manifest = contents.pop(MANIFEST)
    files = {name: parse_tensors(content) for name, content in contents.items()}
    put_back(state, files, manifest["state"])


def tensors(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """One file of a checkpoint."""
    return parse_tensors(dict(_contents(checkpoint.path))[name])


def candidates(folder: Path, run: str, skipped: Callable[[str], None]) -> list[Checkpoint]:
    """This run's valid checkpoints, the newest first; what is no such thing is told to `skipped`."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or not path.name.isdigit():
            continue
        try:
            checkpoint = read(path)
        except Damaged as error:
            skipped(str(error))
            continue
        if checkpoint.manifest.get("run") == run:
            found.append(checkpoint)
    return sorted(found, key=lambda checkpoint: checkpoint.clips_seen, reverse=True)


def set_aside(checkpoint: Checkpoint, why: str) -> None:
    """Renames a checkpoint to one that no run takes for its own."""
    names = (f"{checkpoint.path.name}.{why}{f'-{number}' if number else ''}" for number in count())
    os.rename(checkpoint.path, next(path for name in names if not (path := checkpoint.path.with_name(name)).exists()))


def sweep(folder: Path) -> None:
    """Removes what killed saves and removals left."""
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def best(found: Sequence[Checkpoint], by: str = DISTANCE) -> Checkpoint | None:
    """The one with the smallest distance from real clips, or the least of a score, among those, newest first, at the
    newest one's level. What is no number is never the best.
    """
    level = lambda checkpoint: checkpoint.manifest["state"]["structure"][0]  # noqa: E731

    def amount(checkpoint: Checkpoint) -> float:
        known = checkpoint.manifest if by == DISTANCE else checkpoint.manifest.get("scores", {})
        return math.nan if known.get(by) is None else known[by]

    return min((c for c in found if level(c) == level(found[0]) and amount(c) < math.inf), key=amount, default=None)


def prune(folder: Path, run: str, keep: int, by: str = DISTANCE) -> None:
    """Removes this run's checkpoints but the newest `keep` and the best, and what killed saves left."""
    sweep(folder)
    found = candidates(folder, run, lambda reason: None)
    kept = best(found, by)
    for checkpoint in found[keep:]:
        if checkpoint != kept:
            going = folder / f"{PARTIAL}{checkpoint.path.name}"
            os.rename(checkpoint.path, going)
            shutil.rmtree(going, ignore_errors=True)
