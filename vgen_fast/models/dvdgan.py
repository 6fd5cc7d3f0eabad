"""DVD-GAN (Clark, Donahue, Simonyan 2019), DVD-GAN-S, its small relative for one frame (spec B7), and TrIVD-GAN (Luc et
al. 2020), which is DVD-GAN with a TSRU as `cell` and other `critics.decomposition`s.

Forms: "synthesis", DVD-GAN: a latent and a class, batch norms that are told both, critics that know the class;
"prediction", DVD-GAN-S: the first frame's encoded maps are the first states, and the lowest cell is given the deepest
at every step. Either way a level is a recurrent cell over time, then two residual blocks, one of them twice as large.

A GRU's candidate is ReLU, as in DVD-GAN; the authors of DVD-GAN-S have that of style-based prediction, tanh, which
`conventions` chooses.

Deviations: upsampling is bilinear in the thesis' figure and nearest in its code, which `up` chooses and is taken here;
spectral norm's power iterations follow the optimizer's steps, and leave the cells as they are; batch norm sees the
frames of all steps together; in synthesis a cell's first state is zero.

Legend: B clips, C channels, T frames, d level, N numbers that batch norms are told.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..layers import dual_critics, recurrent, spectral_norm
from ..layers.dual_critics import CRITICS, Critics, num_draws
from ..layers.labels import one_hot
from ..layers.orthogonal import orthogonal
from ..layers.recurrent import Conventions, Name, Rollout
from ..layers.residual import Down, Up, of_frames
from ..layers.segment import Recomputed, Segment
from .system import Clip, Constraint, Critic, Draw, Inputs, Seen, Stage, System

LATENTS = EMBEDDED = 120  # numbers of a latent, and of a class
CONVENTIONS = Conventions(candidate="relu")


@dataclass(frozen=True)
class Config:
    name: Literal["dvdgan"] = "dvdgan"
    form: Literal["synthesis", "prediction"] = "prediction"
    size: int = 64
    widths: tuple[int, ...] = (128, 128, 64, 32, 16)  # of each level's cell, then of the last level's output
    frames: int = 25  # the given one among them
    cell: Name = "convgru"
    conventions: Conventions = CONVENTIONS  # of the cells
    remembers: float | None = None  # sigmoid of it is how much of its state a cell keeps a step, to begin with
    up: Literal["nearest", "bilinear"] = "nearest"
    momentum: float = 0.01  # of batch norm's running statistics, of micro-batches
    noise: bool = False  # instead of the deepest map, given to the lowest cell of a prediction
    classes: tuple[int, ...] = ()
    spectral_norm: bool = True
    critics: Critics = CRITICS

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    whole_batch = False
    group = 1

    def __post_init__(self):
        if self.size % 2 ** (len(self.widths) - 1):
            raise ValueError(f"size {self.size} is no multiple of {2 ** (len(self.widths) - 1)}, of as many levels")
        self.critics.check(self.frames, self.size, self.given)
        recurrent.check(self.cell, self.remembers, self.conventions, CONVENTIONS)

    @property
    def given(self) -> bool:
        return self.form == "prediction"

    @property
    def lowest(self) -> int:
        return self.size // 2 ** (len(self.widths) - 1)

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.frames, self.size, self.size),)


class Encoder(nn.Module):
    """First frame [B, 3, H, W] -> a map [B, C, h, w] for each level, the deepest first."""

    def __init__(self, cfg: Config):
        super().__init__()
        rows = cfg.widths[::-1]
        self.rgb = nn.Conv2d(3, rows[0], 3)
        self.blocks = nn.ModuleList(Segment(Down(i, o)) for i, o in pairwise(rows))

    def forward(self, frame: Tensor) -> list[Tensor]:
        x, maps = of_frames(self.rgb, frame[:, :, None]), []
        for block in self.blocks:
            maps.append(x := block(x))  # [B, C, 1, h, w]
        return [x[:, :, 0] for x in maps[::-1]]


class Level(Recomputed):
    """[B, C, T, H, W] -> [B, O, T, 2 H, 2 W]: the cell over time and two blocks, of all frames together."""

    def __init__(self, cfg: Config, inputs: int, channels: int, outputs: int, told: int):
        super().__init__()
        cell = recurrent.made(cfg.cell, inputs, channels, cfg.conventions)
        self.rollout = Rollout(cell, remembers=cfg.remembers)
        options = dict(momentum=cfg.momentum, told=told)
        self.up = Up(channels, channels, up=cfg.up, **options)
        self.same = Up(channels, outputs, **options)

    def forward(self, x: Tensor, state: Tensor, steps: int, told: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """And the cell's last state."""
        x, last = self.rollout(x, state, steps)
        for block in (self.up, self.same):
            x = self.remade(block, x, *told)
        return x, last


