"""`python -m vgen_fast sets score | select | augment`: generated clips by what classifiers see in them, the best of
them, and what they are worth as training data (spec/conditional.md A8, A9).

A set is a cache, NAME.vgc, as `maximize` keeps it: labelled by the class each clip was asked to be, with the generator
and the classifier that led it in build.json. A score by that same classifier tells how well it can be fooled; one by
another tells what the clips show. The thesis scores by its own C3D; here the published one is TGAN's conversion.

Legend: N clips, K classes, T frames.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .classify import started
from .config import Settings
from .data import clips as arithmetic
from .data import transforms
from .data.cache import BadCache, Cache, Writer
from .data.cached import clip as known_clip
from .data.journal import write_whole
from .data.loader import CachedClips, Window
from .data.ucf101 import CLASSES
from .device import Placed, device_of
from .metrics import inception_score, interval, presets
from .metrics.scores import View
from .nets import c3d, trained
from .nets.trained import Facts, Kind, Trained
from .nets.weights import BadWeights
from .options import changed, help_text, options_of, parse, refuse
from .sample import numbers
from .train import ema, report
from .train.classifier import PLANS, Fit, Plan, accuracy

PROGRAM = "python -m vgen_fast sets"
TOGETHER = 32  # clips that a classifier sees at once
FRAMES = 16  # of clips for published networks, and the most for others


class Score(Settings):
    scorers: str = "c3d,lrcn"
    """Classifiers joined by commas: c3d and lrcn as published, folders of `train classifier`."""
    real: str | None = None
    """A cache of real clips, scored alike."""
    split: str | None = None
    """The part of it."""
    seed: int = 0
    """Of the intervals."""
    out: str = "sets.json"
    """Where the scores go; a table of the same name ends in .md."""


class Select(Settings):
    classifier: str = "c3d"
    """Who judges: c3d or lrcn as published, or a folder of `train classifier`."""
    most: int = Field(100, gt=0)
    """Clips of a class, at most: those that add most to the inception score."""
    least: float | None = None
    """What a clip must add: its divergence from the mean of all; without it as much as they add on average."""
    any_label: bool = False
    """Take clips too that are seen as another class than they were asked to be."""
    out: str = "selected.vgc"
    """The cache of those that are taken; a plot of the classes of the same name ends in .svg."""


class Augment(Placed):
    real: str
    """A cache of real clips with the same classes."""
    train_split: str = "train"
    """The part of it to train on."""
    test_split: str = "test"
    """The part of it to test on: a window of each clip, drawn at random."""
    network: Kind = "small"
    """What is trained, as `train classifier` has it."""
    recipe: Literal["own", "c3d-augment"] = "own"
    """How: as `train classifier` does, or as the C3D of the paper was tuned."""
    weights: str | None = None
    """To start from: a published file of C3D, or the folder of a classifier of ours; the last layer is drawn anew."""
    clips: int | None = Field(None, gt=0)
    """Length of each training; without it, as the recipe has it."""
    batch: int | None = Field(None, gt=0)
    """Clips a step."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of an averaged copy of the weights, which is tested then; the paper's is 0.9999."""
    test_every: int = Field(200, gt=0)
    """Steps between two tests; the best one counts, as in the paper."""
    seeds: str = "0-2"
    """A training each: numbers and ranges joined by commas."""
    out: str = "augment.json"
    """Where the accuracies go; a table of the same name ends in .md."""


EXAMPLES = {
    "score": f"  {PROGRAM} score by-c3d.vgc by-lrcn.vgc --scorers runs/c3d,runs/lrcn --real real.vgc",
    "select": f"  {PROGRAM} select by-lrcn.vgc --classifier runs/c3d --out selected.vgc",
    "augment": f"  {PROGRAM} augment selected.vgc --real real.vgc --seeds 0-4",
}
INTROS = {
    "score": "Sets by classifiers: inception score, and how many clips are seen as what they were asked to be.",
    "select": "The clips of a set that add most to its inception score, at most so many of each class.",
    "augment": "A classifier trained on generated clips, on real ones and on both, tested on other real ones.",
}


