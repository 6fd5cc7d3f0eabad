"""`maximize`: videos of a class, by codes that a classifier's gradient changes until it sees the class (spec A6).

STGAN's generator is no training's here: its codes are. Each step goes along the gradient of the class's probability,
the way back to codes that the encoder gives (or towards 0), and noise; its length is the mean of |change|.

Legend: B videos, T frames, Z numbers of a code, K classes.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .data import transforms
from .layers.segment import recomputing
from .models import stgan
from .nets import caffenet, lrcn, trained, weights
from .nets.weights import BadWeights
from .options import nearest, refuse
from .sample import Sampled, finish, numbers, restored, understood
from .train import report, seeding

EXAMPLES = """examples:
  python -m vgen_fast maximize runs/stgan --condition runs/classifier --classes clockwise
  python -m vgen_fast maximize runs/stgan --condition lrcn --classes 12,33 --seeds 0-3 --frames 16 --out two.mp4
  python -m vgen_fast maximize generator.caffemodel --condition lrcn --classes 12 --every 10 --out path.png"""
LARGEST = 30.0  # of a code's numbers, which are not negative
AT_ONCE = 4  # frames that networks of frames see together, recomputing
REACHED = 1 - 1e-6  # a probability that needs no more

Condition = Callable[[Tensor], Tensor]  # a clip in Caffe's colours [B, 3, T, H, W] -> logits [B, frames or 1, K]


@dataclass(frozen=True)
class Rule:
    iterations: int = 100
    first: float = 1.0  # lengths of steps, falling linearly
    last: float = 0.1
    inclusive: bool = False  # whether the last step has the last length, and not the step after it
    towards: float = 1.0  # factor on the gradient of the class
    prior: Literal["dae", "l1", "none"] = "dae"
    back: float = 1e-5  # factor on the prior's
    noise: float = 1e-17  # its standard deviation: in float32 nothing, as published
    objective: Literal["ppgn", "log_softmax"] = "ppgn"

    def length(self, i: int) -> float:
        return self.first + (self.last - self.first) * i / max(self.iterations - self.inclusive, 1)


class Seen(NamedTuple):
    """Where a step begins."""

    codes: Tensor  # [B, T, Z]
    clip: Tensor  # [B, 3, T, H, W], in Caffe's colours
    probability: Tensor  # [B], of each one's class, the mean of its frames


def climbed(logits: Tensor, classes: Tensor, objective: str) -> tuple[Tensor, Tensor]:
    """The sum of what each video climbs, and its probability: logits [B, T, K], classes [B].

    "ppgn" seeds the logit of the class alone with 1 - p; the whole gradient of log p has the others' -p too.
    """
    mine = classes[:, None, None].expand(-1, logits.shape[1], 1)
    p = logits.softmax(dim=2).gather(2, mine)[..., 0]  # [B, T]
    if objective == "ppgn":
        value = (1 - p).detach() * logits.gather(2, mine)[..., 0]
    else:
        value = logits.log_softmax(dim=2).gather(2, mine)[..., 0]
    return value.mean(dim=1).sum(), p.mean(dim=1).detach()


def maximised(
    make: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
    condition: Condition,
    codes: Tensor,
    classes: Tensor,
    rule: Rule,
    rngs: Sequence[torch.Generator],
    watch: Callable[[int, Seen], None] = lambda i, seen: None,
) -> Seen:
    """Codes [B, T, Z] after all steps; a video whose class is seen for certain stays as it is.

    `make` takes codes to a clip, `encode` a clip to codes. `watch` is told before each step, and at the end. Noise is
    drawn of a generator of random numbers for each video. FloatingPointError where a gradient is not finite.
    """
    for i in range(rule.iterations + 1):
        last = i == rule.iterations
        with torch.set_grad_enabled(not last):
            h = codes.detach().requires_grad_()
            clip = make(h)
            value, probability = climbed(condition(clip), classes, rule.objective)
        seen = Seen(codes, clip.detach(), probability)
        watch(i, seen)
        if last:
            break
        (gradient,) = torch.autograd.grad(value, h)
        if not (finite := gradient.isfinite().flatten(1).all(dim=1)).all():
            bad = int(finite.int().argmin())
            raise FloatingPointError(f"the gradient of video {bad} is not finite after {i} steps")
        direction = rule.towards * gradient
        if rule.prior == "dae":
            with torch.no_grad():
                direction += rule.back * (encode(seen.clip) - codes)
        elif rule.prior == "l1":
            direction -= rule.back * codes.sign()
        noise = torch.stack([torch.randn(codes.shape[1:], generator=rng) for rng in rngs])
        direction += rule.noise * noise.to(codes)
        size = direction.abs().mean(dim=(1, 2), keepdim=True)
        going = (probability < REACHED)[:, None, None] & (size > 0)
        if not going.any():
            break
        moved = (codes + rule.length(i) / size.clamp_min(1e-38) * direction).clamp(0, LARGEST)
        codes = torch.where(going, moved, codes)
    return seen


# ---------------------------------------------------------------------------------------------------------- conditions


def by_frames(network: Callable[[Tensor], Tensor], clip: Tensor, recompute: bool) -> Tensor:
    """Of each frame [B, T, ...]; recomputing, some frames at a time, of which nothing else is kept."""
    pictures = stgan.of_frames(clip)
    if recompute:
        parts = pictures.split(AT_ONCE)
        found = torch.cat([checkpoint(network, p, use_reentrant=False, preserve_rng_state=False) for p in parts])
    else:
        found = network(pictures)
    return found.unflatten(0, clip.shape[::2][:2])


def of_ours(network: trained.Trained) -> Condition:
    """Of pixels that are not cut to 0 and 255, which have a gradient everywhere."""
    size = network.inner.size
    return lambda clip: network.inner(trained.prepare(stgan.pixels(clip), size)).logits[:, None]


def of_lrcn(network: lrcn.LRCN, recompute: bool = False) -> Condition:
    """Whose colours have other means; each frame has a say."""
    between = torch.tensor(caffenet.MEAN) - torch.tensor(lrcn.MEAN)

    def condition(clip: Tensor) -> Tensor:
        shifted = clip + between.to(clip)[:, None, None, None]
        return network.over_time(by_frames(network.of_frames, shifted, recompute))[0]

    return condition


def of_encoder(network: caffenet.CaffeNet, recompute: bool = False) -> Condition:
    return lambda clip: by_frames(lambda pictures: network(pictures).logits, clip, recompute)


class Leader(NamedTuple):
    condition: Condition
    classes: tuple[str, ...]
    frames: int  # that it wants at least
    size: int | None = None  # of them, where it takes no other


def leader_of(name: str, recompute: bool = False) -> Leader:
    try:
        if name == "lrcn":
            network = lrcn.load(weights.find(lrcn.RGB)).eval().requires_grad_(False)
            classes = tuple(map(str, range(network.fc8.out_features)))
            return Leader(of_lrcn(network, recompute), classes, 1, caffenet.SIDE)
        if not Path(name).is_dir():
            refuse(f"--condition: {name!r} is neither lrcn nor a folder of `train classifier`")
        network = trained.load(Path(name)).eval().requires_grad_(False)
    except BadWeights as error:
        refuse(f"--condition: {error}")
    if isinstance(network.inner, lrcn.LRCN):
        return Leader(of_lrcn(network.inner, recompute), network.facts.values, 1, network.inner.side)
    if isinstance(network.inner, caffenet.CaffeNet):
        return Leader(of_encoder(network.inner, recompute), network.facts.values, 1, network.facts.size[1])
    return Leader(of_ours(network), network.facts.values, network.inner.size[0])


def encoder_of(cfg: stgan.Config) -> caffenet.Encoder:
    try:
        return stgan.encoder_of(cfg)
    except BadWeights as error:
        refuse(str(error))


# --------------------------------------------------------------------------------------------------------------- verb


class Command(Sampled):
    condition: str = "lrcn"
    """The classifier that leads: lrcn as published, or a folder of `train classifier`."""
    classes: str | None = None
    """Names or numbers of classes joined by commas, a video of each for every seed; without it all of them."""
    seeds: str = "0"
    """The first codes: numbers and ranges joined by commas."""
    frames: int | None = Field(None, gt=0)
    """Length; without it that of the clips the run was trained on, or 16."""
    every: int = Field(0, ge=0)
    """Show the middle frame of every so many steps in place of the video's; 0 shows the video at the end."""
    iterations: int = Field(100, gt=0)
    """Steps."""
    lengths: tuple[float, float] = (1.0, 0.1)
    """Of the first step and, almost, of the last: the mean of what a code's numbers change by."""
    prior: Literal["dae", "l1", "none"] = "dae"
    """What keeps codes like those of frames: the way back through the encoder, fewer of them, or nothing."""
    back: float = Field(1e-5, ge=0)
    """Factor on the prior's direction."""
    objective: Literal["ppgn", "log_softmax"] = "ppgn"
    """The gradient of the class's logit alone, as published, or of its log probability."""
    recompute: bool = False
    """Make activations again instead of keeping them, those of frames some at a time: less memory, more time."""
    batch: int = Field(4, gt=0)
    """Videos at once."""


