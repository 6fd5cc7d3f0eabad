"""`python -m vgen_fast finetune RUN`: what a VGAN's critic has learned of videos, by how well it learns their classes.

The critic's last layer gives way to one of K classes, and everything trains; beside that, the same network from drawn
weights, and a logistic regression on the critic's features, which stay (spec/unconditional.md 1.6).

Legend: B clips, T frames, K classes, D features.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .config import Config
from .data import transforms
from .data.journal import write_whole
from .data.loader import CachedClips
from .dataset import dataset
from .device import Placed, device_of
from .models import vgan
from .options import changed, help_text, options_of, parse, refuse
from .sample import chosen_checkpoint, recorded
from .train import checkpoint, report
from .train.classifier import PLANS, Fit, Plan
from .train.loop import Batches

PROGRAM = "python -m vgen_fast finetune"
EXAMPLES = f"""examples:
  {PROGRAM} runs/vgan-shapes --share 0.125                    # an eighth of the labels, all three ways
  {PROGRAM} runs/vgan-golf --data ucf101.vgc --splits 1,2,3   # the paper's protocol: 52.1%, drawn weights 36.7%
  {PROGRAM} runs/vgan-golf --data ucf101.vgc --start frozen"""
Start = Literal["critic", "drawn", "frozen"]
POOL, TEST, OTHERS = 400, 800, 1  # built-in clips that have labels, of the test, and what is added to their seed
CLIPS = 10  # of a test video, evenly spaced, whose probabilities are averaged
TOGETHER = 64  # clips that are looked at at once


class Command(Placed):
    data: str | None = None
    """Labelled clips: the built-in "shapes" or a cache; without it those of the run."""
    label: str | None = None
    """Which of the labels; without it the first."""
    splits: str = ""
    """Of a cache: numbers joined by commas, N trains on split trainN and tests on testN; without it train and test."""
    start: Literal["all", "critic", "drawn", "frozen"] = "all"
    """From the critic's weights, from drawn ones, with the critic's features as they are; or all three."""
    share: float = Field(1.0, gt=0, le=1)
    """Of the labelled clips."""
    steps: int = Field(1_000, gt=0)
    """How long each training is."""
    batch: int = Field(256, gt=0)
    """Clips a step."""
    decay: float = Field(1e-3, gt=0)
    """Half the weight of the logistic regression's squared weights."""
    seed: int = 0
    """Of drawn weights, of dropout and of which clips keep their labels."""
    out: str | None = None
    """Where the accuracies go; without it into the run folder."""


class Told(nn.Module):
    """A classifier of clips as bytes, as train/classifier.py fits it."""

    def __init__(self, inner: nn.Module, size: tuple[int, int, int]):
        super().__init__()
        self.inner, self.facts = inner, Shown(size)

    def shown(self, video: Tensor) -> Tensor:
        return video.to(next(self.parameters()).device).float() / 127.5 - 1

    def forward(self, video: Tensor) -> Tensor:
        return self.inner(self.shown(video))


@dataclass(frozen=True)
class Shown:
    size: tuple[int, int, int]