class Generator(nn.Module):
    """Latents: of a prediction, none, or the noise that the lowest cell is given; of a synthesis, N(0, 1) numbers."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, first = cfg, cfg.widths[0]
        told = 0 if cfg.given else LATENTS + EMBEDDED * len(cfg.classes)
        if cfg.given:
            self.encoder = Encoder(cfg)
        else:
            self.embed = nn.ModuleList(nn.Linear(values, EMBEDDED, bias=False) for values in cfg.classes)
            self.dense = nn.Linear(told, first * cfg.lowest**2)
        inputs = [first, *cfg.widths[1:]]
        ends = pairwise(cfg.widths)
        self.levels = nn.ModuleList(Level(cfg, i, c, o, told) for i, (c, o) in zip(inputs, ends, strict=False))
        self.rgb = nn.Conv2d(cfg.widths[-1], 3, 3)

    def first(self, inputs: Inputs) -> tuple[Tensor, list[Tensor], tuple[Tensor, ...]]:
        """What the lowest cell is given [B, C, 1, h, w], all cells' first states, and what batch norms are told."""
        cfg, z = self.cfg, inputs.latents
        firsts = lambda maps: [level.rollout.first(x) for level, x in zip(self.levels, maps, strict=True)]  # noqa: E731
        if cfg.given:
            maps = [x.to(z) for x in self.encoder(inputs.condition)]
            return (z.view_as(maps[0]) if cfg.noise else maps[0])[:, :, None], firsts(maps), ()
        hot = one_hot(inputs.condition, cfg.classes, z).split(cfg.classes, dim=1) if cfg.classes else ()
        told = torch.cat([z, *(embed(label).to(z) for embed, label in zip(self.embed, hot, strict=True))], dim=1)
        sides = [cfg.lowest * 2**d for d in range(len(self.levels))]
        maps = [z.new_zeros(len(z), c, side, side) for c, side in zip(cfg.widths, sides, strict=False)]
        return self.dense(told).to(z).unflatten(1, (-1, 1, cfg.lowest, cfg.lowest)), firsts(maps), (told,)

    def go_on(
        self, x: Tensor, states: list[Tensor], told: tuple[Tensor, ...], steps: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Frames [B, 3, T, H, W] and the states after them."""
        like, last = x, []
        for level, state in zip(self.levels, states, strict=True):
            x, state = level(x, state, steps, told)
            x = x.to(like)
            last.append(state)
        return of_frames(self.rgb, x.relu()).to(like).tanh(), last

    def forward(self, inputs: Inputs, stage: Stage) -> Clip:
        cfg, (x, states, told) = self.cfg, self.first(inputs)
        video, _ = self.go_on(x, states, told, cfg.frames - cfg.given)
        return torch.cat([inputs.condition[:, :, None], video], dim=2) if cfg.given else video

    def rollout(self, inputs: Inputs, at_once: int) -> Iterator[Tensor]:
        """The same frames, so many at a time; while it trains batch norm would make others of them."""
        x, states, told = self.first(inputs)
        if self.cfg.given:
            yield inputs.condition[:, :, None]
        steps = self.cfg.frames - self.cfg.given
        for done in range(0, steps, at_once):
            video, states = self.go_on(x, states, told, min(at_once, steps - done))
            yield video


def start(generator: Generator, cfg: Config) -> None:
    """Orthogonal weights, normalised; cells are orthogonal by themselves."""
    for name, part in list(generator.named_modules()):
        if ".cell." not in name and isinstance(part, nn.Linear | nn.Conv2d):
            orthogonal(part)
            if cfg.spectral_norm:
                spectral_norm.normalised(part)


def build(cfg: Config) -> System:
    generator = Generator(cfg)
    start(generator, cfg)
    parts = dual_critics.critics(cfg.critics, given=cfg.given, classes=cfg.classes)
    latents = LATENTS if not cfg.given else cfg.widths[0] * cfg.lowest**2 if cfg.noise else 0

    def draw_inputs(video: Tensor, labels: Tensor | None, draw: Draw) -> Inputs:
        condition = video[:, :, 0] if cfg.given else labels if cfg.classes else None
        return Inputs(draw.normal(latents), condition, draw.uniform(num_draws(cfg.frames)))

    def view_of(part: dual_critics.Part):
        def view(clip: Clip, inputs: Inputs, stage: Stage) -> Seen:
            seen = part.view(clip, inputs.condition if cfg.given else None, inputs.draws)
            return (seen, inputs.condition) if cfg.classes else seen

        return view

    critics = tuple(
        Critic(part.name, part.module, view_of(part), part.weight, constraint=Constraint(weights=part.follow))
        for part in parts
    )
    constraint = Constraint(weights=lambda steps: spectral_norm.follow(generator))
    more = dict(sees="frame" if cfg.given else None, constraint=constraint, rollout=generator.rollout)
    return System(generator, draw_inputs, critics, cfg.sizes, **more)
