"""Classifiers that lead `maximize`: published ones and those of `train classifier`, shown what STGAN makes (spec A6).

Legend: B videos, T frames, H x W pixels, K classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .data import ucf101
from .metrics.presets import C3D_FRAMES, mean_cube
from .models import stgan
from .nets import c3d, caffenet, lrcn, trained, weights
from .nets.weights import BadWeights
from .options import refuse

AT_ONCE = 4  # frames that networks of frames see together, recomputing

# A clip in Caffe's colours [B, 3, T, H, W], whether to recompute -> logits [B, frames or 1, K].
Condition = Callable[[Tensor, bool], Tensor]


def by_frames(network: Callable[[Tensor], Tensor], clip: Tensor, recompute: bool) -> Tensor:
    """Of each frame [B, T, ...]; recomputing, some frames at a time, of which nothing else is kept."""
    pictures = stgan.of_frames(clip)
    if recompute:
        parts = pictures.split(AT_ONCE)
        found = torch.cat([checkpoint(network, p, use_reentrant=False, preserve_rng_state=False) for p in parts])
    else:
        found = network(pictures)
    return found.unflatten(0, clip.shape[::2][:2])


def of_ours(network: trained.Trained) -> Condition:
    """Of pixels that are not cut to 0 and 255, which have a gradient everywhere."""
    size = network.inner.size
    return lambda clip, recompute=False: network.inner(trained.prepare(stgan.pixels(clip), size)).logits[:, None]


def of_c3d(network: c3d.C3D, cube: Tensor) -> Condition:
    """The central 16 frames, of 224x224 pixels."""

    def condition(clip: Tensor, recompute: bool = False) -> Tensor:
        pixels = trained.central(stgan.pixels(clip), C3D_FRAMES)
        return network(c3d.as_condition(pixels, cube.to(clip))).logits[:, None]

    return condition


def of_lrcn(network: lrcn.LRCN) -> Condition:
    """Whose colours have other means; each frame has a say."""
    between = torch.tensor(caffenet.MEAN) - torch.tensor(lrcn.MEAN)

    def condition(clip: Tensor, recompute: bool = False) -> Tensor:
        shifted = clip + between.to(clip)[:, None, None, None]
        seen = by_frames(network.of_frames, shifted, recompute)
        with torch.backends.cudnn.flags(enabled=False):  # whose LSTM has no backward in evaluation
            return network.over_time(seen)[0]

    return condition


def of_encoder(network: caffenet.CaffeNet) -> Condition:
    return lambda clip, recompute=False: by_frames(lambda pictures: network(pictures).logits, clip, recompute)


class Leader(NamedTuple):
    condition: Condition
    network: nn.Module
    name: str
    label: str  # that it tells
    classes: tuple[str, ...]
    frames: int  # that it wants at least
    size: int | None = None  # of them, in the middle of the generator's, where it takes no other


def leader_of(name: str) -> Leader:
    try:
        if name == "lrcn":
            path = weights.find(lrcn.RGB)
            network = lrcn.load(path).eval().requires_grad_(False)
            return published(of_lrcn(network), network, f"lrcn@{weights.digest(path)[:12]}", 1, caffenet.SIDE)
        if name == "c3d":
            path = weights.find(c3d.CHAINER)
            network = c3d.load(path, double_stride=True).eval().requires_grad_(False)
            told = f"c3d-ucf101@{weights.digest(path)[:12]}"
            return published(of_c3d(network, mean_cube()), network, told, C3D_FRAMES, network.size[1])
        if not Path(name).is_dir():
            refuse(f"--condition: {name!r} is neither lrcn, nor c3d, nor a folder of `train classifier`")
        network = trained.load(Path(name)).eval().requires_grad_(False)
    except BadWeights as error:
        refuse(f"--condition: {error}")
    inner, told = network.inner, (network, network.name, network.facts.label, network.facts.values)
    if isinstance(inner, lrcn.LRCN):
        return Leader(of_lrcn(inner), *told, 1, inner.side)
    if isinstance(inner, caffenet.CaffeNet):
        return Leader(of_encoder(inner), *told, 1, network.facts.size[1])
    return Leader(of_ours(network), *told, inner.size[0])


def published(condition: Condition, network: lrcn.LRCN | c3d.C3D, name: str, frames: int, size: int) -> Leader:
    """A network of UCF-101's classes; of another number of them only the numbers are known."""
    count = network.fc8.out_features
    classes = ucf101.CLASSES if count == len(ucf101.CLASSES) else tuple(map(str, range(count)))
    return Leader(condition, network, name, "class", classes, frames, size)
