"""The training loop: a step is a function of the state and of clips seen, and of nothing else.

Legend: B clips of a batch, on all ranks together; a micro-batch is what one rank passes through the networks at once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..layers import batch_norm
from ..layers.segment import recomputing
from ..models.system import Clip, Constraint, Critic, Draw, Inputs, Stage, System, scores_of
from . import divergence, ema, seeding
from .objectives import Objective
from .optimizers import Adam, RMSprop
from .schedule import Phase, phase_at, rates_at, stage_at

# (positions in the endless stream of clips, (T, H, W)) -> video uint8 [B, 3, T, H, W], labels [B, A] or None
Batches = Callable[[Tensor, tuple[int, int, int]], tuple[Tensor, Tensor | None]]
# losses, and what it said before -> may the critics, may the generator step
Gate = Callable[[dict[str, float], tuple[bool, bool]], tuple[bool, bool]]
Total = Callable[[Sequence[Tensor]], None]  # adds tensors up over the ranks, in place

# Losses are multiplied by a scale before a backward pass in float16, whose smallest numbers gradients would fall below.
FIRST_SCALE, GOOD_STEPS = 2.0**16, 2000  # it doubles after so many steps without an overflow, and halves at each


@dataclass(frozen=True)
class Rule:
    """How gradients become steps."""

    name: Literal["adam", "rmsprop"] = "adam"
    betas: tuple[float, float] = (0.0, 0.99)  # the second is RMSprop's too
    eps: float = 1e-8  # beside the root
    weight_decay: float = 0.0  # times the weights, added to their gradients
    critics_decay: bool = False  # whether it is of the critics alone
    clip: float | None = None  # numbers of gradients further from 0 are cut to it

    def optimizer(self, parameters: Iterator[nn.Parameter]) -> Optimizer:
        shared = dict(eps=self.eps, weight_decay=self.weight_decay)
        if self.name == "rmsprop":
            return RMSprop(parameters, alpha=self.betas[1], **shared)
        return Adam(parameters, betas=self.betas, fused=True, **shared)


@dataclass(frozen=True)
class Training:
    """What a step needs to know."""

    phases: tuple[Phase, ...]
    objectives: dict[str, Objective]  # by critic
    seed: int = 0
    critic_steps: int = 1
    penalty: float = 1.0  # factor on its weight
    penalty_every: int = 1  # critic steps; its weight grows alike
    rule: Rule = Rule()
    ema_decay: float = 0.999
    autocast: torch.dtype | None = None  # of the networks' forward passes; weights, losses and moments are wide
    reset_moments: bool = True  # where a level starts to fade in and where it is stable
    gate: Gate | None = None


@dataclass
class State:
    """Everything that changes from step to step."""

    system: System
    average: nn.Module
    optimizers: dict[str, Optimizer]  # "generator", and the critics by name
    clips_seen: int = 0
    clips_drawn: int = 0
    steps: dict[str, int] = field(default_factory=dict)  # of each optimizer
    events: dict[str, int] = field(default_factory=dict)  # how often: skipped steps, vetoes
    structure: tuple[int, bool] = (0, False)  # level, and whether it was fading in, of the last step
    scale: float = 1.0  # of losses
    good_steps: int = 0  # since the scale changed
    signals: divergence.Signals = field(default_factory=dict)  # of this structure
    allowed: tuple[bool, bool] = (True, True)  # what the gate said last


def networks(system: System) -> dict[str, nn.Module]:
    return {"generator": system.generator, **{critic.name: critic.module for critic in system.critics}}


def start(system: System, training: Training) -> State:
    rule = training.rule
    rules = {"generator": replace(rule, weight_decay=0.0)} if rule.critics_decay else {}
    optimizers = {name: rules.get(name, rule).optimizer(m.parameters()) for name, m in networks(system).items()}
    scale = FIRST_SCALE if training.autocast == torch.float16 else 1.0
    average = ema.averaged_copy(system.generator)
    return State(system, average, optimizers, steps=dict.fromkeys(optimizers, 0), scale=scale)


@contextmanager
def only(system: System, *trained: nn.Module) -> Iterator[None]:
    """Gradients for these networks and no other."""
    for module in networks(system).values():
        module.requires_grad_(module in trained)
    yield


def micro_batches(batch: int, micro: int, group: int, rank: int = 0, ranks: int = 1) -> list[Tensor]:
    """Rows of the batch for each micro-batch of a rank; those equal modulo B / group, judged together, stay so."""
    per_rank = batch // ranks
    parts = ranks * math.ceil(per_rank / micro)
    columns = torch.arange(batch).view(group, batch // group).chunk(parts, dim=1)
    mine = columns[rank * len(columns) // ranks : (rank + 1) * len(columns) // ranks]
    return [column.reshape(-1) for column in mine]


def diversity(video: Tensor, group: int) -> Tensor:
    """Mean standard deviation of a voxel over each group of samples; 0 is one and the same video for all latents."""
    wide = video.to(torch.promote_types(video.dtype, torch.float32))  # squares of small halves would be 0
    groups = wide.unflatten(0, (group, -1))
    return (groups - groups.mean(dim=0)).square().mean(dim=0).sqrt().mean()  # std takes ten times as long


@dataclass
class Step:
    """One step in the making: what its parts share."""

    state: State
    training: Training
    batches: Batches
    phase: Phase
    stage: Stage
    rows: list[Tensor]
    total: Total
    like: Tensor  # of the networks' type, on their device
    group: int = 1  # samples judged together, a column of `rows`
    rank: int = 0
    noted: dict[str, Tensor] = field(default_factory=dict)  # of the rank's share of the batch, so far
    losses: dict[str, Tensor] = field(default_factory=dict)  # of the batch, and the lengths of gradients
    loaded: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)  # a pair for each of `rows`
    before: list[Tensor] = field(default_factory=list)  # buffers, as they were when the batch was loaded
    overflowed: bool = False

    @property
    def system(self) -> System:
        return self.state.system

    def draw(self, rows: Tensor, part: int, *key: object) -> Draw:
        seed = seeding.derived(self.training.seed, self.state.clips_seen, *key)
        torch.manual_seed(seeding.derived(seed, "inside", self.rank, part))  # dropout and other noise in the networks
        return Draw(seed, self.phase.batch, rows, self.like)

    def buffers(self) -> Iterator[Tensor]:
        return chain.from_iterable(module.buffers() for module in networks(self.system).values())

    def load(self) -> None:
        size = self.system.sizes[self.stage.level]
        self.loaded = [self.batches(self.state.clips_drawn + rows, size) for rows in self.rows]
        self.before = [buffer.clone() for buffer in self.buffers()]
        self.state.clips_drawn += self.phase.batch

    def real(self, *key: object) -> Iterator[tuple[Draw, float, Tensor, Tensor | None]]:
        """Its random numbers, share of the batch, video in [-1, 1] and labels of each micro-batch."""
        for part, (rows, (video, labels)) in enumerate(zip(self.rows, self.loaded, strict=True)):
            video = video.to(self.like) / 127.5 - 1
            labels = None if labels is None else labels.to(self.like.device)
            yield self.draw(rows, part, *key), len(rows) / self.phase.batch, video, labels

    def lowered(self) -> AbstractContextManager:
        """Networks that pass forward inside do so in the type of mixed precision."""
        if self.training.autocast is None:
            return nullcontext()
        return torch.autocast(self.like.device.type, self.training.autocast, cache_enabled=False)

    @contextmanager
    def passing(self, module: nn.Module) -> Iterator[None]:
        """As `lowered`, and this network computes again what the phase says."""
        level = {"nothing": math.inf, "newest": self.stage.level, "all": 0}[self.phase.recompute]
        with self.lowered(), recomputing(module, level):
            yield

    def note(self, name: str, value: Tensor, share: float) -> None:
        self.noted[name] = self.noted.get(name, 0.0) + share * value.detach()

    def add_up(self, gradients: Sequence[Tensor]) -> None:
        """Gradients, and what was noted, over all ranks."""
        self.total([*gradients, *self.noted.values()])
        self.losses |= self.noted
        self.noted = {}

    def critics(self, number: int) -> None:
        """Gradients of all critics for one batch and the same fakes, left in their parameters."""
        system, stage = self.system, self.stage
        for draw, share, video, labels in self.real("critics", number):
            with torch.no_grad(), self.lowered():
                inputs = system.draw_inputs(video, labels, draw)
                real, fake = system.real(video, inputs, stage), system.generator(inputs, stage)
            for critic in system.critics:
                self.critic(critic, real, fake, inputs, draw, share)

    def critic(self, critic: Critic, real: Clip, fake: Clip, inputs: Inputs, draw: Draw, share: float) -> None:
        stage, scale, objective = self.stage, self.state.scale, self.training.objectives[critic.name]
        with torch.no_grad(), self.lowered():
            seen_real, seen_fake = critic.view(real, inputs, stage), critic.view(fake, inputs, stage)
        with self.passing(critic.module):
            of_real, of_fake = critic.module(seen_real, stage), critic.module(seen_fake, stage)
        scores_real, scores_fake = scores_of(of_real), scores_of(of_fake)
        loss = objective.critic(scores_real, scores_fake)
        if task := critic.task:
            asked = [(task.real, of_real), (task.fake, of_fake)]
            each = (weight * task.loss(judged.answer, inputs) for weight, judged in asked if weight)
            solved = sum(each, self.like.new_zeros(()))
            self.note(f"{critic.name}/{task.name}", solved, share)
            loss = loss + solved
        self.note(f"{critic.name}/loss", loss, share)
        self.note(f"{critic.name}/real", scores_real.mean(), share)
        self.note(f"{critic.name}/fake", scores_fake.mean(), share)
        self.note("generator/adversarial", critic.weight * objective.generator(scores_fake.detach()), share)
        (share * scale * loss).backward()
        if objective.penalty and self.state.steps[critic.name] % self.training.penalty_every == 0:
            with self.passing(critic.module):
                penalty = objective.penalty(critic.module, seen_real, seen_fake, stage, draw, scale)
                penalty = self.training.penalty * penalty
            self.note(f"{critic.name}/penalty", penalty, share)
            (share * scale * self.training.penalty_every * penalty).backward()

    def generator(self) -> None:
        """Gradients of the generator for one batch."""
        system, stage = self.system, self.stage
        for draw, share, video, labels in self.real("generator"):
            inputs = system.draw_inputs(video, labels, draw)
            with self.passing(system.generator):
                fake = system.generator(inputs, stage)
            if self.group > 1:
                self.note("generator/diversity", diversity(system.video(fake).detach(), self.group), share)
            loss = self.like.new_zeros(())
            for critic in system.critics:
                with self.passing(critic.module):
                    judged = critic.module(critic.view(fake, inputs, stage), stage)
                loss = loss + critic.weight * self.training.objectives[critic.name].generator(scores_of(judged))
                if (task := critic.task) and task.generator:
                    solved = task.loss(judged.answer, inputs)
                    self.note(f"generator/{task.name}", solved, share)
                    loss = loss + task.generator * solved
            for term in system.terms:
                with self.lowered():
                    value = term.value(fake, system.real(video, inputs, stage), inputs, stage)
                self.note(f"generator/{term.name}", value, share)
                loss = loss + term.weight * value
            self.note("generator/loss", loss, share)
            (share * self.state.scale * loss).backward()

    def finish(self, name: str, rate: float, constraint: Constraint | None) -> bool:
        """Adds up the gradients of all ranks; steps if they and their loss are finite, on all ranks or on none."""
        if constraint and constraint.gradients:
            constraint.gradients()
        optimizer = self.state.optimizers[name]
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.add_up(gradients)
        if self.state.scale != 1:
            torch._foreach_div_(gradients, self.state.scale)
        length = torch.stack(torch._foreach_norm(gradients)).norm()
        self.losses[f"{name}/gradient"] = length
        judged = [
            self.losses[key] for part in ("gradient", "loss", "penalty") if (key := f"{name}/{part}") in self.losses
        ]
        finite = bool(torch.stack(judged).isfinite().all())
        if finite:
            if (bound := self.training.rule.clip) is not None:
                torch.nn.utils.clip_grad_value_(optimizer.param_groups[0]["params"], bound)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            self.state.steps[name] += 1
            if constraint and constraint.weights:
                constraint.weights(self.state.steps[name])
        else:
            self.count(f"{name}/overflow" if self.state.scale > 1 else f"{name}/nonfinite")
            self.overflowed = True
            for buffer, before in zip(self.buffers(), self.before, strict=True):  # statistics have seen the batch
                buffer.copy_(before)
        optimizer.zero_grad(set_to_none=True)
        return finite

    def rescale(self) -> None:
        """Once a step, after all networks: half the scale after an overflow, twice after a good while."""
        state = self.state
        state.good_steps = 0 if self.overflowed else state.good_steps + 1
        if self.overflowed:
            state.scale = max(state.scale / 2, 1.0)
        elif state.good_steps == GOOD_STEPS:
            state.scale, state.good_steps = state.scale * 2, 0

    def count(self, event: str) -> None:
        self.state.events[event] = self.state.events.get(event, 0) + 1

    def run(self) -> dict[str, Tensor]:
        """Critics, then the generator. A gate looks at the losses before anyone steps."""
        system, training, phase, state = self.system, self.training, self.phase, self.state
        critic_rate, generator_rate = rates_at(training.phases, state.clips_seen)
        may_critics = may_generator = True
        for number in range(training.critic_steps):
            self.load()
            with only(system, *(critic.module for critic in system.critics)):
                self.critics(number)
            if training.gate:
                self.add_up(())
                losses = {name: float(value) for name, value in self.losses.items()}
                state.allowed = training.gate(losses, state.allowed)
                may_critics, may_generator = state.allowed
            for critic in system.critics:
                if not may_critics:
                    self.count(f"{critic.name}/vetoed")
                    state.optimizers[critic.name].zero_grad(set_to_none=True)
                    continue
                stepped = self.finish(critic.name, critic_rate, critic.constraint)
                if stepped and (bound := training.objectives[critic.name].clip) is not None:
                    parameters = [p.data for p in state.optimizers[critic.name].state]  # those that stand
                    torch._foreach_clamp_max_(parameters, bound)
                    torch._foreach_clamp_min_(parameters, -bound)
        if may_generator:
            with only(system, system.generator):
                self.generator()
            if self.finish("generator", generator_rate, system.constraint):
                ema.update(state.average, system.generator, training.ema_decay, state.steps["generator"])
        else:
            self.count("generator/vetoed")
        if training.autocast == torch.float16:
            self.rescale()
        state.clips_seen += phase.batch
        return self.losses


def begin(state: State, training: Training, batches: Batches, total: Total, ranks: tuple[int, int] = (0, 1)) -> Step:
    """The step that starts where the state is: (rank, number of ranks) takes its share of the batch."""
    phase, _ = phase_at(training.phases, state.clips_seen)
    stage = stage_at(training.phases, state.clips_seen)
    group = min(max((critic.group or 1 for critic in state.system.critics), default=1), phase.batch)
    rows = micro_batches(phase.batch, phase.micro_batch, group, *ranks)
    like = next(state.system.generator.parameters()).detach()
    return Step(state, training, batches, phase, stage, rows, total, like, group, ranks[0])


def step(state: State, training: Training, batches: Batches, total: Total, ranks: tuple[int, int] = (0, 1)):
    """One step of every network; leaves the state one batch on.

    Returns the losses, the lengths of the gradients and the diversity of the fakes, all of the whole batch.
    """
    one = begin(state, training, batches, total, ranks)
    structure = (one.stage.level, one.stage.fade < 1)
    if structure != state.structure:
        state.structure, state.signals = structure, {}
        if training.reset_moments:
            for optimizer in state.optimizers.values():
                optimizer.state.clear()
    with batch_norm.across(total if ranks[1] > 1 else None):
        return one.run()