def sets(words: Sequence[str]) -> int:
    verbs = {"score": (Score, score), "select": (Select, select), "augment": (Augment, augment)}
    if not words or words[0] in ("-h", "--help"):
        told = "\n".join(f"  {name:<9}{text}" for name, text in INTROS.items())
        examples = "\n".join(EXAMPLES.values())
        report.show(f"usage: {PROGRAM} VERB SET [SET ...] [options]\n\n{told}\n\nexamples:\n{examples}")
        return 0 if words else 2
    verb, *rest = words
    if verb not in verbs:
        refuse(f"sets has no {verb!r}: {', '.join(verbs)}")
    kind, run = verbs[verb]
    blank = Augment(real="") if kind is Augment else kind()
    options = list(options_of(blank))
    if "--help" in rest:
        report.show(help_text(f"{PROGRAM} {verb} SET [options]", INTROS[verb], options, f"examples:\n{EXAMPLES[verb]}"))
        return 0
    names = [word for i, word in enumerate(rest) if not any(w.startswith("--") for w in rest[: i + 1])]
    if not names or (len(names) > 1 and verb != "score"):
        refuse(f"sets {verb} wants {'sets' if verb == 'score' else 'one set'} first: {PROGRAM} {verb} SET [options]")
    values = parse(rest[len(names) :], options)
    if kind is Augment and ("real",) not in values:
        refuse("sets augment: --real CACHE has the real clips to train on and to test on")
    command = changed(blank, values)
    try:
        return run([opened(name) for name in names], command)
    except (BadCache, BadWeights) as error:
        refuse(str(error))


# ------------------------------------------------------------------------------------------------ what classifiers see


class Set(NamedTuple):
    path: Path
    cache: Cache
    label: str
    values: tuple[str, ...]  # in order, by which its labels and all probabilities are numbered: lists of classes differ
    recipe: dict

    def of(self, name: str) -> str:
        """Of the recipe: generator or condition."""
        return self.recipe.get(name, "not told")


def opened(name: str) -> Set:
    path = Path(name)
    cache = Cache(path)
    if len(cache.labels) != 1 or (cache.label < 0).any():
        refuse(f"{name}: its clips have no labels")
    ((label, values),) = cache.labels.items()
    ordered = tuple(sorted(values))
    cache.label = np.array([ordered.index(value) for value in values])[cache.label]
    return Set(path, cache, label, ordered, json.loads((path / "build.json").read_bytes())["recipe"])


class Scorer(NamedTuple):
    view: View  # gives probabilities
    name: str  # as the recipes of sets tell who led
    values: tuple[str, ...]
    frames: int


def scorer_of(word: str) -> Scorer:
    if word in ("c3d", "lrcn"):
        view = presets.c3d_view(c3d.as_tgan, "128x128 bicubic") if word == "c3d" else presets.lrcn_view()
        return Scorer(view, view.name.split("/")[0], CLASSES, FRAMES)
    if not Path(word).is_dir():
        refuse(f"{word!r} is neither c3d, nor lrcn, nor a folder of `train classifier`")
    network = trained.load(Path(word)).eval()
    return Scorer(presets.trained_view(network), network.name, network.facts.values, network.facts.size[0])


def seen_by(scorer: Scorer, shown: Set, chosen: Sequence[int] | None = None) -> Tensor:
    """Probabilities [N, K] of the central frames of each clip."""
    if shown.values != tuple(sorted(scorer.values)):
        refuse(f"{shown.path} has the classes {', '.join(shown.values[:3])} ..., {scorer.name} tells others")
    columns = [scorer.values.index(value) for value in shown.values]
    found, numbers = [], list(range(len(shown.cache)) if chosen is None else chosen)
    for start in range(0, len(numbers), TOGETHER):
        some = numbers[start : start + TOGETHER]
        videos = [central(shown.cache, clip, scorer.frames) for clip in some]
        labels = torch.from_numpy(shown.cache.label[some])
        with torch.no_grad():
            found.append(scorer.view.see(transforms.to_video(torch.from_numpy(np.stack(videos))), labels))
    return torch.cat([rows["probabilities"] for rows in found])[:, columns].double()


