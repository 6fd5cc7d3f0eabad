"""Every op against eager PyTorch (its better layout) and torch.compile on this CPU: `python benchmarks/ops.py --table`.

A row first checks its result against eager PyTorch in float64 (at most twice the error of eager in float32, plus a few
ulps) and prints no time if that fails. The sides take turns of 10 ms, or of one call where that is longer, so that a slow
moment of the machine meets all of them; a turn's first call does not count where there are more, as it finds the caches
as the rival left them. Python's garbage collector is off, as in timeit; a figure is the median. `bound` is the least time
the floating-point operations of the direct form (phases for up, strided taps for down) take at the ceiling measured in
the same run; fewer multiplications than that form (docs/ops.md) can pass it. Peak memory is the growth of the process
over one call. Each row has a process of its own.
(Over 400 lines: the rows are a table, and a row is of use only beside the way it is measured.)
"""

import argparse
import gc
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import HUGE_PAGES, machine, told
from torch import Tensor

from vgen_fast import ops
from vgen_fast.ops import reference

RESULTS = Path(__file__).parent / "results"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last_3d}
TURN = 0.01  # seconds
Run = Callable[[], object]


@dataclass
class Row:
    """One line of the table. `sides` are rivals by name; `exact` is the first of them in float64."""

    name: str
    ours: Run
    sides: dict[str, Run]
    exact: Run
    floors: dict[str, float]  # side group -> least ratio to reach
    flops: float = 0.0
    times: dict[str, float] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)  # relative, in the Frobenius norm

    def figures(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("ours", "sides", "exact")}

    def ratio(self, group: str) -> float | None:
        rivals = [ms for side, ms in self.times.items() if side.startswith(group)]
        return min(rivals) / self.times["ours"] if rivals else None


def flat(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for t in result if isinstance(t, Tensor)]


def relative_error(result: object, expected: object) -> float:
    pairs = zip(flat(result), flat(expected), strict=True)
    errors = [((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item() for a, b in pairs]
    return max(math.inf if math.isnan(e) else e for e in errors)


def peak_megabytes(run: Run) -> float:
    """Growth of the resident set over one call, from the kernel's high-water mark."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return math.nan
    status = lambda key: next(
        int(s.split()[1]) for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(key)
    )
    before = status("VmRSS")
    run()
    return max(status("VmHWM") - before, 0) / 1024


def turn(run: Run) -> list[float]:
    """Milliseconds of each call of a turn; without the first, which finds what the rival left in caches, if there are more."""
    ends = [time.perf_counter()]
    while len(ends) == 1 or ends[-1] < ends[0] + TURN:
        run()
        ends.append(time.perf_counter())
    times = [1e3 * (b - a) for a, b in itertools.pairwise(ends)]
    return times[1:] or times


def measure(row: Row, seconds: float) -> bool:
    """Fills in the row; False, and no times, if the result is wrong."""
    exact = row.exact()
    row.errors = {
        "ours": relative_error(row.ours(), exact),
        "eager": relative_error(next(iter(row.sides.values()))(), exact),
    }
    del exact
    if not row.errors["ours"] <= 2 * row.errors["eager"] + 1e-6:
        return False
    runs = {"ours": row.ours, **row.sides}
    found = {side: [] for side in runs}
    for run in runs.values():
        run()
    gc.disable()
    start = time.perf_counter()
    for turns in range(200):
        if turns >= 5 and time.perf_counter() - start >= seconds:
            break
        for side, run in runs.items():
            found[side] += turn(run)
    gc.enable()
    row.times = {side: statistics.median(times) for side, times in found.items()}
    row.megabytes = {side: peak_megabytes(run) for side, run in runs.items()}
    return True


def ceiling() -> float:
    """GF/s: the larger of a 2048^3 product and the library's convolution at 128 channels."""

    def rate(flops: float, run: Run) -> float:
        run()
        times = []
        for _ in range(9):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return flops / min(times) / 1e9

    a, x, w = torch.randn(2048, 2048), torch.randn(2, 128, 8, 32, 32), torch.randn(128, 128, 3, 3, 3)
    with torch.no_grad():
        return max(
            rate(2 * 2048**3, lambda: a @ a), rate(2 * 27 * 128**2 * 2 * 8 * 32**2, lambda: F.conv3d(x, w, padding=1))
        )


# ------------------------------------------------------------------------------------------------------------- rows


def no_grad(run: Run) -> Run:
    def inside() -> object:
        with torch.no_grad():
            return run()

    return inside


def with_gradients(eager: Callable, tensors: list[Tensor]) -> Callable[[Callable, list[Tensor]], Run]:
    """Makes runs of forward and backward by every tensor, which return the gradients.

    The gradient sent back is zero where the output is so near the kink of the leaky ReLU that rounding picks the side.
    """
    with torch.no_grad():
        y = eager(*tensors)
    fixed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)) * (y.abs() > 1e-4)

    def prepare(function: Callable, tensors: list[Tensor]) -> Run:
        tensors, g = [t.detach().requires_grad_() for t in tensors], fixed.to(tensors[0].dtype)
        return lambda: torch.autograd.grad(function(*tensors), tensors, g)

    return prepare


