"""TGAN: one generator makes a trajectory of latent vectors, another an image of each (Saito, Matsumoto, Saito 2017).

The critic's Lipschitz constant is held by clipping singular values (`clip_singular_values`), or by the objectives
wgan_clip, vanilla (with `noise` 0.3) and lsgan. `generator="3d"` is the paper's baseline of 3D convolutions alone.

Deviations: critics step before the generator, as in all systems here, not after it; both start from LeCun's normal but
for the image generator, U(-0.01, 0.01), as in the configurations behind the paper's numbers. A label joins z0 wherever
that enters, and the video as a one-hot volume, which is never made: its convolution is a bias that differs at borders.

Legend: B clips, C channels, T frames, Z latent numbers, N values of all labels together.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import singular_values
from ..layers.batch_norm import BatchNorm
from ..layers.conv3d import Conv3d, ConvTranspose3d, in_float32
from ..layers.labels import one_hot
from ..layers.noise import Noise
from ..layers.segment import Segment
from .system import Constraint, Critic, Draw, Inputs, Stage, System

SLOPE, EPS = 0.2, 2e-5  # Chainer's eps of batch norm


@dataclass(frozen=True)
class Config:
    name: Literal["tgan"] = "tgan"
    generator: Literal["temporal", "3d"] = "temporal"
    latents: int = 100
    channels_in_time: tuple[int, ...] = (512, 256, 128, 128)  # of z1, each twice as long, from one frame on
    channels: tuple[int, ...] = (512, 256, 128, 64, 32)  # of the image from 4x4 on, each twice as wide
    channels_3d: tuple[int, ...] = (512, 256, 128, 64)  # of the baseline's maps from 1x4x4 on
    critic_channels: tuple[int, ...] = (64, 128, 256, 512)
    classes: tuple[int, ...] = ()
    first_latent: bool = True  # False is the ablation without z0 in the image generator
    noise: float = 0.0  # before each activation of the critic
    clip_singular_values: bool = True

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    whole_batch = False
    group = 1

    def __post_init__(self):
        if self.generator == "3d":
            side = 4 * 2 ** len(self.channels_3d)
            if (made := (side // 4, side, side)) != self.sizes[0]:
                raise ValueError(f"channels_3d make videos of {made}, channels and channels_in_time of {self.sizes[0]}")

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        side = 4 * 2 ** (len(self.channels) - 1)
        return ((2 ** len(self.channels_in_time), side, side),)


def norm(channels: int, bias: bool = False) -> BatchNorm:
    """The configurations behind the paper's numbers have a scale alone, but for the image generator."""
    return BatchNorm(channels, eps=EPS, bias=bias)


class Temporal(nn.Module):
    """G0: z0 [B, Z] -> z1 [B, Z, T], transposed 1D convolutions."""

    def __init__(self, cfg: Config):
        super().__init__()
        rows = cfg.channels_in_time
        first = nn.ConvTranspose1d(cfg.latents + sum(cfg.classes), rows[0], 1)
        layers = [Segment(first, norm(rows[0]), nn.ReLU(), together=True)]
        for i, o in pairwise(rows):
            layers.append(Segment(nn.ConvTranspose1d(i, o, 4, 2, 1), norm(o), nn.ReLU(), together=True))
        self.layers = nn.Sequential(*layers, nn.ConvTranspose1d(rows[-1], cfg.latents, 4, 2, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z[:, :, None]).to(z).tanh()


class Image(nn.Module):
    """G1: z0 [B, Z + N] and z1 [B, Z, T] -> [B, 3, T, H, W], every frame by itself."""

    def __init__(self, cfg: Config):
        super().__init__()
        first = cfg.channels[0] * (8 if cfg.first_latent else 16)  # numbers of a map of 4x4, half of it from each
        linear = lambda inputs: Segment(  # noqa: E731
            nn.Linear(inputs, first, bias=False), norm(first, bias=True), nn.ReLU(), together=True
        )
        self.still = linear(cfg.latents + sum(cfg.classes)) if cfg.first_latent else None
        self.moving = linear(cfg.latents)
        self.layers = nn.Sequential(
            *(
                Segment(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), norm(o, bias=True), nn.ReLU(), together=True)
                for i, o in pairwise(cfg.channels)
            )
        )
        self.rgb = nn.ConvTranspose2d(cfg.channels[-1], 3, 3, 1, 1)

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        frames = z1.shape[2]
        x = self.moving(z1.transpose(1, 2).flatten(0, 1)).unflatten(1, (-1, 4, 4))  # [B T, C / 2, 4, 4]
        if self.still is not None:
            still = self.still(z0).unflatten(1, (-1, 4, 4))
            x = torch.cat([still.repeat_interleave(frames, dim=0), x], dim=1)
        images = self.rgb(self.layers(x)).to(z0).tanh()  # [B T, 3, H, W]
        return images.unflatten(0, (-1, frames)).transpose(1, 2)


