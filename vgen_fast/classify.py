"""`python -m vgen_fast.train classifier`: a classifier of labelled clips, by which generated ones are scored."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field

from .config import Settings
from .data.cache import BadCache, Cache
from .data.journal import replace_durably
from .data.loader import CachedClips, Window
from .data.synthetic import MovingShapes
from .nets import trained
from .nets.trained import FACTS, WEIGHTS, Facts, Kind, Trained
from .options import changed, help_text, options_of, parse, refuse
from .train import report
from .train.classifier import Fit, Plan, accuracy, drawn
from .train.loop import Batches
from .train.run import NUMERICAL

PROGRAM = "python -m vgen_fast.train classifier"
EXAMPLES = f"""examples:
  {PROGRAM}                                       # of the built-in videos, by their motion
  {PROGRAM} --label colour --outdir runs/colours
  {PROGRAM} --data my.vgc --split train --test-split test"""
SIZE = (8, 32, 32)  # of the built-in videos
SAVED_EVERY = 60.0  # seconds


class Command(Settings):
    data: str = "shapes"
    """The built-in "shapes", or a cache, NAME.vgc, with labels."""
    label: str | None = None
    """Which of the labels; without it the first."""
    network: Kind = "small"
    """The small C3D at the size of the data; C3D at 16x112x112; LRCN at 227x227, frame by frame."""
    clips: int = Field(6_000, gt=0)
    """Length of the training."""
    batch: int = Field(20, gt=0)
    """Clips a step."""
    rate: float = Field(1e-3, gt=0)
    """The learning rate at the start; it falls to 0 along half a cosine."""
    decay: float = Field(1e-2, ge=0)
    """Decay of the weights, as AdamW has it."""
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
    train, test, facts, place = understood(command)
    folder = Path(command.outdir or f"runs/classifier-{facts.label}")
    if (folder / FACTS).exists():
        found = trained.load(folder)
        if replace(found.facts, accuracy=None) != facts:
            refuse(f"{folder} holds another classifier: {found.name}")
        report.show(f"complete: {summary(found)}")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(command.seed)
    network = Trained(facts, drawn(trained.network(facts)), "")
    fit = Fit(network, Plan(command.clips, command.batch, command.rate, command.decay, seed=command.seed), place)
    if fit.restore(folder):
        report.show(f"goes on after {fit.clips_seen} clips")
    try:
        run(fit, train, folder)
    except FloatingPointError as error:
        report.complain(str(error))
        return NUMERICAL
    told = accuracy(network, *test, place) if test else None
    torch.save(network.inner.state_dict(), folder / WEIGHTS)
    replace_durably(folder / FACTS, trained.facts_json(replace(facts, accuracy=told)))
    report.show(summary(trained.load(folder)))
    return 0


def understood(command: Command) -> tuple[Batches, tuple[Batches, int] | None, Facts, int]:
    """Clips to train on, clips to test on and how many, what the classifier is, and the place of its label."""
    if command.data == "shapes":
        size, train = SIZE, MovingShapes(SIZE, 2 * command.seed)
        test = MovingShapes(SIZE, 2 * command.seed + 1), command.test_clips
    else:
        train, test, size = caches(command)
    if not train.labels:
        refuse(f"{command.data} has no labels")
    label = command.label or next(iter(train.labels))
    if label not in train.labels:
        refuse(f"--label {label}: {command.data} has {', '.join(train.labels)}")
    values = tuple(map(str, train.labels[label]))
    facts = Facts(command.network, size, label, values, command.data, command.clips, command.seed)
    return train, test, facts, list(train.labels).index(label)


def caches(command: Command) -> tuple[CachedClips, tuple[CachedClips, int] | None, tuple[int, int, int]]:
    path = Path(command.data)
    try:
        cache = Cache(path)
        frames = 16 if command.network != "small" else min(16, int(cache.frames.min()))
        window = Window(frames, short="repeat")
        train = CachedClips(cache, window, command.seed, command.split)
        test = CachedClips(cache, window, command.seed + 1, command.test_split) if command.test_split else None
    except BadCache as error:
        refuse(str(error))
    tested = (test, min(command.test_clips, test.count)) if test else None
    return train, tested, (frames, *cache.size)


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
    return f"{found.name}, {len(found.facts.values)} classes, {found.facts.clips} clips seen: {tested}"
