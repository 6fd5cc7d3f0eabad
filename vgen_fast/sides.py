"""Clips to be scored, by where they come from: those that a run is trained on, those that its generator makes, those of
a cache, an array or a folder of videos; as streams in which every clip comes once, the same ones each time.

Legend: B clips, T frames, H x W pixels.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count as counted
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import given
from .config import Config
from .data import folder, transforms
from .data.cache import BadCache, Cache
from .data.loader import CachedClips, Window
from .data.pool import Pool
from .data.sources import FILMS, PICTURES, NoDataSet, below
from .dataset import dataset
from .device import CPU
from .metrics.scores import Scores
from .models.system import System
from .nets.weights import digest
from .options import refuse
from .sample import chosen_labels, inputs_of, recorded, restored, videos
from .train import report
from .train.loop import Batches

BATCH = 64  # clips that are made or read at once
REALS = 1_000_003  # seed of real clips, far from those of runs
Size = tuple[int, int, int]
NAMES = {"real": "real", "other": "other real", "fake": "generated"}  # of the sides of scores, for a person
Stream = Iterator[tuple[Tensor, int]]  # uint8 [3, T, H, W] and what it is or was asked to be; -1 is nothing


@dataclass(frozen=True)
class Clips:
    about: str  # tells them from others, wherever they lie
    size: Size
    stream: Callable[[], Stream]
    there: int | None = None  # how many there are, if not as many as are asked for
    labelled: bool = False
    predicted: bool = False  # from first frames


def of_run(
    run: Path,
    checkpoint: str,
    first_seed: int,
    label: str | None,
    data: dict[str, str | None],
    frames: int | None = None,
    device: torch.device = CPU,
) -> tuple[Clips, Config, int]:
    """What its averaged generator makes of the latents of these seeds and up; its configuration; clips it has seen.

    `label` is which one of the data's counts; `data` are other clips than it was trained on, `frames` is another length
    than theirs.
    """
    system, config, clips_seen = restored(run, checkpoint, frames, device)
    config = config.model_copy(update={**data, "system": recorded(run).system})  # whose clips stay as long as they are
    made = of_system(system, config, clips_seen, first_seed, label)
    return replace(made, size=(frames or made.size[0], *made.size[1:])), config, clips_seen


def of_system(system: System, config: Config, clips_seen: int, first_seed: int, label: str | None) -> Clips:
    size, reached = config.system.sizes[-1], config.system.sizes[config.stage(max(clips_seen - 1, 0)).level]
    if reached != size:
        refuse(f"this run has reached {shown(reached)}; scores are of {shown(size)}")
    place = place_of(label, tuple(dataset(config).labels)) if label else None

    def made() -> Stream:
        for start in counted(first_seed, BATCH):
            seeds = list(range(start, start + BATCH))
            labels = chosen_labels(config, seeds, None)
            frames = torch.from_numpy(videos(system, config, inputs_of(system, config, seeds, labels), clips_seen))
            yield from one_by_one(transforms.to_video(frames).contiguous(), labels, place)

    labelled = place is not None and bool(config.system.classes)
    return Clips("generated", size, made, labelled=labelled, predicted=system.sees == "frame")


def of_its_data(config: Config, seed: int, label: str | None) -> Clips:
    """The clips that a run is trained on, in an order that all runs share."""
    clips, size = dataset(config.model_copy(update={"seed": REALS + seed})), config.system.sizes[-1]
    return Clips(source(config), size, drawn(clips, size, label), clips.count, bool(label))


def of_cache(path: Path, size: Size, seed: int, split: str | None, label: str | None) -> Clips:
    try:
        clips = CachedClips(Cache(path), Window(size[0]), REALS + seed, split)
        clips(torch.arange(1), size)
    except (BadCache, ValueError) as error:
        refuse(str(error))
    label = label if label in clips.labels else None
    return Clips(f"{content(path)}, split {split}", size, drawn(clips, size, label), clips.count, bool(label))


def of_array(path: Path, seed: int) -> Clips:
    """In an order drawn from the seed: the first clips of an array may all be of one class."""
    frames = given.array(path)
    found, starts = sha256(repr(frames.shape).encode()), range(0, len(frames), BATCH)
    for start in starts:
        found.update(np.ascontiguousarray(frames[start : start + BATCH]))
    order = np.random.default_rng(seed).permutation(len(frames))

    def read() -> Stream:
        for start in starts:
            video = transforms.to_video(torch.from_numpy(frames[order[start : start + BATCH]]))
            yield from one_by_one(video.contiguous(), None, None)

    return Clips(f"array {found.hexdigest()[:12]}", tuple(frames.shape[1:4]), read, len(frames))


def of_videos(root: Path, size: Size, seed: int, pool: Pool) -> Clips:
    def read() -> Stream:
        for frames in given.videos(root, size, seed, pool, report.complain):
            yield transforms.to_video(torch.from_numpy(frames)).contiguous(), -1

    there = len(folder.index(root).sources)
    return Clips(f"folder {content(root)}, central {shown(size)}", size, read, there)


def of(what: str, size: Size | None, seed: int, split: str | None, label: str | None, pool: Pool) -> Clips:
    """Clips of anything but a run. An array has its own size; of the others it must be told."""
    path = Path(what)
    try:
        if path.suffix in given.ARRAYS and path.is_file():
            return of_array(path, seed)
        if path.is_dir():
            if size is None:
                refuse(f"--size: which frames, height and width of {what} are scored?")
            if path.suffix == ".vgc":
                return of_cache(path, size, seed, split, label)
            return of_videos(path, size, seed, pool)
    except NoDataSet as error:
        refuse(str(error))
    refuse(f"{what} is no run folder, no cache (.vgc), no array ({' '.join(given.ARRAYS)}) and no folder of videos")


# ------------------------------------------------------------------------------------------------------------- streams


def show(
    scores: Scores, side: str, stream: Stream, count: int, tell: Callable[[int], None] = lambda done: None
) -> None:
    """Shows so many clips of the stream, and tells how many were shown."""
    done = 0
    while done < count:
        some = list(islice(stream, min(BATCH, count - done)))
        if not some:
            refuse(f"there are {done} {NAMES[side]} clips, wanted {count}")
        video, labels = zip(*some, strict=True)
        try:
            scores.update(**{side: torch.stack(video)}, labels=torch.tensor(labels))
        except ValueError as error:
            refuse(str(error))
        done += len(some)
        tell(done)


def drawn(clips: Batches, size: Size, label: str | None) -> Callable[[], Stream]:
    """Of a data set by position, from the first on and round again."""
    place = place_of(label, tuple(clips.labels)) if label else None

    def read() -> Stream:
        for start in counted(0, BATCH):
            yield from one_by_one(*clips(torch.arange(start, start + BATCH), size), place)

    return read


def one_by_one(video: Tensor, labels: Tensor | None, place: int | None) -> Stream:
    """Clips [B, 3, T, H, W] and the label in that column of labels [B, A]."""
    told = torch.full((len(video),), -1) if labels is None or place is None else labels[:, place]
    return zip(video, told.tolist(), strict=True)


def place_of(label: str, names: tuple[str, ...]) -> int:
    if label not in names:
        refuse(f"the classifier tells {label}, the clips have {', '.join(names) or 'no labels'}")
    return names.index(label)


def source(config: Config) -> str:
    """What the reals are, and how they are shown: by their content, wherever they lie."""
    path = Path(config.data)
    if path.suffix == ".vgc":
        how = f"strides {config.strides}, left {config.left}, mirror {config.mirror}"
        return f"{content(path)}, split {config.split}, {how}"
    return f"folder {content(path)}, {config.shrink}" if path.is_dir() else config.data


def content(path: Path) -> str:
    """12 digits of SHA-256: of a cache, or of the films and pictures of a folder with their paths below it."""
    if path.suffix == ".vgc":
        return json.loads((path / "build.json").read_bytes())["sha256"][:12]
    files = below(path, path, FILMS + PICTURES)
    return sha256(repr([(file, digest(path / file)) for file in files]).encode()).hexdigest()[:12]


def shown(size: Size) -> str:
    return "x".join(map(str, size))
