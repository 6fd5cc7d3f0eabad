"""Sources of a data set -> a cache: which frames, made to fit, in a fixed order, by several processes; resumable."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from .. import bair, clips, moving_mnist, strips
from ..cache import Clip, Writer, to_jpegs
from ..decode import Rejected, TooMuchBadData
from ..pool import Pool
from ..resize import Fit
from ..sources import PICTURES, Listing, Source, below

PIECE = 256  # frames that are asked for at once
AHEAD = 4  # sources for each process that are read before their turn to be written


@dataclass(frozen=True)
class Recipe:
    """What is kept of each source, and how."""

    fit: Fit
    fps: Fraction | None = None  # the nearest frame for each 1 / fps seconds; None keeps all
    take: Literal["all", "central", "groups"] = "all"
    frames: int | None = None  # of the central clip or of each group; at least that many of all
    short: Literal["reject", "repeat"] = "reject"  # fewer frames than that: or repeat the last one

    def to_json(self) -> dict:
        return {**asdict(self), "fps": None if self.fps is None else str(self.fps), "filter": "bicubic, antialiased"}

    def chosen(self, count: int) -> np.ndarray:
        """[clips, frames]: which of `count` frames."""
        wanted = self.frames or 1
        if count < wanted and (self.short == "reject" or not count):
            raise Rejected("too short", f"{count} frames, wanted {wanted}")
        if self.take == "groups" and count >= wanted:
            return clips.groups(count, wanted)
        if self.take == "all" and count >= wanted:
            return np.arange(count)[None]
        return clips.central(count, wanted)[None]


def build(
    writer: Writer,
    root: Path,
    listing: Listing,
    recipe: Recipe,
    pool: Pool,
    workers: int,
    most_bad: float,
    progress: Callable[[int, int], None] = lambda done, bad: None,
) -> Counter:
    """Adds every source to the cache, in order. The reasons of those that gave nothing, counted."""
    bad = [(record["source"], record["rejected"][0]) for record in writer.records if record["rejected"]]
    left = [source for source in listing.sources if source.name not in writer.done]
    begun = len(listing.sources) - len(left)
    with ThreadPoolExecutor(workers) as threads:
        read = in_order(threads, lambda source: ingest(source, root, listing, recipe, pool), left, workers)
        for done, (source, outcome) in enumerate(read, begun + 1):
            try:
                writer.add(source.name, outcome.result())
            except Rejected as error:
                writer.add(source.name, [], (error.reason, error.text))
                bad.append((source.name, error.reason))
                check_budget(bad, len(listing.sources), most_bad)
            progress(done, len(bad))
    return Counter(reason for _, reason in bad)


def check_budget(bad: Sequence[tuple[str, str]], count: int, most_bad: float) -> None:
    if len(bad) > most_bad * count:
        why = ", ".join(f"{number} {reason}" for reason, number in Counter(reason for _, reason in bad).most_common())
        names = ", ".join(name for name, _ in bad[:20])
        raise TooMuchBadData(f"{len(bad)} of {count} videos are bad ({why}): {names}")


def in_order(
    threads: ThreadPoolExecutor, work: Callable[[Source], list], sources: Sequence[Source], workers: int
) -> Iterator[tuple[Source, Future]]:
    """Each source and what came of it; only so many are read ahead as memory should hold."""
    waiting = []
    for source in sources:
        waiting.append((source, threads.submit(work, source)))
        if len(waiting) > AHEAD * workers:
            yield waiting.pop(0)
    yield from waiting


def ingest(source: Source, root: Path, listing: Listing, recipe: Recipe, pool: Pool) -> list[tuple[Clip, np.ndarray]]:
    """The clips of one source, or Rejected."""
    path = root / source.path
    fps = listing.fps
    if source.kind == "film":
        film = pool.probe(path)
        size, fps = (film.height, film.width, film.aspect), film.fps
        indices = np.arange(len(film)) if recipe.fps is None else film.at(recipe.fps)

        def read(chosen: np.ndarray) -> np.ndarray:
            pieces = np.array_split(indices[chosen], range(PIECE, len(chosen), PIECE))
            return np.concatenate([pool.read(path, film, piece, recipe.fit) for piece in pieces])

        count = len(indices)
    else:
        whole, count = frames_of(source, path, pool)
        if recipe.fps is not None and fps is not None:
            times, base = np.arange(count), 1 / Fraction(fps).limit_denominator(1001)
            indices = clips.resample(times, base, count, recipe.fps)
        else:
            indices = np.arange(count)
        count = len(indices)
        size = (*whole(0).shape[:2], 1)

        def read(chosen: np.ndarray) -> np.ndarray:
            return np.stack([recipe.fit(whole(index)) for index in indices[chosen].tolist()])

    crop = recipe.fit.window(*size)
    fps = float(recipe.fps) if recipe.fps is not None else fps
    found, chosen = [], recipe.chosen(count)
    for number, frames in enumerate(chosen):
        name = source.name if len(chosen) == 1 else f"{source.name}#{number}"
        clip = Clip(name, fps, source.label, source.split, source.path, crop)
        found.append((clip, read(frames)))
    return found


def frames_of(source: Source, path: Path, pool: Pool) -> tuple[Callable[[int], np.ndarray], int]:
    """A frame by its number, uint8 [H, W, 3], and how many there are."""
    if source.kind == "pictures":
        names = [name for name in below(path, path, PICTURES) if "/" not in name]
        return (lambda index: pool.picture(path / names[index])), len(names)
    if source.kind == "picture":
        frames = pool.picture(path)[None]
    elif source.kind == "strip":
        frames = strips.cut(pool.picture(path))
    elif source.kind == "record":
        frames = bair.frames(path, source.number)
    else:
        frames = moving_mnist.frames(path, source.number)
    return frames.__getitem__, len(frames)


@dataclass(frozen=True)
class Estimate:
    """Of a whole build, from some of its sources."""

    tried: int
    rejected: int
    clips: float
    frames: float
    seconds: float  # of one process
    bytes: dict[str, float]


def estimate(root: Path, listing: Listing, recipe: Recipe, pool: Pool, tries: int = 8) -> Estimate:
    """Reads some sources, evenly spread, and scales up."""
    step = max(1, len(listing.sources) // tries)
    tried = listing.sources[step // 2 :: step][:tries]
    began, num_clips, num_frames, raw, jpeg, rejected = time.perf_counter(), 0, 0, 0, 0, 0
    for source in tried:
        try:
            found = ingest(source, root, listing, recipe, pool)
        except Rejected:
            rejected += 1
            continue
        for _, frames in found:
            num_clips, num_frames, raw = num_clips + 1, num_frames + len(frames), raw + frames.nbytes
            few = frames[:: max(1, len(frames) // 4)]
            jpeg += sum(map(len, to_jpegs(few, 2))) / len(few) * len(frames)
    scale = len(listing.sources) / max(1, len(tried))
    seconds = (time.perf_counter() - began) * scale
    sizes = {"raw": raw * scale, "jpeg": jpeg * scale}
    return Estimate(len(tried), rejected, num_clips * scale, num_frames * scale, seconds, sizes)
