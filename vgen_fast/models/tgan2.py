"""TGANv2: a recurrent map for each frame, rendered at four sizes of which training sees fewer and fewer frames (Saito,
Saito, Koyama, Kobayashi 2020).

While it trains, a subsampling layer before each larger level keeps every second frame from a phase drawn for the clip,
so that each level has as many voxels; the reals of a level are made alike. A trained generator renders the last level
alone, of all frames.

The authors' penalty, 0.5 |grad|^2 added up over batch and levels, is that of vanilla_r1 (half the square, mean over the
batch) times the batch on a GPU: a recipe's --penalty is 32 for their 32 clips, whatever the batch is here, and 16 for
the 16 of FaceForensics.
`combine="logit_sum"` is the preprint: one logit, the sum over the levels.

Deviations: critics step before the generator; the phase is drawn for each clip, not for each batch; a shortcut's 1x1
convolution comes before the upsampling, which is the same and cheaper; labels, which the authors' generator of four
levels does not take, join the latents; the preprint's smaller batches at larger levels
are not here.

Legend: B clips, C channels, T frames, Z latent numbers, l level.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..layers.batch_norm import BatchNorm
from ..layers.conv3d import Conv3d
from ..layers.labels import one_hot
from ..layers.segment import Segment
from .system import Clip, Critic, Draw, Inputs, Stage, System

LEVELS, EPS = 4, 2e-5  # Chainer's eps of batch norm


@dataclass(frozen=True)
class Config:
    name: Literal["tgan2"] = "tgan2"
    frames: int = 16
    first: int = 3  # height and width of the recurrent map; 3 is 192 pixels, 4 is 256
    latents: int = 256
    channels: tuple[int, ...] = (1024, 512, 256, 128, 64, 32, 32)  # of the recurrent map, then of each block
    critic_channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    classes: tuple[int, ...] = ()  # by projection in the critics, and beside the latents
    combine: Literal["levels", "logit_sum"] = "levels"

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    whole_batch = False
    group = 1

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        side = self.first * 2 ** (len(self.channels) - 1)
        return ((self.frames, side, side),)


class ConvLSTM(nn.Module):
    """[B, C, H, W] -> [B, T, C, H, W]: the first step is given the map, later ones nothing but what they remember."""

    def __init__(self, channels: int):
        super().__init__()
        self.given = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.remembered = nn.Conv2d(channels, 4 * channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        gates, nothing, found = self.given(x), self.given.bias[:, None, None], []
        cell = torch.zeros_like(x)
        for _ in range(frames):
            i, f, o, new = gates.to(x).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * new.tanh()
            found.append(o.sigmoid() * cell.tanh())
            if len(found) < frames:
                gates = self.remembered(found[-1]) + nothing
        return torch.stack(found, dim=1)


class Up(nn.Module):
    """BN, ReLU, twice as large, conv3; BN, ReLU, conv3; beside them conv1, twice as large."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norms = nn.ModuleList([BatchNorm(inputs, eps=EPS), BatchNorm(outputs, eps=EPS)])
        self.convs = nn.ModuleList([nn.Conv2d(inputs, outputs, 3), nn.Conv2d(outputs, outputs, 3)])
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        up, same = self.convs
        y = ops.modulated_conv3d(self.norms[0](x).relu(), up.weight, bias=up.bias, up=2)
        y = ops.modulated_conv3d(self.norms[1](y).relu(), same.weight, bias=same.bias)
        return y + F.interpolate(self.shortcut(x), scale_factor=2)


