"""`generate` and `interpolate`: videos from the averaged generator of a run."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .config import Config, Settings, from_yaml
from .data import synthetic, transforms, write
from .models import progressive
from .models.system import Inputs
from .options import changed, help_text, options_of, parse, refuse
from .train import checkpoint, report, seeding
from .train.folder import run_name

GENERATE_EXAMPLES = """examples:
  python -m vgen_fast generate runs/shapes
  python -m vgen_fast generate runs/shapes --seeds 0-7,42 --out eight.gif
  python -m vgen_fast generate runs/shapes --labels clockwise,square,red --out red.png"""
INTERPOLATE_EXAMPLES = """examples:
  python -m vgen_fast interpolate runs/shapes --seeds 1,2
  python -m vgen_fast interpolate runs/shapes --seeds 1,2,3,4 --steps 12 --out walks.mp4
  python -m vgen_fast interpolate runs/shapes --seeds 1,2 --labels left,disc,blue --out walk.gif"""


class Output(Settings):
    out: str = "samples.mp4"
    """Where to: .mp4 and .gif are a grid, .png film strips, .npz the bytes [N, T, H, W, 3] and the seeds."""
    labels: str | None = None
    """A value for each label, by name or number, joined by commas; without it they are drawn with the seed."""
    columns: int = Field(6, gt=0)
    """Videos side by side."""
    fps: float = Field(8, gt=0)
    """Frames a second."""
    checkpoint: Literal["newest", "best"] = "newest"
    """The best has the best score (--scores.best of the training), of those that are left at the newest's level."""


class Generate(Output):
    seeds: str = "0-23"
    """A video each: numbers and ranges joined by commas."""
    truncation: float | None = Field(None, gt=0)
    """Latent numbers further from 0 than this are drawn again: less variety, fewer failures."""


class Interpolate(Output):
    seeds: str = "0,1"
    """Pairs of seeds, joined by commas: from the first to the second, from the third to the fourth."""
    steps: int = Field(6, gt=1)
    """Videos from one end to the other, both included."""


def generate(words: list[str]) -> int:
    command, run = understood(Generate(), "generate", "Videos from a trained generator.", GENERATE_EXAMPLES, words)
    if run is None:
        return 0
    seeds = numbers(command.seeds)
    generator, config, clips_seen = restored(run, command.checkpoint)
    inputs = Inputs(
        torch.stack([latents(config, seed, command.truncation) for seed in seeds]),
        chosen_labels(config, seeds, command.labels),
    )
    return finish(videos(generator, config, inputs, clips_seen), command, seeds, command.columns)


def interpolate(words: list[str]) -> int:
    intro = "Videos along straight lines between latents (Appendix B); labels are those of each line's first end."
    command, run = understood(Interpolate(), "interpolate", intro, INTERPOLATE_EXAMPLES, words)
    if run is None:
        return 0
    seeds = numbers(command.seeds)
    if len(seeds) % 2:
        refuse(f"--seeds wants pairs, got {len(seeds)} seeds")
    generator, config, clips_seen = restored(run, command.checkpoint)
    ends = torch.stack([latents(config, seed, None) for seed in seeds]).reshape(-1, 2, config.system.latents)
    share = torch.linspace(0, 1, command.steps)[:, None]
    lines = torch.lerp(ends[:, :1], ends[:, 1:], share).flatten(0, 1)
    firsts = [seed for seed in seeds[::2] for _ in range(command.steps)]
    inputs = Inputs(lines, chosen_labels(config, firsts, command.labels))
    return finish(videos(generator, config, inputs, clips_seen), command, firsts, command.steps)


def understood(command: Output, verb: str, intro: str, examples: str, words: list[str]) -> tuple[Output, Path | None]:
    """The options and the run folder; None after --help."""
    options, usage = list(options_of(command)), f"python -m vgen_fast {verb} RUN [options]"
    if words == ["--help"]:
        report.show(help_text(usage, intro, options, examples))
        return command, None
    if not words or words[0].startswith("-"):
        refuse(f"{verb} wants a run folder first: {usage}")
    command = changed(command, parse(words[1:], options))
    if Path(command.out).suffix not in (".mp4", ".gif", ".png", ".npz"):
        refuse(f"--out wants a name that ends in .mp4, .gif, .png or .npz, got {command.out!r}")
    return command, Path(words[0])


def numbers(text: str) -> list[int]:
    """0-3,7 -> 0 1 2 3 7."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            refuse(f"--seeds wants numbers and ranges joined by commas, got {text!r}")
        found += range(int(first), int(last or first) + 1)
    return found


def restored(run: Path, which: str = "newest") -> tuple[torch.nn.Module, Config, int]:
    """The averaged generator of the newest or best whole checkpoint, its configuration, and the clips it has seen.

    Or "untrained": as it was before the first step, at the level that the run ends at.
    """
    if not (run / "config.yaml").exists():
        refuse(f"{run} is no run folder: it has no config.yaml")
    config = from_yaml((run / "config.yaml").read_text())
    if which == "untrained":
        torch.manual_seed(config.seed)
        return progressive.Generator(config.system).eval(), config, config.clips
    found = checkpoint.candidates(run / "checkpoints", run_name(run), report.complain)
    if not found:
        refuse(f"{run} holds no whole checkpoint")
    chosen = (checkpoint.best(found, config.scores.best) or found[0]) if which == "best" else found[0]
    generator = progressive.Generator(config.system)
    generator.load_state_dict(checkpoint.tensors(chosen, "average.safetensors"), strict=True)
    return generator.eval(), config, chosen.clips_seen


def latents(config: Config, seed: int, truncation: float | None) -> Tensor:
    rng = seeding.generator(seed, "latents")
    z = torch.randn(config.system.latents, generator=rng)
    while truncation is not None and (outside := z.abs() > truncation).any():
        z = torch.where(outside, torch.randn(len(z), generator=rng), z)
    return z


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


@torch.no_grad()
def videos(generator: torch.nn.Module, config: Config, inputs: Inputs, clips_seen: int) -> np.ndarray:
    """uint8 [N, T, H, W, 3], at the level that the run has reached, a few at a time."""
    stage, device = config.stage(max(clips_seen - 1, 0)), next(generator.parameters()).device
    found = []
    for rows in torch.arange(len(inputs.latents)).split(8):
        condition = None if inputs.condition is None else inputs.condition[rows].to(device)
        some = Inputs(inputs.latents[rows].to(device), condition)
        found.append(transforms.to_frames(transforms.to_bytes(generator(some, stage))).cpu())
    return torch.cat(found).numpy()


def finish(frames: np.ndarray, command: Output, seeds: list[int], columns: int) -> int:
    path = Path(command.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, videos=frames, seeds=np.array(seeds))
    elif path.suffix == ".png":
        write.png(path, write.strip(frames))
    else:
        large = write.enlarge(frames, max(1, 64 // frames.shape[3]))
        (write.gif if path.suffix == ".gif" else write.mp4)(path, write.grid(large, columns), command.fps)
    report.show(f"{path}: {len(frames)} videos of {'x'.join(map(str, frames.shape[1:4]))}")
    return 0