@dataclass(frozen=True)
class Labelled:
    """Clips to learn from, by position, the same ones round and round; and videos of the test."""

    batches: Batches
    count: int
    test: list[tuple[Callable[[], Tensor], int]]  # reads uint8 [clips, 3, T, H, W] of a video; its class
    classes: int
    place: int  # of the label

    def __call__(self, positions: Tensor, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        return self.batches(positions % self.count, size)


def finetune(words: Sequence[str]) -> int:
    command, options = Command(), list(options_of(Command()))
    if list(words) == ["--help"]:
        intro = "How well a VGAN's critic learns the classes of labelled clips."
        report.show(help_text(f"{PROGRAM} RUN [options]", intro, options, EXAMPLES))
        return 0
    if not words or words[0].startswith("-"):
        refuse(f"finetune wants a run folder first: {PROGRAM} RUN [options]")
    run, command = Path(words[0]), changed(command, parse(list(words[1:]), options))
    config = recorded(run)
    if not isinstance(config.system, vgan.Config) or config.system.form == "autoencoder":
        refuse(f"{run} is a run of {config.system.name}: it has no critic of VGAN's")
    newest = chosen_checkpoint(run, config)
    weights = checkpoint.tensors(newest, "video.safetensors")
    starts = ("critic", "drawn", "frozen") if command.start == "all" else (command.start,)
    splits = command.splits.split(",")
    rows = {start: [] for start in starts}
    for split in splits:
        clips = labelled(config, command, split)
        for start in starts:
            rows[start].append(learned(start, config.system, weights, clips, command))
            centre, whole = rows[start][-1]
            told = f"split {split}, " if split else ""
            report.show(f"{told}{start}: {whole:.1%} of {len(clips.test)} videos, {centre:.1%} by their central clips")
    means = {
        start: {"video": float(np.mean([b for _, b in found])), "centre": float(np.mean([a for a, _ in found]))}
        for start, found in rows.items()
    }
    facts = {"run": str(run), "clips_seen": newest.clips_seen, **command.model_dump(exclude={"out"}), "accuracy": means}
    out = Path(command.out or run / "finetune.json")
    write_whole(out, json.dumps(facts, indent=1) + "\n")
    if len(splits) > 1:
        report.show("\n".join(f"mean of {len(splits)} splits, {start}: {m['video']:.1%}" for start, m in means.items()))
    return 0


def labelled(config: Config, command: Command, split: str) -> Labelled:
    data = command.data or config.data
    settings = {"data": data, "mirror": False, "short": "repeat"}
    train = dataset(config.model_copy(update={**settings, "seed": command.seed, "split": f"train{split}"}))
    if not train.labels:
        refuse(f"{data} has no labels")
    label = command.label or next(iter(train.labels))
    if label not in train.labels:
        refuse(f"--label {label}: {data} has {', '.join(train.labels)}")
    place, size = list(train.labels).index(label), config.system.sizes[0]
    if isinstance(train, CachedClips):
        tested = dataset(config.model_copy(update={**settings, "split": f"test{split}"}))
        numbers = tested.chosen.tolist()
        videos = [(partial(spread, tested, clip, size), int(tested.cache.label[clip])) for clip in numbers]
    else:
        others = dataset(config.model_copy(update={**settings, "seed": command.seed + OTHERS}))
        video, labels = others(torch.arange(TEST), size)
        videos = [(partial(clip.__getitem__, None), int(row[place])) for clip, row in zip(video, labels, strict=True)]
    count = max(1, round(command.share * (train.count or POOL)))
    return Labelled(train, count, videos, len(train.labels[label]), place)


def spread(clips: CachedClips, clip: int, size: tuple[int, int, int]) -> Tensor:
    """Ten clips of a video of a cache, evenly spaced, then the central one; the last frame is repeated where there are
    too few."""
    frames = np.array(clips.cache.read(clip))
    video = transforms.shrink(transforms.to_video(torch.from_numpy(frames))[None], (len(frames), *size[1:]))[0]
    last = max(len(frames) - size[0], 0)
    starts = torch.tensor([*torch.linspace(0, last, CLIPS).round().long().tolist(), last // 2])
    rows = (starts[:, None] + torch.arange(size[0])).clamp_max(len(frames) - 1)
    return video[:, rows].transpose(0, 1)


def learned(start: Start, cfg: vgan.Config, weights: dict, clips: Labelled, command: Command) -> tuple[float, float]:
    """Accuracy by central clips, and by the mean over all clips of a video."""
    torch.manual_seed(command.seed)
    inner = vgan.Classifier(cfg, clips.classes)
    vgan.start(inner)
    if start != "drawn":
        known = {name: value for name, value in weights.items() if name.startswith("features.")}
        inner.load_state_dict({**inner.state_dict(), **known})
    network = Told(inner, cfg.sizes[0]).to(device_of(command.device))
    if start == "frozen":
        regress(network, clips, command.decay)
    else:
        plan: Plan = replace(PLANS["vgan"], clips=command.steps * command.batch, batch=command.batch, seed=command.seed)
        for _ in Fit(network, plan, clips.place).go(clips):
            pass
    return tested(network, clips.test)


def regress(network: Told, clips: Labelled, decay: float) -> None:
    """Multinomial logistic regression on the features [N, D] of the labelled clips, by L-BFGS; fills the last layer."""
    network.eval()
    inner, features, wanted = network.inner, [], []
    with torch.no_grad():
        for positions in torch.arange(clips.count).split(TOGETHER):
            video, labels = clips(positions, network.facts.size)
            features.append(inner.features(network.shown(video)).flatten(1))
            wanted.append(labels[:, clips.place])
    x = torch.cat(features)
    y = torch.cat(wanted).to(x.device)
    centre, width = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x = (x - centre) / width / math.sqrt(x.shape[1])
    weight, bias = (torch.zeros(clips.classes, n, device=x.device, requires_grad=True) for n in (x.shape[1], 1))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias[:, 0], y) + decay / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        scaled = weight / width / math.sqrt(x.shape[1])
        inner.last.weight.copy_(scaled.view_as(inner.last.weight))
        inner.last.bias.copy_(bias[:, 0] - scaled @ centre)


@torch.no_grad()
def tested(network: Told, videos: list[tuple[Callable[[], Tensor], int]]) -> tuple[float, float]:
    network.eval()
    centre, whole = [], []
    for start in range(0, len(videos), TOGETHER):
        some = [(read(), label) for read, label in videos[start : start + TOGETHER]]
        parts = network(torch.cat([clips for clips, _ in some])).softmax(dim=1).split([len(clips) for clips, _ in some])
        for found, (_, label) in zip(parts, some, strict=True):
            centre.append(int(found[-1].argmax()) == label)
            whole.append(int(found[:CLIPS].mean(dim=0).argmax()) == label)
    return float(np.mean(centre)), float(np.mean(whole))
