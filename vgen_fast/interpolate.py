"""`interpolate`: from one latent to another, in videos; or of a generator of images, as one video (Appendix B).

Legend: N pictures, P pairs, Z latent numbers.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .config import Config
from .data import transforms
from .data.loader import CachedClips
from .dataset import dataset
from .device import device_of
from .metrics.ssim import SMALLEST, coherence, ms_ssim
from .options import Refused, refuse
from .sample import Output, chosen_labels, finish, inputs_of, numbers, restored, understood, videos
from .train import report

EXAMPLES = """examples:
  python -m vgen_fast interpolate runs/shapes --seeds 1,2
  python -m vgen_fast interpolate runs/shapes --seeds 1,2,3,4 --steps 12 --out walks.mp4
  python -m vgen_fast interpolate runs/shapes --seeds 1,2 --labels left,disc,blue --out walk.gif
  python -m vgen_fast interpolate runs/pgan-billiard-512 --pairs 6 --out billiard.mp4"""
FRAMES, REALS, SAME = 32, 64, 0.95  # of real clips that images are compared with; pictures more alike are the same


class Interpolate(Output):
    seeds: str | None = None
    """Pairs of seeds, joined by commas: from the first to the second, from the third to the fourth; without it 0,1. For
    --pairs those to choose from; without it 0-99."""
    pairs: int = Field(0, ge=0)
    """Of images: so many pairs of seeds are chosen that show the same scene, as like each other as the first and the
    last of 32 frames of real clips, and the likest first."""
    steps: int | None = Field(None, gt=1)
    """From one end to the other, both included: videos, 6 without it, or of a generator of images the frames of one
    video, 32 without it."""
    path: Literal["lerp", "slerp"] = "lerp"
    """Straight, or along the great circle; then latents keep their length."""


def interpolate(words: list[str]) -> int:
    intro = "Videos along lines or arcs between latents (Appendix B); labels are those of each line's first end."
    command, run = understood(Interpolate(), "interpolate", intro, EXAMPLES, words)
    if run is None:
        return 0
    seeds = numbers(command.seeds or ("0-99" if command.pairs else "0,1"))
    system, config, clips_seen = restored(run, command.checkpoint, device=device_of(command.device))
    of_images, asked = config.system.sizes[-1][0] == 1, command.labels
    if command.pairs:
        if not of_images or config.system.sizes[-1][1] < SMALLEST:
            refuse(f"--pairs are of a generator of images of {SMALLEST} pixels at least")
        if asked is None and config.system.classes:  # one scene has one label: the first seed's
            asked = ",".join(map(str, chosen_labels(config, seeds[:1], None)[0].tolist()))
        inputs = inputs_of(system, config, seeds, chosen_labels(config, seeds, asked))
        seeds = alike(seeds, videos(system, config, inputs, clips_seen)[:, 0], config, command.pairs)
    if len(seeds) % 2:
        refuse(f"--seeds wants pairs, got {len(seeds)} seeds")
    steps = command.steps or (32 if of_images else 6)
    labels = chosen_labels(config, seeds[::2], asked)
    first, last = (inputs_of(system, config, ends, labels) for ends in (seeds[::2], seeds[1::2]))
    if not first.latents[0].numel():
        refuse(
            f"{run} is a run of {config.system.name} whose generator has no latents: all follows from the given frame"
        )
    line = first.each(lambda tensor: tensor.repeat_interleave(steps, dim=0))
    between = (slerp if command.path == "slerp" else straight)(first.latents.flatten(1), last.latents.flatten(1), steps)
    frames = videos(system, config, replace(line, latents=between.reshape(line.latents.shape)), clips_seen)
    if of_images:
        frames = frames.reshape(-1, steps, *frames.shape[2:])
        finish(frames, Path(command.out), command.fps, seeds[::2], command.columns)
        tell_coherence(frames, config)
        return 0
    return finish(frames, Path(command.out), command.fps, [seed for seed in seeds[::2] for _ in range(steps)], steps)


def straight(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """[P, Z] -> [P, steps, Z]: z_n = first + n (last - first) / (steps - 1)."""
    return torch.lerp(first[:, None], last[:, None], torch.linspace(0, 1, steps)[:, None])


def slerp(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """[P, Z] -> [P, steps, Z] along great circles, at an even angular speed; lengths between those of the ends."""
    lengths = straight(first.norm(dim=1, keepdim=True), last.norm(dim=1, keepdim=True), steps)
    a, b = F.normalize(first)[:, None], F.normalize(last)[:, None]
    angle = (a * b).sum(dim=2, keepdim=True).clamp(-1, 1).acos()
    share = torch.linspace(0, 1, steps)[:, None]
    sines = ((1 - share) * angle).sin() * a + (share * angle).sin() * b
    return lengths * torch.where(angle < 1e-4, straight(a[:, 0], b[:, 0], steps), sines / angle.sin().clamp_min(1e-8))


def small(pictures: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> [N, 3, h, w] of at most 64 pixels."""
    found = transforms.to_video(torch.from_numpy(pictures)[:, None])[:, :, 0]
    factor = max(found.shape[2] // 64, 1)
    return F.avg_pool2d(found.float(), factor) if factor > 1 else found.float()


def real_clips(config: Config) -> np.ndarray:
    """uint8 [N, 32, H, W, 3] of what a generator of images was trained on."""
    size = (FRAMES, *config.system.sizes[-1][1:])
    clips = dataset(config.model_copy(update={"short": "repeat"}), size=size)
    if isinstance(clips, CachedClips) and clips.cache.frames[clips.chosen].max() == 1:
        refuse(
            f"{config.data} holds single frames, no clips to compare with: build it of whole films, without --frames 1"
        )
    return transforms.to_frames(clips(torch.arange(REALS), size)[0]).numpy()


def alike(seeds: list[int], made: np.ndarray, config: Config, count: int) -> list[int]:
    """Pairs of seeds, one after the other: of all pairs of pictures those whose MS-SSIM is above the 25th percentile of
    first and last frames of real clips and below 0.95, the likest first, no seed twice.
    """
    real, pictures = real_clips(config), small(made)
    least = float(ms_ssim(small(real[:, 0]), small(real[:, -1])).quantile(0.25))
    i, j = torch.triu_indices(len(seeds), len(seeds), 1)
    found = ms_ssim(pictures[i], pictures[j])
    chosen: list[int] = []
    for pair in found.argsort(descending=True).tolist():
        ends = [seeds[i[pair]], seeds[j[pair]]]
        if least < found[pair] < SAME and not {*ends} & {*chosen} and len(chosen) < 2 * count:
            chosen += ends
            report.show(f"seeds {ends[0]} and {ends[1]}: MS-SSIM {found[pair]:.3f} (real clips: {least:.3f} and more)")
    if not chosen:
        refuse(f"--pairs: no two of {len(seeds)} seeds are as alike as the ends of real clips, {least:.3f} and more")
    return chosen


def tell_coherence(frames: np.ndarray, config: Config) -> None:
    """MS-SSIM from one frame to the next, of what was made and, where there are any, of real clips."""
    if frames.shape[2] < SMALLEST:
        return
    mean = lambda clips: float(coherence(transforms.to_video(torch.from_numpy(clips))).mean())  # noqa: E731
    try:
        beside = f", of real clips {mean(real_clips(config)):.3f}"
    except Refused as error:
        beside = f" ({error})"
    report.show(f"from one frame to the next: MS-SSIM {mean(frames):.3f}{beside}")
