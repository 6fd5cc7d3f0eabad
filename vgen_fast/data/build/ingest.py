"""Sources of a data set -> a cache, in a fixed order, by several processes; resumable."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ..cache import Clip, Writer, to_jpegs
from ..decode import Film, Rejected, TooMuchBadData
from ..pool import Pool
from ..resize import AS_IT_IS, Fit
from ..sources import Listing, Source

AHEAD = 4  # sources for each process that are read before their turn to be written
WAITING_BYTES = 512 << 20  # of frames that wait for that turn: with these, only the source whose turn it is is read
PIECE, PIECE_BYTES = 256, 256 << 20  # frames that are asked for at once, and their bytes, at most


class Found(NamedTuple):
    """What a builder makes of a source."""

    clips: list[tuple[Clip, np.ndarray]]  # frames uint8 [T, H, W, 3]
    rejected: list[tuple[str, str, str]]  # name, reason and text of the clips that were not kept

    @property
    def bytes(self) -> int:
        return sum(frames.nbytes for _, frames in self.clips)


class Builder(Protocol):
    sound: tuple[str, ...]  # reasons of videos that nothing is wrong with

    def __call__(self, source: Source, root: Path, listing: Listing, pool: Pool) -> Found:
        """The clips of a source, or Rejected."""

    def to_json(self) -> dict:
        """The whole recipe."""


def build(
    writer: Writer,
    root: Path,
    listing: Listing,
    builder: Builder,
    pool: Pool,
    workers: int,
    most_bad: float,
    progress: Callable[[int, int], None] = lambda done, bad: None,
) -> Counter:
    """Adds every source to the cache, in order. The reasons of what was rejected, counted."""
    rejected = [row for record in writer.records for row in record["rejected"]]
    left = [source for source in listing.sources if source.name not in writer.done]
    names, begun = {source.name for source in listing.sources}, len(listing.sources) - len(left)
    ahead = Ahead(lambda source: builder(source, root, listing, pool))
    with ThreadPoolExecutor(workers) as threads:
        try:
            for done, (source, outcome) in enumerate(in_order(threads, ahead, left, workers), begun + 1):
                try:
                    found = outcome.result()
                except Rejected as error:
                    found = Found([], [(source.name, error.reason, error.text)])
                writer.add(source.name, found.clips, found.rejected)
                rejected += found.rejected
                bad = [(name, reason) for name, reason, _ in rejected if name in names and reason not in builder.sound]
                check_budget(bad, len(listing.sources), most_bad)
                progress(done, len(bad))
                ahead.written(found)
        except BaseException:
            ahead.end()
            pool.close()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return Counter(reason for _, reason, _ in rejected)


def check_budget(bad: Sequence[tuple[str, str]], count: int, most_bad: float) -> None:
    if len(bad) > most_bad * count:
        why = ", ".join(f"{number} {reason}" for reason, number in Counter(reason for _, reason in bad).most_common())
        names = ", ".join(name for name, _ in bad[:20])
        raise TooMuchBadData(f"{len(bad)} of {count} videos are bad ({why}): {names}")


class Ahead:
    """Reads sources in several threads; each but that whose turn it is waits until there is room for its frames."""

    def __init__(self, work: Callable[[Source], Found]):
        self.work, self.room = work, threading.Condition()
        self.turn, self.held, self.ended = 0, 0, False

    def __call__(self, number: int, source: Source) -> Found:
        with self.room:
            self.room.wait_for(lambda: self.ended or self.turn == number or self.held < WAITING_BYTES)
        if self.ended:
            return Found([], [])
        found = self.work(source)
        with self.room:
            self.held += found.bytes
        return found

    def written(self, found: Found) -> None:
        with self.room:
            self.turn, self.held = self.turn + 1, self.held - found.bytes
            self.room.notify_all()

    def end(self) -> None:
        with self.room:
            self.ended = True
            self.room.notify_all()


def in_order(
    threads: ThreadPoolExecutor, work: Callable[[int, Source], Found], sources: Sequence[Source], workers: int
) -> Iterator[tuple[Source, Future]]:
    """Each source and what came of it; only so many are read ahead."""
    waiting = deque()
    for number, source in enumerate(sources):
        waiting.append((source, threads.submit(work, number, source)))
        if len(waiting) > AHEAD * workers:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def frames(pool: Pool, path: Path, film: Film, indices: np.ndarray, fit: Fit = AS_IT_IS) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] one after the other; no more of them in memory than a piece, which one request may have."""
    height, width = fit.crop or fit.size(film.height, film.width, film.aspect)
    decoded = pool.limits.all_pixels // (film.height * film.width)
    piece = max(1, min(PIECE, PIECE_BYTES // (height * width * 3), decoded))
    for first in range(0, len(indices), piece):
        yield from pool.read(path, film, indices[first : first + piece], fit)


@dataclass(frozen=True)
class Estimate:
    """Of a whole build, from some of its sources."""

    tried: int
    rejected: int
    clips: float
    frames: float
    seconds: float  # of one process
    bytes: dict[str, float]


def estimate(root: Path, listing: Listing, builder: Builder, pool: Pool, tries: int = 8) -> Estimate:
    """Reads some sources, evenly spread, and scales up."""
    step = max(1, len(listing.sources) // tries)
    tried = listing.sources[step // 2 :: step][:tries]
    began, num_clips, num_frames, raw, jpeg, rejected = time.perf_counter(), 0, 0, 0, 0, 0
    for source in tried:
        try:
            found = builder(source, root, listing, pool)
        except Rejected:
            rejected += 1
            continue
        for _, clip in found.clips:
            num_clips, num_frames, raw = num_clips + 1, num_frames + len(clip), raw + clip.nbytes
            few = clip[:: max(1, len(clip) // 4)]
            jpeg += sum(map(len, to_jpegs(few, 2))) / len(few) * len(clip)
    scale = len(listing.sources) / max(1, len(tried))
    seconds = (time.perf_counter() - began) * scale
    sizes = {"raw": raw * scale, "jpeg": jpeg * scale}
    return Estimate(len(tried), rejected, num_clips * scale, num_frames * scale, seconds, sizes)


class Without:
    """A builder whose clips people have looked at: those that they rejected are left out."""

    def __init__(self, builder: Builder, rejected: set[str], digest: str):
        self.builder, self.rejected, self.digest, self.met = builder, rejected, digest, set()
        self.sound = (*builder.sound, "reviewed")

    def to_json(self) -> dict:
        return {**self.builder.to_json(), "decisions": self.digest}

    def __call__(self, source: Source, root: Path, listing: Listing, pool: Pool) -> Found:
        clips, rejected = self.builder(source, root, listing, pool)
        out = {clip.id for clip, _ in clips if clip.id in self.rejected}
        self.met |= out  # a set's union is one step of the interpreter: threads need no lock
        kept = [(clip, frames) for clip, frames in clips if clip.id not in out]
        return Found(kept, [*rejected, *((name, "reviewed", "rejected in the review") for name in sorted(out))])
