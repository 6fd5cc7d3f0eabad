"""Builds the extension with its CUDA sources emulated on the CPU (emulator.h), and tensors that show stray writes."""

import ctypes
import importlib.util
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pybind11
import torch

from vgen_fast.ops.native import DTYPES, address, compute_dtype

ROOT = Path(__file__).resolve().parents[2]
MARGIN = 64
CANARY = 0.71875  # exact in every type


COUNTERS = """
#include "emulator.h"
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT unsigned long long count_mma() { return emulator::state().mma; }
EXPORT unsigned long long count_cp_async() { return emulator::state().cp_async; }
EXPORT void run_reversed(int reverse) { emulator::state().reverse = reverse != 0; }
EXPORT void set_multiprocessors(int count) { emulator::state().multiprocessors = count; }
EXPORT void set_max_shared(int bytes) { emulator::state().max_shared = size_t(bytes); }
"""


SANITIZE = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]


def build(folder: Path, only: str | None = None, edits: list[tuple[str, str]] = (), like=None):
    """The module `_C` whose `_cuda` launchers run emulated (or one source of them, with text replaced in a copy), and
    the emulator's own switches as `module.emulator`. `like`: a module from here, whose bindings it takes.
    """
    include = [
        f"-I{p}" for p in (pybind11.get_include(), sysconfig.get_paths()["include"], ROOT / "tests/cuda", ROOT / "csrc")
    ]
    flags = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-DVGEN_CUDA_EMULATED", '-DVGEN_CUDA="emulated"', "-w"]
    flags += ['-DPYBIND11_COMPILER_TYPE="_emulated"']
    for header in (ROOT / "csrc/cuda").glob("*.cuh"):
        (folder / header.name).write_text(header.read_text())
    running = []

    def compile(source: Path, *more: str) -> str:
        target = str(folder / f"{source.name}.o")
        command = ["g++", *flags, *more, *include, f"-I{folder}", "-x", "c++", "-c", str(source), "-o", target]
        running.append((subprocess.Popen(command, stderr=subprocess.PIPE, text=True), source.name))
        while len([p for p, _ in running if p.poll() is None]) >= 2:
            time.sleep(0.05)
        return target

    if like is None:
        (folder / "counters.cpp").write_text(COUNTERS)
        shared = [compile(path, "-O0") for path in (ROOT / "csrc/bindings.cpp", folder / "counters.cpp")]
    else:
        shared = like.shared
    objects = []
    for source in sorted((ROOT / "csrc/cuda").glob("*.cu")):
        if only in (None, source.name):
            text = source.read_text()
            for old, new in edits:
                assert old in text, f"{old!r} is no longer in {source.name}"
                text = text.replace(old, new)
            copy = folder / source.name
            copy.write_text(text)
            objects.append(compile(copy, "-Og", *SANITIZE))
    finish(running)
    target = folder / "_C.so"
    subprocess.run(["g++", "-shared", "-Wl,-z,lazy", *shared, *objects, "-o", str(target)], check=True)
    spec = importlib.util.spec_from_file_location(f"{folder.name}._C", target)  # pybind11 keeps one module per name
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)  # the CPU launchers are not there, and not called
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.setdlopenflags(flags)
    module.shared, module.emulator = shared, ctypes.CDLL(str(target))
    for name in ("count_mma", "count_cp_async"):
        getattr(module.emulator, name).restype = ctypes.c_ulonglong
    return module


def finish(running: list) -> None:
    for process, name in running:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{name} does not compile for the emulator:\n{errors[:4000]}")
    running.clear()


class Guarded:
    """A NaN-filled output inside canary margins, shifted `offset` elements from 16-byte alignment."""

    def __init__(self, shape, dtype, channels_last: bool = False, offset: int = 0):
        size = torch.Size(shape).numel()
        lead = MARGIN + offset
        self.buffer = torch.full((size + lead + MARGIN,), CANARY, dtype=dtype)
        inside = self.buffer[lead : lead + size].fill_(torch.nan)
        if channels_last:
            order = (shape[0], *shape[2:], shape[1])
            self.tensor = inside.view(order).permute(0, len(shape) - 1, *range(1, len(shape) - 1))
        else:
            self.tensor = inside.view(shape)
        self.lead, self.size = lead, size

    def result(self) -> torch.Tensor:
        edges = torch.cat([self.buffer[: self.lead], self.buffer[self.lead + self.size :]])
        assert bool((edges == CANARY).all()), "written outside the output"
        assert not bool(self.tensor.isnan().any()), "left unwritten (or NaN)"
        return self.tensor.clone()


def laid_out(x: torch.Tensor, channels_last: bool, offset: int = 0) -> torch.Tensor:
    """A copy of x in the layout, `offset` elements away from 16-byte alignment."""
    guarded = Guarded(x.shape, x.dtype, channels_last, offset)
    return guarded.tensor.copy_(x)


def where(module, x: torch.Tensor):
    return module.Where(0, 0, 0, DTYPES[x.dtype])


def error(value: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative Frobenius error."""
    exact = exact.detach().double()
    return float((value.double() - exact).norm() / exact.norm().clamp_min(1e-30))


TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}

__all__ = ["TOLERANCE", "Guarded", "address", "build", "compute_dtype", "error", "laid_out", "where"]
