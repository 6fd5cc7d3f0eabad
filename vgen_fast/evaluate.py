"""`python -m vgen_fast evaluate` and `compare`: scores of generated clips, with those of real ones beside them."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from . import ops
from .config import Config, Settings
from .data import transforms
from .metrics import frechet, inception_score, interval, ssim
from .metrics.content_distance import distances
from .metrics.motion import motion_features
from .metrics.protocol import Better, Incomparable, Score, compared, read, write
from .metrics.sliced_wasserstein import SMALLEST, piece_distance
from .models.system import Inputs
from .nets import trained
from .nets.trained import Trained
from .nets.weights import BadWeights
from .options import changed, help_text, options_of, parse, refuse
from .sample import chosen_labels, latents, restored, videos
from .train import report
from .train.__main__ import dataset

EXAMPLES = """examples:
  python -m vgen_fast train classifier                       # once: scores need one that knows the data
  python -m vgen_fast evaluate runs/shapes
  python -m vgen_fast evaluate runs/shapes --checkpoint best --clips 1024 --out best.json
  python -m vgen_fast compare runs/shapes/scores.json best.json"""
RESAMPLED = 20  # times, where a replicate takes as long as the score
REALS = 1_000_003  # seed of the real clips, far from those of runs


class Command(Settings):
    classifier: str = "runs/classifier-motion"
    """The folder of a classifier that was trained on these data (python -m vgen_fast.train classifier)."""
    clips: int = Field(512, gt=1)
    """How many of each: generated, real, and other real ones to compare the real ones with."""
    checkpoint: Literal["newest", "best", "untrained"] = "newest"
    """Which generator: of the newest or the best checkpoint, or as it was before the first step."""
    seed: int = 0
    """Of the latents, the labels and everything that a score draws."""
    out: str | None = None
    """Where the scores go; without it RUN/scores.json, or RUN/scores-<checkpoint>.json."""


@dataclass(frozen=True)
class Side:
    """A set of clips and what the classifier makes of them."""

    video: Tensor  # uint8 [N, 3, T, H, W]
    features: Tensor  # [N, D]
    still: Tensor  # [N, D], of clips that are the middle frame all along
    probabilities: Tensor  # [N, K]
    labels: Tensor  # [N]: what it was asked to be, or is; -1 is nothing

    @property
    def frames(self) -> Tensor:
        """uint8 [N, 3, H, W]: the middle ones."""
        return self.video[:, :, self.video.shape[2] // 2]


@torch.no_grad()
def seen(classifier: Trained, video: Tensor, labels: Tensor, batch: int = 32) -> Side:
    found = []
    for some in video.split(batch):
        features, logits = classifier.features(some)
        middle = some[:, :, some.shape[2] // 2, None].expand_as(some)
        found.append((features, classifier.features(middle)[0], logits.softmax(dim=1)))
    return Side(video, *(torch.cat(parts) for parts in zip(*found, strict=True)), labels)


def scores(real: Side, other: Side, fake: Side, seed: int, source: str, network: str) -> dict[str, Score]:
    """Every score of `fake`, and of `other`, which is real, in its place."""
    count, _, time_, height, width = fake.video.shape
    common = f"{count} clips/{time_}x{height}x{width}/{source}/seed {seed}"
    found = {}

    def add(name: str, better: Better, how: str, value: Callable[[Side], float], drawn: Callable[[], Tensor]) -> None:
        low, high = interval.interval(drawn())
        found[name] = Score(value(fake), low, high, value(other), better, f"{how}/{common}")

    def frechet_of(name: str, how: str, part: Callable[[Side], Tensor]) -> None:
        reals = frechet.moments(part(real))

        def value(side: Side) -> float:
            return float(ops.frechet_distance(reals, frechet.moments(part(side))))

        add(name, "low", f"frechet/{how}", value, lambda: frechet.replicates(part(real), part(fake), seed=seed))

    def mean_of(name: str, better: Better, how: str, values: Callable[[Side], Tensor]) -> None:
        def value(side: Side) -> float:
            return float(values(side).double().mean())

        def drawn() -> Tensor:
            own = values(fake)
            return interval.means(own, seed=seed) if len(own) else torch.tensor([torch.nan])

        add(name, better, how, value, drawn)

    add(
        "inception score", "high", f"{network}/eps 0",
        lambda side: float(inception_score.inception_score(side.probabilities)),
        lambda: inception_score.replicates(fake.probabilities, seed=seed),
    )  # fmt: skip
    frechet_of("frechet, clips", network, lambda side: side.features)
    frechet_of("frechet, frames", f"{network}/middle frame repeated", lambda side: side.still)
    frechet_of("frechet, motion", "motion features", lambda side: motion_features(side.video))
    pieces = lambda a, b: float(np.mean(list(piece_distance(a, b, seed=seed).values())))  # noqa: E731

    def resampled() -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(count, (RESAMPLED, 2, count), generator=generator)
        return torch.tensor([pieces(real.frames[i], fake.frames[j]) for i, j in rows])

    if min(height, width) >= SMALLEST:
        add("pieces", "low", "pgan/middle frame", lambda side: pieces(real.frames, side.frames), resampled)
        alike = lambda side: ssim.similarity_of_pairs(side.frames, 2000, seed)  # noqa: E731
        mean_of("ms-ssim of pairs", "near", "pgan/2000 pairs/middle frame", alike)
        mean_of("ms-ssim, frame to frame", "near", "pgan", lambda side: ssim.coherence(side.video))
    colours = lambda side: torch.from_numpy(distances(side.video.permute(0, 2, 3, 4, 1).numpy()))  # noqa: E731
    mean_of("content distance", "near", "colours above 32", colours)
    if (fake.labels >= 0).all():
        right = lambda side: (side.probabilities.argmax(dim=1) == side.labels).double()  # noqa: E731
        mean_of("label as asked", "high", network, right)
    return found


def evaluate(words: list[str]) -> int:
    usage, options = "python -m vgen_fast evaluate RUN [options]", list(options_of(Command()))
    if words == ["--help"]:
        intro = "Scores of a run's clips by a classifier of the same data, with those of real clips beside them."
        report.show(help_text(usage, intro, options, EXAMPLES))
        return 0
    if not words or words[0].startswith("-"):
        refuse(f"evaluate wants a run folder first: {usage}")
    run, command, began = Path(words[0]), changed(Command(), parse(words[1:], options)), time.monotonic()
    try:
        classifier = trained.load(Path(command.classifier))
    except BadWeights as error:
        refuse(f"{error} (python -m vgen_fast train classifier makes one of the built-in videos)")
    generator, config, clips_seen = restored(run, command.checkpoint)
    place = label_of(classifier, config, command.clips)
    real, told = reals(config, command, 0)
    other, also = reals(config, command, command.clips)
    fake, asked = generated(generator, config, clips_seen, command)
    asked = torch.full_like(told, -1) if asked is None else asked
    if fake.shape[2:] != config.system.sizes[-1]:
        made, wanted = ("x".join(map(str, size)) for size in (fake.shape[2:], config.system.sizes[-1]))
        refuse(f"this run has reached {made}; scores are of {wanted}")
    sides = []
    for name, video, labels in (("real", real, told), ("other real", other, also), ("generated", fake, asked)):
        report.show(f"{name} clips through {classifier.name}: {len(video)}")
        sides.append(seen(classifier, video, labels[:, place]))
    found = scores(*sides, command.seed, source(config), classifier.name)
    kept = run / ("scores.json" if command.checkpoint == "newest" else f"scores-{command.checkpoint}.json")
    path = Path(command.out) if command.out else kept
    facts = {"run": str(run), "checkpoint": command.checkpoint, "clips_seen": clips_seen}
    write(path, found, facts)
    report.show(table(found))
    report.show(f"{path}: {len(found)} scores in {time.monotonic() - began:.0f} s")
    return 0


def label_of(classifier: Trained, config: Config, count: int) -> int:
    """The place of the classifier's label among those of the data, which must be enough for two real sides."""
    clips = dataset(config)
    if clips.count is not None and clips.count < 2 * count:
        refuse(f"--clips {count}: {config.data} has {clips.count} clips; real ones are compared with as many others")
    names, size = list(clips.labels), classifier.facts.size
    if classifier.facts.label not in names:
        there = ", ".join(names) or "no labels"
        refuse(f"{classifier.name} tells {classifier.facts.label}, the clips of this run have {there}")
    if size[0] > config.system.sizes[-1][0]:
        refuse(f"{classifier.name} takes {size[0]} frames, this run makes {config.system.sizes[-1][0]}")
    return names.index(classifier.facts.label)


