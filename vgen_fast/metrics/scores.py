"""Several scores of one stream of clips: what they want of a network is computed once.

    scores = Scores([fid, is_], about="ucf101@1f3c, split test")
    scores.update(real=video)            # uint8 [B, 3, T, H, W], as often as there are clips
    scores.update(fake=video)
    scores.compute()["inception score"]  # a Score: value, interval, the same of real clips, protocol

A metric is a formula over rows that a view keeps of every clip, never over the clips themselves; so an interval costs
no second pass. Processes share a pass: `merge(state)` of the others, in any order, as rows are sorted by the bytes of
their clips before anything is drawn. `other` are real clips that the real ones are compared with, in the place of the
fake ones; without them nothing stands beside a distance, and beside other scores that of as many of the real clips.

Legend: B clips, S splits, R replicates.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import pstdev

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from . import interval
from .protocol import Better, Score

SIDES = ("real", "other", "fake")
BATCH = 32  # clips a view is shown at once
FEWEST = 3  # clips of a score: one varies from none, and two are one pair, drawn again and again
Rows = Mapping[str, Tensor]  # by part; equally many of each clip
Measured = tuple[Tensor, Callable[[], Tensor]]  # values [S], and what draws them again for their mean: [R]
See = Callable[[Tensor, Tensor], Rows]  # of clips uint8 [B, 3, T, H, W] and labels [B], of which -1 is none


@dataclass(frozen=True)
class View:
    """A look at clips. The name tells the network, the digest of its weights, and how clips are prepared."""

    name: str
    see: See
    slow: bool = True  # worth to be remembered


@dataclass(frozen=True)
class Metric:
    name: str
    better: Better
    protocol: str
    view: View
    parts: tuple[str, ...]  # of the view's
    measure: Callable[[Rows, Rows], Measured]  # of real and fake rows
    repeated: bool = True  # whether values are repetitions, which have a deviation
    against: bool = True  # whether fake clips are compared with real ones


class Scores:
    def __init__(self, metrics: Sequence[Metric], about: str = "", memory: Path | None = None):
        """`about` tells whatever else the numbers depend on: the real clips, their split, the seed.

        `memory` is a folder where views keep what they make of real clips, for the next time.
        """
        names = [metric.name for metric in metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"two metrics must not have one name, got {', '.join(names)}")
        self.metrics, self.about, self.memory = tuple(metrics), about, memory
        self.views = {metric.view.name: metric.view for metric in metrics}
        self.wanted = {name: {p for m in metrics if m.view.name == name for p in m.parts} for name in self.views}
        self.count = dict.fromkeys(SIDES, 0)
        self.shape: dict[str, tuple[int, ...]] = {}
        self.kept: dict[str, dict[str, dict[str, list[Tensor]]]] = {side: {} for side in SIDES}
        self.digests: dict[str, list[bytes]] = {side: [] for side in SIDES}  # of each clip

    @torch.no_grad()
    def update(
        self,
        *,
        real: Tensor | None = None,
        other: Tensor | None = None,
        fake: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        """Shows clips of one side or of several. `labels` [B]: what the clips are, or were asked to be."""
        for side, video in (("real", real), ("other", other), ("fake", fake)):
            if video is None:
                continue
            if video.ndim != 5 or video.shape[1] != 3 or video.dtype != torch.uint8:
                raise ValueError(f"{side} must be uint8 [B, 3, T, H, W], got {video.dtype} {list(video.shape)}")
            told = torch.full((len(video),), -1) if labels is None else labels
            for some, their in zip(video.split(BATCH), told.split(BATCH), strict=True):
                for name, view in self.views.items():
                    remembers = self.memory and view.slow and side != "fake"
                    see = remembering(view, self.wanted[name], self.memory) if remembers else view.see
                    self._keep(side, name, see(some, their))
            self.digests[side] += [sha256(clip.cpu().contiguous().numpy()).digest() for clip in video]
            self._count(side, len(video), tuple(video.shape[2:]))

    def _keep(self, side: str, view: str, rows: Rows) -> None:
        kept = self.kept[side].setdefault(view, {})
        for part in self.wanted[view]:
            kept.setdefault(part, []).append(rows[part])

    def _count(self, side: str, count: int, shape: tuple[int, ...]) -> None:
        if self.shape.setdefault(side, shape) != shape:
            raise ValueError(f"{side} clips must have one size, got {shape} after {self.shape[side]}")
        self.count[side] += count

    def state(self) -> dict:
        """What another process needs to `merge`: tensors and numbers."""
        protocols = [metric.protocol for metric in self.metrics]
        shown = {"digests": self.digests, "count": self.count, "shape": self.shape}
        return {"protocols": protocols, "kept": self.kept, **shown}

    def merge(self, state: dict) -> None:
        """Adds what another process was shown, from the state of its scores."""
        if state["protocols"] != [metric.protocol for metric in self.metrics]:
            raise ValueError(f"merge: the other scores are {', '.join(state['protocols'])}")
        for side in SIDES:
            for view, rows in state["kept"][side].items():
                self._keep(side, view, {part: torch.cat(tensors) for part, tensors in rows.items()})
            self.digests[side] += state["digests"][side]
            if state["count"][side]:
                self._count(side, state["count"][side], state["shape"][side])

    def forget(self, side: str) -> None:
        """The clips of one side, to measure others against the same reals."""
        self.kept[side], self.digests[side], self.count[side] = {}, [], 0
        self.shape.pop(side, None)

    def rows(self, side: str, metric: Metric) -> Rows:
        """Sorted by the bytes of the clips: who was shown which first must not move a score."""
        kept, digests = self.kept[side].get(metric.view.name, {}), self.digests[side]
        order = torch.tensor(sorted(range(len(digests)), key=digests.__getitem__))
        return {part: torch.cat(kept[part])[order] for part in metric.parts if part in kept}

    def compute(self) -> dict[str, Score]:
        wanted = ("real", "fake") if any(metric.against for metric in self.metrics) else ("fake",)
        for side in wanted:
            if not self.count[side]:
                raise ValueError(f"scores want {side} clips: update({side}=video) was never called")
        return {metric.name: self._score(metric) for metric in self.metrics}

    @torch.no_grad()
    def _score(self, metric: Metric) -> Score:
        reals, fakes = self.count["real"], self.count["fake"]
        clips = f"{fakes} clips" + (f" against {reals}" if metric.against and reals != fakes else "")
        protocol = f"{metric.protocol}/{clips}/{'x'.join(map(str, self.shape['fake']))}/{self.about}".rstrip("/")
        real, fake = self.rows("real", metric), self.rows("fake", metric)
        beside = math.nan
        try:
            for side, count in (("generated", fakes), ("real", reals if metric.against else FEWEST)):
                if count < FEWEST:
                    raise ValueError(f"a score and its interval take {FEWEST} {side} clips at least, got {count}")
            values, replicates = metric.measure(real, fake)
            low, high = interval.interval(replicates())
            if not (values.isfinite().all() and math.isfinite(low) and math.isfinite(high)):
                raise ValueError("the score or its interval is not finite")
            if self.count["other"] or (self.count["real"] and not metric.against):
                as_many = {part: rows[:fakes] for part, rows in real.items()}
                beside = float(metric.measure(real, self.rows("other", metric) or as_many)[0].mean())
        except ValueError as error:  # of rows that have no such score: too few, NaN
            return Score(math.nan, math.nan, math.nan, math.nan, metric.better, protocol, invalid=str(error))
        several = tuple(values.tolist()) if values.numel() > 1 else ()
        deviation = pstdev(several) if several and metric.repeated else None
        return Score(float(values.mean()), low, high, beside, metric.better, protocol, several, deviation)


# ------------------------------------------------------------------------------------------------------ what was seen


def features_folder() -> Path:
    """VGEN_FAST_FEATURES, or a folder of the cache of this user: what networks made of real clips."""
    return Path(os.environ.get("VGEN_FAST_FEATURES") or Path.home() / ".cache" / "vgen_fast" / "features")


def remembering(view: View, parts: Iterable[str], folder: Path) -> See:
    """The same look, which reads from the folder what it made of the same clips before.

    A file is named by the SHA-256 of the view's name and of the bytes of the clips, so it can never be that of others;
    one that cannot be read is made again.
    """
    parts = sorted(parts)

    def see(video: Tensor, labels: Tensor) -> Rows:
        content = sha256(repr((view.name, parts, tuple(video.shape), labels.tolist())).encode())
        content.update(video.contiguous().numpy())
        path = folder / f"{content.hexdigest()}.safetensors"
        try:
            return load(path.read_bytes())
        except (OSError, SafetensorError):
            found = view.see(video, labels)
        partial = path.with_suffix(f".{os.getpid()}")  # another process may be writing the same
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(save({part: found[part].contiguous() for part in parts}))
            os.replace(partial, path)
        except OSError as error:
            warnings.warn(f"what networks make of real clips is not kept in {folder}: {error}", stacklevel=2)
        return found

    return see
