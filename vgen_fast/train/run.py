"""A run from its folder: continue where the newest checkpoint is, step, report, save, and end with the right code.

On several ranks all step together; the first one reads the list of checkpoints, and it alone writes. (Over 400 lines:
every way in which a run can begin, go back and end, and they share its state.)
"""

import errno
import math
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..data import transforms
from ..data.decode import TooMuchBadData
from ..models.system import Draw, System
from . import checkpoint, divergence, report
from .distributed import PeerLost, Ranks
from .folder import Folder
from .loop import Batches, State, Training, networks, start, step
from .memory import give_back
from .schedule import due, stage_at, work
from .seeding import derived

# Exit codes; a signal's is 128 + its number.
DONE, NUMERICAL, BAD_DATA, NOTHING_VALID, CANNOT_SAVE, LOST = 0, 17, 65, 66, 74, 75
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # what ends a run that can write no more
IN_A_ROW = 10  # bad steps before a rollback
AFTER_YOU = 2.0  # seconds that a rank that lost another lets it go first: torchrun tells the first code
AT_ONCE = 8  # clips of those that a checkpoint is judged by
AGREE = 50  # steps of the generator from one comparison of the ranks' networks to the next
TIDY = 64  # steps after which freed memory goes back to the system
SINCE = 250  # steps before the verdict that a run has diverged; what was saved since is not trusted
ROLLBACKS, WITHIN = 3, 1000  # that many rollbacks within so many steps end the run


# Of a system with its averaged generator, and clips seen: the scores for a file, and the amount of each; the least is
# the best. The last argument is called now and then, and may raise to end it.
Scoring = Callable[[System, int, Callable[[], None]], tuple[dict[str, dict], dict[str, float]]]


@dataclass(frozen=True)
class Intervals:
    """In clips; 0 is never."""

    tick: int
    samples: int
    checkpoint: int
    keep: int
    judged: int  # clips that a checkpoint is judged by
    scored: int = 0


class Signals:
    """Remembers the first SIGTERM, SIGINT or SIGUSR1; the loop asks between steps."""

    def __init__(self):
        self.number = 0

    def __enter__(self) -> "Signals":
        self.before = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.number = self.number or number


