"""Writes Caffe's files as Caffe, older Caffe and C3D's fork write them."""

import numpy as np


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def chunk(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, packed: bool = True) -> bytes:
    """Second generation: a shape, and the data."""
    shape = chunk(7, chunk(1, b"".join(map(varint, array.shape))))
    content = np.ascontiguousarray(array, "<f4")
    if packed:
        return shape + chunk(5, content.tobytes())
    return shape + b"".join(b"\x2d" + value.tobytes() for value in content.ravel())


def old_blob(array: np.ndarray) -> bytes:
    """First generation: always four dimensions."""
    dims = (1,) * (4 - array.ndim) + array.shape
    head = b"".join(number(i, dim) for i, dim in enumerate(dims, 1))
    return head + chunk(5, np.ascontiguousarray(array, "<f4").tobytes()) + chunk(6, b"")


def forked_blob(array: np.ndarray) -> bytes:
    """C3D's: always five."""
    dims = (1,) * (5 - array.ndim) + array.shape
    head = b"".join(number(i, dim) for i, dim in enumerate(dims, 1))
    return head + chunk(6, np.ascontiguousarray(array, "<f4").tobytes())


def new_net(layers: dict[str, list[np.ndarray]], packed: bool = True) -> bytes:
    out = chunk(1, b"a net") + chunk(3, b"data") + b"".join(number(4, n) for n in (1, 3, 227, 227))
    for name, arrays in layers.items():
        blobs = b"".join(chunk(7, blob(array, packed)) for array in arrays)
        out += chunk(100, chunk(1, name.encode()) + chunk(2, b"Convolution") + blobs + number(10, 1))
    return out + chunk(100, chunk(1, b"relu") + chunk(2, b"ReLU"))


def old_net(layers: dict[str, list[np.ndarray]], write=old_blob) -> bytes:
    out = chunk(1, b"a net")
    for name, arrays in layers.items():
        blobs = b"".join(chunk(6, write(array)) for array in arrays)
        out += chunk(2, chunk(3, b"top") + chunk(4, name.encode()) + number(5, 4) + blobs + b"\x3d\x00\x00\x80\x3f")
    return out


def oldest_net(layers: dict[str, list[np.ndarray]]) -> bytes:
    out = b""
    for name, arrays in layers.items():
        blobs = b"".join(chunk(50, old_blob(array)) for array in arrays)
        out += chunk(2, chunk(1, chunk(1, name.encode()) + chunk(2, b"conv") + blobs))
    return out
