"""`python -m vgen_fast evaluate` and `compare`: scores of generated clips, with those of real ones beside them."""

import math
import os
import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from . import sides
from .data.journal import write_whole
from .data.plugs import BadPlug, plugged
from .data.pool import Pool
from .device import Placed, device_of
from .given import readers
from .metrics import presets
from .metrics.content_distance import colours
from .metrics.measures import COLOURS, content_view
from .metrics.presets import OWN, PROTOCOLS, Protocol
from .metrics.protocol import Incomparable, Score, compared, over_seeds, read, write
from .metrics.scores import Metric, Scores, features_folder
from .nets import trained
from .nets.weights import BadWeights
from .options import changed, help_text, options_of, parse, refuse
from .sides import NAMES, Clips, show, shown
from .train import report

EXAMPLES = """examples:
  python -m vgen_fast train classifier                       # once: scores need one that knows the data
  python -m vgen_fast evaluate runs/shapes
  python -m vgen_fast evaluate runs/shapes --checkpoint best --clips 1024 --out best.json
  python -m vgen_fast compare runs/shapes/scores.json best.json
  python -m vgen_fast evaluate runs/ucf --protocol tgan      # by published networks; tells which files it misses
  python -m vgen_fast evaluate fakes.npz --real ucf101.vgc --split test1 --protocol fvd"""


class Command(Placed):
    real: str | None = None
    """Real clips: a cache, an array or a folder of videos; without it those that the run was trained on."""
    split: str | None = None
    """The part of a cache given as --real or --data."""
    data: str | None = None
    """For a run: other clips than those it was trained on, of the same kind. They are the real ones, and what is
    predicted is predicted from their first frames."""
    protocol: Literal["own", "tgan", "tgan2", "stylegan-v", "thesis", "fvd", "prediction"] = OWN
    """What is measured: own asks a classifier that was trained here, the others published networks."""
    classifier: str = "runs/classifier-motion"
    """The folder of a classifier that was trained on these data (python -m vgen_fast.train classifier)."""
    descriptor: str = "colours"
    """Of frames, for content distances: colours, of bright shapes, or your package.module:function, which gives [N, D]
    for frames uint8 [T, H, W, 3], N the frames that show something."""
    clips: int | None = Field(None, gt=1)
    """How many of each: generated, real, and other real ones to compare the real ones with. Without it 512, or what a
    published protocol says."""
    frames: int | None = Field(None, gt=1)
    """For a run: how long a rollout is, of a generator that goes on frame by frame; real clips stay as they are."""
    size: tuple[int, int, int] | None = None
    """Frames, height and width of clips; of a run and of an array it is known."""
    checkpoint: Literal["newest", "best", "untrained"] = "newest"
    """Which generator: of the newest or the best checkpoint, or as it was before the first step."""
    seed: int = 0
    """Of the latents, the labels and everything that a score draws."""
    out: str | None = None
    """Where the scores go; without it into the run folder, or beside the clips."""
    afresh: bool = False
    """Ask the networks about all real clips again; else what they said about the same ones before is read."""


def evaluate(words: list[str]) -> int:
    usage, options = "python -m vgen_fast evaluate CLIPS [options]", list(options_of(Command()))
    if words == ["--help"]:
        intro = "Scores of a run, an array, a cache or a folder of videos, with those of real clips beside them."
        report.show(help_text(usage, intro, options, EXAMPLES))
        return 0
    if not words or words[0].startswith("-"):
        refuse(f"evaluate wants a run folder or other clips first: {usage}")
    command, began = changed(Command(), parse(words[1:], options)), time.monotonic()
    try:
        with readers(os.cpu_count() or 1) as pool:
            found, facts, path = measured(words[0], command, pool)
    except BadWeights as error:
        refuse(str(error))
    write(path, found, facts)
    if rollouts := {name: (score.values, score.real) for name, score in found.items() if "frame by frame" in name}:
        write_whole(path.with_name(f"{path.stem}-frames.svg"), report.frames_plot(rollouts))
    report.show(table(found))
    report.show(f"{path}: {len(found)} scores in {report.duration(time.monotonic() - began)}")
    return 0