def central(cache: Cache, clip: int, frames: int) -> np.ndarray:
    extra = int(cache.frames[clip]) - frames
    if extra < 0:
        refuse(f"{cache.folder}: clip {clip} has {cache.frames[clip]} frames, the classifier sees {frames}")
    return np.ascontiguousarray(cache.read(clip, slice(extra // 2, extra // 2 + frames)))


# --------------------------------------------------------------------------------------------------------------- score


def score(found: list[Set], command: Score) -> int:
    scorers = [scorer_of(word) for word in command.scorers.split(",")]
    rows = [cells(shown, scorers, command.seed, range(len(shown.cache))) for shown in found]
    if command.real:
        real = opened(command.real)
        rows.append(cells(real, scorers, command.seed, real.cache.of(command.split).tolist()))
        rows[-1] |= {"generator": "real clips", "condition": ""}
    text = table_of(rows, [scorer.name for scorer in scorers])
    write_whole(Path(command.out), json.dumps(rows, indent=1) + "\n")
    write_whole(Path(command.out).with_suffix(".md"), text)
    report.show(text)
    return 0


def cells(shown: Set, scorers: list[Scorer], seed: int, chosen: Sequence[int]) -> dict:
    """What each scorer sees in a set."""
    wanted, row = torch.from_numpy(shown.cache.label[list(chosen)]), {}
    for scorer in scorers:
        p = seen_by(scorer, shown, chosen)
        low, high = interval.interval(inception_score.replicates(p, seed=seed))
        row[scorer.name] = {
            "inception score": float(inception_score.inception_score(p)[0]),
            "interval": [low, high],
            "as asked": float((p.argmax(dim=1) == wanted).double().mean()),
            "fooling": scorer.name == shown.of("condition"),
            "protocol": f"inception score/{scorer.view.name}/{len(p)} clips/{scorer.frames} central frames/{seed}",
        }
    return {"set": str(shown.path), "generator": shown.of("generator"), "condition": shown.of("condition"), "by": row}


def table_of(rows: list[dict], scorers: list[str]) -> str:
    lines = [["generator", "led by", *(f"{name}: inception score, as asked" for name in scorers)]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        line = [row["generator"], row["condition"]]
        for name in scorers:
            cell = row["by"][name]
            low, high = cell["interval"]
            told = f"{cell['inception score']:.2f} ({low:.2f} to {high:.2f}), {cell['as asked']:.1%}"
            line.append(f"{told}, fooling" if cell["fooling"] else told)
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# -------------------------------------------------------------------------------------------------------------- select


def taken(
    probabilities: Tensor, labels: Tensor, most: int, least: float | None = None, any_label: bool = False
) -> tuple[list[int], Tensor]:
    """The clips of each class that add most, in the order they are in; and what each adds [N]."""
    adds = inception_score.contributions(probabilities)
    good = adds >= (adds.mean() if least is None else least)
    if not any_label:
        good &= probabilities.argmax(dim=1) == labels
    found = []
    for label in labels.unique().tolist():
        mine = torch.nonzero(good & (labels == label))[:, 0]
        best = adds[mine].sort(descending=True, stable=True).indices[:most]
        found += mine[best].tolist()
    return sorted(found), adds


def select(found: list[Set], command: Select) -> int:
    (shown,) = found
    scorer, labels = scorer_of(command.classifier), torch.from_numpy(shown.cache.label)
    chosen, adds = taken(seen_by(scorer, shown), labels, command.most, command.least, command.any_label)
    if not chosen:
        refuse(f"{scorer.name} takes none of the {len(labels)} clips of {shown.path}")
    recipe = {
        "selected from": json.loads((shown.path / "build.json").read_bytes())["sha256"],
        "by": scorer.name,
        **command.model_dump(exclude={"out", "classifier"}),
        **{name: shown.of(name) for name in ("generator", "condition")},
    }
    out = Path(command.out)
    writer = Writer(out, shown.cache.size, recipe)
    try:
        for number in chosen:
            known, frames = known_clip(shown.path, number)
            if known.id not in writer.done:
                scores = {**known.scores, "adds": float(adds[number])}
                label = int(shown.cache.label[number])
                writer.add(known.id, [(replace(known, label=label, scores=scores), np.asarray(frames))])
        writer.finish({shown.label: shown.values}, {})
    finally:
        writer.close()
    counts = {
        "made": np.bincount(labels, minlength=len(shown.values)).tolist(),
        "taken": np.bincount(labels[chosen], minlength=len(shown.values)).tolist(),
    }
    write_whole(out.with_suffix(".svg"), report.histogram(shown.values, counts))
    empty = [name for name, count in zip(shown.values, counts["taken"], strict=True) if not count]
    told = f", none of {', '.join(empty)}" if empty else ""
    report.show(f"{out}: {len(chosen)} of {len(labels)} clips, of {len(set(labels[chosen].tolist()))} classes{told}")
    return 0


# ------------------------------------------------------------------------------------------------------------- augment


@dataclass(frozen=True)
class Joined:
    """Several sets of clips as one for training: each clip once a round, in an order drawn anew."""

    parts: tuple[CachedClips, ...]
    seed: int

    def __call__(self, positions: Tensor, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        counts = [part.count for part in self.parts]
        firsts = np.cumsum([0, *counts])
        frames, labels = [], []
        for position in positions.tolist():
            time_round, place = divmod(position, sum(counts))
            number = int(arithmetic.order(self.seed, time_round, sum(counts))[place])
            which = int(np.searchsorted(firsts, number, side="right")) - 1
            clip, label = self.parts[which].clip(time_round * counts[which] + number - int(firsts[which]))
            frames.append(clip)
            labels.append([label])
        video = transforms.to_video(torch.from_numpy(np.stack(frames)))
        return transforms.shrink(video.contiguous(), size), torch.tensor(labels)


def augment(found: list[Set], command: Augment) -> int:
    (shown,) = found
    real = opened(command.real)
    if (real.values, real.cache.size) != (shown.values, shown.cache.size):
        refuse(f"{shown.path} and {real.path} have other classes or other sizes")
    frames = min(FRAMES, int(real.cache.frames.min()), int(shown.cache.frames.min()))
    given = {name: getattr(command, name) for name in ("clips", "batch")}
    plan = replace(PLANS[command.recipe], **{name: value for name, value in given.items() if value is not None})
    window, size = Window(frames, short="repeat"), (frames, *real.cache.size)
    sources = {"generated": (shown.cache, None), "real": (real.cache, command.train_split)}
    rows = {}
    for name, parts in {"generated": ["generated"], "real": ["real"], "both": ["real", "generated"]}.items():
        for seed in numbers(command.seeds):
            clips = tuple(CachedClips(*sources[part][:1], window, seed, sources[part][1]) for part in parts)
            test = CachedClips(real.cache, window, seed + 1, command.test_split)
            facts = Facts(command.network, size, real.label, real.values, str(real.path), plan.clips, seed)
            path = learned(Joined(clips, seed), test, facts, replace(plan, seed=seed), command)
            best = max(path)
            report.show(f"{name}, seed {seed}: {best:.1%} at best, {path[-1]:.1%} at the end, of {test.count} clips")
            rows.setdefault(name, []).append({"seed": seed, "best": best, "last": path[-1], "path": path})
    text = accuracies(rows, test.count)
    facts = {"generated": str(shown.path), "test clips": test.count, **command.model_dump(exclude={"out"})}
    write_whole(Path(command.out), json.dumps({"facts": facts, "accuracy": rows}, indent=1) + "\n")
    write_whole(Path(command.out).with_suffix(".md"), text)
    report.show(text)
    return 0


def learned(clips: Joined, test: CachedClips, facts: Facts, plan: Plan, command: Augment) -> list[float]:
    """Accuracy on one random window of each clip of the test, after every so many steps and at the end."""
    torch.manual_seed(plan.seed)
    network = Trained(facts, started(facts, command.weights), "").to(device_of(command.device))
    fit, tested = Fit(network, plan, 0), ema.averaged_copy(network) if command.average else network
    path = []
    for step, (seen, _, _) in enumerate(fit.go(clips), 1):
        if command.average:
            ema.update(tested, network, command.average, step)
        if step % command.test_every == 0 or seen >= plan.clips:
            path.append(accuracy(tested, test, test.count, 0))
            network.train()
    return path


def accuracies(rows: dict[str, list[dict]], count: int) -> str:
    """Means over seeds; the error is that of one test of so many clips, whatever the seed."""
    lines = ["| trained on | best accuracy | over seeds | at the end | error of a test |", "|---|---|---|---|---|"]
    for name, found in rows.items():
        best, last = ([row[key] for row in found] for key in ("best", "last"))
        p = float(np.mean(best))
        spread = f"± {np.std(best):.1%} of {len(best)}"
        error = math.sqrt(p * (1 - p) / count)
        lines.append(f"| {name} | {p:.1%} | {spread} | {np.mean(last):.1%} | ± {error:.1%} |")
    return "\n".join(lines) + "\n"
