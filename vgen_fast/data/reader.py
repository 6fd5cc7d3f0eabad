"""A process that reads videos for another one, in a sandbox: `python -m vgen_fast.data.reader SOCKET`, for `pool.py`.

A request and its answer are each one JSON text behind its length; descriptors of files travel beside a request.
"""

import importlib
import json
import math
import mmap
import os
import pkgutil
import signal
import socket
import struct
import sys
from fractions import Fraction

import av
import numpy as np

from . import decode, sandbox
from .photograph import photograph
from .resize import Fit

MEMORY = 2 << 30  # bytes of address space
MOST_BYTES = 64 << 20  # of a message
PICTURE_BYTES = 256 << 20  # of a picture's file
HEAD = struct.Struct("<Q")


def send(channel: socket.socket, message: dict, files: tuple[int, ...] = ()) -> None:
    text = json.dumps(message).encode()
    socket.send_fds(channel, [HEAD.pack(len(text))], files)
    channel.sendall(text)


def receive(channel: socket.socket) -> tuple[dict, list[int]]:
    """A message and the files that came with it; EOFError where the other side is gone."""
    head, files, _, _ = socket.recv_fds(channel, HEAD.size, 2)
    if len(head) < HEAD.size:
        raise EOFError("the other side is gone")
    (length,) = HEAD.unpack(head)
    if length > MOST_BYTES:
        raise EOFError(f"a message of {length} bytes")
    text = bytearray()
    while len(text) < length:
        part = channel.recv(min(1 << 20, length - len(text)))
        if not part:
            raise EOFError("the other side is gone")
        text += part
    return json.loads(text), files


def to_json(film: decode.Film) -> dict:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else str(value) if isinstance(value, Fraction) else value
        for name, value in vars(film).items()
    }


def from_json(film: dict) -> decode.Film:
    arrays = {name: np.array(film[name], dtype=np.int64) for name in ("times", "keys")}
    return decode.Film(
        **{
            **film,
            **arrays,
            "aspect": Fraction(film["aspect"]),
            "time_base": Fraction(film["time_base"]),
            "matrix": tuple(film["matrix"]),
        }
    )


def probe(request: dict, limits: decode.Limits, file: int) -> dict:
    return {"film": to_json(decode.probe(file, limits))}


def read(request: dict, limits: decode.Limits, file: int, memory: int) -> dict:
    """Fits each frame and writes it into shared memory of just that size."""
    film, fit = from_json(request["film"]), Fit(**request["fit"])
    shape = request["shape"]
    pixels = np.frombuffer(mmap.mmap(memory, 0), np.uint8)[: math.prod(shape)].reshape(shape)
    decode.read(file, film, request["indices"], limits, pixels, fit)
    return {}


def picture(request: dict, limits: decode.Limits, file: int, memory: int) -> dict:
    content = os.pread(file, PICTURE_BYTES + 1, 0)
    if len(content) > PICTURE_BYTES:
        raise decode.Rejected("too large", f"a picture of more than {PICTURE_BYTES >> 20} MiB")
    pixels = (photograph if request["photograph"] else decode.picture)(content, limits)
    mmap.mmap(memory, 0).write(np.ascontiguousarray(pixels).data)
    return {"shape": pixels.shape}


JOBS = {"probe": probe, "read": read, "picture": picture}


def answer(request: dict, files: list[int]) -> dict:
    try:
        limits = decode.Limits(**request["limits"])
        return JOBS[request["job"]](request, limits, *files)
    except decode.Rejected as error:
        return {"reason": error.reason, "text": error.text}
    except MemoryError:
        return {"reason": "too large", "text": f"reading takes more than {MEMORY >> 20} MiB"}
    except Exception as error:  # the boundary to a file that may be anything: the other side goes on
        return {"reason": "unforeseen", "text": f"{type(error).__name__}: {error}"}


def main() -> None:
    for module in pkgutil.walk_packages(av.__path__, "av."):  # nothing can be imported later
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    channel = socket.socket(fileno=int(sys.argv[1]))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, sys.stderr.fileno())
    send(channel, sandbox.enter(MEMORY))
    while True:
        try:
            request, files = receive(channel)
        except EOFError:
            return
        signal.alarm(request["seconds"])  # the end, should nobody be there any more to end it
        reply = answer(request, files)
        signal.alarm(0)
        for file in files:
            os.close(file)
        send(channel, reply)


if __name__ == "__main__":
    main()
