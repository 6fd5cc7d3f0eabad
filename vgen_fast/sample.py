"""`generate`: videos from the averaged generator of a run, and what else samples it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor
from yaml import YAMLError

from .config import Config, from_yaml
from .data import synthetic, transforms, write
from .dataset import dataset
from .device import CPU, Placed, device_of
from .layers.batch_norm import BatchNorm
from .models.system import Draw, Inputs, System
from .options import changed, help_text, options_of, parse, refuse
from .systems import build
from .train import checkpoint, report, seeding
from .train.folder import run_name

SETTLING = 32  # clips that an untrained generator's running statistics are of
FILES = (".mp4", ".gif", ".png", ".npz")
CODES = 4_096  # real clips that a prior is made from
GENERATE_EXAMPLES = """examples:
  python -m vgen_fast generate runs/shapes
  python -m vgen_fast generate runs/shapes --seeds 0-7,42 --out eight.gif
  python -m vgen_fast generate runs/shapes --labels clockwise,square,red --out red.png"""


class Sampled(Placed):
    """What all verbs that make videos of a run have."""

    out: str = "samples.mp4"
    """Where to: .mp4 and .gif are a grid, .png film strips, .npz the bytes [N, T, H, W, 3] and the seeds."""
    columns: int = Field(6, gt=0)
    """Videos side by side."""
    fps: float = Field(8, gt=0)
    """Frames a second."""
    checkpoint: Literal["newest", "best"] = "newest"
    """The best has the best score (--scores.best of the training), of those that are left at the newest's level."""


class Output(Sampled):
    labels: str | None = None
    """A value for each label, by name or number, joined by commas; without it they are drawn with the seed."""


class Generate(Output):
    seeds: str = "0-23"
    """A video each: numbers and ranges joined by commas."""
    truncation: float | None = Field(None, gt=0)
    """Latent numbers further from 0 than this are drawn again: less variety, fewer failures."""
    truth: bool = False
    """Of a generator that predicts: the frame it was given and the clip it is from, left of each video."""
    frames: int | None = Field(None, gt=0)
    """Longer or shorter clips than those it was trained on, of a generator that goes on frame by frame."""


def generate(words: list[str]) -> int:
    command, run = understood(Generate(), "generate", "Videos from a trained generator.", GENERATE_EXAMPLES, words)
    if run is None:
        return 0
    seeds = numbers(command.seeds)
    system, config, clips_seen = restored(run, command.checkpoint, command.frames, device_of(command.device))
    inputs = inputs_of(system, config, seeds, chosen_labels(config, seeds, command.labels), command.truncation)
    made = videos(system, config, inputs, clips_seen)
    if command.truth:
        if system.sees != "frame":
            refuse(f"--truth: a {config.system.name} generator predicts nothing")
        made = beside(made, recorded(run), seeds)
    return finish(made, Path(command.out), command.fps, seeds, command.columns)


def beside(made: np.ndarray, config: Config, seeds: list[int]) -> np.ndarray:
    """Given frame, true clip and prediction [N, T, H, 3 W, 3]; the one that is shorter stays at its last frame."""
    real = transforms.to_frames(dataset(config)(torch.tensor(seeds), config.system.sizes[-1])[0]).numpy()
    length = max(made.shape[1], real.shape[1])
    lasting = lambda v: np.pad(v, ((0, 0), (0, length - v.shape[1]), *[(0, 0)] * 3), mode="edge")  # noqa: E731
    return np.concatenate([lasting(real[:, :1]), lasting(real), lasting(made)], axis=3)


def understood(
    command: Sampled, verb: str, intro: str, examples: str, words: list[str], files: Sequence[str] = FILES
) -> tuple[Sampled, Path | None]:
    """The options and the run folder; None after --help. `files`: what --out may end in."""
    options, usage = list(options_of(command)), f"python -m vgen_fast {verb} RUN [options]"
    if words == ["--help"]:
        report.show(help_text(usage, intro, options, examples))
        return command, None
    if not words or words[0].startswith("-"):
        refuse(f"{verb} wants a run folder first: {usage}")
    command = changed(command, parse(words[1:], options))
    if Path(command.out).suffix not in files:
        refuse(f"--out wants a name that ends in {', '.join(files[:-1])} or {files[-1]}, got {command.out!r}")
    return command, Path(words[0])