class Generator(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.temporal, self.image = Temporal(cfg), Image(cfg)

    def forward(self, inputs: Inputs, stage: Stage) -> Tensor:
        z0 = torch.cat([inputs.latents, one_hot(inputs.condition, self.cfg.classes, inputs.latents)], dim=1)
        return self.image(z0, self.temporal(z0))

    @torch.no_grad()
    def interpolated(self, inputs: Inputs, between: int) -> Tensor:
        """With `between` frames more from each frame to the next: the image generator's along lines of z1."""
        z0 = torch.cat([inputs.latents, one_hot(inputs.condition, self.cfg.classes, inputs.latents)], dim=1)
        z1 = self.temporal(z0)
        count = (z1.shape[2] - 1) * (between + 1) + 1
        return self.image(z0, F.interpolate(z1, count, mode="linear", align_corners=True))


class Generator3d(nn.Module):
    """The baseline: a linear layer and four transposed 3D convolutions."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, rows = cfg, cfg.channels_3d
        numbers = rows[0] * 16
        dense = nn.Linear(cfg.latents + sum(cfg.classes), numbers, bias=False)
        self.dense = Segment(dense, norm(numbers, bias=True), nn.ReLU(), together=True)
        self.layers = nn.Sequential(
            *(
                Segment(ConvTranspose3d(i, o, 4, 2, 1), norm(o, bias=True), nn.ReLU(), together=True)
                for i, o in pairwise(rows)
            )
        )
        self.rgb = ConvTranspose3d(rows[-1], 3, 4, 2, 1)

    def forward(self, inputs: Inputs, stage: Stage) -> Tensor:
        z = torch.cat([inputs.latents, one_hot(inputs.condition, self.cfg.classes, inputs.latents)], dim=1)
        x = self.dense(z).unflatten(1, (-1, 1, 4, 4))
        return self.rgb(self.layers(x)).to(z).tanh()


def inside(length: int) -> Tensor:
    """[L / 2, 4]: which taps of a kernel of 4, stride 2, padding 1 lie inside, for every place of the output."""
    at = 2 * torch.arange(length // 2)[:, None] + torch.arange(4) - 1
    return ((at >= 0) & (at < length)).float()


class LabelledConv3d(Conv3d):
    """The convolution of a video joined by a one-hot volume of its labels, k4 s2 p1."""

    def __init__(self, inputs: int, values: int, outputs: int):
        super().__init__(inputs + values, outputs, 4, 2, 1)
        self.inputs = inputs

    def forward(self, video: Tensor, hot: Tensor) -> Tensor:
        clips = self.weight[:, : self.inputs]
        y = in_float32(lambda x: F.conv3d(x, clips, self.bias, 2, 1), video)
        if hot.shape[1] == 0:
            return y
        of_label = torch.einsum("bn,onijk->boijk", hot, self.weight[:, self.inputs :].to(hot))
        taps = (inside(length).to(hot) for length in video.shape[2:])
        return y + torch.einsum("boijk,ti,hj,wk->bothw", of_label, *taps).to(y.dtype)


class VideoCritic(nn.Module):
    """(video [B, 3, T, H, W], labels) -> [B]."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, rows = cfg, cfg.critic_channels
        self.first = LabelledConv3d(3, sum(cfg.classes), rows[0])
        self.layers = nn.Sequential()
        for i, o in pairwise(rows):
            self.layers.append(nn.Sequential(Noise(cfg.noise), nn.LeakyReLU(SLOPE)))
            self.layers.append(Segment(Conv3d(i, o, 4, 2, 1), norm(o), together=True))
        self.layers.append(nn.Sequential(Noise(cfg.noise), nn.LeakyReLU(SLOPE)))
        factor = 2 ** len(rows)
        self.last = Conv3d(rows[-1], 1, tuple(max(length // factor, 1) for length in cfg.sizes[0]))

    def forward(self, seen: tuple[Tensor, Tensor | None], stage: Stage) -> Tensor:
        video, labels = seen
        x = self.layers(self.first(video, one_hot(labels, self.cfg.classes, video)))  # [B, C, T / 16, H / 16, W / 16]
        return self.last(x).flatten().to(video)


@torch.no_grad()
def start(module: nn.Module, uniform: tuple[nn.Module, ...] = ()) -> None:
    """LeCun's normal, N(0, 1 / inputs); U(-0.01, 0.01) for what is in `uniform`."""
    within = {part for whole in uniform for part in whole.modules()}
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            if part in within:
                part.weight.uniform_(-0.01, 0.01)
            else:
                transposed = isinstance(part, nn.modules.conv._ConvTransposeNd)
                inputs = part.weight.shape[0 if transposed else 1] * math.prod(part.weight.shape[2:])
                part.weight.normal_(0, inputs**-0.5)
            if part.bias is not None:
                part.bias.zero_()


def build(cfg: Config) -> System:
    generator = Generator(cfg) if cfg.generator == "temporal" else Generator3d(cfg)
    critic = VideoCritic(cfg)
    start(generator, (generator.image,) if cfg.generator == "temporal" else ())
    start(critic)

    def draw_inputs(video: Tensor, labels: Tensor | None, draw: Draw) -> Inputs:
        return Inputs(2 * draw.uniform(cfg.latents) - 1, labels if cfg.classes else None)

    view = lambda video, inputs, stage: (video, inputs.condition)  # noqa: E731
    constraint = None
    if cfg.clip_singular_values:
        constraint = Constraint(weights=lambda steps: singular_values.clip(critic, steps))
    return System(generator, draw_inputs, (Critic("video", critic, view, constraint=constraint),), cfg.sizes)


@torch.no_grad()
def play(mine: System, other: System, inputs: Inputs, real: Tensor, held_out: Tensor, stage: Stage) -> dict[str, float]:
    """GAM: two trained pairs play each other's critic on the same latents. Above 1 `mine` wins the samples' ratio.

    A Wasserstein critic has no zero: its threshold is the one that tells `real` from its own generator's samples best.
    The ratio of errors on held-out reals should be near 1, or the critics have learned their reals by heart.
    """
    samples = [system.generator(inputs, stage) for system in (mine, other)]
    errors, on_reals = [], []
    for system, own, foreign in ((mine, samples[0], samples[1]), (other, samples[1], samples[0])):
        critic = system.critics[0]
        score = lambda video: critic.module(critic.view(video, inputs, stage), stage)  # noqa: B023, E731
        threshold = best_threshold(score(real), score(own))
        errors.append((score(foreign) >= threshold).double().mean().item())  # foreign samples that pass for real
        on_reals.append((score(held_out) < threshold).double().mean().item())
    return {"samples": ratio(errors[1], errors[0]), "reals": ratio(on_reals[0], on_reals[1])}


def ratio(a: float, b: float) -> float:
    return a / b if b else (1.0 if a == b else math.inf)


def best_threshold(real: Tensor, fake: Tensor) -> float:
    """Between scores, with the fewest reals below and fakes above it."""
    scores = torch.cat([real, fake]).sort().values
    cuts = (scores[1:] + scores[:-1]) / 2
    wrong = (real[None] < cuts[:, None]).sum(1) + (fake[None] >= cuts[:, None]).sum(1)
    return cuts[wrong.argmin()].item()
