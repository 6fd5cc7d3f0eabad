"""Style-based video prediction: a first frame gives the states and the style, recurrent cells move (spec B4).

An encoder's maps are the first states of a pyramid of recurrent cells, one a level; its deepest map gives a style, the
same for all frames. A learned constant goes in at the bottom at every step; above it each level is given the level
below. StyleGAN2's convolutions, twice as large a level, are all that is between. A level runs over all steps before the
next begins, which is frame by frame unrolled another way.

A clip has `frames` frames, of which the first is the given one, as the authors' code counts; the thesis' 25 predicted
ones are frames=26. `variant="code"` has the released widths, "literal" the thesis' list as printed. Noise is on, as in
the thesis, its scalars begin at 0. `given=False` is the thesis' future work: states and style from random numbers.
`mixing` (of `given=False`) takes the style of levels above one drawn for the clip from a second latent.

Losses and rates are the recipe's: WGAN-GP of weight 1 for each critic, 1 and 5 in the generator's loss (B6).

Deviations: spectral norm's power iterations follow the optimizer's steps (layers/spectral_norm.py); frames that the
critic of frames sees are drawn for each clip, its penalty is one for all K of a clip.

Legend: B clips, C channels, T frames, S numbers of a style, d level.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..layers import dual_critics, recurrent, spectral_norm
from ..layers.dual_critics import CRITICS, Critics, num_draws
from ..layers.equalized import EqualizedLinear
from ..layers.orthogonal import orthogonal
from ..layers.recurrent import CONVENTIONS, Conventions, Name, Rollout
from ..layers.residual import Down, of_frames
from ..layers.segment import Recomputed, Segment
from ..layers.styled import StyledConv, ToRGB
from .system import Clip, Constraint, Critic, Draw, Inputs, Seen, Stage, System

AT_ONCE = 2**17  # pixels of a clip that convolutions of a recomputing level pass at once, a frame at least
LATENTS = 120  # of a style, where there is no frame


@dataclass(frozen=True)
class Config:
    name: Literal["style_prediction"] = "style_prediction"
    size: int = 64
    lowest: int = 4  # height and width of the constant
    width: int = 16  # channels of the last level
    frames: int = 25
    variant: Literal["code", "literal"] = "code"
    cell: Name = "convgru"
    conventions: Conventions = CONVENTIONS  # of the cells
    remembers: float | None = None  # sigmoid of it is how much of its state a cell keeps a step, to begin with
    block: Literal["modulated", "adain"] = "modulated"
    styles: int = 256
    style_act: Literal["sigmoid", "none"] = "sigmoid"
    noise: bool = True
    given: bool = True
    mixing: float = 0.0  # share of clips with two styles
    spectral_norm: bool = True  # of the encoder
    critics: Critics = CRITICS

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    classes = ()
    whole_batch = False
    group = 1

    def __post_init__(self):
        if self.size != self.lowest * 2**self.depth or self.lowest < 4 or self.lowest & (self.lowest - 1):
            raise ValueError(f"size {self.size} must be lowest {self.lowest} doubled, and that a power of 2 from 4 on")
        self.critics.check(self.frames, self.size, self.given)
        recurrent.check(self.cell, self.remembers, self.conventions)
        if self.mixing and self.given:
            raise ValueError("mixing is of given=False: a frame has one style")

    @property
    def depth(self) -> int:
        """Levels (eq. 3.13)."""
        return self.size.bit_length() - self.lowest.bit_length()

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Channels of a level's cell and of its output."""
        widths = [self.width * c for c in [8, 8, 8, 8, 8, 8, 4, 2, 1][-self.depth - 1 :]]
        if self.variant == "literal":
            widths = [*widths[1:], widths[-1]]
        return list(pairwise(widths))

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.frames, self.size, self.size),)

    @property
    def steps(self) -> int:
        return self.frames - self.given

    @property
    def sides(self) -> list[int]:
        """Height and width of what each level is given."""
        return [self.lowest * 2**d for d in range(self.depth)]

    @property
    def noises(self) -> list[int]:
        """Numbers of a frame's noise, for the two convolutions of each level."""
        return [4 * side**2 for side in self.sides for _ in range(2)] if self.noise else []

    @property
    def latents(self) -> list[int]:
        """How many numbers states, styles and the noise of all frames take of a clip's."""
        states = sum(c * side**2 for (c, _), side in zip(self.rows, self.sides, strict=True))
        return [*((0, 0) if self.given else (states, 2 * LATENTS)), self.steps * sum(self.noises)]


