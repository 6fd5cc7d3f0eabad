"""Progressively grown GANs: of video with WGAN-GP or the sliced-Wasserstein loss (Tables A.1 and A.2, eq. 5.1-5.3), and
of images (Karras et al. 2018), which are videos of one frame whose kernels do not reach in time.

Deviations: the critic pools before the activation (the fused form), not after it; toRGB is linear, row 22 of A.2 is
not; the dense layer's bias has one entry a channel, and its gain is the 2D one, sqrt(2) / 4 (pixel norm hides it);
reals fade by the level's own factor. Labels, where there are any (eq. 2.8), join the latents one-hot, after these have
been normalised. The critic's encoder weighs its features by them, which for the linear head is a projection of the
features on an embedding; or the critic tells them beside the score, as the image GAN's authors have it (AC-GAN).

One thing is not in the tables, and off unless a recipe asks for it. Every place of the first map learns colours by
weights of its own, so they follow places more than latents: a share of `alike` channels starts the same everywhere.

Legend: B clips, C channels, T frames, Z latent numbers, K outputs of the critic's encoder, A labels a clip, N values of
all labels together, l level.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..layers.equalized import EqualizedConv3d, EqualizedLinear
from ..layers.labels import one_hot, wrong
from ..layers.minibatch_discrimination import MinibatchDiscrimination
from ..layers.segment import Segment
from ..ops import autocast
from .system import Constraint, Critic, Draw, Inputs, Judged, Stage, System, Task, Term

SLOPE = 0.2


class Row(NamedTuple):
    """A level: its channels, and by how much it is longer and wider than the one below (the first: than 1)."""

    channels: int
    time: int
    space: int

    @property
    def factor(self) -> tuple[int, int, int]:
        return (self.time, self.space, self.space)


def rows(channels: tuple[int, ...], times: tuple[int, ...]) -> tuple[Row, ...]:
    return tuple(Row(c, t, 4 if level == 0 else 2) for level, (c, t) in enumerate(zip(channels, times, strict=True)))


CHANNELS = (128, 128, 128, 64, 32, 16, 8)  # Table A.1: min(1024 / 2^(r-1), 128) at 2^r pixels
SCHEDULES = {
    "thesis_256": rows(CHANNELS, (4, 2, 1, 1, 2, 1, 2)),  # Table A.1: 4 8 8 8 16 16 32 frames
    "release_256": rows(CHANNELS, (4, 2, 1, 2, 1, 2, 1)),  # the authors' code: 4 8 8 16 16 32 32
    "ucf_128": rows(CHANNELS[:6], (4, 2, 1, 2, 1, 2)),  # 32 frames already at 128 pixels
}
IMAGE_CHANNELS = (512, 512, 512, 512, 256, 128, 64, 32, 16)  # min(8192 / 2^(r-1), 512) at 2^r pixels, 4 to 1024


def images(pixels: int) -> tuple[Row, ...]:
    levels = pixels.bit_length() - 2
    return rows(IMAGE_CHANNELS[:levels], (1,) * levels)


@dataclass(frozen=True)
class Config:
    name: Literal["progressive"] = "progressive"
    rows: tuple[Row, ...] = SCHEDULES["thesis_256"]
    latents: int = 128
    features: int = 128  # K
    classes: tuple[int, ...] = ()  # values of each label: (101,) for UCF-101; none is unconditional
    labels: Literal["projection", "told"] = "projection"  # what the critic does with them
    minibatch: Literal["stddev", "discrimination"] = "stddev"  # how the critic compares samples
    group: int = 4  # of minibatch stddev
    alike: float = 0.0  # share of the generator's first channels that start the same at all places

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self):
        if not 0 <= self.alike <= 1:
            raise ValueError(f"alike is a share, from 0 to 1, got {self.alike}")

    @property
    def whole_batch(self) -> bool:
        """Whether samples of a batch are all judged together, so that it cannot be taken apart."""
        return self.minibatch == "discrimination"

    @property
    def told(self) -> int:
        """How many values of labels the critic tells beside its score."""
        return sum(self.classes) if self.labels == "told" else 0

    @property
    def taps(self) -> tuple[int, int, int]:
        return (3 if any(row.time > 1 for row in self.rows) else 1, 3, 3)

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        """(T, H, W) of each level."""
        found, size = [], (1, 1, 1)
        for row in self.rows:
            size = tuple(n * f for n, f in zip(size, row.factor, strict=True))
            found.append(size)
        return tuple(found)


class Generator(nn.Module):
    """Table A.1, read downwards."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, taps = cfg, cfg.taps
        first, size = cfg.rows[0], cfg.sizes[0]
        volume = math.prod(size)
        self.dense = EqualizedLinear(
            cfg.latents + sum(cfg.classes), first.channels * volume, gain=math.sqrt(2) / 4, bias_repeat=volume
        )
        same = round(cfg.alike * first.channels)
        with torch.no_grad():
            weight = self.dense.weight.view(first.channels, volume, -1)
            weight[:same] = weight[:same, :1]
        self.blocks = nn.ModuleList([Segment(EqualizedConv3d(first.channels, first.channels, taps, pixel_norm=True))])
        for level, (below, row) in enumerate(zip(cfg.rows, cfg.rows[1:], strict=False), 1):
            self.blocks.append(
                Segment(
                    EqualizedConv3d(below.channels, row.channels, taps, pixel_norm=True, up=row.factor),
                    EqualizedConv3d(row.channels, row.channels, taps, pixel_norm=True),
                    level=level,
                )
            )
        self.rgb = nn.ModuleList(EqualizedConv3d(row.channels, 3, 1, gain=1.0, slope=None) for row in cfg.rows)

    def forward(self, inputs: Inputs, stage: Stage) -> Tensor:
        z = ops.pixel_norm(inputs.latents[:, :, None, None, None])[..., 0, 0, 0]  # [B, Z]
        z = torch.cat([z, one_hot(inputs.condition, self.cfg.classes, z, unit=True)], dim=1)  # [B, Z + N]
        x = self.dense(z).unflatten(1, (-1, *self.cfg.sizes[0]))  # [B, C, T, 4, 4]
        x = ops.pixel_norm(x, slope=SLOPE)
        level = stage.level
        for block in self.blocks[:level]:
            x = block(x)  # [B, C_l-1, T_l-1, H_l-1, W_l-1]
        video = self.blocks[level](x, last=self.rgb[level]).to(z)  # [B, 3, T_l, H_l, W_l]
        if stage.fade == 1:
            return video
        old = self.rgb[level - 1](x, up=self.cfg.rows[level].factor).to(z)
        return torch.lerp(old, video, stage.fade)


