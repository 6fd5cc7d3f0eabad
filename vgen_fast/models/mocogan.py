"""MoCoGAN: a clip's content is one vector, its motion a path of a recurrent network (Tulyakov, Liu, Yang, Kautz 2018).

An image critic judges a frame, a video critic the clip; with labels, or `categories` without any, the video critic
tells the category too. Where it enters is `category_to`: the paper's best is the recurrent network.

Deviations: as in the authors' code, and not in the paper's table, strides and padding are those that work and the first
layers have no batch norm; the image critic's frames come from the clips the generator makes for its step, one each,
which are distributed as the authors' are; real frames come from the clips of the step.

Legend: B clips, C channels, T frames, Z numbers of a frame's code, N values of all labels together.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..layers.batch_norm import BatchNorm
from ..layers.conv3d import Conv3d
from ..layers.labels import one_hot, wrong
from ..layers.noise import Noise
from ..layers.segment import Segment
from .system import Critic, Draw, Inputs, Judged, Stage, System, Task

SLOPE = 0.2


@dataclass(frozen=True)
class Config:
    name: Literal["mocogan"] = "mocogan"
    frames: int = 16
    content: int = 50
    motion: int = 10
    channels: tuple[int, ...] = (512, 256, 128, 64)  # of the image from 4x4 on, each twice as wide
    critic_channels: tuple[int, ...] = (64, 128, 256, 512)
    classes: tuple[int, ...] = ()  # values of each label of the data
    categories: int = 0  # values of a label that nobody gave: InfoGAN
    category_to: Literal["rnn", "image", "both"] = "rnn"
    image_critic: Literal["patch", "full"] = "patch"
    video_critic: Literal["full", "patch"] = "full"
    noise: float = 0.1  # before each convolution of the critics
    infogan: bool = True  # whether the generator is asked for the category
    q_on_fake: bool | None = None  # whether the video critic learns it from fakes; by default where there are no labels

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    whole_batch = False
    group = 1

    def __post_init__(self):
        rows = len(self.critic_channels) - (self.video_critic == "patch")
        if self.frames < 3 * rows + 4:
            raise ValueError(f"the video critic's {rows + 1} layers need {3 * rows + 4} frames, got {self.frames}")

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        side = 4 * 2 ** len(self.channels)
        return ((self.frames, side, side),)

    @property
    def values(self) -> tuple[int, ...]:
        """Of each label, the data's or the made up one."""
        return self.classes or ((self.categories,) if self.categories else ())


