"""VGAN: a moving foreground in front of a background that stands still (Vondrick, Pirsiavash, Torralba 2016).

Forms: `gan`, one or two streams; `prediction`, the paper's, where a frame's code takes the place of the noise;
`prediction-released`, the authors' code, which is wider and keeps the frame's map; `autoencoder`, the paper's baseline,
whose codes a Gaussian mixture is fitted to (layers/gaussian_mixture.py).

Deviations: one logit, not two (the same game, and `logits=2` has it as printed); the mask's L1 is its mean, as in the
authors' code, not the paper's sum; the generator's step passes the critic afresh; toRGB and the mask's layer are one
convolution of four outputs. A prediction's L1 has the weight of the authors' code, 10, in both forms; the
autoencoder's distance is the mean square.

Legend: B clips, C channels, T frames, Z latent numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import gaussian_mixture, singular_values
from ..layers.batch_norm import BatchNorm
from ..layers.conv3d import Conv3d, ConvTranspose3d
from ..layers.segment import Segment
from .system import Clip, Constraint, Critic, Draw, DrawInputs, Inputs, Stage, System, Term

SLOPE = 0.2


@dataclass(frozen=True)
class Config:
    name: Literal["vgan"] = "vgan"
    form: Literal["gan", "prediction", "prediction-released", "autoencoder"] = "gan"
    streams: Literal[1, 2] = 2
    channels: tuple[int, ...] = (512, 256, 128, 64)  # of the maps from 4x4 on, each twice as long and wide
    first_frames: int = 2  # of the 4x4 map
    latents: int = 100
    logits: Literal[1, 2] = 1
    sparsity: float = 0.1  # weight of the mask's mean
    components: int = 256  # of the mixture that an autoencoder's codes are drawn from
    likeness: float = 10.0  # weight of the L1 between a prediction's first frame and what it was made from
    clip_singular_values: bool = False  # "VGAN (SVC)" of TGAN's table

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    classes = ()
    whole_batch = False
    group = 1

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        factor = 2 ** len(self.channels)
        return ((self.first_frames * factor, 4 * factor, 4 * factor),)


def up3d(inputs: int, outputs: int) -> Segment:
    return Segment(ConvTranspose3d(inputs, outputs, 4, 2, 1), BatchNorm(outputs), nn.ReLU(), together=True)


def up2d(inputs: int, outputs: int) -> Segment:
    return Segment(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), BatchNorm(outputs), nn.ReLU(), together=True)


class Streams(nn.Module):
    """[B, Z] -> video [B, 3, T, H, W] and mask [B, 1, T, H, W]: m f + (1 - m) b."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.two = cfg.streams == 2
        first, last = cfg.channels[0], cfg.channels[-1]
        ends = list(pairwise(cfg.channels))
        start = ConvTranspose3d(cfg.latents, first, (cfg.first_frames, 4, 4))
        self.foreground = nn.Sequential(
            Segment(start, BatchNorm(first), nn.ReLU(), together=True), *(up3d(i, o) for i, o in ends)
        )
        self.rgb = ConvTranspose3d(last, 4 if self.two else 3, 4, 2, 1)  # and the mask
        if self.two:
            start = nn.ConvTranspose2d(cfg.latents, first, 4)
            self.background = nn.Sequential(
                Segment(start, BatchNorm(first), nn.ReLU(), together=True),
                *(up2d(i, o) for i, o in ends),
                nn.ConvTranspose2d(last, 3, 4, 2, 1),
            )

    def forward(self, z: Tensor) -> Clip:
        x = self.rgb(self.foreground(z[:, :, None, None, None])).to(z)  # [B, 3 or 4, T, H, W]
        if not self.two:
            return x.tanh()
        behind = self.background(z[:, :, None, None]).to(z).tanh()[:, :, None]  # [B, 3, 1, H, W]
        mask = x[:, 3:].sigmoid()
        return torch.lerp(behind, x[:, :3].tanh(), mask), mask


