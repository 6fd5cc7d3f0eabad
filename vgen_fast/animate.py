"""`animate`: photographs that move, by a generator that predicts from a first frame.

Legend: N photographs, K futures of each, T frames, H x W pixels of the generator.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from .config import Config
from .data import transforms
from .data.decode import Rejected
from .data.pool import Pool
from .data.resize import Fit, resize
from .data.sources import PICTURES, below
from .device import Placed, device_of
from .given import readers
from .models.system import Draw, Inputs, System
from .options import changed, help_text, options_of, parse, refuse
from .sample import beside_the_generator, finish, numbers, recorded, restored
from .train import report, seeding

EXAMPLES = """examples:
  python -m vgen_fast animate photo.jpg --run runs/style-landscape-128
  python -m vgen_fast animate photo.jpg --run runs/sky --seeds 0-3 --frames 100 --out futures.gif
  python -m vgen_fast animate photos --run runs/sky --out moving --mask sky.png"""
AT_ONCE = 24  # frames
KINDS = (".mp4", ".gif", ".png", ".npz")


class Command(Placed):
    run: str | None = None
    """The run folder of the generator: style-based prediction, DVD-GAN-S or VGAN's prediction."""
    out: str = "animated.mp4"
    """Where to: .mp4 and .gif play the futures side by side, .png has a strip of frames for each, .npz the bytes
    [K, T, H, W, 3]. For a folder of photographs it is a folder of .mp4."""
    seeds: str = "0"
    """A future each: numbers and ranges joined by commas."""
    frames: int | None = Field(None, gt=1)
    """Length, the photograph included; without it that of the clips the run was trained on."""
    fit: Literal["pad", "crop"] = "pad"
    """What becomes of photographs that are not as wide as high: all of it, its border continued to a square while the
    generator looks at it, or its middle."""
    mask: str | None = None
    """A picture as large as the photographs, white where they may move; elsewhere they stay as they are."""
    fps: float = Field(8, gt=0)
    """Frames a second."""
    checkpoint: Literal["newest", "best"] = "newest"
    """The best has the best score (--scores.best of the training), of those that are left."""


def animate(words: list[str]) -> int:
    options, usage = list(options_of(Command())), "python -m vgen_fast animate PHOTOGRAPH --run RUN [options]"
    if words == ["--help"]:
        intro = "A photograph, or each of a folder, goes on as a video."
        report.show(help_text(usage, intro, options, EXAMPLES))
        return 0
    if not words or words[0].startswith("-"):
        refuse(f"animate wants a photograph or a folder first: {usage}")
    command = changed(Command(), parse(words[1:], options))
    if not command.run:
        refuse(f"--run: which generator? {usage}")
    photographs, seeds = jobs(Path(words[0]), Path(command.out)), numbers(command.seeds)
    system, config = predictor(command)
    with readers() as pool:
        mask, bad = masked(command.mask, pool), 0
        for path, out in photographs:
            try:
                pixels = pool.picture(path, photograph=True)
                frames = futures(system, config, pixels, seeds, command, mask, path)
            except Rejected as error:
                if len(photographs) == 1:
                    refuse(f"{path}: {error}")
                report.complain(f"left out {path}: {error}")
                bad += 1
                continue
            finish(frames, out, command.fps, seeds, len(seeds))
    if bad == len(photographs):
        refuse(f"{words[0]}: none of {bad} photographs can be read")
    return 0


