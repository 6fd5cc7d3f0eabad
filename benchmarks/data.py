"""How many frames a second one core reads as clips of 16: `python benchmarks/data.py --table`.

Films are 320x240, 250 frames, XviD as UCF-101 has it, and H.264 with a key frame at most every 250; caches hold 64x64,
and so much is cut out of the middle of films, or nothing.
The sides take turns of 20 clips in one process, a figure is the median. Plain PyAV opens, seeks to the key frame
before, decodes to the frame that is wanted and converts, as most loaders do; torchcodec is there if it can be imported.
At the end: which share of a training step on two cores, at 16x64x64 with two clips, goes by before its clips are there.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import av
import numpy as np
import torch
from machine import machine, told

from vgen_fast.data import decode
from vgen_fast.data.cache import Cache, Clip, Writer
from vgen_fast.data.loader import CachedClips, Window
from vgen_fast.data.resize import AS_IT_IS, Fit
from vgen_fast.models import progressive
from vgen_fast.train.loop import Training, start, step
from vgen_fast.train.objectives import OBJECTIVES
from vgen_fast.train.schedule import Phase

RESULTS = Path(__file__).parent / "results"
LENGTH, FRAMES, HEIGHT, WIDTH = 16, 250, 240, 320
TURN = 20  # clips, until it is the other side's
LEVEL = 4  # 16x64x64 of the thesis's schedule


@dataclass
class Row:
    name: str
    floor: float  # frames a second
    sides: dict[str, Callable[[int], np.ndarray]]  # a clip by a number
    speeds: dict[str, float] = field(default_factory=dict)


def scene(seed: int) -> np.ndarray:
    """uint8 [250, 240, 320, 3]: a textured background that moves, and noise: what a codec has work with."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (HEIGHT // 8 + 40, WIDTH // 8 + 40, 3), dtype=np.uint8)
    texture = coarse.repeat(8, 0).repeat(8, 1)
    frames = np.stack([texture[t : t + HEIGHT, t : t + WIDTH] for t in range(FRAMES)]).astype(np.int16)
    return (frames + rng.integers(-6, 7, frames.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)


def film(path: Path, codec: str, options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.bit_rate = 800_000
        for frame in scene(0):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def ours(path: Path, fit: Fit) -> Callable[[int], np.ndarray]:
    with decode.opened(path) as file:
        table = decode.probe(file)

    out = np.empty((LENGTH, *(fit.crop or (HEIGHT, WIDTH)), 3), np.uint8)  # as a loader fills its batches

    def clip(first: int) -> np.ndarray:
        with decode.opened(path) as file:
            return decode.read(file, table, np.arange(first, first + LENGTH), out=out, fit=fit)

    return clip


def plain(path: Path, fit: Fit) -> Callable[[int], np.ndarray]:
    def clip(first: int) -> np.ndarray:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            stream.codec_context.thread_count = 1
            start = int(first / stream.average_rate / stream.time_base)
            file.seek(start, stream=stream)
            found = []
            for frame in file.decode(stream):
                if frame.pts >= start:
                    found.append(fit(frame.to_ndarray(format="rgb24")))
                    if len(found) == LENGTH:
                        break
            return np.stack(found)

    return clip


def codec(path: Path, fit: Fit) -> Callable[[int], np.ndarray] | None:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError):
        return None

    def clip(first: int) -> np.ndarray:
        frames = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")[first : first + LENGTH]
        return np.stack([fit(frame) for frame in frames.numpy()])

    return clip


def cached(folder: Path, storage: str) -> Callable[[int], np.ndarray]:
    """Batches of 32, as training takes them."""
    writer = Writer(folder, (64, 64), {}, storage)
    for n in range(40):
        writer.add(str(n), [(Clip(str(n)), scene(n)[:, :64, :64])])
    writer.finish({}, {})
    clips = CachedClips(Cache(folder), Window(LENGTH), 0)
    return lambda position: clips(torch.arange(32 * position, 32 * position + 32), (LENGTH, 64, 64))[0].numpy()


def rows(folder: Path) -> list[Row]:
    found = []
    for storage, floor in (("raw", 100_000), ("jpeg", 5_000)):
        found.append(Row(f"cache, {storage}, 64x64", floor, {"ours": cached(folder / f"{storage}.vgc", storage)}))
    xvid = film(folder / "xvid.avi", "mpeg4", {"g": "12"})
    h264 = film(folder / "h264.mp4", "libx264", {"g": "250", "preset": "veryfast"})
    films = {
        "XviD, 64x64 of 320x240": (xvid, Fit(crop=(64, 64)), 3000),
        "XviD, 320x240": (xvid, AS_IT_IS, 0),
        "H.264, 320x240": (h264, AS_IT_IS, 0),
    }
    for name, (path, fit, floor) in films.items():
        sides = {"ours": ours(path, fit), "PyAV": plain(path, fit), "torchcodec": codec(path, fit)}
        found.append(Row(name, floor, {side: clip for side, clip in sides.items() if clip}))
    return found


def waiting(folder: Path, storage: str, seconds: float) -> float:
    """The share of a step's time that is spent in reading clips; median of steps."""
    torch.manual_seed(0)
    system = progressive.build(progressive.Config())
    phase = Phase(LEVEL, 0, 1, 2, 2, 1e-3, 1e-3, "nothing")
    training = Training((phase,), {"video": OBJECTIVES["wgan_gp"]})
    state, clips = start(system, training), CachedClips(Cache(folder / f"{storage}.vgc"), Window(LENGTH), 0)
    read, shares = [], []

    def batches(positions: torch.Tensor, size: tuple[int, int, int]):
        began = time.perf_counter()
        found = clips(positions, size)
        read.append(time.perf_counter() - began)
        return found

    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(shares) < 5:
        read.clear()
        began = time.perf_counter()
        step(state, training, batches, lambda gradients: None)
        shares.append(sum(read) / (time.perf_counter() - began))
    return statistics.median(shares)


def measure(row: Row, seconds: float) -> None:
    if {"ours", "PyAV"} <= set(row.sides) and not (row.sides["ours"](37) == row.sides["PyAV"](37)).all():
        sys.exit(f"{row.name}: the frames differ from those of PyAV")
    times, rng = {side: [] for side in row.sides}, np.random.default_rng(0)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        chosen = rng.integers(FRAMES - LENGTH, size=TURN).tolist()
        for side, clip in row.sides.items():
            for first in chosen:
                began = time.perf_counter()
                shown = clip(first)
                frames = LENGTH * (len(shown) if shown.ndim == 5 else 1)
                times[side].append((time.perf_counter() - began) / frames)
    row.speeds = {side: 1 / statistics.median(taken) for side, taken in times.items()}


def markdown(rows: list[Row], waits: dict[str, float], facts: dict) -> str:
    lines = ["| clips of 16 frames from | ours, frames/s | floor | others, frames/s |", "|---|---|---|---|"]
    for row in rows:
        others = ", ".join(f"{side}: {speed:,.0f}" for side, speed in row.speeds.items() if side != "ours")
        lines.append(f"| {row.name} | {row.speeds['ours']:,.0f} | {f'{row.floor:,}' if row.floor else ''} | {others} |")
    waited = ", ".join(f"{100 * share:.2f}% ({storage})" for storage, share in waits.items())
    lines += [
        "",
        f"A training step on two cores at 16x64x64, two clips, waits for a cache {waited} of its time (≤ 2%).",
    ]
    return "\n".join(lines) + "\n\nOne core, medians; " + told(facts) + ".\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", action="store_true", help="write benchmarks/results/data.{json,md} as well")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        table = rows(Path(folder))
        waits = {storage: waiting(Path(folder), storage, 3 * arguments.seconds) for storage in ("raw", "jpeg")}
        os.sched_setaffinity(0, {0})
        torch.set_num_threads(1)
        for row in table:
            measure(row, arguments.seconds)
            print(row.name, {side: f"{speed:,.0f}" for side, speed in row.speeds.items()}, flush=True)
    facts = {**machine(), "av": av.__version__}
    print("\n" + markdown(table, waits, facts))
    if arguments.table:
        kept = [
            {k: v for k, v in asdict(row).items() if k != "sides"}
            for row in [Row(r.name, r.floor, {}, r.speeds) for r in table]
        ]
        (RESULTS / "data.json").write_text(
            json.dumps({"facts": facts, "rows": kept, "waiting": waits}, indent=1) + "\n"
        )
        (RESULTS / "data.md").write_text(markdown(table, waits, facts))
    sys.exit(any(row.speeds["ours"] < row.floor for row in table) or max(waits.values()) > 0.02)


if __name__ == "__main__":
    main()
