"""`python -m vgen_fast.train [recipe] [options]`: everything between the command line and train/run.py."""

import atexit
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it once: huge pages, or faults take half the time

import torch
from pydantic import Field

from ..classify import classifier
from ..cli import end_quickly
from ..config import Config, Settings
from ..data.decode import TooMuchBadData
from ..data.journal import replace_durably, write_whole
from ..dataset import dataset
from ..dataset import opened as opened_data
from ..device import device_of
from ..inflate import inflated
from ..metrics.sliced_distance import sliced_distance
from ..models.system import System
from ..nets.weights import BadWeights
from ..options import Refused, changed, help_text, nearest, options_of, parse, refuse
from ..recipes import RECIPES
from ..sample import recorded
from ..scoring import Scoring
from ..systems import build as system_of
from . import report
from .balance import AGAIN, LOW, balanced
from .checkpoint import DISTANCE, candidates
from .distributed import PeerLost, Ranks
from .folder import Folder, InUse
from .loop import Gate, Rule, Training, networks, start, step
from .memory import OverBudget, fitting, foretold
from .objectives import OBJECTIVES
from .run import BAD_DATA, CANNOT_SAVE, FULL, LOST, Intervals, Run
from .schedule import Phase
from .sinks import SINKS, Missing

USAGE, BUILT_IN = 2, "shapes"
PROGRAM = "python -m vgen_fast.train"
EXAMPLES = f"""examples:
  {PROGRAM}                                   # the built-in recipe: moving shapes, on this CPU in minutes
  {PROGRAM} --clips 40000                     # the same run, longer: it goes on where it stopped
  {PROGRAM} shapes --objective swgan --outdir runs/swgan --dry-run
  {PROGRAM} --list                            # every recipe, what it costs and what to expect"""


class Command(Settings):
    outdir: str | None = None
    """The run folder; without it runs/<recipe>. The same command in the same folder goes on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train: auto is the GPU if there is one. Under torchrun each rank takes its own."""
    log: Literal["folder", "tensorboard", "wandb"] = "folder"
    """Where statistics go; the run folder has them anyway."""
    inflate: str | None = None
    """What a new run of stgan begins as the inflation of: a run of images, or the released generator.caffemodel."""
    timeout: float = Field(600, gt=0)
    """Seconds after which a rank that does not answer counts as lost."""
    dry_run: bool = False
    """Show parameters, memory and time of every level, write nothing."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; its exit code."""
    words = list(argv)
    if words == ["--list"]:
        report.show(recipe_table())
        return 0
    recipe = words.pop(0) if words and not words[0].startswith("-") else BUILT_IN
    try:
        if recipe == "classifier":
            return classifier(words)
        if recipe not in RECIPES:
            refuse(f"there is no recipe {recipe!r}; the nearest is {nearest(recipe, RECIPES)!r} (--list shows all)")
        config, command = RECIPES[recipe](), Command()
        own, of_recipe = list(options_of(command)), [o for o in options_of(config) if o.path != ("recipe",)]
        if "--help" in words:
            intro = f"Trains a video GAN. Defaults are those of the recipe {recipe}."
            report.show(help_text(f"{PROGRAM} [recipe] [options]", intro, own + of_recipe, EXAMPLES))
            return 0
        values = parse(words, own + of_recipe)
        command = changed(command, {path: value for path, value in values.items() if path[0] in Command.model_fields})
        config = changed(config, {path: value for path, value in values.items() if path[0] in Config.model_fields})
        idle(config, {path[0] for path in values})
        if recipe == BUILT_IN and config.data != "shapes":  # made for labels, takes the data's or none
            config = config.model_copy(update={"system": replace(config.system, classes=opened_data(config)[1])})
        device = device_of(command.device)
        if command.dry_run:
            return dry_run(config, command, device)
        return launch(config, command, device, words)
    except Refused as error:
        report.complain(str(error))
        return USAGE
    except PeerLost as error:  # before the first step; Run answers for the rest
        report.complain(str(error))
        return LOST
    except TooMuchBadData as error:  # in a dry run
        report.complain(str(error))
        return BAD_DATA
    except OSError as error:
        if error.errno not in FULL:
            raise
        report.complain(f"cannot begin the run: {error.strerror}")
        return CANNOT_SAVE


