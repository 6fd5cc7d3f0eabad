"""A training step of each unconditional system at its published width, against the same networks in plain eager PyTorch:
`python benchmarks/systems.py --table`.

Eager is the step as one writes it down: the convolutions and everything around them as torch functions, every network's
gradients on, PyTorch's Adam or RMSprop, penalties by autograd, singular values by a whole decomposition. The sides take
turns in one process on the same clips; a figure is the median, of TGAN the mean, as every fifth of its steps clips; both
must start with the same losses.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from machine import machine, told, with_huge_pages
from torch import Tensor

from vgen_fast import ops
from vgen_fast.config import Config
from vgen_fast.layers.singular_values import bound_scales
from vgen_fast.models.system import Draw, Stage, System, scores_of
from vgen_fast.recipes import RECIPES
from vgen_fast.systems import build
from vgen_fast.train import loop, seeding
from vgen_fast.train.__main__ import training_of
from vgen_fast.train.objectives import OBJECTIVES

RESULTS = Path(__file__).parent / "results"
SAME = 1e-3  # of the first losses


@dataclass
class Row:
    recipe: str
    batch: int
    level: int = 0
    times: dict[str, float] = field(default_factory=dict)  # seconds
    losses: dict[str, float] = field(default_factory=dict)  # of the last critic, in the first step

    @property
    def name(self) -> str:
        size = RECIPES[self.recipe]().system.sizes[self.level]
        return f"{self.recipe}, {'x'.join(map(str, size))} B={self.batch}"


ROWS = [
    Row("vgan-golf", 4),
    Row("tgan-ucf101", 4),
    Row("tgan2-ucf101", 1),
    Row("mocogan-ucf101", 4),
    Row("pgan-billiard-512", 4, level=4),
    Row("progressive-ucf101-128", 4, level=3),
]


def parts_of(row: Row) -> tuple[System, loop.Training, Config, Stage]:
    torch.manual_seed(0)
    config = RECIPES[row.recipe]()
    system = build(config)
    phases = config.model_copy(update={"batch": row.batch}).schedule()
    phase = replace(phases[row.level], fade_clips=0)  # the level alone
    return system, training_of(config, system, (phase,)), config, Stage(row.level)


def clips(row: Row, config: Config) -> tuple[Tensor, Tensor | None]:
    rng = torch.Generator().manual_seed(1)
    video = torch.randint(256, (row.batch, 3, *config.system.sizes[row.level]), generator=rng, dtype=torch.uint8)
    return video, None


def ours(row: Row) -> Callable[[], float]:
    system, training, config, _ = parts_of(row)
    state, batch = loop.start(system, training), clips(row, config)

    def step() -> float:
        losses = loop.step(state, training, lambda positions, size: batch, lambda gradients: None)
        return float(losses[f"{system.critics[-1].name}/loss"])

    return step


def eager(row: Row) -> Callable[[], float]:
    system, training, config, stage = parts_of(row)
    objective, (bytes_, _) = OBJECTIVES[config.objective], clips(row, config)
    optimizers = {name: plain_optimizer(config, module) for name, module in loop.networks(system).items()}
    clipped, seen, video = config.objective == "wgan", [0], bytes_ / 127.5 - 1
    rows = torch.arange(row.batch)

    def drawn(*key: object) -> Draw:
        """The same random numbers as the loop's."""
        seed = seeding.derived(config.seed, seen[0], *key)
        torch.manual_seed(seeding.derived(seed, "inside", 0, 0))
        return Draw(seed, row.batch, rows, video)

    def step() -> float:
        draw = drawn("critics", 0)
        inputs = system.draw_inputs(video, None, draw)
        with torch.no_grad():
            made, given = system.generator(inputs, stage), system.real(video, inputs, stage)
        for critic in system.critics:
            fake, real = critic.view(made, inputs, stage), critic.view(given, inputs, stage)
            judged = critic.module(real, stage), critic.module(fake, stage)
            loss = objective.critic(*map(scores_of, judged))
            if critic.task:
                weights = critic.task.real, critic.task.fake
                loss = loss + sum(w * critic.task.loss(j.answer, inputs) for w, j in zip(weights, judged, strict=True))
            told = float(loss.detach())
            if objective.penalty:
                loss = loss + training.penalty * objective.penalty(critic.module, real, fake, stage, draw, 1.0)
            optimizers[critic.name].zero_grad()
            loss.backward()
            optimizers[critic.name].step()
            if clipped and (seen[0] // row.batch + 1) % 5 == 0:
                clip_by_svd(critic.module)
        inputs = system.draw_inputs(video, None, drawn("generator"))
        fake = system.generator(inputs, stage)
        loss = sum(term.weight * term.value(fake, video, inputs, stage) for term in system.terms)
        for critic in system.critics:
            judged = critic.module(critic.view(fake, inputs, stage), stage)
            loss = loss + objective.generator(scores_of(judged))
            if critic.task:
                loss = loss + critic.task.generator * critic.task.loss(judged.answer, inputs)
        optimizers["generator"].zero_grad()
        loss.backward()
        optimizers["generator"].step()
        seen[0] += row.batch
        return told

    def with_reference() -> float:
        with ops.using("reference"):
            return step()

    return with_reference


def plain_optimizer(config: Config, module: torch.nn.Module) -> torch.optim.Optimizer:
    optim = config.optim
    if optim.rule == "rmsprop":
        return torch.optim.RMSprop(module.parameters(), optim.critic_lr, optim.betas[1], optim.eps)
    return torch.optim.Adam(
        module.parameters(), optim.critic_lr, optim.betas, optim.eps, weight_decay=optim.weight_decay
    )


@torch.no_grad()
def clip_by_svd(critic: torch.nn.Module) -> None:
    bound_scales(critic)
    for weight in critic.parameters():
        if weight.ndim >= 4:
            u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            weight.copy_(((u * s.clamp(max=1)) @ vh).view_as(weight))


SIDES = {"ours": ours, "eager": eager}


def measure(row: Row, seconds: float) -> None:
    steps = {name: side(row) for name, side in SIDES.items()}
    row.losses = {name: step() for name, step in steps.items()}
    mine, plain = row.losses["ours"], row.losses["eager"]
    if not abs(mine - plain) <= SAME * max(1.0, abs(plain)):
        raise SystemExit(f"{row.name}: the sides do not compute the same: first losses {mine} and {plain}")
    found = {name: [] for name in steps}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(found["ours"]) < 6:  # a clipping of singular values in each
        for name, step in steps.items():
            before = time.perf_counter()
            step()
            found[name].append(time.perf_counter() - before)
    # Means: every fifth step of TGAN clips singular values.
    average = statistics.mean if "tgan-" in row.recipe else statistics.median
    row.times = {name: average(times) for name, times in found.items()}


def markdown(rows: list[Row], facts: dict) -> str:
    lines = ["| system | ours steps/s | eager steps/s | ours / eager |", "|---|---|---|---|"]
    for row in rows:
        mine, plain = (1 / row.times[name] for name in SIDES)
        lines.append(f"| {row.name} | {mine:.3g} | {plain:.3g} | {mine / plain:.2f}x |")
    return "\n".join([*lines, "", f"On {told(facts)}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write benchmarks/results/systems.{json,md} as well")
    parser.add_argument("--row", type=int, help="measure this row here and print it as JSON")
    parser.add_argument("--only", type=int, nargs="*", help="these rows")
    parser.add_argument("--seconds", type=float, default=30, help="timing budget per row")
    args = parser.parse_args()
    with_huge_pages()
    torch.set_num_threads(2)
    if args.row is not None:
        measure(ROWS[args.row], args.seconds)
        print(json.dumps(asdict(ROWS[args.row])))
        return
    rows = []
    for index in args.only or range(len(ROWS)):
        command = [sys.executable, __file__, "--row", str(index), "--seconds", str(args.seconds)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(Row(**json.loads(said.splitlines()[-1])))
        print(rows[-1].name, rows[-1].times, rows[-1].losses, flush=True)
    facts = machine()
    print(text := markdown(rows, facts))
    if args.table:
        contents = json.dumps({"facts": facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        (RESULTS / "systems.json").write_text(contents)
        (RESULTS / "systems.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
