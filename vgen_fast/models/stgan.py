"""STGAN: a generator of images from CaffeNet's codes (Dosovitskiy, Brox 2016), inflated to videos (spec A1-A4).

A code a frame goes through three dense layers, becomes a 4x4 map and grows to 256x256 by transposed convolutions, of
which 227x227 in the middle are the frame. `depth=1` is the network of images, `depth=3` its inflation: every layer sees
the frames beside its own, by weights copied and divided by their number. The critic sees the clip and the codes; it is
inflated alike but for its last layer, which is of all frames together.

A clip is Caffe's: blue, green and red less their means, about +-120. The encoder is no part of the system: it is read
from its file, is not trained, and gives the codes of real clips and the features they are compared by. The generator's
loss is 2e-6 of half the squared distance of a frame, 1e-2 of half that of its features, 100 of the critic's.

Deviations: leaky ReLU of slope 0.3, as released, where the thesis says ReLU; of pool5's features, not fc6's; the
critic's conv3 is padded by one frame, not by the two that are printed; its score is the logit of "real" above that of
"fake", whose binary cross-entropy is that of the two; its loss has no factor 100, so that its weight decay is 4e-6.
Critics' taps in time are the table's, 7, 5 and 3; `uniform` has 3 everywhere, as the text says.

Legend: B clips, C channels, T frames, H x W pixels, Z numbers of a code.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.conv3d import Conv3d, ConvTranspose3d
from ..layers.segment import Segment
from ..nets import caffenet, trained, weights
from ..nets.caffenet import Encoder
from ..nets.weights import Published
from .system import Clip, Critic, Draw, Inputs, Seen, Stage, System, Term

IMAGE, FEATURES, ADVERSARIAL = 2e-6, 1e-2, 100.0  # in the generator's loss


class Row(NamedTuple):
    """A transposed convolution, of 4x4 and twice as large, or of 3x3."""

    caffe: str  # its name in the released file
    channels: int
    up: Literal[1, 2] = 2


class Look(NamedTuple):
    """A convolution of the critic, without padding in space."""

    channels: int
    size: int
    stride: int = 1


ROWS = (
    Row("deconv5", 256), Row("conv5_1", 512, 1), Row("deconv4", 256), Row("conv4_1", 256, 1), Row("deconv3", 128),
    Row("conv3_1", 128, 1), Row("deconv2", 64), Row("deconv1", 32), Row("deconv0", 3),
)  # fmt: skip
LOOKS = (Look(32, 7, 4), Look(64, 5), Look(128, 3, 2), Look(256, 3), Look(256, 3, 2))
DENSE = ("defc7", "defc6", "defc5")


@dataclass(frozen=True)
class Config:
    name: Literal["stgan"] = "stgan"
    depth: Literal[1, 3] = 3  # taps in time
    frames: int = 8
    size: int = 227
    codes: int = 4096
    first: tuple[int, int] = (256, 4)  # channels, and height and width, of the map of a code
    rows: tuple[Row, ...] = ROWS
    slope: float = 0.3
    time_padding: Literal["zeros", "replicate"] = "zeros"  # a still clip's frames are those of 2D with the latter alone
    looks: tuple[Look, ...] = LOOKS
    of_code: tuple[int, int] = (1024, 512)  # the critic's layers for codes
    joined: int = 512  # its layer for both
    uniform: bool = False
    dropout: float = 0.5
    encoder: str = caffenet.CAFFENET.file  # among the published weights, or a folder of `train classifier`; "drawn"
    compared: Literal["pool5", "fc6"] = "pool5"
    weights: tuple[float, float, float] = (IMAGE, FEATURES, ADVERSARIAL)  # sums over pixels weigh less in small frames
    mean_of: Literal["frame", "video"] = "frame"  # a clip's distances are the mean of its frames', or their sum

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    classes = ()
    whole_batch = False
    group = 1

    def __post_init__(self):
        if self.depth == 1 and self.frames > 1:
            raise ValueError(f"depth 1 is the network of images: frames must be 1, got {self.frames}")
        if self.size > self.side:
            raise ValueError(f"size {self.size} is larger than the {self.side} pixels that the generator makes")
        if self.rows[-1].channels != 3:
            raise ValueError(f"the last row makes colours: 3 channels, got {self.rows[-1].channels}")

    @property
    def side(self) -> int:
        """Height and width of what the generator makes."""
        return self.first[1] * math.prod(row.up for row in self.rows)

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.frames, self.size, self.size),)

    @property
    def depths(self) -> list[int]:
        """Of the critic's convolutions."""
        return [1 if self.depth == 1 else 3 if self.uniform else row.size for row in self.looks]


class Still(nn.Module):
    """[B, C, T, H, W] with the first and the last frame repeated, `frames` times each."""

    def __init__(self, frames: int):
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.frames, self.frames), mode="replicate")