class SlicedHead(nn.Module):
    """f(y) = mean_i lrelu(scale_i <theta_i, y> + offset_i), the theta_i orthonormal (eq. 5.1)."""

    def __init__(self, features: int):
        super().__init__()
        self.theta = nn.Parameter(torch.linalg.qr(torch.randn(features, features))[0].contiguous())
        self.scale = nn.Parameter(torch.ones(features))
        self.offset = nn.Parameter(torch.zeros(features))

    def forward(self, y: Tensor) -> Tensor:
        return ops.sliced_head(y, self.theta, self.scale, self.offset, slope=SLOPE)  # [B]

    def activations(self, y: Tensor) -> Tensor:
        with autocast.off(y):
            return F.leaky_relu(self.scale * (y @ self.theta.T) + self.offset, SLOPE)  # [B, K]

    @torch.no_grad()
    def project_gradient(self) -> None:
        """The part along the manifold of orthonormal rows: g - sym(g theta^T) theta."""
        if self.theta.grad is not None:
            product = self.theta.grad @ self.theta.T
            self.theta.grad -= (product + product.T) / 2 @ self.theta

    @torch.no_grad()
    def retract(self, steps: int) -> None:
        """Back to orthonormal rows, by QR with the signs kept."""
        q, r = torch.linalg.qr(self.theta.T)
        self.theta.copy_((q * r.diagonal().sign()).T)