def numbers(text: str) -> list[int]:
    """0-3,7 -> 0 1 2 3 7."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            refuse(f"--seeds wants numbers and ranges joined by commas, got {text!r}")
        if int(last or first) < int(first):
            refuse(f"--seeds: the range {part} is empty")
        found += range(int(first), int(last or first) + 1)
    return found


def recorded(run: Path) -> Config:
    """The configuration of a run folder."""
    if not (run / "config.yaml").exists():
        refuse(f"{run} is no run folder: it has no config.yaml")
    try:
        return from_yaml((run / "config.yaml").read_text())
    except ValidationError as error:
        refuse(f"{run / 'config.yaml'} cannot be read: {error.errors()[0]['msg']}")
    except (YAMLError, ValueError) as error:
        refuse(f"{run / 'config.yaml'} cannot be read: {' '.join(str(error).split())}")


def restored(
    run: Path, which: str = "newest", frames: int | None = None, device: torch.device = CPU
) -> tuple[System, Config, int]:
    """A run's system with the averaged generator of the newest or best whole checkpoint, on that device, and the clips
    it has seen.

    Or "untrained": as it was before the first step, at the level that the run ends at, but for batch norm's running
    statistics: those of a batch, as without any it would make next to nothing.
    """
    config = recorded(run)
    if frames is not None:
        if not hasattr(config.system, "frames"):
            refuse(f"--frames: the length of a {config.system.name} generator's clips is fixed")
        try:
            config = config.model_copy(update={"system": replace(config.system, frames=frames)})
        except ValueError as error:
            refuse(f"--frames: {error}")
    if which == "untrained":
        torch.manual_seed(config.seed)
        system = build(config)
        settle(system, config)
        return placed(with_prior(system, config), device), config, config.clips
    chosen = chosen_checkpoint(run, config, which)
    system = build(config)
    system.generator.load_state_dict(checkpoint.tensors(chosen, "average.safetensors"), strict=True)
    system.generator.eval()
    return placed(with_prior(system, config), device), config, chosen.clips_seen


def placed(system: System, device: torch.device) -> System:
    system.generator.to(device)
    return system


def with_prior(system: System, config: Config) -> System:
    """Its codes drawn from what it makes of the first real clips, where it has no latents of its own."""
    if system.prior is None:
        return system
    clips = dataset(config)
    shown = (clips(rows, config.system.sizes[-1])[0] / 127.5 - 1 for rows in torch.arange(CODES).split(64))
    return replace(system, draw_inputs=system.prior(shown), sees=None)


def chosen_checkpoint(run: Path, config: Config, which: str = "newest") -> checkpoint.Checkpoint:
    found = checkpoint.candidates(run / "checkpoints", run_name(run), report.complain)
    if not found:
        refuse(f"{run} holds no whole checkpoint")
    return (checkpoint.best(found, config.scores.best) or found[0]) if which == "best" else found[0]


@torch.no_grad()
def settle(system: System, config: Config) -> None:
    """Running statistics of an untrained generator: those of one batch."""
    norms = [module for module in system.generator.modules() if isinstance(module, BatchNorm)]
    if norms:
        seeds = list(range(SETTLING))
        for norm in norms:
            norm.momentum = 1.0
        inputs = inputs_of(system, config, seeds, chosen_labels(config, seeds, None))
        system.generator(inputs, config.stage(config.clips - 1))
    system.generator.eval()


def inputs_of(
    system: System, config: Config, seeds: list[int], labels: Tensor | None, truncation: float | None = None
) -> Inputs:
    """A row for each seed, which depends on nothing else; where the system sees real clips, that of the same number."""
    like, size = torch.zeros(()), config.system.sizes[-1]
    video = torch.zeros(len(seeds), 3, 1, 1, 1)
    if system.sees:
        video = dataset(config)(torch.tensor(seeds), size)[0] / 127.5 - 1
    rows = []
    for i, seed in enumerate(seeds):
        draw = Draw(seeding.derived(seed, "latents"), 1, torch.arange(1), like, truncation)
        row = system.draw_inputs(video[i : i + 1], None if labels is None else labels[i : i + 1], draw)
        if truncation is not None and (row.latents.abs() > truncation).any():
            refuse(f"--truncation: the latents of a {config.system.name} generator are not normal")
        rows.append(row)
    join = lambda name: torch.cat(found) if (found := [vars(row)[name] for row in rows])[0] is not None else None  # noqa: E731
    return Inputs(join("latents"), join("condition"), join("draws"))


def chosen_labels(config: Config, seeds: list[int], text: str | None) -> Tensor | None:
    classes = config.system.classes
    if text is not None and not classes:
        refuse("--labels: this generator has none")
    if not classes:
        return None
    if text is None:
        draw = lambda seed: [int(torch.randint(n, (), generator=seeding.generator(seed, "label", i)))  # noqa: E731
                             for i, n in enumerate(classes)]  # fmt: skip
        return torch.tensor([draw(seed) for seed in seeds])
    names = list(synthetic.LABELS.values()) if config.data == "shapes" else [tuple(map(str, range(n))) for n in classes]
    words = text.split(",")
    if len(words) != len(classes):
        refuse(f"--labels wants {len(classes)} values joined by commas, got {text!r}")
    row = []
    for word, known in zip(words, names, strict=True):
        if word not in known and not (word.isdigit() and int(word) < len(known)):
            refuse(f"--labels: {word!r} is none of {', '.join(known)}")
        row.append(known.index(word) if word in known else int(word))
    return torch.tensor([row] * len(seeds))


def beside_the_generator(system: System, inputs: Inputs) -> Inputs:
    device = next(system.generator.parameters()).device
    return inputs.each(lambda tensor: tensor.to(device))


@torch.no_grad()
def videos(system: System, config: Config, inputs: Inputs, clips_seen: int) -> np.ndarray:
    """uint8 [N, T, H, W, 3], at the level that the run has reached, a few at a time."""
    stage, found = config.stage(max(clips_seen - 1, 0)), []
    for rows in torch.arange(len(inputs.latents)).split(8):
        some = beside_the_generator(system, inputs.each(lambda t: t[rows]))  # noqa: B023
        video = system.video(system.generator(some, stage))
        found.append(transforms.to_frames(transforms.to_bytes(video)).cpu())
    return torch.cat(found).numpy()


def finish(frames: np.ndarray, path: Path, fps: float, seeds: list[int], columns: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, videos=frames, seeds=np.array(seeds))
    elif path.suffix == ".png":
        write.png(path, write.strip(frames))
    else:
        large = write.enlarge(frames, max(1, 64 // frames.shape[3]))
        shown = large[0] if len(large) == 1 else write.grid(large, columns)
        (write.gif if path.suffix == ".gif" else write.mp4)(path, shown, fps)
    report.show(f"{path}: {len(frames)} videos of {'x'.join(map(str, frames.shape[1:4]))}")
    return 0