class Encoder(nn.Module):
    """First frame [B, 3, H, W] -> a map for each level, the deepest first, and the style [B, S]."""

    def __init__(self, cfg: Config):
        super().__init__()
        states = [cell for cell, _ in cfg.rows][::-1]
        deepest = states[-1]
        self.rgb = nn.Conv2d(3, cfg.width, 3)
        self.blocks = nn.ModuleList(Segment(Down(i, o)) for i, o in pairwise((cfg.width, *states)))
        self.style = nn.Sequential(Segment(Down(deepest, deepest)), Segment(Down(deepest, deepest // 2)))
        self.last = nn.Linear(deepest // 2 * (cfg.lowest // 4) ** 2, cfg.styles)
        orthogonal(self)
        if cfg.spectral_norm:
            spectral_norm.normalised(self)

    def forward(self, frame: Tensor) -> tuple[list[Tensor], Tensor]:
        x, maps = of_frames(self.rgb, frame[:, :, None]), []
        for block in self.blocks:
            maps.append(x := block(x))  # [B, C, 1, h, w]
        style = self.last(self.style(x).flatten(1).to(self.last.bias.dtype))
        return [x[:, :, 0] for x in maps[::-1]], style


class Drawn(nn.Module):
    """States and styles from random numbers instead."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.last = EqualizedLinear(LATENTS, cfg.styles, gain=1.0)

    def forward(self, states: Tensor, latents: Tensor) -> tuple[list[Tensor], Tensor]:
        """States, and both latents' styles [B, 2, S]."""
        sides = self.cfg.sides
        parts = states.split([c * side**2 for (c, _), side in zip(self.cfg.rows, sides, strict=True)], dim=1)
        maps = [part.unflatten(1, (-1, side, side)) for part, side in zip(parts, sides, strict=True)]
        return maps, self.last(latents.unflatten(1, (2, -1)).flatten(0, 1)).unflatten(0, (-1, 2))


class Level(Recomputed):
    """[B, I, T, H, W] -> [B, O, T, 2 H, 2 W]: the cell over time, and two convolutions of the style."""

    def __init__(self, cfg: Config, inputs: int, channels: int, outputs: int):
        super().__init__()
        options = dict(noise=cfg.noise, adain=cfg.block == "adain")
        cell = recurrent.made(cfg.cell, inputs, channels, cfg.conventions)
        self.rollout = Rollout(cell, remembers=cfg.remembers)
        self.up = StyledConv(channels, channels, cfg.styles, up=True, **options)
        self.same = StyledConv(channels, outputs, cfg.styles, **options)

    def forward(
        self, x: Tensor, state: Tensor, style: Tensor, noises: list[Tensor], steps: int
    ) -> tuple[Tensor, Tensor]:
        """And the cell's last state."""
        states, last = self.rollout(x, state, steps)
        count = max(1, AT_ONCE // (4 * states[0, 0, 0].numel())) if self.recompute else steps
        parts = [slice(t, t + count) for t in range(0, steps, count)]
        found = [self.remade(self.render, states[:, :, t], style, *(n[:, :, t] for n in noises)) for t in parts]
        return found[0] if len(found) == 1 else torch.cat(found, dim=2), last

    def render(self, x: Tensor, style: Tensor, *noises: Tensor) -> Tensor:
        first, second = noises or (None, None)
        return self.same(self.up(x, style, first), style, second)


class Generator(nn.Module):
    """Latents: states and styles where no frame is given, then the noise, frame by frame."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, first = cfg, cfg.rows[0][0]
        self.encoder = Encoder(cfg) if cfg.given else Drawn(cfg)
        self.constant = nn.Parameter(torch.randn(first, cfg.lowest, cfg.lowest))
        inputs = [first, *(o for _, o in cfg.rows)]
        self.levels = nn.ModuleList(Level(cfg, i, c, o) for i, (c, o) in zip(inputs, cfg.rows, strict=False))
        self.rgb = ToRGB(cfg.rows[-1][1], cfg.styles)

    def styles(self, style: Tensor, draws: Tensor | None) -> list[Tensor]:
        """[B, S] of each level; from a level on that is drawn, the second of two, of some clips."""
        levels = range(self.cfg.depth)
        if style.ndim == 2:
            return [style for _ in levels]
        crossing = 1 + (draws[:, -1] * (self.cfg.depth - 1)).long()  # [B]
        crossing = torch.where(draws[:, -2] < self.cfg.mixing, crossing, self.cfg.depth)
        return [torch.where((d < crossing)[:, None], style[:, 0], style[:, 1]) for d in levels]

    def begin(self, inputs: Inputs) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """First states and styles of all levels, and noise [B, T, N]."""
        cfg, z = self.cfg, inputs.latents
        states, latents, noise = z.split(cfg.latents, dim=1)
        maps, style = self.encoder(inputs.condition) if cfg.given else self.encoder(states, latents)
        if cfg.style_act == "sigmoid":
            style = style.sigmoid()
        first = [level.rollout.first(x.to(z)) for level, x in zip(self.levels, maps, strict=True)]
        return first, self.styles(style, inputs.draws), noise.unflatten(1, (cfg.steps, sum(cfg.noises)))

    def go_on(self, states: list[Tensor], styles: list[Tensor], noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Frames [B, 3, T, H, W] for as much noise, and the states after them."""
        cfg, last = self.cfg, []
        parts = [n.unflatten(2, (round(n.shape[2] ** 0.5), -1))[:, None] for n in noise.split(cfg.noises, dim=2)]
        x = self.constant[None, :, None].to(noise)  # the same for all clips and steps
        for d, (level, state, style) in enumerate(zip(self.levels, states, styles, strict=True)):
            x, state = level(x, state, style, parts[2 * d : 2 * d + 2], noise.shape[1])
            x = x.to(noise)
            last.append(state)
        return self.rgb(x, styles[-1]).to(noise).tanh(), last

    def forward(self, inputs: Inputs, stage: Stage) -> Clip:
        video, _ = self.go_on(*self.begin(inputs))
        return torch.cat([inputs.condition[:, :, None], video], dim=2) if self.cfg.given else video

    def rollout(self, inputs: Inputs, at_once: int) -> Iterator[Tensor]:
        """The same frames, so many at a time."""
        states, styles, noise = self.begin(inputs)
        if self.cfg.given:
            yield inputs.condition[:, :, None]
        for some in noise.split(at_once, dim=1):
            video, states = self.go_on(states, styles, some)
            yield video


def build(cfg: Config) -> System:
    generator, parts = Generator(cfg), dual_critics.critics(cfg.critics, given=cfg.given)

    def draw_inputs(video: Tensor, labels: Tensor | None, draw: Draw) -> Inputs:
        latents = draw.normal(sum(cfg.latents))  # first: a longer clip of a seed goes on from the shorter one
        return Inputs(latents, video[:, :, 0] if cfg.given else None, draw.uniform(num_draws(cfg.frames) + 2))

    def view_of(part: dual_critics.Part) -> Callable[[Clip, Inputs, Stage], Seen]:
        return lambda clip, inputs, stage: part.view(clip, inputs.condition, inputs.draws[:, :-2])

    critics = tuple(
        Critic(part.name, part.module, view_of(part), part.weight, constraint=Constraint(weights=part.follow))
        for part in parts
    )
    constraint = Constraint(weights=lambda steps: spectral_norm.follow(generator))
    more = dict(sees="frame" if cfg.given else None, constraint=constraint, rollout=generator.rollout)
    return System(generator, draw_inputs, critics, cfg.sizes, **more)