class Generator(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.encoder = None
        if cfg.form == "prediction":  # the mirror of the background, BN from its second layer
            self.encoder = encoder2d(cfg.channels[::-1], cfg.latents)
        elif cfg.form == "autoencoder":
            self.encoder = VideoCritic(cfg, cfg.latents)
        self.streams = Streams(cfg)

    def forward(self, inputs: Inputs, stage: Stage) -> Clip:
        if inputs.condition is None:
            return self.streams(inputs.latents)
        return self.streams(self.encoder(inputs.condition).flatten(1))


def encoder2d(channels: tuple[int, ...], outputs: int | None) -> nn.Sequential:
    """[B, 3, H, W] -> [B, C, 4, 4], or [B, outputs, 1, 1]."""
    layers = [Segment(nn.Conv2d(3, channels[0], 4, 2, 1), nn.ReLU())]
    for i, o in pairwise(channels):
        layers.append(Segment(nn.Conv2d(i, o, 4, 2, 1), BatchNorm(o, eps=1e-3), nn.ReLU(), together=True))
    return nn.Sequential(*layers, *([nn.Conv2d(channels[-1], outputs, 4)] if outputs else []))


class Predictor(nn.Module):
    """The authors' code: the frame's map [B, 16 C, 4, 4] goes through both decoders, and there is no noise."""

    def __init__(self, cfg: Config):
        super().__init__()
        wide = tuple(2 * c for c in cfg.channels)  # 1024 512 256 128
        ends = list(pairwise(wide))
        self.encoder = encoder2d(wide[::-1], None)
        self.background = nn.Sequential(*(up2d(i, o) for i, o in ends), nn.ConvTranspose2d(wide[-1], 3, 4, 2, 1))
        start = ConvTranspose3d(wide[0], wide[0], (cfg.first_frames, 1, 1))
        self.foreground = nn.Sequential(
            Segment(start, BatchNorm(wide[0]), nn.ReLU(), together=True), *(up3d(i, o) for i, o in ends)
        )
        self.rgb = ConvTranspose3d(wide[-1], 4, 4, 2, 1)

    def forward(self, inputs: Inputs, stage: Stage) -> Clip:
        code = self.encoder(inputs.condition)  # [B, 16 C, 4, 4]
        behind = self.background(code).to(inputs.latents).tanh()[:, :, None]
        x = self.rgb(self.foreground(code[:, :, None])).to(inputs.latents)
        mask = x[:, 3:].sigmoid()
        return torch.lerp(behind, x[:, :3].tanh(), mask), mask


class VideoCritic(nn.Module):
    """[B, 3, T, H, W] -> [B, outputs], the mirror of the foreground; the authors' predictor has one twice as wide."""

    def __init__(self, cfg: Config, outputs: int):
        super().__init__()
        width = 2 if cfg.form == "prediction-released" else 1
        channels = tuple(width * c for c in cfg.channels[::-1])
        layers = [Segment(Conv3d(3, channels[0], 4, 2, 1), nn.LeakyReLU(SLOPE))]
        for i, o in pairwise(channels):
            norm = BatchNorm(o, eps=1e-3)
            layers.append(Segment(Conv3d(i, o, 4, 2, 1), norm, nn.LeakyReLU(SLOPE), together=True))
        self.features = nn.Sequential(*layers)
        self.last = Conv3d(channels[-1], outputs, (cfg.first_frames, 4, 4))

    def forward(self, video: Tensor) -> Tensor:
        return self.last(self.features(video)).flatten(1).to(video)


class Score(VideoCritic):
    """One logit, or the second of two above the first: the cross-entropy of two is that of their difference."""

    def forward(self, seen: Tensor, stage: Stage) -> Tensor:
        logits = super().forward(seen)  # [B, 1 or 2]
        return logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]


class Classifier(nn.Module):
    """The critic's features, half of their channels left out at random, and K classes in place of the score."""

    def __init__(self, cfg: Config, classes: int):
        super().__init__()
        critic = VideoCritic(cfg, classes)
        self.features, self.dropout, self.last = critic.features, nn.Dropout3d(0.5), critic.last

    def forward(self, video: Tensor) -> Tensor:
        return self.last(self.dropout(self.features(video))).flatten(1)  # [B, K]


def video_of(clip: Clip) -> Tensor:
    return clip[0] if isinstance(clip, tuple) else clip


@torch.no_grad()
def start(module: nn.Module) -> None:
    """Weights N(0, 0.01), scales of batch norm N(1, 0.02)."""
    for part in module.modules():
        if isinstance(part, BatchNorm):
            part.weight.normal_(1, 0.02)
        elif isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            part.weight.normal_(0, 0.01)
            part.bias.zero_()


def build(cfg: Config) -> System:
    released = cfg.form == "prediction-released"
    generator = Predictor(cfg) if released else Generator(cfg)
    critic = Score(cfg, cfg.logits)
    start(generator)
    start(critic)

    def draw_inputs(video: Tensor, labels: Tensor | None, draw: Draw) -> Inputs:
        if cfg.form == "gan":
            return Inputs(draw.normal(cfg.latents))
        none = video.new_zeros(len(video), 0)
        return Inputs(none, video if cfg.form == "autoencoder" else video[:, :, 0])

    @torch.no_grad()
    def prior(videos: Iterator[Tensor]) -> DrawInputs:
        codes = torch.cat([generator.encoder(video).flatten(1) for video in videos])
        mixture = gaussian_mixture.fit(codes, cfg.components)
        return lambda video, labels, draw: Inputs(mixture.sample(draw.normal(cfg.latents), draw.uniform()))

    def mask(fake: Clip, real: Clip, inputs: Inputs, stage: Stage) -> Tensor:
        return fake[1].mean()

    def first_frame(fake: Clip, real: Clip, inputs: Inputs, stage: Stage) -> Tensor:
        return F.l1_loss(video_of(fake)[:, :, 0], inputs.condition)

    def reconstruction(fake: Clip, real: Clip, inputs: Inputs, stage: Stage) -> Tensor:
        return F.mse_loss(video_of(fake), real)

    sparse = (Term("mask", cfg.sparsity, mask),) if cfg.streams == 2 and not released else ()
    terms = {
        "gan": sparse,
        "prediction": (*sparse, Term("first_frame", cfg.likeness, first_frame)),
        "prediction-released": (Term("first_frame", cfg.likeness, first_frame),),
        "autoencoder": (Term("reconstruction", 1.0, reconstruction),),
    }[cfg.form]
    constraint = None
    if cfg.clip_singular_values:
        constraint = Constraint(weights=lambda steps: singular_values.clip(critic, steps))
    view = lambda clip, inputs, stage: video_of(clip)  # noqa: E731
    critics = () if cfg.form == "autoencoder" else (Critic("video", critic, view, constraint=constraint),)
    return System(
        generator,
        draw_inputs,
        critics,
        cfg.sizes,
        video=video_of,
        terms=terms,
        sees={"gan": None, "autoencoder": "clip"}.get(cfg.form, "frame"),
        prior=prior if cfg.form == "autoencoder" else None,
    )