def maximize(words: list[str]) -> int:
    intro = "Videos of classes, from the codes that a classifier's gradient finds for STGAN: of a run, or as released."
    command, source = understood(Command(), "maximize", intro, EXAMPLES, words)
    if source is None:
        return 0
    leader = leader_of(command.condition, command.recompute)
    generator = generator_of(source, command)
    made = generator.cfg
    if made.frames < leader.frames:
        refuse(f"--frames: {command.condition} sees {leader.frames} frames, the videos have {made.frames}")
    if leader.size not in (None, made.size):
        refuse(f"--condition: {command.condition} sees {leader.size}x{leader.size} pixels, the videos have {made.size}")
    jobs = [(chosen, seed) for chosen in numbered(command.classes, leader.classes) for seed in numbers(command.seeds)]
    parts = [jobs[i : i + command.batch] for i in range(0, len(jobs), command.batch)]
    try:
        shown = [video for part in parts for video in videos(generator, leader, part, command)]
    except FloatingPointError as error:
        refuse(f"{source}, led by {command.condition}: {error}")
    return finish(np.stack(shown), Path(command.out), command.fps, [seed for _, seed in jobs], command.columns)


def generator_of(source: Path, command: Command) -> stgan.Generator:
    """A run's, or the released one of images, inflated."""
    if source.is_file():
        cfg = stgan.Config(frames=command.frames or 16)
        generator = stgan.Generator(cfg)
        try:
            stgan.inflate(stgan.load(source, replace(cfg, depth=1, frames=1)), generator)
        except BadWeights as error:
            refuse(str(error))
        return generator
    system, config, _ = restored(source, command.checkpoint, command.frames)
    if not isinstance(config.system, stgan.Config):
        refuse(f"{source} is a {config.system.name} run: maximize changes the codes of stgan's generator")
    return system.generator


