"""How long the scores take beside the usual implementations: `python benchmarks/metrics.py --table`.

Two threads, one process; the sides take turns and a time is the median. Every row first checks that both sides give the
same number. PGAN's metric is written here as its authors did it: scipy's convolutions, numpy's indexing and sorting.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.ndimage
import torch
from machine import machine, told, with_huge_pages
from pytorch_msssim import ms_ssim as their_ms_ssim
from torchmetrics.image.fid import _compute_fid

from vgen_fast import ops
from vgen_fast.metrics import frechet, sliced_wasserstein, ssim

RESULTS = Path(__file__).parent / "results"
FILTER = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32)[None, None] / 256
MEMORY = 1.5 * 2**30  # of the pieces of 2,048 pictures
BOOTSTRAP_SECONDS = 60


@dataclass
class Row:
    name: str
    floors: dict[str, float]  # how many times as fast as which side
    sides: dict[str, Callable[[], float]]  # a number that all sides agree on
    agree: float  # relative
    times: dict[str, float] = field(default_factory=dict)


def features(count: int, dim: int, seed: int) -> torch.Tensor:
    """With eigenvalues over six powers of ten, as a network's have: the time of torchmetrics depends on it."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator) / dim**0.5 * torch.logspace(0, -3, dim)[:, None]
    return torch.randn(count, dim, generator=generator) @ mix + 0.1 * seed


def distance(dim: int) -> Row:
    pairs = []
    for seed in range(2):
        found = frechet.moments(features(2 * dim, dim, seed))
        pairs.append((found.mean, found.covariance()))
    (mean_a, a), (mean_b, b) = pairs

    def scipys() -> float:
        root = scipy.linalg.sqrtm(a.numpy() @ b.numpy())
        return float((mean_a - mean_b).square().sum() + a.trace() + b.trace() - 2 * np.trace(root).real)

    sides = {
        "ours": lambda: float(ops.frechet_distance(*pairs)),
        "torchmetrics": lambda: float(_compute_fid(mean_a, a, mean_b, b)),
        "scipy": scipys,
    }
    return Row(f"Frechet distance, D={dim}", {"torchmetrics": 12, "scipy": 8}, sides, 1e-5)


def update(dim: int, rows: int) -> Row:
    batch = features(rows, dim, 0)
    ours, total = ops.FeatureMoments(dim), torch.zeros(dim, dim, dtype=torch.float64)
    summed = torch.zeros(dim, dtype=torch.float64)
    times = 512 // rows  # as often as ours takes the rows in

    def mine() -> float:
        for _ in range(times):
            ours.update(batch)
        return float(ours.mean[0])

    def torchmetrics() -> float:
        nonlocal summed, total
        for _ in range(times):
            wide = batch.double()
            summed += wide.sum(dim=0)
            total += wide.t().mm(wide)
        torchmetrics.count += times * rows
        return float(summed[0] / torchmetrics.count)

    torchmetrics.count = 0
    return Row(
        f"statistics, D={dim}, {rows} rows at a time",
        {"torchmetrics": 4},
        {"ours": mine, "torchmetrics": torchmetrics},
        1e-5,
    )


