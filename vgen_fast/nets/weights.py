"""Files of weights: where they are looked for, and how they are read without running anything that is in them.

None are shipped. A published file is told by name, address and folder where it is missing. What is read are tensors by
name: a state dict of torch (weights_only), an .npz of arrays, or the blobs of a Caffe model; they must be those of the
network, all of them and no others, and all differences are told at once.
"""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .caffemodel import BadWeights, read_layers

MOST_TENSORS = 100_000
MOST_RATIO = 3  # of the bytes of an archive's entry to those in the file
SMALL = 1 << 20  # entries below this may be compressed further
# What zipfile and numpy raise for what they cannot read.
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Published:
    """A file that its authors put somewhere."""

    file: str
    of: str  # what it holds, for a person
    address: str
    sha256: str | None = None  # where it is known


def folder() -> Path:
    """VGEN_FAST_WEIGHTS, or a folder of the cache of this user."""
    return Path(os.environ.get("VGEN_FAST_WEIGHTS") or Path.home() / ".cache" / "vgen_fast" / "weights")


def find(published: Published) -> Path:
    """Its place in the folder; its digest is compared where it is known."""
    path = folder() / published.file
    if not path.is_file():
        known = f", SHA-256 {published.sha256}" if published.sha256 else ""
        raise BadWeights(f"{published.of}: put {published.file} from {published.address}{known} into {path.parent}")
    if published.sha256 and digest(path) != published.sha256:
        raise BadWeights(f"{path} is not the published file: its SHA-256 is {digest(path)}, not {published.sha256}")
    return path


def digest(path: Path) -> str:
    found = sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name. The blobs of a layer of Caffe are `layer.0`, `layer.1` and so on."""
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
    if path.suffix in (".pt", ".pth", ".pickle", ".pkl"):
        return read_state(path)
    layers = read_layers(path)
    return {f"{name}.{i}": torch.from_numpy(blob) for name, blobs in layers.items() for i, blob in enumerate(blobs)}


def entries(path: Path) -> list[zipfile.ZipInfo]:
    """Of an archive that does not grow by much when it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except UNREADABLE as error:
        raise BadWeights(f"{path}: {error}") from error
    if len(found) > MOST_TENSORS:
        raise BadWeights(f"{path} has {len(found)} entries, at most {MOST_TENSORS} are read")
    for entry in found:
        if entry.file_size > max(SMALL, MOST_RATIO * entry.compress_size):
            sizes = f"from {entry.compress_size} to {entry.file_size} bytes"
            raise BadWeights(f"{path}: {entry.filename} would grow {sizes}")
    return found


def read_npz(path: Path) -> dict[str, np.ndarray]:
    found, form = {}, np.lib.format
    names = [entry.filename for entry in entries(path)]
    with zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                with archive.open(name) as file:
                    old = form.read_magic(file) == (1, 0)
                    header = form.read_array_header_1_0 if old else form.read_array_header_2_0
                    shape, by_columns, dtype = header(file)
                    content = file.read()
            except UNREADABLE as error:
                raise BadWeights(f"{path}: {name}: {error}") from error
            if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize != len(content):
                raise BadWeights(f"{path}: {name} says {shape} of {dtype} and has {len(content)} bytes")
            array = np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")
            found[name.removesuffix(".npy")] = np.array(array, dtype=dtype.newbyteorder("="), order="C")
    return found


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict, or one under `state_dict`; names lose a leading `module.`"""
    try:
        with open(path, "rb") as file:
            archive = file.read(2) == b"PK"
    except OSError as error:
        raise BadWeights(f"{path}: {error.strerror}") from error
    if archive:
        entries(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no type of its own for files that it refuses
        raise BadWeights(f"{path} is no state dict: {str(error).splitlines()[0] if str(error) else error!r}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadWeights(f"{path} is no state dict: it holds {type(state).__name__} and not tensors by name")
    for name, value in state.items():
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise BadWeights(f"{path}: {name} of shape {list(value.shape)} is larger than its bytes")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def filled(make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], source: Path) -> nn.Module:
    """The network with these weights, ready to be asked. None are drawn first."""
    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu")
    fill(network, tensors, source)
    return network.eval()


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copies them into the module's own.

    A shape may differ by axes of length 1, as Caffe's older files have them; counters of training steps may be missing.
    """
    wanted = module.state_dict()
    counters = {name: torch.zeros(()) for name in wanted if name.endswith("num_batches_tracked")}
    tensors = counters | dict(tensors)
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is not of this network" for name in tensors if name not in wanted]
    for name, value in tensors.items():
        if name not in wanted:
            continue
        sides = ([n for n in shape if n != 1] for shape in (value.shape, wanted[name].shape))
        if len({tuple(side) for side in sides}) > 1:
            wrong.append(f"{name} is {list(value.shape)}, wanted {list(wanted[name].shape)}")
        elif value.is_complex():
            wrong.append(f"{name} is complex")
        elif not value.isfinite().all():
            wrong.append(f"{name} has NaN or infinity")
        elif name.endswith("running_var") and (value < 0).any():
            wrong.append(f"{name} is a negative variance")
    if wrong:
        raise BadWeights(f"{source}: " + "; ".join(wrong))
    module.load_state_dict({name: tensors[name].reshape(value.shape).to(value.dtype) for name, value in wanted.items()})
