"""A whole training step (critic with penalty, then generator) at each stage of the thesis schedule, against the same
networks in plain eager PyTorch: `python benchmarks/train_step.py --table`.

Eager is `ops.using("reference")`: the same loop, optimizer and clips, the convolutions and everything around them as
torch functions. The sides take turns in one process; a figure is the median. Peak memory is the growth of a process of
its own over one step, the median of three: the second, for the first also reads in libraries and makes Adam's moments,
the same for every side; what it freed is given back before. `recompute` makes the activations of the newest level again
instead of keeping them (Phase.recompute).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from machine import machine, told, with_huge_pages

from vgen_fast import ops
from vgen_fast.models import progressive
from vgen_fast.train import loop, memory
from vgen_fast.train.objectives import OBJECTIVES
from vgen_fast.train.schedule import Phase

RESULTS = Path(__file__).parent / "results"
SIDES = ("ours", "recompute", "eager")


@dataclass
class Row:
    """`floor`: least ratio of eager to ours."""

    level: int
    batch: int
    floor: float
    eager: bool = True
    times: dict[str, float] = field(default_factory=dict)  # seconds
    megabytes: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)  # of the critic, after the first step

    @property
    def name(self) -> str:
        size = progressive.Config().sizes[self.level]
        return f"{'x'.join(map(str, size))} B={self.batch}"

    @property
    def sides(self) -> tuple[str, ...]:
        return SIDES if self.eager else SIDES[:2]


ROWS = [
    Row(0, 8, 1.0), Row(1, 8, 1.0), Row(2, 8, 1.0), Row(3, 4, 1.4), Row(4, 2, 1.8), Row(5, 1, 1.8),
    Row(6, 1, 0.0, eager=False),
]  # fmt: skip


def stepper(row: Row, side: str):
    """A function that does one step of a side."""
    torch.manual_seed(0)
    system = progressive.build(progressive.Config())
    phase = Phase(row.level, 0, 1, row.batch, row.batch, 1e-3, 1e-3, "newest" if side == "recompute" else "nothing")
    training = loop.Training((phase,), {"video": OBJECTIVES["wgan_gp"]})
    state = loop.start(system, training)
    rng = torch.Generator().manual_seed(1)
    video = torch.randint(256, (row.batch, 3, *system.sizes[row.level]), generator=rng, dtype=torch.uint8)

    def step() -> dict[str, torch.Tensor]:
        with ops.using("reference" if side == "eager" else None):
            return loop.step(state, training, lambda positions, size: (video, None), lambda gradients: None)

    return step


def measure(row: Row, seconds: float) -> None:
    steps = {side: stepper(row, side) for side in row.sides}
    row.losses = {side: float(step()["video/loss"]) for side, step in steps.items()}
    found = {side: [] for side in steps}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(found["ours"]) < 3:
        for side, step in steps.items():
            before = time.perf_counter()
            step()
            found[side].append(time.perf_counter() - before)
    row.times = {side: statistics.median(times) for side, times in found.items()}


def child(*arguments: str) -> dict:
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def markdown(rows: list[Row], facts: dict) -> str:
    lines = [
        "| step | ours s | eager s | eager / ours | with recompute | ours MB | recompute MB | eager MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, again, eager = (row.times.get(side) for side in SIDES)
        mb = row.megabytes
        ratio = (
            f"{eager / ours:.2f}x (≥ {row.floor:g})" + ("" if eager / ours >= row.floor else " MISSED")
            if eager
            else "–"
        )
        share = lambda side: f"{mb[side]:.0f}" + (f" ({mb[side] / mb['eager']:.2f}x)" if "eager" in mb else "")  # noqa: B023
        rival, rival_mb = f"{eager:.3f}" if eager else "–", f"{mb['eager']:.0f}" if "eager" in mb else "–"
        lines.append(
            f"| {row.name} | {ours:.3f} | {rival} | {ratio} | {again / ours:.2f}x the time "
            f"| {share('ours')} | {share('recompute')} | {rival_mb} |"
        )
    return "\n".join([*lines, "", f"Median times on {told(facts)}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write benchmarks/results/train_step.{json,md} as well")
    parser.add_argument("--row", type=int, help="measure this row here and print it as JSON")
    parser.add_argument("--side", choices=SIDES, help="with --row: measure the memory of this side alone")
    parser.add_argument("--only", type=int, nargs="*", help="these rows")
    parser.add_argument("--seconds", type=float, default=20, help="timing budget per row")
    args = parser.parse_args()
    with_huge_pages()
    torch.set_num_threads(2)
    if args.row is not None and args.side:
        step = stepper(ROWS[args.row], args.side)
        step()
        memory.give_back()
        print(json.dumps({"megabytes": memory.peak_megabytes(step)}))
        return
    if args.row is not None:
        measure(ROWS[args.row], args.seconds)
        print(json.dumps(asdict(ROWS[args.row])))
        return
    rows = []
    for index in args.only or range(len(ROWS)):
        row = Row(**child("--row", str(index), "--seconds", str(args.seconds)))
        memory_of = lambda side: child("--row", str(index), "--side", side)["megabytes"]  # noqa: B023
        row.megabytes = {side: statistics.median(memory_of(side) for _ in range(3)) for side in row.sides}
        rows.append(row)
        print(row.name, row.times, row.megabytes, row.losses, flush=True)
    facts = machine()
    print(text := markdown(rows, facts))
    if args.table:
        (RESULTS / "train_step.json").write_text(
            json.dumps({"facts": facts, "rows": [asdict(r) for r in rows]}, indent=1) + "\n"
        )
        (RESULTS / "train_step.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