def numbered(text: str | None, names: tuple[str, ...]) -> list[int]:
    if text is None:
        return list(range(len(names)))
    found = []
    for word in text.split(","):
        if word in names:
            found.append(names.index(word))
        elif word.isdigit() and int(word) < len(names):
            found.append(int(word))
        else:
            refuse(f"--classes: {word!r} is none of the {len(names)}; the nearest is {nearest(word, names)!r}")
    return found


def videos(
    generator: stgan.Generator, leader: Leader, jobs: list[tuple[int, int]], command: Command
) -> list[np.ndarray]:
    """uint8 [T, H, W, 3] of each (class, seed), or its middle frame through the steps."""
    cfg, encoder, like = generator.cfg, encoder_of(generator.cfg), next(generator.parameters())
    generator.requires_grad_(False)
    rngs = [seeding.generator(seed, "codes", chosen) for chosen, seed in jobs]
    codes = torch.stack([torch.randn(cfg.frames, cfg.codes, generator=rng) for rng in rngs]).to(like)
    first, last = command.lengths
    rule = Rule(command.iterations, first, last, prior=command.prior, back=command.back, objective=command.objective)
    path = []

    def watch(i: int, seen: Seen) -> None:
        if command.every and i % command.every == 0:
            path.append(seen.clip[:, :, cfg.frames // 2].cpu())
        if i % 10 == 0:
            told = ", ".join(f"{p:.3f}" for p in seen.probability.tolist())
            report.show(f"step {i} of {rule.iterations}: probabilities {told}")

    with recomputing(generator) if command.recompute else nullcontext():
        seen = maximised(
            lambda h: stgan.cropped(generator.whole(h), cfg.size),
            lambda clip: by_frames(lambda pictures: encoder(pictures).fc6, clip, command.recompute),
            leader.condition,
            codes,
            torch.tensor([chosen for chosen, _ in jobs], device=like.device),
            rule,
            rngs,
            watch,
        )
    for (chosen, seed), p in zip(jobs, seen.probability.tolist(), strict=True):
        report.show(f"{leader.classes[chosen]}, seed {seed}: p = {p:.4f}")
    if command.every:  # those that are done early stay as they are
        path += [path[-1]] * (rule.iterations // command.every + 1 - len(path))
    clip = torch.stack(path, dim=2) if command.every else seen.clip
    return list(transforms.to_frames(transforms.to_bytes(stgan.from_caffe(clip))).cpu().numpy())
