"""Reads videos that nobody vouches for, in processes that may do nothing else, die or hang, and are then replaced."""

import fcntl
import math
import mmap
import os
import queue
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np

from . import reader
from .decode import LIMITS, Film, Limits, Rejected, opened
from .resize import AS_IT_IS, Fit

SECONDS = 10.0  # that one request may take, or each so many frames of it:
CLIP = 64
START_SECONDS = 60.0
SEALS = 0x0001 | 0x0002 | 0x0004  # no more seals, no shrinking, no growing
ADD_SEALS = 1033


ffmpeg = av.ffmpeg_version_info
FFMPEG = ((7, 1, 5), (8, 0, 3), (8, 1, 2))  # the first of each line without known holes (CVE-2026-8461)


class Holes(RuntimeError):
    """This FFmpeg is known to be open to files made for it."""


def check_ffmpeg(version: str) -> None:
    found = re.match(r"\D?(\d+)\.(\d+)(?:\.(\d+))?", version)
    number = tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    line = next((floor for floor in FFMPEG if floor[:2] == number[:2]), FFMPEG[-1])
    if number < line:
        wanted = ", ".join(".".join(map(str, floor)) for floor in FFMPEG)
        raise Holes(
            f"FFmpeg {version}, which PyAV {av.__version__} brings, is open to files made for it: wanted {wanted} or "
            "newer (pip install -U av)"
        )


class Lost(Rejected):
    """A reader died or hung over a file."""


class Reader:
    """One process and the socket to it."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "vgen_fast.data.reader", str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        self.channel = ours
        ours.settimeout(START_SECONDS)
        try:
            self.rungs, _ = reader.receive(ours)
        except (OSError, EOFError) as error:
            self.close()
            said = self.process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"the process that reads videos did not start: {(said or [error])[0]}") from error
        self.process.stderr.close()  # silent from here on

    def ask(self, request: dict, files: tuple[int, ...], seconds: float) -> dict:
        self.channel.settimeout(seconds)
        try:
            reader.send(self.channel, request | {"seconds": math.ceil(seconds) + 5}, files)
            reply, _ = reader.receive(self.channel)
        except TimeoutError as error:
            raise Lost("slow", f"took more than {seconds:g} seconds") from error
        except (OSError, EOFError, ValueError) as error:
            raise Lost("kills", "the process that read it ended twice") from error
        return reply

    def close(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def shared(size: int) -> Iterator[int]:
    """Memory of that size for as long as it is mapped: a reader gone wrong cannot take it from under us."""
    memory = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, max(1, size))
        fcntl.fcntl(memory, ADD_SEALS, SEALS)
        yield memory
    finally:
        os.close(memory)


class Pool:
    """Films and frames by path, for any number of threads at once; every file through one of `workers` processes.

    A reader that dies or takes longer than `seconds` is killed and replaced, and the request made once more. With an
    FFmpeg that has known holes only `trusted` films are read.
    """

    def __init__(self, workers: int = 1, limits: Limits = LIMITS, seconds: float = SECONDS, trusted: bool = False):
        if not trusted:
            check_ffmpeg(ffmpeg)
        self.limits, self.seconds = limits, seconds
        self.idle: queue.SimpleQueue[Reader | None] = queue.SimpleQueue()
        self.lock, self.readers, self.replaced, self.closed = threading.Lock(), set(), 0, False
        for _ in range(workers):
            self.idle.put(None)  # started when it is needed

    def probe(self, path: Path) -> Film:
        with opened(path) as file:
            reply = self.ask({"job": "probe"}, (file,))
        try:
            return reader.from_json(reply["film"])
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:  # of a reader that the file took over
            raise Rejected("unforeseen", f"the answer is none: {error}") from error

    def read(self, path: Path, film: Film, indices: np.ndarray, fit: Fit = AS_IT_IS) -> np.ndarray:
        """uint8 [N, H, W, 3]: frames by their indices, in any order, each made to fit."""
        height, width = fit.crop or fit.size(film.height, film.width, film.aspect)
        shape = (len(indices), height, width, 3)
        request = {"job": "read", "film": reader.to_json(film), "fit": asdict(fit), "shape": shape}
        with opened(path) as file, shared(math.prod(shape)) as memory:
            seconds = self.seconds * max(1.0, len(indices) / CLIP)
            self.ask({**request, "indices": np.asarray(indices).tolist()}, (file, memory), seconds)
            return np.frombuffer(mmap.mmap(memory, 0), np.uint8)[: math.prod(shape)].reshape(shape)

    def picture(self, path: Path, photograph: bool = False) -> np.ndarray:
        """uint8 [H, W, 3] of a JPEG or PNG; of a photograph upright, in sRGB."""
        most = self.limits.pixels * 3
        with opened(path) as file, shared(most) as memory:  # of which only what is written takes memory
            height, width, channels = self.ask({"job": "picture", "photograph": photograph}, (file, memory))["shape"]
            if channels != 3 or height * width * 3 > most:
                raise Rejected("damaged", f"a picture of {height}x{width}x{channels}")
            pixels = np.frombuffer(mmap.mmap(memory, 0), np.uint8)
            return pixels[: height * width * 3].reshape(height, width, 3).copy()

    def ask(self, request: dict, files: tuple[int, ...], seconds: float | None = None) -> dict:
        request["limits"] = asdict(self.limits)
        for attempt in range(2):
            if self.closed:
                raise Lost("slow", "nobody waits for it any more")
            one = self.idle.get()
            try:
                one = one or self.start()
                reply = one.ask(request, files, seconds or self.seconds)
                if "reason" in reply:
                    raise Rejected(reply["reason"], reply["text"])
                return reply
            except Lost:
                self.drop(one)
                one = None
                if attempt:
                    raise
            finally:
                self.idle.put(one)
        raise AssertionError("two attempts end with an answer or an error")

    def start(self) -> Reader:
        one = Reader()
        with self.lock:
            self.readers.add(one)
            if self.closed:
                one.close()
        return one

    def drop(self, one: Reader) -> None:
        one.close()
        with self.lock:
            self.readers.discard(one)
            self.replaced += 1

    def close(self) -> None:
        with self.lock:
            self.closed = True
            for one in self.readers:
                one.close()
            self.readers.clear()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_) -> None:
        self.close()
