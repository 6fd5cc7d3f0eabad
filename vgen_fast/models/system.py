"""The records the training loop knows. Every other file of this folder builds its paper into them.

Legend: B samples, T frames, H x W pixels, Z latent numbers, R random numbers.

A clip, real or generated, is whatever the system says it is: a video [B, 3, T, H, W], or a tuple of tensors that start
with B (levels coarse to fine; a video and its mask). Only the system's own views and terms look inside.

    system                      how it fits
    VGAN                        clip = (video, mask); the mask's sparsity is a Term
    TGAN                        Constraint.weights clips singular values every fifth step
    MoCoGAN                     two critics; the frame critic's view picks frames by Inputs.draws; classes are a Task
    progressive GANs            Stage grows with clips seen; System.real pools and fades the real clips alike
    TGANv2                      clip = tuple of levels; System.real makes the same pyramid, phases from Inputs.draws
    STGAN                       pixel and feature losses are Terms on (fake, real); draw_inputs encodes the real clip
    style-based prediction      Inputs.condition is the first frame, and the view joins it to what a critic sees
    DVD-GAN, TrIVD-GAN          views shrink or crop; one Critic more
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Clip = Tensor | tuple[Tensor, ...]
Seen = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Stage:
    """How far a growing system has come; a pure function of clips seen (train/schedule.py)."""

    level: int = 0
    fade: float = 1.0  # share of this level in a blend with the one below; 1 once it is stable


@dataclass(frozen=True)
class Inputs:
    """What a generator is given, and every random number that belongs to a sample.

    They come from a Draw, so that neither micro-batches nor ranks change a step.
    """

    latents: Tensor  # [B, ...]
    condition: Tensor | None = None  # labels [B, A], frames or codes
    draws: Tensor | None = None  # [B, R], uniform in [0, 1): what views pick and crop by

    def each(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same with every tensor changed: some rows, another device."""
        tensors = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: change(value) for name, value in tensors.items()})


@dataclass(frozen=True)
class Constraint:
    """Keeps a network's weights in a set: singular values below one, directions orthogonal, values in a box; or follows
    them, as spectral norm does."""

    gradients: Callable[[], None] | None = None  # after the backward of a step, before the optimizer
    weights: Callable[[int], None] | None = None  # after the optimizer, given the number of its steps so far


class Draw:
    """Random numbers of some rows of a batch: drawn for all of it, so that no way of taking it apart changes them.

    They are float32 numbers from the CPU, moved to the type and device of `like`: the same for every way of computing.
    Normal numbers further from 0 than `limit` are drawn again.
    """

    def __init__(self, seed: int, batch: int, rows: Tensor, like: Tensor, limit: float | None = None):
        self.rng, self.batch = torch.Generator().manual_seed(seed), batch
        self.rows, self.like, self.limit = rows, like, limit

    def normal(self, *shape: int) -> Tensor:
        numbers = torch.randn(self.batch, *shape, generator=self.rng)
        while self.limit is not None and (outside := numbers.abs() > self.limit).any():
            numbers = torch.where(outside, torch.randn(self.batch, *shape, generator=self.rng), numbers)
        return numbers[self.rows].to(self.like)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.batch, *shape, generator=self.rng)[self.rows].to(self.like)

    def signs(self, *shape: int) -> Tensor:
        return (torch.randint(2, (self.batch, *shape), generator=self.rng) * 2 - 1)[self.rows].to(self.like)


def whole(clip: Clip, inputs: Inputs, stage: Stage) -> Seen:
    """The view of a critic that sees the clip as it is."""
    return clip


class Judged(NamedTuple):
    """What a critic with a task returns."""

    scores: Tensor
    answer: Tensor


def scores_of(judged: Tensor | Judged) -> Tensor:
    return judged.scores if isinstance(judged, Judged) else judged


@dataclass(frozen=True)
class Task:
    """What a critic tells of a clip besides its score: its class (AC-GAN), the code it was made from (InfoGAN)."""

    name: str
    loss: Callable[[Tensor, Inputs], Tensor]  # (answer, inputs) -> scalar
    real: float = 1.0  # its weight in the critic's loss, of real clips
    fake: float = 0.0  # of fakes
    generator: float = 1.0  # in the generator's loss


@dataclass(frozen=True)
class Critic:
    name: str
    module: nn.Module  # (seen, stage) -> scores [B], or [B, P] of P places or levels; with a task, Judged
    view: Callable[[Clip, Inputs, Stage], Seen] = whole
    weight: float = 1.0  # its share in the generator's loss
    group: int | None = 1  # samples that are judged together: 1 none, None the whole micro-batch
    constraint: Constraint | None = None
    task: Task | None = None


@dataclass(frozen=True)
class Term:
    """An addition to the generator's loss."""

    name: str
    weight: float
    value: Callable[[Clip, Clip, Inputs, Stage], Tensor]  # (fake, real, inputs, stage) -> scalar


DrawInputs = Callable[[Tensor, Tensor | None, Draw], Inputs]  # (real videos, their labels or None, draw)


def as_it_is(clips: Tensor, inputs: Inputs, stage: Stage) -> Clip:
    return clips


@dataclass(frozen=True)
class System:
    generator: nn.Module  # (inputs, stage) -> clip
    draw_inputs: DrawInputs
    critics: tuple[Critic, ...]
    sizes: tuple[tuple[int, int, int], ...]  # (T, H, W) of the generator's videos, a row for each level
    real: Callable[[Tensor, Inputs, Stage], Clip] = as_it_is  # real videos of that size, made what the generator makes
    video: Callable[[Clip], Tensor] = lambda clip: clip  # the video of a clip that the generator made
    terms: tuple[Term, ...] = ()
    sees: Literal["frame", "clip"] | None = None  # what draw_inputs looks at of real videos: the first frame, which the
    # generator goes on from, or all of them; and not only at how many there are
    prior: Callable[[Iterator[Tensor]], DrawInputs] | None = None  # from real videos, to sample a trained one with
    constraint: Constraint | None = None  # of the generator
    rollout: Callable[[Inputs, int], Iterator[Tensor]] | None = None  # the generator's video, so many frames at a time