def sides(eager: Callable, tensors: list[Tensor], prepare: Callable, compile: bool) -> dict[str, Run]:
    """eager in both layouts; compiled, with the tensors as ours gets them and moved to channels-last by hand."""
    found = {}
    for layout, memory_format in LAYOUTS.items():
        moved = [t.contiguous(memory_format=memory_format) if t.ndim == 5 else t for t in tensors]
        found[f"eager, {layout}"] = prepare(eager, moved)
        if compile:
            torch._dynamo.reset()
            side = "compiled" if layout == "contiguous" else "channels-last compiled"
            found[side] = prepare(torch.compile(eager), moved)
            found[side]()
    return found


def doubled(prepare: Callable, function: Callable, tensors: list[Tensor]) -> Run:
    return lambda: prepare(function, [t.double() for t in tensors])()


def forward_only(function: Callable, tensors: list[Tensor]) -> Run:
    return no_grad(lambda: function(*tensors))


def conv_row(name: str, channels: tuple[int, int], size: tuple[int, ...], floors: dict[str, float], *, batch: int = 1, up=None,
             down=None, pixel_norm=False, backward=False) -> Row:  # fmt: skip
    num_in, num_out = channels
    tensors = [torch.randn(batch, num_in, *size), torch.randn(num_out, num_in, 3, 3, 3) / math.sqrt(27 * num_in)]

    def eager(x: Tensor, w: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=tuple(float(u) for u in up)) if up else x
        y = F.conv3d(x, w, padding=1)
        y = F.leaky_relu(F.avg_pool3d(y, down) if down else y, 0.2)
        return reference.pixel_norm.pixel_norm(y) if pixel_norm else y

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return ops.modulated_conv3d(x, w, slope=0.2, pixel_norm=pixel_norm, up=up or 1, down=down or 1)

    # Taps per output voxel of the direct form: 2 of 3 per upsampled axis; 4 at half the positions per pooled one.
    taps = math.prod(2 if u == 2 else 3 for u in up) * math.prod(up) if up else 27
    taps = math.prod(4 / 2 if d == 2 else 3 for d in down) if down else taps
    flops = 2 * taps * num_in * num_out * batch * math.prod(size) * (3 if backward else 1)
    prepare = with_gradients(eager, tensors) if backward else forward_only
    rivals = sides(eager, tensors, prepare, "compiled" in floors)
    return Row(name, prepare(ours, tensors), rivals, doubled(prepare, eager, tensors), floors, flops)


def double_backward_row(name: str, channels: int, size: tuple[int, ...], floors: dict[str, float]) -> Row:
    """The weight and output-gradient terms of a convolution's second backward."""
    shape, taps = (1, channels, *size), (channels, channels, 3, 3, 3)
    start = [torch.randn(shape), torch.randn(taps) / math.sqrt(27 * channels), torch.randn(shape), torch.randn(shape)]

    def prepare(function: Callable, tensors: list[Tensor]) -> Run:
        x, w, g = (t.detach().requires_grad_() for t in tensors[:3])
        with ops.no_weight_gradients():
            (gx,) = torch.autograd.grad(function(x, w), x, g, create_graph=True)
        return lambda: torch.autograd.grad(gx, (w, g), tensors[3], retain_graph=True)

    def eager(x: Tensor, w: Tensor) -> Tensor:
        return F.conv3d(x, w, padding=1)

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return ops.modulated_conv3d(x, w)

    def exact() -> tuple[Tensor, Tensor]:
        # <v, dgrad(g, w)> is bilinear: its derivatives by w and g are the weight gradient at (v, g) and conv(v, w).
        _, w, g, v = (t.double() for t in start)
        return torch.nn.grad.conv3d_weight(v, taps, g, padding=1), F.conv3d(v, w, padding=1)

    flops = 2 * 2 * 27 * channels**2 * math.prod(size)
    return Row(name, prepare(ours, start), sides(eager, start, prepare, False), exact, floors, flops)