def idle(config: Config, given: set[str]) -> None:
    """Refuses options that would do nothing."""
    option = lambda name: "--" + name.replace("_", "-")  # noqa: E731
    of_caches, cached = ("split", "mirror", "strides", "short", "left"), Path(config.data).suffix == ".vgc"
    for name in given.intersection(of_caches) if not cached else ():
        refuse(f"{option(name)} is of caches (.vgc); --data is {config.data}")
    if "shrink" in given and (cached or config.data == "shapes"):
        refuse(f"--shrink is of folders of film strips; --data is {config.data}")
    if not OBJECTIVES[config.objective].penalty:
        for name in given.intersection(("penalty", "penalty_every")):
            refuse(f"{option(name)}: the objective {config.objective} has no penalty")


def recipe_table() -> str:
    lines = []
    for name, recipe in RECIPES.items():
        config = recipe()
        time, height, width = config.system.sizes[-1]
        kind = f"{config.system.name}, {config.objective}"
        lines.append(
            f"{name:30} {f'{time}x{height}x{width}':12} {kind:22} {config.clips:>11,} clips  data: {config.data}"
        )
        lines.append(f"  {' '.join((recipe.__doc__ or '').split())}")
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------- config -> records


def training_of(config: Config, system: System, phases: tuple[Phase, ...]) -> Training:
    optim = config.optim
    return Training(
        phases,
        {critic.name: OBJECTIVES[config.objective] for critic in system.critics},
        seed=config.seed,
        critic_steps=config.critic_steps,
        penalty=config.penalty,
        penalty_every=config.penalty_every,
        rule=Rule(optim.rule, optim.betas, optim.eps, optim.weight_decay, optim.critics_decay, optim.clip),
        ema_decay=optim.ema,
        autocast={"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision],
        reset_moments=optim.reset_moments,
        gate=gate_of(config, system),
    )


def gate_of(config: Config, system: System) -> Gate | None:
    if config.balance == "none":
        return None
    weight = sum(critic.weight for critic in system.critics)
    return balanced(weight, AGAIN if config.balance == "hysteresis" else LOW)


def build(config: Config, phases: tuple[Phase, ...]) -> tuple[System, Training]:
    torch.manual_seed(config.seed)
    system = system_of(config)
    return system, training_of(config, system, phases)


def begun(config: Config, command: Command, phases: tuple[Phase, ...]) -> tuple[System, Training]:
    system, training = build(config, phases)
    if command.inflate:
        system = inflated(system, config, Path(command.inflate))
    return system, training


def on(device: torch.device, built: tuple[System, Training]) -> tuple[System, Training]:
    """Weights are drawn on the CPU, so that they are the same wherever they go."""
    for module in networks(built[0]).values():
        module.to(device)
    return built


def phases_of(config: Config) -> tuple[Phase, ...]:
    """The schedule, with as much computed again as --memory asks for."""
    phases = config.schedule()
    if config.budget is None:
        return phases
    found = []
    for phase, size in zip(phases, config.system.sizes, strict=True):
        try:
            found.append(fitting(lambda: build(config, phases), phase, len(config.system.classes), config.budget))
        except OverBudget as error:
            refuse(
                f"--memory {config.memory}: {phase.micro_batch} clips of {'x'.join(map(str, size))} at once need "
                f"{error.bytes / 2**20:.0f} MiB with everything recomputed; a smaller --micro-batch needs less"
            )
    return tuple(found)


def scoring_of(config: Config) -> Scoring | None:
    if config.scores.classifier is None:
        return None
    try:
        scoring = Scoring(config)
    except BadWeights as error:
        refuse(f"--scores.classifier: {error}")
    known = [DISTANCE, *scoring.names]
    if config.scores.best not in known:
        refuse(f"--scores.best: {config.scores.best!r} is none of {'; '.join(known)}")
    return scoring


def shared(phases: tuple[Phase, ...], group: int, whole_batch: bool, ranks: int) -> None:
    """Refuses batches that the ranks cannot share."""
    for phase in phases:
        whole = phase.batch // ranks
        if phase.batch % ranks or whole % min(phase.micro_batch, whole) or whole % min(group, phase.batch):
            refuse(f"a batch of {phase.batch} clips cannot be shared by {ranks} ranks in equal parts of whole groups")
    if whole_batch and ranks > 1:
        refuse(f"feature matching and minibatch discrimination look at the whole batch: not on {ranks} ranks")


def launch(config: Config, command: Command, device: torch.device, argv: list[str]) -> int:
    outdir, folder = Path(command.outdir or f"runs/{config.recipe}"), None

    def rejected(reason: str) -> None:
        report.complain(reason)
        if folder:
            folder.event("sample_rejected", reason=reason)

    batches, phases, scoring = dataset(config, rejected), phases_of(config), scoring_of(config)
    ranks = Ranks(device, timedelta(seconds=command.timeout))
    try:
        shared(phases, config.system.group, bool(config.feature_matching) or config.system.whole_batch, ranks.size)
        problem = None
        if ranks.first:
            try:
                folder = opened(config, outdir, argv)
                if command.log != "folder":
                    folder.sinks.append(SINKS[command.log](outdir, folder.run))
            except (Refused, Missing) as error:
                problem = str(error)
        if problem := ranks.from_first(problem):
            refuse(problem)
        intervals = Intervals(**config.every.model_dump(), scored=config.scores.every)
        facts, classes = {"config": config.digest()}, config.system.classes
        return Run(
            lambda: on(device, begun(config, command, phases)),
            batches,
            folder,
            outdir,
            ranks,
            config.clips,
            intervals,
            facts,
            classes,
            sliced_distance,
            config.diverged == "go-back",
            scoring,
            config.scores.best,
        ).go()
    finally:
        if folder:
            folder.close()
        ranks.close()


def opened(config: Config, outdir: Path, argv: list[str]) -> Folder:
    """The run folder, ours alone and of this configuration, with its record of this start."""
    try:
        folder = Folder(outdir)
    except InUse as error:
        refuse(str(error))
    except OSError as error:
        if error.errno in FULL:
            raise
        refuse(f"cannot write into {outdir}: {error.strerror}")
    record, found = outdir / "config.yaml", candidates(folder.checkpoints, folder.run, lambda reason: None)
    try:
        known = recorded(outdir).digest() if record.exists() else found[0].manifest["config"] if found else None
    except Refused:
        folder.close()
        raise
    if known not in (None, config.digest()):
        folder.close()
        told = f", see {record}" if record.exists() else ""
        refuse(f"{outdir} is a run of another configuration{told}; choose another --outdir")
    replace_durably(record, config.yaml().encode())
    write_whole(outdir / "command.txt", shlex.join([PROGRAM, *argv]) + "\n")
    return folder


def dry_run(config: Config, command: Command, device: torch.device) -> int:
    batches, phases = dataset(config), phases_of(config)
    system, training = on(device, begun(config, command, phases))
    report.show(
        "\n".join(
            f"{n:10} {sum(p.numel() for p in m.parameters()):>12,} parameters" for n, m in networks(system).items()
        )
    )
    for phase, size in zip(phases, system.sizes, strict=True):
        expected = foretold(lambda: build(config, phases), phase, len(config.system.classes)) / 2**20
        alone = replace(training, phases=(replace(phase, fade_clips=0),))
        state = start(system, alone)
        began = time.perf_counter()
        losses = step(state, alone, batches, lambda gradients: None)
        float(losses["generator/loss"])  # waits for the GPU
        took = time.perf_counter() - began
        report.show(
            f"{'x'.join(map(str, size)):>12}  batch {phase.batch:3}  recompute {phase.recompute:8}  "
            f"{expected:6.0f} MiB expected  {took:6.2f} s the first step"
        )
    return 0


if __name__ == "__main__":
    atexit.register(end_quickly)
    sys.exit(main(sys.argv[1:]))