class Generator(nn.Module):
    """Latents: content, the first hidden state, and the noise of every step, one after the other."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg, num = cfg, sum(cfg.values)
        self.in_rnn, self.in_image = cfg.category_to in ("rnn", "both"), cfg.category_to in ("image", "both")
        self.rnn = nn.GRU(cfg.motion + num * self.in_rnn, cfg.motion, batch_first=True)
        rows = cfg.channels
        first = nn.ConvTranspose2d(cfg.content + num * self.in_image + cfg.motion, rows[0], 4, bias=False)
        layers = [Segment(first, BatchNorm(rows[0]), nn.ReLU(), together=True)]
        for i, o in pairwise(rows):
            conv = nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)
            layers.append(Segment(conv, BatchNorm(o), nn.ReLU(), together=True))
        self.image = nn.Sequential(*layers, nn.ConvTranspose2d(rows[-1], 3, 4, 2, 1, bias=False))

    def codes(self, inputs: Inputs) -> Tensor:
        """[B, T, Z]: content, category, motion."""
        cfg, z = self.cfg, inputs.latents
        content, first, noise = z.split([cfg.content, cfg.motion, z.shape[1] - cfg.content - cfg.motion], dim=1)
        category = one_hot(inputs.condition, cfg.values, z)[:, None]  # [B, 1, N]
        steps = noise.unflatten(1, (-1, cfg.motion))  # [B, T, motion]
        along = lambda x: x.expand(-1, steps.shape[1], -1)  # noqa: E731
        asked = torch.cat([steps, along(category)], dim=2) if self.in_rnn else steps
        motion, _ = self.rnn(asked, first[None].contiguous())
        still = [along(content[:, None]), along(category)] if self.in_image else [along(content[:, None])]
        return torch.cat([*still, motion.to(z)], dim=2)

    def forward(self, inputs: Inputs, stage: Stage) -> Tensor:
        codes = self.codes(inputs)
        images = self.image(codes.flatten(0, 1)[:, :, None, None]).to(inputs.latents).tanh()  # [B T, 3, H, W]
        return images.unflatten(0, codes.shape[:2]).transpose(1, 2)


def layers(conv: type[nn.Module], rows: tuple[int, ...], options: dict, noise: float) -> nn.Sequential:
    """Halves height and width a row; noise before every convolution."""
    found = nn.Sequential()
    for i, o in zip((3, *rows), rows, strict=False):
        middle = [BatchNorm(o)] if i != 3 else []
        found.append(Noise(noise))
        found.append(Segment(conv(i, o, 4, bias=False, **options), *middle, nn.LeakyReLU(SLOPE), together=i != 3))
    found.append(Noise(noise))
    return found


class ImageCritic(nn.Module):
    """A frame [B, 3, H, W] -> [B, places]: patches, or the whole of it."""

    def __init__(self, cfg: Config):
        super().__init__()
        rows = cfg.critic_channels[:-1] if cfg.image_critic == "patch" else cfg.critic_channels
        self.layers = layers(nn.Conv2d, rows, dict(stride=2, padding=1), cfg.noise)
        last = dict(stride=2, padding=1) if cfg.image_critic == "patch" else {}
        self.last = nn.Conv2d(rows[-1], 1, 4, bias=False, **last)

    def forward(self, frame: Tensor, stage: Stage) -> Tensor:
        return self.last(self.layers(frame)).flatten(1).to(frame)


class VideoCritic(nn.Module):
    """[B, 3, T, H, W] -> scores [B, places], and logits of the category [B, N] where there are any."""

    def __init__(self, cfg: Config):
        super().__init__()
        rows = cfg.critic_channels[:-1] if cfg.video_critic == "patch" else cfg.critic_channels
        options = dict(stride=(1, 2, 2), padding=(0, 1, 1))
        self.layers = layers(Conv3d, rows, options, cfg.noise)
        last = options if cfg.video_critic == "patch" else {}
        self.last = Conv3d(rows[-1], 1 + sum(cfg.values), 4, bias=False, **last)

    def forward(self, video: Tensor, stage: Stage) -> Tensor | Judged:
        y = self.last(self.layers(video)).flatten(2).to(video)  # [B, 1 + N, places]
        return Judged(y[:, 0], y[:, 1:].mean(dim=2)) if y.shape[1] > 1 else y[:, 0]


def a_frame(video: Tensor, inputs: Inputs, stage: Stage) -> Tensor:
    """[B, 3, H, W], of each clip the frame that was drawn for it."""
    frames = video.shape[2]
    chosen = (inputs.draws[:, 0] * frames).long().clamp(max=frames - 1)
    return video[torch.arange(len(video), device=video.device), :, chosen]


def build(cfg: Config) -> System:
    generator, images, videos = Generator(cfg), ImageCritic(cfg), VideoCritic(cfg)

    def draw_inputs(video: Tensor, labels: Tensor | None, draw: Draw) -> Inputs:
        latents = draw.normal(cfg.content + cfg.motion + cfg.frames * cfg.motion)
        draws = draw.uniform(2)
        if cfg.categories and not cfg.classes:
            labels = (draws[:, 1:] * cfg.categories).long().clamp(max=cfg.categories - 1)
        return Inputs(latents, labels if cfg.values else None, draws)

    task = None
    if cfg.values:
        on_fake = not cfg.classes if cfg.q_on_fake is None else cfg.q_on_fake
        task = Task(
            "category",
            lambda answer, inputs: wrong(answer, inputs.condition, cfg.values),
            real=float(bool(cfg.classes)),
            fake=float(on_fake),
            generator=float(cfg.infogan),
        )
    critics = (Critic("frames", images, a_frame), Critic("video", videos, task=task))
    return System(generator, draw_inputs, critics, cfg.sizes)