def generated(
    generator: torch.nn.Module, config: Config, clips_seen: int, command: Command
) -> tuple[Tensor, Tensor | None]:
    """uint8 [N, 3, T, H, W] and the labels that were asked for [N, A], if any."""
    seeds = [command.seed * command.clips + i for i in range(command.clips)]
    labels = chosen_labels(config, seeds, None)
    inputs = Inputs(torch.stack([latents(config, seed, None) for seed in seeds]), labels)
    frames = torch.from_numpy(videos(generator, config, inputs, clips_seen))
    return transforms.to_video(frames).contiguous(), labels


def reals(config: Config, command: Command, first: int) -> tuple[Tensor, Tensor]:
    """uint8 [N, 3, T, H, W] and their labels [N, A], of the run's data in an order of their own: runs share it."""
    clips, positions = dataset(config.model_copy(update={"seed": REALS + command.seed})), torch.arange(command.clips)
    found = [clips(some, config.system.sizes[-1]) for some in (first + positions).split(64)]
    video, labels = zip(*found, strict=True)
    return torch.cat(video), torch.cat(labels)


def source(config: Config) -> str:
    """What the reals are, and how they are shown: for a cache by its content, wherever it lies."""
    path = Path(config.data)
    if path.suffix == ".vgc":
        content = json.loads((path / "build.json").read_bytes())["sha256"][:12]
        return f"{content}, split {config.split}, strides {config.strides}, left {config.left}, mirror {config.mirror}"
    return f"{path.resolve().name}, {config.shrink}" if path.is_dir() else config.data


def table(found: dict[str, Score]) -> str:
    lines = [f"{'':26}{'generated':>11}   {'95% interval':23}{'real':>11}   better"]
    for name, score in found.items():
        span = f"{score.low:.4g} to {score.high:.4g}"
        lines.append(f"{name:26}{score.value:11.4g}   {span:23}{score.real:11.4g}   {score.better}")
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
