"""`maximize`: videos of a class from STGAN's generator, through a classifier: the verb, with what makes, fits and keeps
its videos; ascent.py has the rule.

Legend: B videos, T frames, Z numbers of a code.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .ascent import Rule, Seen, ascent, maximised
from .conditions import Leader, by_frames, leader_of
from .config import Bytes, bytes_of
from .data import transforms
from .data.cache import BadCache, Clip, Writer
from .device import device_of
from .layers.segment import recomputing
from .models import stgan
from .nets import caffenet, weights
from .nets.weights import BadWeights
from .options import nearest, refuse
from .sample import FILES, Sampled, chosen_checkpoint, finish, numbers, recorded, restored, understood
from .train import memory, report, seeding

EXAMPLES = """examples:
  python -m vgen_fast maximize runs/stgan --condition runs/classifier --classes clockwise
  python -m vgen_fast maximize runs/stgan --condition lrcn --classes Billiards,Fencing --seeds 0-3 --out two.mp4
  python -m vgen_fast maximize generator.caffemodel --condition lrcn --classes Billiards --every 10 --out path.png
  python -m vgen_fast maximize runs/stgan --condition lrcn --count 10000 --out lrcn.vgc    # goes on if interrupted"""
AVERAGE = "average.safetensors"
SET = ".vgc"


def encoder_of(cfg: stgan.Config) -> caffenet.Encoder:
    try:
        return stgan.encoder_of(cfg)
    except BadWeights as error:
        refuse(str(error))


# --------------------------------------------------------------------------------------------------------------- verb


class Command(Sampled):
    out: str = "samples.mp4"
    """Where to: .mp4 and .gif are a grid, .png film strips, .npz the bytes [N, T, H, W, 3] and the seeds, .vgc a cache
    labelled by the classes, which is kept as it grows: the same command goes on with it."""
    condition: str = "lrcn"
    """The classifier that leads: lrcn or c3d as published, or a folder of `train classifier`."""
    classes: str | None = None
    """Names or numbers of classes joined by commas; without it all of them."""
    seeds: str = "0"
    """The first codes, for a video of each class: numbers and ranges joined by commas."""
    count: int | None = Field(None, gt=0)
    """So many videos, of the classes in turn, with seeds from 0 up, instead of --seeds."""
    frames: int | None = Field(None, gt=0)
    """Length; without it that of the clips the run was trained on, or 16. A run of images is inflated."""
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
    batch: int = Field(4, gt=0)
    """Videos at once."""
    memory: Bytes | None = None
    """What a step may hold, as 8GiB or 900MB: fewer videos at once, or activations made again, as much as it takes."""