def grows(cfg: Config, inputs: int, row: Row, last: bool) -> Segment:
    size, space = (4, 1) if row.up == 2 else (3, 1)
    still = cfg.time_padding == "replicate" and cfg.depth > 1
    time = cfg.depth - 1 if still else cfg.depth // 2  # that many frames of the output are cut off at either end
    layer = ConvTranspose3d(
        inputs, row.channels, (cfg.depth, size, size), (1, row.up, row.up), padding=(time, space, space)
    )
    before = Still(cfg.depth // 2) if still else nn.Identity()
    return Segment(before, layer, *([] if last else [nn.LeakyReLU(cfg.slope)]))


class Generator(nn.Module):
    """Codes [B, T, Z] -> [B, 3, T, 227, 227], in Caffe's colours."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        channels, side = cfg.first
        wide = [cfg.codes, cfg.codes, cfg.codes, channels * side**2]
        self.dense = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(wide))
        inputs = [channels, *(row.channels for row in cfg.rows)]
        last = len(cfg.rows) - 1
        self.blocks = nn.Sequential(*(grows(cfg, i, row, d == last) for d, (i, row) in
                                      enumerate(zip(inputs, cfg.rows, strict=False))))  # fmt: skip

    def whole(self, codes: Tensor) -> Tensor:
        """[B, 3, T, 256, 256]."""
        x = codes
        for layer in self.dense:
            x = F.leaky_relu(layer(x), self.cfg.slope)
        channels, side = self.cfg.first
        x = x.unflatten(2, (channels, side, side)).transpose(1, 2)  # [B, C, T, 4, 4]
        return self.blocks(x).to(codes)

    def forward(self, inputs: Inputs, stage: Stage) -> Clip:
        return cropped(self.whole(inputs.latents), self.cfg.size)


def cropped(video: Tensor, size: int) -> Tensor:
    """The middle; of an odd rest the larger part is cut off below and to the right."""
    top, left = ((side - size) // 2 for side in video.shape[3:])
    return video[..., top : top + size, left : left + size]


class VideoCritic(nn.Module):
    """A clip [B, 3, T, H, W] and its codes [B, T, Z] -> [B], the logit of "real" less that of "fake"."""

    def __init__(self, cfg: Config):
        super().__init__()
        inputs = [3, *(row.channels for row in cfg.looks)]
        blocks = []
        for i, row, depth in zip(inputs, cfg.looks, cfg.depths, strict=False):
            still = cfg.time_padding == "replicate" and depth > 1
            stride, padding = (1, row.stride, row.stride), (0 if still else depth // 2, 0, 0)
            layer = Conv3d(i, row.channels, (depth, row.size, row.size), stride, padding)
            blocks.append(Segment(Still(depth // 2) if still else nn.Identity(), layer, nn.ReLU()))
        self.blocks = nn.Sequential(*blocks)
        self.of_code = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((cfg.codes, *cfg.of_code)))
        self.joined = nn.Linear(cfg.looks[-1].channels + cfg.of_code[-1], cfg.joined)
        self.last = nn.Linear(cfg.frames * cfg.joined, 2)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, seen: Seen, stage: Stage) -> Tensor:
        clip, codes = seen
        y = codes
        for layer in self.of_code:
            y = layer(y).relu()  # [B, T, 512]
        x = self.blocks(clip).mean(dim=(3, 4)).transpose(1, 2).to(y)  # [B, T, 256]
        x = self.joined(self.dropout(torch.cat([x, y], dim=2))).relu()
        logits = self.last(self.dropout(x).flatten(1)).to(codes)  # [B, 2], real and fake
        return logits[:, 0] - logits[:, 1]


def start(generator: Generator, critic: VideoCritic) -> None:
    """As He et al. draw weights, 1.8 times that in 4x4, 0.9 in 3x3; a tenth in the critic's first and dense layers."""
    for layer in (*generator.dense, *(part for part in generator.blocks.modules() if hasattr(part, "weight"))):
        drawn(layer, 1.0 if isinstance(layer, nn.Linear) else 1.8 if layer.kernel_size[1] == 4 else 0.9)
    convolutions = [part for part in critic.blocks.modules() if hasattr(part, "weight")]
    for layer in (*convolutions, *critic.of_code, critic.joined, critic.last):
        drawn(layer, 1.0 if layer in convolutions[1:] else 0.1)


@torch.no_grad()
def drawn(layer: nn.Module, gain: float) -> None:
    nn.init.kaiming_normal_(layer.weight).mul_(gain)
    nn.init.zeros_(layer.bias)


# ------------------------------------------------------------------------------------------------ from images to video


@torch.no_grad()
def inflate(flat: nn.Module, deep: nn.Module) -> list[str]:
    """Weights of a network of images for one of videos, divided by the taps in time, biases as they are.

    Returns the names of those that are not there, or of other shapes, which keep what they have: a critic's last layer.
    """
    kept, of_images = [], flat.state_dict()
    for name, value in deep.state_dict().items():
        weight = of_images.get(name)
        if weight is not None and weight.ndim == 5:
            weight = weight.expand(-1, -1, value.shape[2], -1, -1) / value.shape[2]
        if weight is not None and weight.shape == value.shape:
            value.copy_(weight)
        else:
            kept.append(name)
    return kept


def load(path: Path, cfg: Config) -> Generator:
    """The released generator of images, fc6's of https://github.com/dosovits/caffe-fr-chairs: Caffe's deconvolutions
    have torch's order of transposed ones."""
    tensors = {}
    for name, value in weights.read(path).items():
        layer, _, blob = name.replace(".1.", ".").rpartition(".")
        tensors[f"{layer}.{({'0': 'weight', '1': 'bias'}).get(blob, blob)}"] = value
    places = {caffe: f"dense.{i}" for i, caffe in enumerate(DENSE)}
    places |= {row.caffe: f"blocks.{i}.1" for i, row in enumerate(cfg.rows)}
    found = {}
    for name, value in tensors.items():
        layer, _, part = name.partition(".")
        found[f"{places.get(layer, layer)}.{part}"] = value
    return weights.filled(lambda: Generator(cfg), found, path)


# --------------------------------------------------------------------------------------------------------- the system


def encoder_of(cfg: Config) -> Encoder:
    if cfg.encoder == "drawn":
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            found = caffenet.small(2, cfg.size, cfg.codes)
            for layer in found.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    drawn(layer, 1.0)
    elif (folder := Path(cfg.encoder)).is_dir():
        of_ours = trained.load(folder)
        found, kind, (_, height, width) = of_ours.inner, of_ours.facts.kind, of_ours.facts.size
        if kind != "frames" or (height, width) != (cfg.size, cfg.size):
            told = f"a {kind} of {height}x{width} pixels, not one of frames of {cfg.size}x{cfg.size}"
            raise weights.BadWeights(f"encoder {folder}: {told}")
    else:
        found = caffenet.load(weights.find(Published(cfg.encoder, "the encoder", caffenet.CAFFENET.address)))
    encoder = Encoder(found).requires_grad_(False).eval()
    if encoder.codes != cfg.codes:
        raise weights.BadWeights(f"codes {cfg.codes}: those of the encoder {cfg.encoder} have {encoder.codes} numbers")
    return encoder


def of_frames(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B T, 3, H, W]."""
    return video.transpose(1, 2).flatten(0, 1)


def for_caffe(video: Tensor) -> Tensor:
    """Red, green and blue in [-1, 1] -> Caffe's colours, in the same type."""
    mean = torch.tensor(caffenet.MEAN).to(video)[:, None, None, None]
    return (video.flip(1) + 1) * 127.5 - mean


def pixels(clip: Tensor) -> Tensor:
    """Red, green and blue from 0 to 255, and beyond."""
    return (clip + torch.tensor(caffenet.MEAN).to(clip)[:, None, None, None]).flip(1)


def from_caffe(clip: Tensor) -> Tensor:
    return (pixels(clip) / 127.5 - 1).clamp(-1, 1)


def build(cfg: Config) -> System:
    generator, critic, encoder = Generator(cfg), VideoCritic(cfg), encoder_of(cfg)
    start(generator, critic)
    of_pixels, of_features, of_critic = cfg.weights

    def encoded(clip: Tensor) -> caffenet.Encoded:
        weight = encoder.fc6.weight
        if (weight.device, weight.dtype) != (clip.device, clip.dtype):
            encoder.to(clip)
        return encoder(of_frames(clip))

    def draw_inputs(video: Tensor, labels: Tensor | None, draw: Draw) -> Inputs:
        with torch.no_grad(), torch.autocast(video.device.type, enabled=False):
            return Inputs(encoded(for_caffe(video)).fc6.unflatten(0, (len(video), -1)))

    def view(clip: Clip, inputs: Inputs, stage: Stage) -> Seen:
        return clip, inputs.latents

    def half_square(a: Tensor, b: Tensor, real: Tensor) -> Tensor:
        """As Caffe's Euclidean loss has it, in the type of real clips."""
        count = len(real) * (cfg.frames if cfg.mean_of == "frame" else 1)
        return (a.to(real) - b.to(real)).square().sum() / (2 * count)

    def image(fake: Clip, real: Clip, inputs: Inputs, stage: Stage) -> Tensor:
        return half_square(fake, real, real)

    def features(fake: Clip, real: Clip, inputs: Inputs, stage: Stage) -> Tensor:
        with torch.no_grad():
            wanted = getattr(encoded(real), cfg.compared)
        return half_square(getattr(encoded(fake), cfg.compared), wanted, real)

    return System(
        generator,
        draw_inputs,
        (Critic("video", critic, view, weight=of_critic),),
        cfg.sizes,
        real=lambda video, inputs, stage: for_caffe(video),
        video=from_caffe,
        terms=(Term("image", of_pixels, image), Term("features", of_features, features)),
        sees="clip",
    )
