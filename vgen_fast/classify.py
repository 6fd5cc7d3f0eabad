"""`python -m vgen_fast.train classifier`: a classifier of labelled clips, by which generated ones are scored."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from .data import transforms
from .data.cache import BadCache, Cache
from .data.journal import replace_durably
from .data.loader import CachedClips, Window
from .data.pool import Holes
from .data.sources import NoDataSet
from .data.strips import Shrink, Strips
from .data.synthetic import MovingShapes
from .device import Placed, device_of
from .nets import c3d, trained, weights
from .nets.trained import FACTS, WEIGHTS, Facts, Kind, Trained
from .nets.weights import BadWeights
from .options import changed, help_text, options_of, parse, refuse
from .train import report
from .train.classifier import PLANS, Fit, Plan, accuracy, drawn, video_accuracy
from .train.loop import Batches
from .train.run import NUMERICAL

PROGRAM = "python -m vgen_fast.train classifier"
EXAMPLES = f"""examples:
  {PROGRAM}                                       # of the built-in videos, by their motion
  {PROGRAM} --label colour --outdir runs/colours
  {PROGRAM} --data my.vgc --split train --test-split val
  {PROGRAM} --data ucf101.vgc --split train1 --test-split test1 --network c3d \\
      --recipe c3d-finetune --weights c3d.pickle"""
SIZE = (8, 32, 32)  # of the built-in videos
SAVED_EVERY = 60.0  # seconds


class Command(Placed):
    data: str = "shapes"
    """The built-in "shapes"; a cache, NAME.vgc, with labels; or a folder of classes, each a folder of film strips."""
    size: tuple[int, int, int] | None = None
    """Frames, height and width that film strips are shown at."""
    shrink: Shrink = "mean"
    """How strips become smaller than their files, as in training."""
    label: str | None = None
    """Which of the labels; without it the first."""
    network: Kind = "small"
    """At the size of the data a small C3D, a small LRCN, or a small CaffeNet of frames, which is an encoder for stgan;
    C3D at 16x112x112; LRCN at 227x227."""
    recipe: Literal["own", "c3d-finetune", "c3d-scratch", "lrcn"] = "own"
    """How it is trained: own is AdamW for 6,000 clips; the others are SGD as C3D's and LRCN's authors have it."""
    weights: str | None = None
    """To start from: a published file of C3D, or the folder of a classifier of the same network or, for a small LRCN,
    of frames; the last layer is drawn anew."""
    clips: int | None = Field(None, gt=0)
    """Length of the training; without it, as the recipe has it, and so below."""
    batch: int | None = Field(None, gt=0)
    """Clips a step."""
    rate: float | None = Field(None, gt=0)
    """The learning rate at the start."""
    decay: float | None = Field(None, ge=0)
    """Decay of the weights."""
    split: str | None = None
    """The part of a cache to train on."""
    test_split: str | None = None
    """The part of a cache to test on; without it there is no test."""
    test_clips: int = Field(800, gt=0)
    """How many clips the test has, at most."""
    seed: int = 0
    """Everything random is a function of it."""
    outdir: str | None = None
    """Where to; without it runs/classifier-<label>. The same command goes on, and says so when it is complete."""


def classifier(words: Sequence[str]) -> int:
    command, options = Command(), list(options_of(Command()))
    if list(words) == ["--help"]:
        intro = "Trains a classifier of labelled clips, by which generated ones are scored."
        report.show(help_text(f"{PROGRAM} [options]", intro, options, EXAMPLES))
        return 0
    command = changed(command, parse(list(words), options))
    given = {name: getattr(command, name) for name in ("clips", "batch", "rate", "decay")}
    given = {name: value for name, value in given.items() if value is not None}
    plan = replace(PLANS[command.recipe], **given, seed=command.seed)
    train, test, facts, place = understood(command, plan)
    folder = Path(command.outdir or f"runs/classifier-{facts.label}")
    if (folder / FACTS).exists():
        found = trained.load(folder)
        if replace(found.facts, accuracy=None, video_accuracy=None) != facts:
            refuse(f"{folder} holds another classifier: {found.name}")
        report.show(f"complete: {summary(found)}")
        return 0
    torch.manual_seed(command.seed)
    network = Trained(facts, started(facts, command.weights), "").to(device_of(command.device))
    folder.mkdir(parents=True, exist_ok=True)
    fit = Fit(network, plan, place)
    if fit.restore(folder):
        report.show(f"goes on after {fit.clips_seen} clips")
    try:
        run(fit, train, folder)
    except FloatingPointError as error:
        report.complain(str(error))
        return NUMERICAL
    if test:
        of_videos = video_accuracy(network, whole(test[0])) if isinstance(test[0], CachedClips) else None
        facts = replace(facts, accuracy=accuracy(network, *test, place), video_accuracy=of_videos)
    torch.save(network.cpu().inner.state_dict(), folder / WEIGHTS)
    replace_durably(folder / FACTS, trained.facts_json(facts))
    report.show(summary(trained.load(folder)))
    return 0


def started(facts: Facts, source: str | None) -> nn.Module:
    """The network with drawn weights, or those of a published file or one of our classifiers but for its last layer."""
    network = drawn(trained.network(facts))
    if source:
        known, there = known_weights(facts, Path(source)), network.state_dict()
        network.load_state_dict(
            there | {name: known[name] for name in there.keys() & known.keys() if name[:4] != "fc8."}
        )
    return network


def known_weights(facts: Facts, source: Path) -> dict[str, Tensor]:
    try:
        if not source.is_dir():
            if facts.kind != "c3d":
                refuse(f"--weights are of C3D, the network is {facts.kind} (--network c3d)")
            return c3d.load(source).state_dict()
        found = trained.load(source)
    except BadWeights as error:
        refuse(f"--weights: {error}")
    of_frames = (found.facts.kind, facts.kind) == ("frames", "small-lrcn")  # whose LSTM and last layer are drawn
    if found.facts.size != facts.size or (found.facts.kind != facts.kind and not of_frames):
        told = ("{} of {}".format(f.kind, "x".join(map(str, f.size))) for f in (found.facts, facts))
        refuse("--weights: {} is a {}, wanted a {}".format(source, *told))
    return found.inner.state_dict()


def whole(clips: CachedClips) -> Iterator[tuple[Tensor, int]]:
    """All frames of each clip of a cache, [3, T, H, W], and its label."""
    for clip in clips.chosen.tolist():
        frames = torch.from_numpy(np.array(clips.cache.read(clip)))
        yield transforms.to_video(frames), int(clips.cache.label[clip])


def understood(command: Command, plan: Plan) -> tuple[Batches, tuple[Batches, int] | None, Facts, int]:
    """Clips to train on, clips to test on and how many, what the classifier is, and the place of its label."""
    if command.data == "shapes":
        size, train = SIZE, MovingShapes(SIZE, 2 * command.seed)
        test = MovingShapes(SIZE, 2 * command.seed + 1), command.test_clips
    elif Path(command.data).suffix == ".vgc":
        train, test, size = caches(command)
    else:
        train, test, size = strips(command)
    if not train.labels:
        refuse(f"{command.data} has no labels")
    label = command.label or next(iter(train.labels))
    if label not in train.labels:
        refuse(f"--label {label}: {command.data} has {', '.join(train.labels)}")
    if command.network in ("small-lrcn", "frames") and size[1] != size[2]:
        refuse(f"--network {command.network} wants frames as high as wide, {command.data} has {size[1]}x{size[2]}")
    values = tuple(map(str, train.labels[label]))
    start = None
    if command.weights:
        path = Path(command.weights)
        path = path / WEIGHTS if path.is_dir() else path
        start = weights.digest(path) if path.is_file() else None
    facts = Facts(command.network, size, label, values, command.data, plan.clips, command.seed, command.recipe, start)
    return train, test, facts, list(train.labels).index(label)


def caches(command: Command) -> tuple[CachedClips, tuple[CachedClips, int] | None, tuple[int, int, int]]:
    path = Path(command.data)
    try:
        cache = Cache(path)
        frames = 16 if command.network in ("c3d", "lrcn") else min(16, int(cache.frames.min()))
        window = Window(frames, short="repeat")
        train = CachedClips(cache, window, command.seed, command.split)
        test = CachedClips(cache, window, command.seed + 1, command.test_split) if command.test_split else None
    except BadCache as error:
        refuse(str(error))
    tested = (test, min(command.test_clips, test.count)) if test else None
    return train, tested, (frames, *cache.size)


def strips(command: Command) -> tuple[Strips, None, tuple[int, int, int]]:
    """They have no splits, so there is no test."""
    if not Path(command.data).is_dir():
        refuse(f'--data {command.data}: neither a folder nor "shapes"')
    if command.size is None:
        refuse("--size: at how many frames, which height and width are the strips shown?")
    try:
        return (
            Strips(Path(command.data), command.size, command.seed, report.complain, command.shrink),
            None,
            command.size,
        )
    except (NoDataSet, Holes) as error:
        refuse(str(error))


def run(fit: Fit, batches: Batches, folder: Path) -> None:
    """A line every few seconds, the state every minute."""
    began = shown = saved = time.monotonic()
    first, right = fit.clips_seen, []
    for seen, loss, share in fit.go(batches):
        now = time.monotonic()
        right = [*right[-49:], share]
        if now - shown > 5 or seen >= fit.plan.clips:
            speed = (seen - first) / (now - began)
            left = report.duration((fit.plan.clips - seen) / speed)
            lately = sum(right) / len(right)
            report.show(
                f"{seen / fit.plan.clips:4.0%}  {left} left  {seen} of {fit.plan.clips} clips  {speed:.1f} clips/s  "
                f"loss {loss:.3g}  {lately:.1%} right lately"
            )
            shown = now
        if now - saved > SAVED_EVERY:
            fit.save(folder)
            saved = now


def summary(found: Trained) -> str:
    tested = "not tested" if found.facts.accuracy is None else f"{found.facts.accuracy:.1%} right on other clips"
    if found.facts.video_accuracy is not None:
        tested += f", {found.facts.video_accuracy:.1%} on whole videos"
    return f"{found.name}, {len(found.facts.values)} classes, {found.facts.clips} clips seen: {tested}"