def style_row(name: str, floors: dict[str, float]) -> Row:
    batch, channels, size = 4, 32, (8, 32, 32)
    tensors = [
        torch.randn(batch, channels, *size), torch.randn(channels, channels, 3, 3, 3) / math.sqrt(27 * channels),
        1 + 0.1 * torch.randn(batch, channels), torch.randn(channels), torch.randn(batch, 1, *size),
    ]  # fmt: skip

    def grouped(x, w, style, bias, noise):
        return reference.modulated_conv3d.modulated_conv3d(x, w, style, bias=bias, noise=noise, slope=0.2, gain=2**0.5)

    def scaled(x, w, style, bias, noise):
        """The same with the input and the output scaled instead of the weights."""
        d = torch.rsqrt((w.square().sum((2, 3, 4)) @ style.square().T).T + 1e-8)
        z = F.conv3d(x * style[:, :, None, None, None], w, padding=1) * d[:, :, None, None, None]
        return F.leaky_relu(z + noise + bias[:, None, None, None], 0.2) * 2**0.5

    def ours(x, w, style, bias, noise):
        return ops.modulated_conv3d(x, w, style, bias=bias, noise=noise, slope=0.2, gain=2**0.5)

    rivals, prepare = {}, with_gradients(grouped, tensors)
    for form, eager in (("grouped", grouped), ("scaled", scaled)):
        rivals |= {f"{side}, {form}": run for side, run in sides(eager, tensors, prepare, True).items()}
    flops = 3 * 2 * 27 * channels**2 * batch * math.prod(size)
    return Row(name, prepare(ours, tensors), rivals, doubled(prepare, grouped, tensors), floors, flops)


def elementwise_row(
    name: str, shape: tuple[int, ...], mine: Callable, eager: Callable, floors: dict, backward: bool
) -> Row:
    x = [torch.randn(shape)]
    prepare = with_gradients(eager, x) if backward else forward_only
    return Row(name, prepare(mine, x), sides(eager, x, prepare, True), doubled(prepare, eager, x), floors)