def networks_of(state: State) -> dict[str, Tensor]:
    """All weights and statistics, by name."""
    modules = {**networks(state.system), "average": state.average}
    return {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


class Signalled(Exception):
    """A signal came while a checkpoint was judged or scored."""


class Run:
    """One start of a run."""

    def __init__(
        self,
        build: Callable[[], tuple],  # a fresh (System, Training), the same every time
        batches: Batches,
        folder: Folder | None,  # of the first rank
        path: Path,
        ranks: Ranks,
        clips: int,
        intervals: Intervals,
        facts: dict,
        classes: tuple[int, ...],
        judge: Callable[[Iterable[tuple[Tensor, Tensor]]], float],  # pairs of real and fake videos -> their distance
        go_back: bool = True,  # where the run diverges; else that is an event and no more
        scoring: Scoring | None = None,
        best: str = checkpoint.DISTANCE,  # by what the best checkpoint is chosen
    ):
        self.build, self.batches, self.folder, self.clips = build, batches, folder, clips
        self.path, self.ranks = path, ranks
        self.intervals, self.classes, self.judge, self.go_back = intervals, classes, judge, go_back
        self.run = ranks.from_first(folder.run if folder else None)
        self.facts = {
            **facts,
            "run": self.run,
            "ranks": ranks.size,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        self.scoring, self.best, self.scored = scoring, best, (-1, {})  # clips seen, and the amounts then
        self.bad, self.rollbacks, self.signals = 0, [], Signals()
        self.state: State
        self.training: Training

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def restore(self, until: int | None = None) -> bool:
        """The newest valid checkpoint, or a fresh state; False if there are only damaged ones.

        `until`: those of more clips are set aside, but for the oldest one if all are.
        """
        self.fresh()
        damaged: list[str] = []
        there = checkpoint.candidates(self.path / "checkpoints", self.run, damaged.append) if self.ranks.first else []
        if until is not None:
            while len(there) > 1 and there[0].clips_seen > until:
                checkpoint.set_aside(there.pop(0), "diverged")
        for found in self.ranks.from_first(there):
            try:
                checkpoint.load(found, self.state)
            except checkpoint.Damaged as error:
                damaged.append(str(error))
                self.fresh()
            if self.ranks.largest(self.state.clips_seen != found.clips_seen):
                self.fresh()
                continue
            self.complain_of(damaged)
            if found.manifest["threads"] != torch.get_num_threads():
                report.complain(
                    f"the checkpoint was made with {found.manifest['threads']} threads, this run has "
                    f"{torch.get_num_threads()}: it goes on, but not with the same bits"
                )
            if self.folder:
                self.folder.forget_after(self.state.clips_seen)
            self.event("resume", clips_seen=self.state.clips_seen)
            return True
        self.complain_of(damaged)
        return not self.ranks.largest(len(damaged))

    def event(self, name: str, **facts: object) -> None:
        if self.folder:
            self.folder.event(name, **facts)

    def fresh(self) -> None:
        self.scored = -1, {}
        system, self.training = self.build()
        self.state = start(system, self.training)

    def complain_of(self, damaged: list[str]) -> None:
        for reason in damaged:
            self.event("checkpoint_skipped", reason=reason)
            report.complain(f"skipped a damaged checkpoint: {reason}")

    def save(self) -> None:
        """Commits the state; every rank waits for the first, and stops with it if it cannot. A checkpoint is judged and
        scored first, which takes its time; once a signal has come there is none."""
        failure: Exception | None = None
        if self.folder:
            distance, amounts = self.measured()
            self.event("checkpoint_begin", clips_seen=self.state.clips_seen)
            try:
                checkpoint.save(self.folder.checkpoints, self.state, {**self.facts, **distance, **amounts})
            except (checkpoint.CannotSave, checkpoint.NotFinite) as error:
                self.event("checkpoint_failed", reason=str(error))
                failure = error
            else:
                self.event("checkpoint_committed", clips_seen=self.state.clips_seen, **distance, sync=True)
                checkpoint.prune(self.folder.checkpoints, self.run, self.intervals.keep, self.best)
        if failure := self.ranks.from_first(failure):
            raise failure

    def measured(self) -> tuple[dict, dict]:
        """The distance and the scores, for the manifest; neither if a signal comes before they are there."""
        try:
            distance = self.distance()
            return distance, {"scores": amounts} if (amounts := self.scores()) else {}
        except Signalled:
            return {}, {}

    # -------------------------------------------------------------------------------------------------------- reports

    def samples(self) -> None:
        if not self.folder:
            return
        state = self.state
        stage = stage_at(self.training.phases, max(state.clips_seen - 1, 0))
        video = self.batches(torch.arange(report.SAMPLES), state.system.sizes[-1])[0] if state.system.sees else None
        inputs = report.fixed_inputs(state.system, self.classes, self.training.seed, video)
        frames = report.videos(state.average, state.system, inputs, stage)
        report.write_grid(self.folder.samples, f"fakes-{state.clips_seen:09d}", frames)
        report.write_page(self.path)

    @torch.no_grad()
    def distance(self) -> dict[str, float]:
        """How far the averaged generator's clips are from real ones, in coarse pixels."""
        return {checkpoint.DISTANCE: self.judge(self.judged())} if self.intervals.judged else {}

    def scores(self) -> dict[str, float]:
        """Of the averaged generator as it is now, at the last level; measured and written down once. The less of each
        the better.
        """
        clips_seen, phases = self.state.clips_seen, self.training.phases
        level = stage_at(phases, max(clips_seen - 1, 0)).level
        if not self.scoring or not self.folder or level < len(self.state.system.sizes) - 1:
            return {}
        if self.scored[0] != clips_seen:
            averaged = replace(self.state.system, generator=self.state.average)
            entries, amounts = self.scoring(averaged, clips_seen, self.go_on)
            self.folder.scores(clips_seen, entries)
            self.scored = clips_seen, amounts
        return self.scored[1]

    def go_on(self) -> None:
        if self.signals.number:
            raise Signalled

    def judged(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Real videos and generated ones for the same labels, always the same, some at a time."""
        state, system = self.state, self.state.system
        stage = stage_at(self.training.phases, max(state.clips_seen - 1, 0))
        like = next(system.generator.parameters()).detach()
        count = self.intervals.judged
        for rows in torch.arange(count).split(AT_ONCE):
            self.go_on()
            video, labels = self.batches(rows, system.sizes[stage.level])
            video, labels = video.to(like) / 127.5 - 1, None if labels is None else labels.to(like.device)
            inputs = system.draw_inputs(video, labels, Draw(derived(self.training.seed, "judged"), count, rows, like))
            yield video, system.video(state.average(inputs, stage))

    def reals(self) -> None:
        if not self.folder:
            return
        size = self.state.system.sizes[-1]
        video, _ = self.batches(torch.arange(report.SAMPLES), size)
        report.write_grid(self.folder.samples, "reals", transforms.to_frames(video).numpy())

    # ----------------------------------------------------------------------------------------------------------- steps

    def go(self) -> int:
        """Trains to the end, a signal or a fault; the exit code."""
        if self.folder:
            checkpoint.sweep(self.folder.checkpoints)
        if not self.restore():
            report.complain(f"{self.path / 'checkpoints'} holds checkpoints, but none that is whole")
            return self.end(NOTHING_VALID)
        if self.state.clips_seen >= self.clips:
            if self.folder:
                report.show(f"complete: {self.state.clips_seen} clips seen in {self.path}; --clips asks for more")
            return self.end(DONE)
        try:
            with self.signals:
                code = self.steps()
                if code != NUMERICAL:
                    self.save()
                if code == DONE:
                    self.samples()
        except checkpoint.CannotSave as error:
            report.complain(f"cannot save a checkpoint: {error}")
            code = CANNOT_SAVE
        except checkpoint.NotFinite as error:
            report.complain(f"the run ends in numbers that are none: {error}")
            code = NUMERICAL
        except OSError as error:
            if error.errno not in FULL:
                raise
            report.complain(f"cannot write into {self.path}: {error.strerror}")
            code = CANNOT_SAVE
        except TooMuchBadData as error:
            report.complain(str(error))
            code = BAD_DATA
        except PeerLost as error:
            report.complain(str(error))
            self.event("rank_lost", reason=str(error))
            where = "".join(traceback.format_exception(error))  # of each rank that is left
            calls = "\n".join(["its newest collectives:", *self.ranks.calls])
            (self.path / f"lost-by-rank-{self.ranks.rank}.txt").write_text(f"{where}\n{calls}\n")
            time.sleep(AFTER_YOU)
            code = LOST
        return self.end(code)

    def end(self, code: int) -> int:
        try:
            self.event("exit", code=code)
            if self.folder:
                report.write_page(self.path)
        except OSError as error:
            if error.errno not in FULL:
                raise
            report.complain(f"cannot finish the report in {self.path}: {error.strerror}")
            return code or CANNOT_SAVE
        return code

    def steps(self) -> int:
        state = self.state
        phases, sizes = self.training.phases, state.system.sizes
        progress = report.Progress(self.clips, state.clips_seen, lambda clips: work(phases, sizes, clips))
        if state.clips_seen == 0:
            self.reals()
            self.samples()
        ticked, since, sums = time.monotonic(), state.clips_seen, {}
        while state.clips_seen < self.clips:
            if number := self.ranks.largest(self.signals.number):
                self.event("signal", number=number)
                return 128 + number
            if self.ranks.size > 1 and state.steps["generator"] % AGREE == 0:
                self.ranks.agree(networks_of(state))
            before, stage = state.clips_seen, stage_at(self.training.phases, state.clips_seen)
            skipped = dict(state.events)
            losses = step(state, self.training, self.batches, self.ranks.total, (self.ranks.rank, self.ranks.size))
            values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
            told = all(map(math.isfinite, values.values()))  # else a network left the step out, on all ranks
            fault = self.numerical_fault(skipped)
            saving = due(self.intervals.checkpoint, before, state.clips_seen) and state.clips_seen < self.clips
            if fault or (told and self.diverged(values)) or (saving and not self.finite()):
                if self.too_many_rollbacks():
                    return NUMERICAL
                self.roll_back(state.clips_seen - (0 if fault else SINCE * (state.clips_seen - before)))
                state = self.state
                ticked, since, sums = time.monotonic(), state.clips_seen, {}
                continue
            if told:
                for name, value in values.items():
                    total, times = sums.get(name, (0.0, 0))
                    sums[name] = (total + value, times + 1)
            tick = due(self.intervals.tick, before, state.clips_seen) or state.clips_seen >= self.clips
            means = {name: total / times for name, (total, times) in sums.items()}
            if self.folder and (tick or progress.live):
                progress.update(state.clips_seen, state.system.sizes[stage.level], stage, means, tick)
            if tick:
                now = time.monotonic()
                speed = (state.clips_seen - since) / (now - ticked)
                if self.folder:
                    self.folder.stats({
                        "clips_seen": state.clips_seen, "level": stage.level, "fade": stage.fade, "losses": means,
                        "hex": {name: value.hex() for name, value in means.items()},
                        "clips_per_second": round(speed, 3), "events": dict(state.events),
                    })  # fmt: skip
                ticked, since, sums = now, state.clips_seen, {}
            if state.steps["generator"] % TIDY == 0:
                give_back()
            if due(self.intervals.scored, before, state.clips_seen):
                with suppress(Signalled):
                    self.scores()
            if due(self.intervals.samples, before, state.clips_seen) and state.clips_seen < self.clips:
                self.samples()
            if saving:
                self.save()
        return DONE

    def finite(self) -> bool:
        """Whether a checkpoint could be saved of this state: finite gradients may make weights that are none."""
        bad = checkpoint.nonfinite(checkpoint.tensors_of(self.state))
        if bad:
            self.event("nonfinite", site=bad[0], clips_seen=self.state.clips_seen)
        return not bad

    def too_many_rollbacks(self) -> bool:
        """Says so, if as many as end a run lie close behind."""
        batch = self.training.phases[-1].batch
        self.rollbacks = [clips for clips in self.rollbacks if clips > self.state.clips_seen - WITHIN * batch]
        if len(self.rollbacks) < ROLLBACKS:
            return False
        report.complain(
            f"went back {ROLLBACKS} times within {WITHIN} steps, and the numbers fail again after "
            f"{self.state.clips_seen} clips: {self.path / 'events.jsonl'} says which"
        )
        return True

    def numerical_fault(self, before: dict[str, int]) -> bool:
        """Logs the skipped steps of this round; whether there were too many in a row."""
        faults = [n for n in self.state.events if n.endswith("/nonfinite") and self.state.events[n] != before.get(n, 0)]
        self.bad = self.bad + 1 if faults else 0
        for name in faults:
            self.event("nonfinite", site=name.removesuffix("/nonfinite"), clips_seen=self.state.clips_seen)
        return self.bad >= IN_A_ROW

    def diverged(self, values: dict[str, float]) -> bool:
        """Whether finite numbers have left the road, and the run shall go back for it."""
        free = {f"{name}/loss" for name, objective in self.training.objectives.items() if objective.distance}
        found = divergence.see(self.state.signals, {name: value for name, value in values.items() if name not in free})
        if found:
            self.event("diverged", signals=found, clips_seen=self.state.clips_seen)
            self.state.signals = {}
        return bool(found) and self.go_back

    def roll_back(self, until: int) -> None:
        """To the newest checkpoint that is not past `until`, if there is one so old."""
        reached = self.state.clips_seen
        self.restore(until)
        self.rollbacks.append(reached)
        self.state.clips_drawn += reached  # other data than those that led here
        self.event("rollback", clips_seen=self.state.clips_seen, reached=reached)
        self.bad = 0