class Render(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        self.norm, self.rgb = BatchNorm(inputs, eps=EPS), nn.Conv2d(inputs, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return ops.modulated_conv3d(self.norm(x).relu(), self.rgb.weight, bias=self.rgb.bias).float().tanh()


def every_second(x: Tensor, phase: Tensor) -> Tensor:
    """[B, T, ...] -> [B, T / 2, ...], of each clip the even or the odd frames; phase is 0 or 1 [B]."""
    kept = 2 * torch.arange(x.shape[1] // 2, device=x.device) + phase[:, None]  # [B, T / 2]
    return x[torch.arange(len(x), device=x.device)[:, None], kept]


def phases(inputs: Inputs) -> Tensor:
    """[B, 3], 0 or 1, one before each level but the first."""
    return (inputs.draws >= 0.5).long()


class Generator(nn.Module):
    """Trained: a video a level, [B, 3, T, H / 8, W / 8] to [B, 3, T / 8, H, W]; else the last, of all frames."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, rows = cfg, cfg.channels
        self.dense = nn.Linear(cfg.latents + sum(cfg.classes), rows[0] * cfg.first**2)
        self.recurrent = ConvLSTM(rows[0])
        ups = [Segment(Up(i, o), together=True) for i, o in pairwise(rows)]
        first = len(ups) - LEVELS + 1
        self.blocks = nn.ModuleList([nn.Sequential(*ups[:first]), *ups[first:]])
        self.renders = nn.ModuleList(Segment(Render(o), together=True) for o in rows[-LEVELS:])

    def forward(self, inputs: Inputs, stage: Stage) -> Clip:
        cfg = self.cfg
        z = torch.cat([inputs.latents, one_hot(inputs.condition, cfg.classes, inputs.latents)], dim=1)
        x = self.recurrent(self.dense(z).to(z).unflatten(1, (-1, cfg.first, cfg.first)), cfg.frames)
        videos = []
        for level, (block, render) in enumerate(zip(self.blocks, self.renders, strict=True)):
            if self.training and level:
                x = every_second(x, phases(inputs)[:, level - 1])
            size = x.shape[:2]
            x = block(x.flatten(0, 1)).unflatten(0, size)  # [B, T_l, C_l, H_l, W_l]
            if self.training or level == LEVELS - 1:
                videos.append(render(x.flatten(0, 1)).to(z).unflatten(0, size).transpose(1, 2))
        return tuple(videos) if self.training else videos[-1]


def halved(x: Tensor) -> Tensor:
    """The mean of pairs on every axis longer than 1; an odd one has zeros at both ends, which count."""
    sizes = x.shape[2:]
    pairs = [2 if size > 1 else 1 for size in sizes]
    return F.avg_pool3d(x, pairs, pairs, [size % 2 if size > 1 else 0 for size in sizes])


class Down(nn.Module):
    """A block of the critic: the first halves height and width, later ones every axis; no normalisation."""

    def __init__(self, inputs: int, outputs: int, first: bool = False):
        super().__init__()
        hidden = outputs if first else inputs
        self.first = first
        self.convs = nn.ModuleList([nn.Conv3d(inputs, hidden, 3), nn.Conv3d(hidden, outputs, 3)])
        self.shortcut = Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.convs
        y = ops.modulated_conv3d(x if self.first else x.relu(), one.weight, bias=one.bias, slope=0.0)
        if self.first:
            y = ops.modulated_conv3d(y, two.weight, bias=two.bias, down=(1, 2, 2))
            return y + self.shortcut(F.avg_pool3d(x, (1, 2, 2)))
        if any(size % 2 and size > 1 for size in x.shape[2:]):
            return halved(ops.modulated_conv3d(y, two.weight, bias=two.bias) + self.shortcut(x))
        down = tuple(2 if size > 1 else 1 for size in x.shape[2:])
        return ops.modulated_conv3d(y, two.weight, bias=two.bias, down=down) + self.shortcut(F.avg_pool3d(x, down))


class LevelCritic(nn.Module):
    """[B, 3, T, H, W] -> [B]."""

    def __init__(self, cfg: Config):
        super().__init__()
        rows = cfg.critic_channels
        self.blocks = nn.Sequential(Segment(Down(3, rows[0], first=True)))
        for i, o in pairwise(rows):
            self.blocks.append(Segment(Down(i, o)))
        self.dense = nn.Linear(rows[-1], 1)
        self.embed = nn.Linear(sum(cfg.classes), rows[-1], bias=False) if cfg.classes else None

    def forward(self, video: Tensor, hot: Tensor) -> Tensor:
        y = self.blocks(video).relu().sum(dim=(2, 3, 4)).to(self.dense.weight.dtype)  # [B, C]
        score = self.dense(y).flatten()
        return score if self.embed is None else score + (self.embed(hot) * y).sum(dim=1)


class VideoCritics(nn.Module):
    """(videos, labels) -> [B, levels], or their sum [B]."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.levels = nn.ModuleList(LevelCritic(cfg) for _ in range(LEVELS))

    def forward(self, seen: tuple, stage: Stage) -> Tensor:
        *videos, labels = seen
        hot = one_hot(labels, self.cfg.classes, videos[0])
        scores = torch.stack([critic(video, hot) for critic, video in zip(self.levels, videos, strict=True)], dim=1)
        return scores if self.cfg.combine == "levels" else scores.sum(dim=1)


@torch.no_grad()
def start(module: nn.Module) -> None:
    """Glorot's uniform, of gain sqrt(2) on the main paths, 1 beside them and in linear layers; biases 0."""
    gains = {}
    for part in module.modules():
        if isinstance(part, Up | Down):
            gains |= dict.fromkeys(part.convs, math.sqrt(2))
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d):
            nn.init.xavier_uniform_(part.weight, gains.get(part, 1.0))
            if part.bias is not None:
                part.bias.zero_()


def build(cfg: Config) -> System:
    generator, critics = Generator(cfg), VideoCritics(cfg)
    start(generator)
    start(critics)

    def draw_inputs(video: Tensor, labels: Tensor | None, draw: Draw) -> Inputs:
        latents = 2 * draw.uniform(cfg.latents) - 1
        return Inputs(latents, labels if cfg.classes else None, draw.uniform(LEVELS - 1))

    def pyramid(video: Tensor, inputs: Inputs, stage: Stage) -> Clip:
        found = []
        for level in range(LEVELS):
            if level:
                video = every_second(video.transpose(1, 2), phases(inputs)[:, level - 1]).transpose(1, 2)
            found.append(F.avg_pool3d(video, (1, factor := 2 ** (LEVELS - 1 - level), factor)))
        return tuple(found)

    view = lambda clip, inputs, stage: (*clip, inputs.condition)  # noqa: E731
    video = lambda clip: clip[0] if isinstance(clip, tuple) else clip  # noqa: E731
    return System(generator, draw_inputs, (Critic("video", critics, view),), cfg.sizes, real=pyramid, video=video)
