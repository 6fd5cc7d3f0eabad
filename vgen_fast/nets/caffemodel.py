"""Blobs of Caffe's weight and mean files, without Caffe: .caffemodel of both generations, .binaryproto, and C3D's fork.

    net      2 layers (first generation) or 100 layer (second), repeated
    layer    first generation: 4 name, 6 blobs, or, still older, all of it in 1: 1 name, 50 blobs; second: 1 and 7
    blob     1-4 num channels height width, 5 data (float32, packed or one by one), 7 shape {1 dims}, 8 data in float64
             C3D's fork: 1-5 num channels length height width, 6 data: it has the number 5 as a varint

A file is mapped, and an array copied only when it is one that is kept.
"""

import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import wire
from ..wire import LENGTH, VARINT, Malformed

MOST_LAYERS, MOST_BLOBS, MOST_DIMS = 4096, 16, 8
PACKED_FOUR = 5 << 3 | wire.FOUR  # the key of one float32 of a blob's data that is not packed


class BadWeights(ValueError):
    """A file of weights that is not used; the text says why."""


def mapped(path: Path) -> memoryview:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise BadWeights(f"{path} is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise BadWeights(f"{path}: {error.strerror}") from error


def read_layers(path: Path) -> dict[str, list[np.ndarray]]:
    """float32 arrays of each layer that has any, in the file's order."""
    found = {}
    try:
        for name, blobs in layers(mapped(path)):
            if name in found:
                raise BadWeights(f"{path} has two layers of the name {name!r}")
            found[name] = [blob(content) for content in blobs]
    except Malformed as error:
        raise BadWeights(f"{path}: {error}") from error
    if not found:
        raise BadWeights(f"{path} has no layers with weights: is it a Caffe model?")
    return found


def read_mean(path: Path) -> np.ndarray:
    """The only blob of a .binaryproto."""
    try:
        return blob(mapped(path))
    except Malformed as error:
        raise BadWeights(f"{path}: {error}") from error


def layers(content: memoryview) -> Iterator[tuple[str, list[memoryview]]]:
    """Name and blobs of each layer that has blobs."""
    count = 0
    for number, kind, value in wire.fields(content):
        if number not in (2, 100) or kind != LENGTH:
            continue
        count += 1
        if count > MOST_LAYERS:
            raise Malformed(f"more than {MOST_LAYERS} layers")
        name, blobs = (4, 6) if number == 2 else (1, 7)
        if number == 2 and (inner := next(wire.messages(value, 1), None)) is not None:
            value, name, blobs = inner, 1, 50
        kept = list(wire.messages(value, blobs))
        if len(kept) > MOST_BLOBS:
            raise Malformed(f"more than {MOST_BLOBS} blobs in a layer")
        if kept:
            yield bytes(next(wire.messages(value, name), b"")).decode(errors="replace"), kept


def blob(content: memoryview) -> np.ndarray:
    """Its numbers in the shape that it tells."""
    numbers, parts, dims = {}, {}, []
    for number, kind, value in blob_fields(content):
        if kind == VARINT:
            numbers[number] = value
        elif number == 7 and kind == LENGTH:
            dims = shape(value)
        else:
            parts.setdefault(number, []).append(value)
    forked = 5 in numbers
    data, dtype = parts.get(6 if forked else 5, []), np.dtype("<f4")
    if not forked and not data:
        data, dtype = parts.get(8, []), np.dtype("<f8")
    if not dims:
        dims = [numbers.get(i, 1) for i in range(1, 6 if forked else 5)]
    length = sum(part.nbytes for part in data)
    if math.prod(dims) * dtype.itemsize != length:
        raise Malformed(f"a blob of shape {dims} has {length} bytes of {dtype.name}")
    return np.frombuffer(bytearray().join(data), dtype).astype(np.float32, copy=False).reshape(dims)


def blob_fields(content: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """As wire.fields, but a run of numbers that are not packed is one value: it may be millions."""
    at = 0
    while at < len(content):
        if content[at] == PACKED_FOUR:
            records = np.frombuffer(content[at:], np.uint8)
            records = records[: len(records) // 5 * 5].reshape(-1, 5)
            other = np.flatnonzero(records[:, 0] != PACKED_FOUR)
            count = int(other[0]) if len(other) else len(records)
            if not count:
                raise Malformed("a number of a blob is cut off")
            yield 5, LENGTH, memoryview(np.ascontiguousarray(records[:count, 1:])).cast("B")
            at += 5 * count
            continue
        number, kind, value, at = wire.field(content, at)
        yield number, kind, value


def shape(content: memoryview) -> list[int]:
    dims = []
    for number, _, value in wire.fields(content):
        for dim in wire.varints(value) if number == 1 else ():
            dims.append(dim)
            if len(dims) > MOST_DIMS:
                raise Malformed(f"a blob of more than {MOST_DIMS} dimensions")
    return dims