def measured(what: str, command: Command, pool: Pool) -> tuple[dict[str, Score], dict, Path]:
    """The scores, facts about the clips, and where both go."""
    device = device_of(command.device)
    classifier = load_classifier(command).to(device) if command.protocol == OWN else None
    label = classifier.facts.label if classifier else None
    protocol = PROTOCOLS[command.protocol]
    clips, times = command.clips or protocol.clips, protocol.times
    run = (Path(what) / "config.yaml").exists()
    if run:
        seed = command.seed * times * clips
        data = {"data": command.data, "split": command.split} if command.data else {}
        given = (command.checkpoint, seed, label, data, command.frames, device)
        fake, config, clips_seen = sides.of_run(Path(what), *given)
        facts = {"run": what, "checkpoint": command.checkpoint, "clips_seen": clips_seen}
        out = Path(what) / ("scores.json" if command.checkpoint == "newest" else f"scores-{command.checkpoint}.json")
    else:
        fake, times = sides.of(what, command.size, command.seed, None, label, pool), 1
        facts, out = {"clips": what}, Path(what).with_name(f"{Path(what).name}-scores.json")
    if command.data and (command.real or not run):
        refuse("--data is for a run, and instead of --real")
    if command.frames and not run:
        refuse("--frames is for a run; --size says how long other clips are")
    if command.real is None and not run:
        refuse(f"--real: which real clips is {what} compared with?")
    if command.real is None:
        real = sides.of_its_data(config, command.seed, label)
    else:
        real = sides.of(command.real, command.size or fake.size, command.seed, command.split, label, pool)
    if real.size[1:] != fake.size[1:] or (real.size[0] != fake.size[0] and not command.frames):
        refuse(f"clips of {shown(fake.size)} are not compared with real ones of {shown(real.size)}")
    if classifier and classifier.facts.size[0] > fake.size[0]:
        refuse(f"{classifier.name} takes {classifier.facts.size[0]} frames, these clips have {fake.size[0]}")
    if fake.there is not None and fake.there < clips:
        refuse(f"--clips: {what} has {fake.there} clips, wanted {clips}")
    metrics, reals = metrics_of(classifier, protocol, fake, command), command.clips or protocol.reals
    distances = any(metric.against for metric in metrics)
    others = other_reals(real, reals, clips, command.protocol == OWN) if distances else 0
    memory = None if command.afresh else features_folder()
    again = f", {real.there} clips again and again" if real.there and real.there < reals else ""
    scores = Scores(metrics, f"{real.about}{again}/seed {command.seed}", memory)
    stream = real.stream()
    for side, number in (("real", reals), ("other", others)):
        show(scores, side, stream, number, Progress(side, number))
    repeated, generated = [], fake.stream()
    for _ in range(times):
        scores.forget("fake")
        show(scores, "fake", generated, clips, Progress("fake", clips))
        repeated.append(scores.compute())
    found = {name: over_seeds([scores[name] for scores in repeated]) for name in repeated[0]}
    return found, facts, Path(command.out) if command.out else out


def load_classifier(command: Command) -> trained.Trained:
    try:
        return trained.load(Path(command.classifier))
    except BadWeights as error:
        refuse(f"{error} (python -m vgen_fast train classifier makes one of the built-in videos)")


def metrics_of(classifier: trained.Trained | None, protocol: Protocol, fake: Clips, command: Command) -> list[Metric]:
    if not classifier:
        return protocol.metrics(command.seed)
    try:
        describe = plugged(command.descriptor, {"colours": lambda: colours})
    except BadPlug as error:
        refuse(f"--descriptor: {error}")
    content = COLOURS if describe is colours else content_view(describe, command.descriptor)
    return presets.own(classifier, fake.size, fake.labelled, command.seed, content, fake.predicted)


def other_reals(real: Clips, reals: int, clips: int, strict: bool) -> int:
    """How many real clips the real ones are compared with: as many as generated ones, each of them another."""
    if real.there is None or real.there >= reals + clips:
        return clips
    if strict:
        refuse(f"--clips {clips}: {real.about} has {real.there} clips; real ones are compared with as many others")
    more = f", of {reals} wanted; they come again with other frames" if real.there < reals else ""
    left = "none are left to compare the real ones with, so that distances have no real one beside them"
    report.complain(f"{real.about} has {real.there} clips{more}: {left}")
    return 0


class Progress:
    """A line every second on a terminal, every ten elsewhere, and one at the end."""

    def __init__(self, side: str, count: int):
        self.side, self.count, self.began = side, count, time.monotonic()
        self.every, self.last = (1 if sys.stderr.isatty() else 10), time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self.last < self.every and done < self.count:
            return
        self.last, left = now, report.duration((now - self.began) / done * (self.count - done))
        report.show(f"{100 * done // self.count:3}%  {left} left  {done} of {self.count} {NAMES[self.side]} clips")


def table(found: dict[str, Score]) -> str:
    wide = max(26, *(len(name) + 2 for name in found))
    lines = [f"{'':{wide}}{'generated':>11}   {'95% interval':23}{'real':>11}   better"]
    for name, score in found.items():
        if score.invalid:
            lines.append(f"{name:{wide}}{'none':>11}   {score.invalid}")
            continue
        span = f"{score.low:.4g} to {score.high:.4g}"
        spread = "" if score.deviation is None else f", ± {score.deviation:.3g} in {len(score.values)} times"
        real = "none" if math.isnan(score.real) else f"{score.real:.4g}"
        lines.append(f"{name:{wide}}{score.value:11.4g}   {span:23}{real:>11}   {score.better}{spread}")
    return "\n".join(lines)


def compare(words: list[str]) -> int:
    if len(words) != 2 or words[0].startswith("-"):
        refuse("compare wants two files of scores: python -m vgen_fast compare a.json b.json")
    try:
        pairs = compared(*(read(Path(word)) for word in words))
    except Incomparable as error:
        refuse(str(error))
    lines = [f"a: {words[0]}", f"b: {words[1]}", f"{'':26}{'a':>11}{'b':>11}   better"]
    lines += [f"{name:26}{a.value:11.4g}{b.value:11.4g}   {a.better}" for name, (a, b) in pairs.items()]
    report.show("\n".join(lines))
    return 0