def pictures(count: int, size: int, seed: int) -> torch.Tensor:
    """uint8 [N, 3, H, W] of smoothed noise, made a few at a time: what this takes must not hide what a score takes."""
    rng, found = np.random.default_rng(seed), np.empty((count, 3, size, size), np.uint8)
    for some in np.array_split(found, -(-count // 64)):
        x = scipy.ndimage.gaussian_filter(rng.normal(size=some.shape).astype(np.float32), (0, 0, 1, 1))
        some[:] = (128 + 120 * x).clip(0, 255)
    return torch.from_numpy(found)


def numpy_pieces(level: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As PGAN's authors take and even them: [N P, D]."""
    count, channels, height, width = level.shape
    total = 128 * count
    n, c, x, y = np.ogrid[0:total, 0:channels, -3:4, -3:4]
    image = n // 128
    x = x + rng.integers(3, width - 3, size=(total, 1, 1, 1))
    y = y + rng.integers(3, height - 3, size=(total, 1, 1, 1))
    found = level.ravel()[((image * channels + c) * height + y) * width + x]
    found -= found.mean(axis=(0, 2, 3), keepdims=True)
    found /= found.std(axis=(0, 2, 3), keepdims=True)
    return found.reshape(total, -1)


def numpy_pyramid(x: np.ndarray) -> list[np.ndarray]:
    levels = [x.astype(np.float32)]
    while levels[-1].shape[-1] >= 32:
        smaller = scipy.ndimage.convolve(levels[-1], FILTER, mode="mirror")[:, :, ::2, ::2]
        wide = np.zeros_like(levels[-1])
        wide[:, :, ::2, ::2] = smaller
        levels[-1] -= scipy.ndimage.convolve(wide, 4 * FILTER, mode="mirror")
        levels.append(smaller)
    return levels


def numpy_distance(real: np.ndarray, fake: np.ndarray) -> float:
    rng, found = np.random.default_rng(0), []
    for levels in zip(numpy_pyramid(real), numpy_pyramid(fake), strict=True):
        a, b = (numpy_pieces(level, rng) for level in levels)
        for _ in range(4):
            directions = rng.normal(size=(a.shape[1], 128))
            directions = (directions / np.sqrt(np.sum(directions**2, axis=0, keepdims=True))).astype(np.float32)
            projected = [np.sort(np.matmul(side, directions), axis=0) for side in (a, b)]
            found.append(np.mean(np.abs(projected[0] - projected[1])))
    return 1000 * float(np.mean(found))


def small_pieces(count: int, size: int) -> Row:
    """Other places and directions, so the numbers agree as well as two seeds do."""
    real, fake = pictures(count, size, 0), pictures(count, size, 1) // 2 + 64
    sides = {
        "ours": lambda: float(np.mean(list(sliced_wasserstein.piece_distance(real, fake).values()))),
        "numpy": lambda: numpy_distance(real.numpy(), fake.numpy()),
    }
    return Row(f"PGAN's metric, {count} pictures of {size}x{size}", {"numpy": 10}, sides, 0.1)


def structure(count: int, size: int) -> Row:
    x, y = pictures(count, size, 0), pictures(count, size, 1)
    y = (x // 2 + y // 2).contiguous()
    sides = {
        "ours": lambda: float(ssim.ms_ssim(x, y).mean()),
        "pytorch-msssim": lambda: float(their_ms_ssim(x.float(), y.float(), data_range=255)),
    }
    return Row(f"MS-SSIM, {count} pairs of {size}x{size}", {"pytorch-msssim": 2}, sides, 0.01)


def measure(row: Row, seconds: float) -> None:
    found = {side: call() for side, call in row.sides.items()}
    for side, number in found.items():
        if abs(number - found["ours"]) > row.agree * abs(found["ours"]):
            sys.exit(f"{row.name}: {side} says {number}, ours {found['ours']}")
    times, until = {side: [] for side in row.sides}, time.perf_counter() + seconds
    while time.perf_counter() < until or not times["ours"]:
        for side, call in row.sides.items():
            began = time.perf_counter()
            call()
            times[side].append(time.perf_counter() - began)
    row.times = {side: statistics.median(taken) for side, taken in times.items()}


def bootstrap() -> dict[str, float]:
    """Seconds of 1,000 replicates at 2,048 samples of both sides, by the dimension of the features."""
    found = {}
    for dim in (400, 2048):
        real, fake = features(2048, dim, 0), features(2048, dim, 1)
        began = time.perf_counter()
        frechet.replicates(real, fake)
        found[str(dim)] = time.perf_counter() - began
    return found


def memory_of_pieces() -> int:
    """Bytes that the metric of 2,048 pictures of 128x128 takes beside the pictures, in a process of its own."""
    real, fake = pictures(2048, 128, 0), pictures(2048, 128, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sliced_wasserstein.piece_distance(real, fake)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def markdown(rows: list[Row], seconds: dict[str, float], memory: int, facts: dict) -> str:
    lines = ["| score | ours | others | times as fast | floor |", "|---|---|---|---|---|"]
    for row in rows:
        mine, others = row.times["ours"], [(side, taken) for side, taken in row.times.items() if side != "ours"]
        cells = [
            f"{row.name} | {1000 * mine:,.1f} ms",
            ", ".join(f"{side} {1000 * taken:,.0f} ms" for side, taken in others),
            ", ".join(f"{taken / mine:.1f}" for _, taken in others),
            ", ".join(str(row.floors[side]) for side, _ in others),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    took = ", ".join(f"{value:.1f} s at D={dim}" for dim, value in seconds.items())
    lines += ["", f"1,000 replicates of a Frechet distance at 2,048 samples: {took} (a minute)."]
    lines.append(f"PGAN's metric of 2,048 pictures of 128x128 takes {memory / 2**30:.2f} GiB (1.5).")
    return "\n".join(lines) + "\n\nMedians; " + told(facts) + ".\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", action="store_true", help="write benchmarks/results/metrics.{json,md} as well")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row, at least once")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.memory:
        return print(memory_of_pieces())
    memory = int(subprocess.check_output([sys.executable, __file__, "--memory"], text=True))
    rows = [structure(64, 256), small_pieces(2048, 64), update(4096, 64), distance(2048)]
    for row in rows:
        measure(row, arguments.seconds)
        print(row.name, {side: f"{1000 * taken:,.1f} ms" for side, taken in row.times.items()}, flush=True)
    seconds = bootstrap()
    facts = machine()
    text = markdown(rows, seconds, memory, facts)
    print("\n" + text)
    if arguments.table:
        kept = [
            {k: v for k, v in asdict(Row(r.name, r.floors, {}, r.agree, r.times)).items() if k != "sides"} for r in rows
        ]
        content = {"facts": facts, "rows": kept, "bootstrap": seconds, "memory": memory}
        (RESULTS / "metrics.json").write_text(json.dumps(content, indent=1) + "\n")
        (RESULTS / "metrics.md").write_text(text)
    slow = any(row.times[side] < floor * row.times["ours"] for row in rows for side, floor in row.floors.items())
    sys.exit(slow or max(seconds.values()) > BOOTSTRAP_SECONDS or memory > MEMORY)


if __name__ == "__main__":
    with_huge_pages()
    main()