def maximize(words: list[str]) -> int:
    intro = "Videos of classes, from the codes that a classifier's gradient finds for STGAN: of a run, or as released."
    command, source = understood(Command(), "maximize", intro, EXAMPLES, words, (*FILES, SET))
    if source is None:
        return 0
    leader = leader_of(command.condition)
    leader.network.to(device_of(command.device))
    generator, about = generator_of(source, command)
    made = generator.cfg
    if made.frames < leader.frames:
        refuse(f"--frames: {command.condition} sees {leader.frames} frames, the videos have {made.frames}")
    if (leader.size or 0) > made.size:
        refuse(f"--condition: {command.condition} sees {leader.size}x{leader.size} pixels, the videos have {made.size}")
    chosen = numbered(command.classes, leader.classes)
    if command.count:
        jobs = [(chosen[i % len(chosen)], i // len(chosen)) for i in range(command.count)]
    else:
        jobs = [(c, seed) for c in chosen for seed in numbers(command.seeds)]
    encoder = encoder_of(made).to(next(generator.parameters()).device)
    maker = Maker(generator, encoder, leader, command, *at_once(generator, encoder, leader, command))
    try:
        if maker.quiet:
            return kept(maker, jobs, about)
        shown = [video.frames for part in maker.parts(jobs) for video in maker(part)]
    except FloatingPointError as error:
        refuse(f"{source}, led by {command.condition}: {error}")
    return finish(np.stack(shown), Path(command.out), command.fps, [seed for _, seed in jobs], command.columns)


def generator_of(source: Path, command: Command) -> tuple[stgan.Generator, str]:
    """A run's or the released one, of images inflated; and what tells it from others."""
    device = device_of(command.device)
    if source.is_file():
        cfg = stgan.Config(frames=command.frames or 16)
        try:
            flat = stgan.load(source, replace(cfg, depth=1, frames=1))
        except BadWeights as error:
            refuse(str(error))
        return inflation(flat.to(device), cfg), f"{source.name}@{weights.digest(source)[:12]}, inflated"
    config = recorded(source)
    if not isinstance(config.system, stgan.Config):
        refuse(f"{source} is a {config.system.name} run: maximize changes the codes of stgan's generator")
    newest = chosen_checkpoint(source, config, command.checkpoint)
    about = f"{config.recipe}, {newest.clips_seen} clips@{newest.manifest['files'][AVERAGE]['sha256'][:12]}"
    if config.system.depth == 1 and (command.frames or 1) > 1:
        flat = restored(source, command.checkpoint, device=device)[0].generator
        return inflation(flat, replace(config.system, depth=3, frames=command.frames)), f"{about}, inflated"
    return restored(source, command.checkpoint, command.frames, device)[0].generator, about


def inflation(flat: stgan.Generator, cfg: stgan.Config) -> stgan.Generator:
    generator = stgan.Generator(cfg).to(next(flat.parameters()).device)
    stgan.inflate(flat, generator)
    return generator.eval()


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


# --------------------------------------------------------------------------------------------------------- the videos


class Made(NamedTuple):
    frames: np.ndarray  # uint8 [T, H, W, 3]
    probability: float  # of its class, to the classifier that led


@dataclass(frozen=True)
class Maker:
    generator: stgan.Generator
    encoder: caffenet.Encoder
    leader: Leader
    command: Command
    batch: int
    recompute: bool

    @property
    def quiet(self) -> bool:
        """Sets have a line for a batch, others for a video."""
        return self.command.out.endswith(SET)

    def parts(self, jobs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        return [jobs[i : i + self.batch] for i in range(0, len(jobs), self.batch)]

    def __call__(self, jobs: list[tuple[int, int]]) -> list[Made]:
        """Of each (class, seed) the video, or its middle frame through the steps."""
        cfg, command, leader = self.generator.cfg, self.command, self.leader
        like = next(self.generator.requires_grad_(False).parameters())
        rngs = [seeding.generator(seed, "codes", chosen) for chosen, seed in jobs]
        codes = torch.stack([torch.randn(cfg.frames, cfg.codes, generator=rng) for rng in rngs]).to(like)
        first, last = command.lengths
        told = {name: getattr(command, name) for name in ("prior", "back", "objective")}
        rule = Rule(command.iterations, first, last, **told)
        path = []

        def watch(i: int, seen: Seen) -> None:
            if command.every and i % command.every == 0:
                path.append(seen.clip[:, :, cfg.frames // 2].cpu())
            if i % 10 == 0 and not self.quiet:
                told = ", ".join(f"{p:.3f}" for p in seen.probability.tolist())
                report.show(f"step {i} of {rule.iterations}: probabilities {told}")

        with recomputing(self.generator) if self.recompute else nullcontext():
            seen = maximised(
                partial(clip_of, self.generator),
                lambda clip: by_frames(lambda pictures: self.encoder(pictures).fc6, clip, self.recompute),
                partial(asked, cfg, leader, self.recompute),
                codes,
                torch.tensor([chosen for chosen, _ in jobs], device=like.device),
                rule,
                rngs,
                watch,
            )
        for (chosen, seed), p in zip(jobs, seen.probability.tolist(), strict=True) if not self.quiet else ():
            report.show(f"{leader.classes[chosen]}, seed {seed}: p = {p:.4f}")
        if command.every:  # those that are done early stay as they are
            path += [path[-1]] * (rule.iterations // command.every + 1 - len(path))
        clip = inside(cfg, leader, torch.stack(path, dim=2) if command.every else seen.clip)
        frames = transforms.to_frames(transforms.to_bytes(stgan.from_caffe(clip))).cpu().numpy()
        return [Made(*found) for found in zip(frames, seen.probability.tolist(), strict=True)]


def clip_of(generator: stgan.Generator, codes: Tensor) -> Tensor:
    return stgan.cropped(generator.whole(codes), generator.cfg.size)


def inside(cfg: stgan.Config, leader: Leader, clip: Tensor) -> Tensor:
    """What the classifier sees of a clip: the middle of the 256x256 that the generator makes."""
    size = leader.size or cfg.size
    first = (cfg.side - size) // 2 - (cfg.side - cfg.size) // 2
    return clip[..., first : first + size, first : first + size]


def asked(cfg: stgan.Config, leader: Leader, recompute: bool, clip: Tensor) -> Tensor:
    return leader.condition(inside(cfg, leader, clip), recompute)


def at_once(
    generator: stgan.Generator, encoder: caffenet.Encoder, leader: Leader, command: Command
) -> tuple[int, bool]:
    """How many videos, and whether activations are made again, within --memory; fewer videos cost less time."""
    if command.memory is None:
        return command.batch, False
    tries = [(n, False) for n in range(command.batch, 0, -1)] + [(1, True)]
    for batch, recompute in tries:
        need = held(generator, encoder, leader, batch, recompute)
        if need <= bytes_of(command.memory):
            told = ", activations made again" if recompute else ""
            report.show(f"{batch} of {command.batch} videos at once{told}: {need / 2**20:,.0f} MiB")
            return batch, recompute
    refuse(f"--memory {command.memory}: a step of one video needs {need / 2**20:,.0f} MiB")


def held(generator: stgan.Generator, encoder: caffenet.Encoder, leader: Leader, batch: int, recompute: bool) -> int:
    """Bytes at the height of a step, with all weights: from shapes, nothing is computed. The encoder, which has no
    gradient, sees the video where the rest is gone."""
    cfg = generator.cfg
    generator.requires_grad_(False)
    again = recomputing(generator) if recompute else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), memory.Live() as live, again:
        codes = torch.zeros(batch, cfg.frames, cfg.codes, device=next(generator.parameters()).device)
        classes = torch.zeros(batch, dtype=torch.long, device=codes.device)
        ascent(partial(clip_of, generator), partial(asked, cfg, leader, recompute), codes, classes, "ppgn")
    networks = (generator, encoder, leader.network)
    return live.most + sum(p.untyped_storage().nbytes() for network in networks for p in network.parameters())


def kept(maker: Maker, jobs: list[tuple[int, int]], about: str) -> int:
    """Into a cache, a batch after the other; what an interrupted command has kept is not made again."""
    command, leader = maker.command, maker.leader
    size = (leader.size or maker.generator.cfg.size,) * 2
    how = command.model_dump(exclude={"out", "columns", "fps", "batch", "memory", "condition", "checkpoint", "device"})
    recipe = {"generator": about, "condition": leader.name, "label": leader.label, **how}
    try:
        writer = Writer(Path(command.out), size, recipe)
    except BadCache as error:
        refuse(str(error))
    began, name = time.monotonic(), lambda job: f"{leader.classes[job[0]]}-{job[1]:06}"
    left = [job for job in jobs if name(job) not in writer.done]
    done = len(jobs) - len(left)
    try:
        for part in maker.parts(left):
            for job, video in zip(part, made_of(maker, part), strict=True):
                if isinstance(video, FloatingPointError):
                    writer.add(name(job), [], [(name(job), "not finite", str(video))])
                    report.complain(f"{name(job)} is left out: {video}")
                    continue
                scores = {"probability": video.probability}
                writer.add(name(job), [(Clip(name(job), command.fps, job[0], scores=scores), video.frames)])
            writer.commit()
            done += len(part)
            seconds = (time.monotonic() - began) / (done - len(jobs) + len(left)) * (len(jobs) - done)
            report.show(f"{100 * done // len(jobs):3}%  {report.duration(seconds)} left  {done} of {len(jobs)} videos")
        writer.finish({leader.label: leader.classes}, {})
    finally:
        writer.close()
    report.show(f"{command.out}: {writer.num_clips} of {len(jobs)} videos, led by {leader.name}")
    return 0


def made_of(maker: Maker, jobs: list[tuple[int, int]]) -> list[Made | FloatingPointError]:
    """One whose gradient is not finite spoils none of the others."""
    try:
        return maker(jobs)
    except FloatingPointError as error:
        return [error] if len(jobs) == 1 else [video for job in jobs for video in made_of(maker, [job])]