class VideoCritic(nn.Module):
    """Table A.2, the mirror of A.1: the same rows, read upwards."""

    def __init__(self, cfg: Config, sliced: bool):
        super().__init__()
        self.cfg, taps = cfg, cfg.taps
        first, volume = cfg.rows[0], math.prod(cfg.sizes[0])
        self.rgb = nn.ModuleList(EqualizedConv3d(3, row.channels, 1) for row in cfg.rows)
        learned = cfg.minibatch == "discrimination"
        self.compare = MinibatchDiscrimination(first.channels * volume) if learned else None
        maps = self.compare.shape[0] if learned else 1
        self.blocks = nn.ModuleList([Segment(EqualizedConv3d(first.channels + maps, first.channels, taps))])
        for level, (below, row) in enumerate(zip(cfg.rows, cfg.rows[1:], strict=False), 1):
            self.blocks.append(
                Segment(
                    EqualizedConv3d(row.channels, row.channels, taps),
                    EqualizedConv3d(row.channels, below.channels, taps, down=row.factor),
                    level=level,
                )
            )
        self.dense = EqualizedLinear(first.channels * volume, cfg.features)
        projected = cfg.classes and not cfg.told
        self.embed = EqualizedLinear(sum(cfg.classes), cfg.features, gain=1.0) if projected else None
        self.head = SlicedHead(cfg.features) if sliced else EqualizedLinear(cfg.features, 1 + cfg.told, gain=1.0)

    def encode(self, seen: tuple[Tensor, Tensor | None], stage: Stage) -> Tensor:
        """(video, labels) -> [B, K], rows 1-22 of the table."""
        video, labels = seen
        newest, rgb = stage.level, self.rgb[stage.level]
        x = self.blocks[newest](video, first=rgb) if newest else rgb(video)  # [B, C_l-1, T_l-1, H_l-1, W_l-1]
        if stage.fade < 1:
            x = torch.lerp(self.rgb[newest - 1](video, down=self.cfg.rows[newest].factor), x, stage.fade)
        for level in range(newest - 1, 0, -1):
            x = self.blocks[level](x)
        if self.compare is None:
            x = ops.minibatch_stddev(x, group_size=min(self.cfg.group, len(x)))  # [B, C + 1, T, 4, 4]
        else:
            x = self.compare(x)
        y = F.leaky_relu(self.dense(self.blocks[0](x).flatten(1)), SLOPE)
        return y if self.embed is None else y * (1 + self.embed(one_hot(labels, self.cfg.classes, y, unit=True)))

    def forward(self, seen: tuple[Tensor, Tensor | None], stage: Stage) -> Tensor | Judged:
        y = self.head(self.encode(seen, stage))  # [B] or [B, 1 + N]
        return Judged(y[:, 0], y[:, 1:]) if self.cfg.told else y.flatten()


def faded(rows: tuple[Row, ...]) -> Callable[[Tensor, Inputs, Stage], Tensor]:
    """Reals of a level that is not stable yet: blended with what the level below would show of them."""

    def real(video: Tensor, inputs: Inputs, stage: Stage) -> Tensor:
        if stage.fade == 1:
            return video
        factor = rows[stage.level].factor
        old = F.interpolate(F.avg_pool3d(video, factor), scale_factor=[float(f) for f in factor])
        return torch.lerp(old, video, stage.fade)

    return real


def build(cfg: Config, sliced: bool = False, feature_matching: float = 0.0) -> System:
    """`sliced`: the critic ends in the head of the SWGAN objectives. `feature_matching`: weight of eq. 2.3 in the
    generator's loss, |E f(x) - E f(G(z))|^2 of the encoder's features f.
    """
    if sliced and cfg.told:
        raise ValueError("the sliced head tells no labels: labels: projection")
    generator, critic = Generator(cfg), VideoCritic(cfg, sliced)

    def draw_inputs(video: Tensor, labels: Tensor | None, draw: Draw) -> Inputs:
        return Inputs(draw.normal(cfg.latents), labels if cfg.classes else None)

    constraint = Constraint(critic.head.project_gradient, critic.head.retract) if sliced else None
    view = lambda video, inputs, stage: (video, inputs.condition)  # noqa: E731

    def matching(fake: Tensor, real: Tensor, inputs: Inputs, stage: Stage) -> Tensor:
        with torch.no_grad():
            wanted = critic.encode(view(real, inputs, stage), stage).mean(dim=0)
        return (critic.encode(view(fake, inputs, stage), stage).mean(dim=0) - wanted).square().sum()

    group = None if cfg.minibatch == "discrimination" or feature_matching else cfg.group
    task = None
    if cfg.told:
        task = Task("class", lambda answer, inputs: wrong(answer, inputs.condition, cfg.classes), fake=1.0)
    critics = (Critic("video", critic, view, group=group, constraint=constraint, task=task),)
    terms = (Term("feature_matching", feature_matching, matching),) if feature_matching else ()
    return System(generator, draw_inputs, critics, cfg.sizes, real=faded(cfg.rows), terms=terms)