def jobs(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """Photographs, and the files their videos go to."""
    if not source.exists():
        refuse(f"{source} is neither a photograph nor a folder")
    if not source.is_dir():
        if out.suffix not in KINDS:
            refuse(f"--out wants a name that ends in {', '.join(KINDS)}, got {str(out)!r}")
        return [(source, out)]
    found = [Path(path) for path in below(source, source, PICTURES)]
    if not found:
        refuse(f"{source} has no photographs ({' '.join(PICTURES)})")
    folder = out.with_suffix("")
    names = [path.with_suffix("") for path in found]
    return [
        (source / path, folder / (f"{name}.mp4" if names.count(name) == 1 else f"{path}.mp4"))
        for path, name in zip(found, names, strict=True)
    ]


def predictor(command: Command) -> tuple[System, Config]:
    """The run's generator, for clips of that length."""
    config = recorded(Path(command.run))
    trained, longest = config.system.sizes[-1][0], command.frames
    if longest and longest != trained and not hasattr(config.system, "frames"):
        refuse(f"--frames: the length of a {config.system.name} generator's clips is fixed, {trained}")
    if longest and longest < trained:
        longest = trained  # and cut: critics may not see shorter ones
    system, config, _ = restored(Path(command.run), command.checkpoint, longest, device_of(command.device))
    if system.sees != "frame":
        refuse(f"{command.run} is a {config.system.name} generator that starts from no frame: it cannot go on from one")
    if longest and longest > trained:
        report.show(f"{longest} frames: the run was trained on {trained}, what comes after may fall apart or repeat")
    return system, config


def masked(path: str | None, pool: Pool) -> np.ndarray | None:
    try:
        return None if path is None else pool.picture(Path(path), photograph=True)
    except Rejected as error:
        refuse(f"--mask {path}: {error}")


def fitted(pixels: np.ndarray, side: int, how: str) -> tuple[np.ndarray, tuple[slice, slice]]:
    """uint8 [side, side, 3], and where in it the picture is."""
    height, width, _ = pixels.shape
    if how == "crop":
        fit = Fit(shorter=side, crop=(side, side))
        top, left, high, wide = fit.cut(height, width)
        return resize(pixels, *fit.size(height, width))[top : top + high, left : left + wide], (slice(None),) * 2
    # Even sides, as players want them; one pixel less than a thousandth of the proportions.
    longer = max(height, width)
    high, wide = (max(2, 2 * round(side * length / longer / 2)) for length in (height, width))
    top, left = (side - high) // 2, (side - wide) // 2
    edges = ((top, side - high - top), (left, side - wide - left), (0, 0))
    return np.pad(resize(pixels, high, wide), edges, mode="edge"), (slice(top, top + high), slice(left, left + wide))


def futures(
    system: System, config: Config, pixels: np.ndarray, seeds: list[int], command: Command, mask: np.ndarray | None,
    path: Path,
) -> np.ndarray:  # fmt: skip
    """uint8 [K, T, H, W, 3]."""
    _, side, _ = config.system.sizes[-1]
    square, inside = fitted(pixels, side, command.fit)
    frames = command.frames or config.system.sizes[-1][0]
    first = transforms.to_video(torch.from_numpy(square[None, None].copy())) / 127.5 - 1  # [1, 3, 1, H, W]
    made = []
    for seed in seeds:
        draw = Draw(seeding.derived(seed, "latents"), 1, torch.arange(1), first)
        pieces, done = [], 0
        inputs = system.draw_inputs(first, None, draw)
        if len(seeds) > 1 and not inputs.latents.numel():
            refuse(f"--seeds: this {config.system.name} generator draws nothing at random: a photograph has one future")
        for piece in rollout(system, config, inputs):
            pieces.append(transforms.to_frames(transforms.to_bytes(piece))[0].cpu().numpy())
            done += len(pieces[-1])
            report.show(f"{path}, seed {seed}: {min(done, frames)} of {frames} frames")
            if done >= frames:
                break
        made.append(np.concatenate(pieces)[:frames])
    videos = np.stack(made)
    videos[:, 0] = square  # to the bit
    if mask is not None:
        if mask.shape[:2] != pixels.shape[:2]:
            want, have = ("x".join(map(str, array.shape[1::-1])) for array in (pixels, mask))
            refuse(f"--mask: {command.mask} is {have} pixels, {path} is {want}")
        still = fitted(mask, side, command.fit)[0].max(axis=2) < 128
        videos[:, :, still] = square[still]
    return videos[:, :, inside[0], inside[1]]


@torch.no_grad()
def rollout(system: System, config: Config, inputs: Inputs) -> Iterator[torch.Tensor]:
    """Videos [1, 3, t, H, W], one after the other."""
    inputs = beside_the_generator(system, inputs)
    if system.rollout:
        yield from system.rollout(inputs, AT_ONCE)
    else:
        yield system.video(system.generator(inputs, config.stage(config.clips - 1)))