def sliced_row(name: str, samples: int, features: int, directions: int) -> Row:
    import ot

    x, y = torch.randn(samples, features), torch.randn(samples, features) + 0.1
    theta = torch.randn(features, directions)
    theta = theta / theta.norm(dim=0)

    def eager(x: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        return ((x @ theta).sort(0).values - (y @ theta).sort(0).values).square().mean().sqrt()

    rivals = {
        "eager": lambda: eager(x, y, theta),
        "POT": lambda: ot.sliced_wasserstein_distance(x, y, projections=theta),
    }
    rivals = {side: no_grad(run) for side, run in rivals.items()}
    ours = no_grad(lambda: ops.sliced_wasserstein(x, y, projections=theta))
    return Row(name, ours, rivals, doubled(forward_only, eager, [x, y, theta]), {"eager": 5, "POT": 10})


class Features(torch.nn.Module):
    """torchmetrics wants a feature network; the benchmark hands it features."""

    def __init__(self, dim: int):
        super().__init__()
        self.num_features = dim

    def forward(self, x: Tensor) -> Tensor:
        return x


def moments_row(name: str, dim: int, rows: int) -> Row:
    from torchmetrics.image.fid import FrechetInceptionDistance

    # One whole buffer per call on both sides, so that the time is that of an update on average.
    theirs, mine = FrechetInceptionDistance(Features(dim), input_img_size=(dim,)), ops.FeatureMoments(dim)
    batches = torch.randn(512 // rows, rows, dim) + 1.0

    def update_theirs() -> Tensor:
        for batch in batches:
            theirs.update(batch, real=True)
        return theirs.real_features_sum / theirs.real_features_num_samples

    def update_mine() -> Tensor:
        for batch in batches:
            mine.update(batch)
        return mine.mean

    exact = lambda: batches.flatten(0, 1).double().mean(0)
    return Row(name, update_mine, {"torchmetrics": update_theirs}, exact, {"torchmetrics": 4})


def frechet_row(name: str, dim: int, decades: float, floors: dict[str, float]) -> Row:
    """Between covariances whose eigenvalues fall over `decades` powers of ten, on which torchmetrics' time depends."""
    from torchmetrics.image.fid import _compute_fid

    draw = torch.randn(dim, dim, dtype=torch.float64) / math.sqrt(dim)
    draw *= torch.logspace(0, -decades / 2, dim, dtype=torch.float64)[:, None]
    sets = [torch.randn(3 * dim, dim, dtype=torch.float64) @ draw + shift for shift in (0, 0.1)]
    a, b = ((rows.mean(0), rows.T.cov()) for rows in sets)

    def exact() -> Tensor:
        # Tr (A B)^(1/2) is the nuclear norm of L_A^T L_B: nothing is squared, nothing cancels.
        root = torch.linalg.svdvals(torch.linalg.cholesky(a[1]).T @ torch.linalg.cholesky(b[1])).sum()
        return (a[0] - b[0]).square().sum() + a[1].trace() + b[1].trace() - 2 * root

    rivals = {"torchmetrics": lambda: _compute_fid(a[0], a[1], b[0], b[1])}
    return Row(name, lambda: ops.frechet_distance(a, b), rivals, exact, floors)


def rows() -> dict[str, Callable[[str], Row]]:
    large, middle = (32, 256, 256), (16, 128, 128)
    norm = lambda x: ops.pixel_norm(x, slope=0.2)
    plain_norm = lambda x: reference.pixel_norm.pixel_norm(x, slope=0.2)
    both = lambda eager, compiled: {"eager": eager, "compiled": compiled}
    return {
        "conv 8→8 + lrelu + pixel norm, 32x256x256": lambda name: conv_row(name, (8, 8), large, both(2.6, 2.4), pixel_norm=True),
        "conv 16→16 + lrelu + pixel norm, 16x128x128": lambda name: conv_row(name, (16, 16), middle, both(1.4, 1.3), pixel_norm=True),
        "conv 64→64 + lrelu, 4x 8x32x32": lambda name: conv_row(name, (64, 64), (8, 32, 32), both(1, 1), batch=4),
        "conv 128→128 + lrelu, 4x 8x16x16": lambda name: conv_row(name, (128, 128), (8, 16, 16), both(1, 1), batch=4),
        "up (2,2,2) + conv 16→8 → 32x256x256 + lrelu": lambda name: conv_row(name, (16, 8), middle, both(5, 7), up=(2, 2, 2)),
        "up (2,2,2) + conv 32→16 → 16x128x128 + lrelu": lambda name: conv_row(name, (32, 16), (8, 64, 64), both(3, 3.5), up=(2, 2, 2)),
        "conv 16→32 + down (1,2,2) + lrelu, 16x128x128": lambda name: conv_row(name, (16, 32), middle, both(2.2, 2.4), down=(1, 2, 2)),
        "conv 8→8 + lrelu, 32x256x256, forward + backward": lambda name: conv_row(name, (8, 8), large, both(1.7, 4), backward=True),
        "conv 16→16 + lrelu, 16x128x128, forward + backward": lambda name: conv_row(name, (16, 16), middle, both(1.1, 1.8), backward=True),
        "up + conv 16→8 → 32x256x256 + lrelu, forward + backward": lambda name: conv_row(name, (16, 8), middle, both(5, 8), up=(2, 2, 2), backward=True),
        "conv 8→8, 32x256x256, double backward": lambda name: double_backward_row(name, 8, large, {"eager": 2.5}),
        "StyleGAN2 layer, 4x 32x8x32x32, forward + backward": lambda name: style_row(name, both(1.3, 1.2)),
        "pixel norm + lrelu, 8x32x256x256": lambda name: elementwise_row(name, (1, 8, *large), norm, plain_norm, both(3, 1), False),
        "pixel norm + lrelu, forward + backward": lambda name: elementwise_row(name, (1, 8, *large), norm, plain_norm, both(3, 1), True),
        "minibatch stddev, 32x 128x4x4x4, forward + backward": lambda name: elementwise_row(name, (32, 128, 4, 4, 4), ops.minibatch_stddev,
            reference.minibatch_stddev.minibatch_stddev, both(3, 1), True,
        ),
        "sliced Wasserstein, 4096x147, 512 directions": lambda name: sliced_row(name, 4096, 147, 512),
        "sliced Wasserstein, 64x128, 256 directions": lambda name: sliced_row(name, 64, 128, 256),
        "FeatureMoments update, D=4096, 8 batches of 64": lambda name: moments_row(name, 4096, 64),
        "Frechet distance, D=2048, eigenvalues over 6 decades": lambda name: frechet_row(name, 2048, 6, {"torchmetrics": 12}),
        "Frechet distance, D=2048, eigenvalues over 2 decades": lambda name: frechet_row(name, 2048, 2, {}),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ output


def cells(row: Row, rate: float) -> list[str]:
    if not row.times:
        return [
            row.name,
            "WRONG",
            f"error {row.errors['ours']:.1e}, eager {row.errors['eager']:.1e}",
            *[""] * 6,
        ]
    rival = (
        "eager" if any(side.startswith("eager") for side in row.times) else next(s for s in row.times if s != "ours")
    )
    second = "compiled" if "compiled" in row.floors else "POT" if "POT" in row.floors else None

    def against(group: str | None) -> str:
        ratio = row.ratio(group) if group else None
        if ratio is None:
            return "–"
        floor = row.floors.get(group)
        return (
            f"{ratio:.2f}x"
            + (f" (≥ {floor:g})" if floor else "")
            + ("" if floor is None or ratio >= floor else " MISSED")
        )

    last = row.ratio("channels-last compiled")
    best = min(ms for side, ms in row.times.items() if side.startswith(rival))
    share = f"{100 * row.flops / rate / 1e6 / row.times['ours']:.0f}%" if row.flops else "–"
    memory = min(mb for side, mb in row.megabytes.items() if side.startswith(rival))
    return [row.name, f"{row.times['ours']:.2f}", f"{best:.2f}", against(rival), against(second), f"{last:.2f}x" if last else "–", share,
            f"{row.megabytes['ours']:.0f}", f"{memory:.0f}"]  # fmt: skip


HEADER = [
    "case",
    "ours ms",
    "eager ms",
    "vs eager / torchmetrics",
    "vs torch.compile / POT",
    "vs compile, channels-last",
    "of direct-form bound",
    "ours MB",
    "eager MB",
]


def markdown(found: list[Row], rate: float, about: dict[str, object]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(cells(row, rate)) + " |" for row in found]
    note = told(about)
    return "\n".join(
        [*lines, "", f"Median times on {note}; ceiling {rate:.0f} GF/s. Eager is the better of both layouts.", ""]
    )


def measured(name: str, seconds: float) -> dict[str, object]:
    torch.manual_seed(0)
    row = rows()[name](name)
    measure(row, seconds)
    return row.figures()


def in_a_process_of_its_own(name: str, seconds: float) -> Row:
    """Measures a row where no other has left its heap, threads and caches behind."""
    command = [sys.executable, __file__, "--row", name, "--seconds", str(seconds)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Row(ours=None, sides={}, exact=None, **json.loads(said.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write benchmarks/results/cpu-ISA.{json,md} too")
    parser.add_argument("--row", default="", help="measure this row here and print it as JSON")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=6.0, help="timing budget per row")
    options = parser.parse_args()
    if os.environ.get(HUGE_PAGES) != "1":
        print(f"{HUGE_PAGES}=1 is not set: page faults will dominate both sides", file=sys.stderr)
    if options.row:
        print(json.dumps(measured(options.row, options.seconds)))
        return 0
    rate, found, about = ceiling(), [], machine()
    for name in rows():
        if options.only in name:
            found.append(in_a_process_of_its_own(name, options.seconds))
            print(" | ".join(cells(found[-1], rate)), flush=True)
    print("\n" + markdown(found, rate, about))
    if options.table:
        RESULTS.mkdir(exist_ok=True)
        result = {"machine": about, "ceiling_gflops": rate, "rows": [row.figures() for row in found]}
        name = f"cpu-{about['isa']}"
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text(markdown(found, rate, about))
    return int(not all(row.times for row in found))


if __name__ == "__main__":
    sys.exit(main())
