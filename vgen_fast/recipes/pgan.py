"""Progressively grown images of actions (spec/unconditional.md 5.2, 5.3): Adam 1e-3 (0, 0.99), WGAN-GP, 85,876 images.

The cache is `data build billiard.vgc --layout ucf101 --classes Billiards --stretch 512 682 --size 512 512 --storage
jpeg`, others in docs/data.md: whole films, a frame of which is drawn each time, mirrored or not. `interpolate` compares
videos with them.
300,000 images to fade a level in, 300,000 stable, 4,000,000 at the last: 7,900,000, as the thesis' table splits.
Batches are those of the authors' preset for four GPUs, which the thesis had.
"""

from ..config import Config, Every, Grow
from ..models.progressive import Config as System
from ..models.progressive import images

BATCHES = (512, 256, 128, 64, 32, 16, 16, 16, 16)
EVERY = Every(tick=10_000, samples=100_000, checkpoint=100_000)


def of_actions(recipe: str, pixels: int, data: str, last: int, classes: tuple[int, ...] = ()) -> Config:
    """`last`: images of the largest level."""
    system = System(rows=images(pixels), latents=512, features=512, classes=classes, labels="told")
    levels = len(system.rows)
    half = 300_000
    phases = tuple(
        Grow(half if level else 0, last - half if level == levels - 1 else half, BATCHES[level])
        for level in range(levels)
    )
    clips = sum(phase.fade + phase.stable for phase in phases)
    return Config(recipe=recipe, system=system, data=data, mirror=True, clips=clips, phases=phases, every=EVERY)


def billiard_512() -> Config:
    """One class at 512 pixels, 7,900,000 images, four days on four GPUs: MS-SSIM 0.31, as the images have."""
    return of_actions("pgan-billiard-512", 512, "billiard.vgc", 4_000_000)


def five_classes_256() -> Config:
    """ApplyEyeMakeup, Typing, Skiing, BandMarching, Hammering at 256 pixels; three days on four GPUs, judged by eye."""
    return of_actions("pgan-five-classes-256", 256, "five-classes.vgc", 4_000_000, (5,))


def sixteen_classes_256() -> Config:
    """The sixteen classes of body motion alone at 256 pixels; five days on four GPUs, judged by eye."""
    return of_actions("pgan-sixteen-classes-256", 256, "sixteen-classes.vgc", 4_000_000, (16,))


def clean_and_jerk_256() -> Config:
    """One class at 256 pixels, as the thesis' appendix has it; judged by eye."""
    return of_actions("pgan-clean-and-jerk-256", 256, "clean-and-jerk.vgc", 600_000)


def archery_256() -> Config:
    """One class at 256 pixels, as the thesis' appendix has it; judged by eye."""
    return of_actions("pgan-archery-256", 256, "archery.vgc", 600_000)
