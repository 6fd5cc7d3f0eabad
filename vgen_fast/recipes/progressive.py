"""The progressive video GAN with the sliced-Wasserstein loss on its four data sets (spec/unconditional.md 6.6-6.8).

600,000 clips to fade a level in and 600,000 stable; Adam 1e-3, 1.5e-3 at 128 pixels; about a week on one GPU.
"""

from ..config import Config, Every, Grow
from ..models.progressive import SCHEDULES
from ..models.progressive import Config as System

BATCHES = (32, 32, 16, 16, 8, 8, 4)
EVERY = Every(tick=10_000, samples=50_000, checkpoint=100_000)


def released(recipe: str, schedule: str, data: str) -> Config:
    rows = SCHEDULES[schedule]
    phases = tuple(
        Grow(
            fade=600_000 if level else 0,
            stable=600_000 if level else 1_200_000,
            batch=batch,
            rate=1.5 if level == 5 else 1.0,
        )
        for level, batch in enumerate(BATCHES[: len(rows)])
    )
    system = System(rows=rows)
    return Config(
        recipe=recipe, system=system, objective="swgan", data=data, clips=12_000_000, phases=phases, every=EVERY
    )


def ucf101_128() -> Config:
    """UCF-101, 32x128x128: inception score 14.56 (13.59 with --objective wgan_gp)."""
    return released("progressive-ucf101-128", "ucf_128", "ucf101.vgc")


def golf_128() -> Config:
    """Tinyvideo golf, 32x128x128: C3D-FID 95,544 with wgan_gp; VGAN 113,007."""
    return released("progressive-golf-128", "ucf_128", "golf.vgc")


def aeroplane_128() -> Config:
    """Tinyvideo aeroplane, 32x128x128: C3D-FID 102,049 with wgan_gp; VGAN 149,094."""
    return released("progressive-aeroplane-128", "ucf_128", "aeroplane.vgc")


def trailerfaces_256() -> Config:
    """TrailerFaces, 10,910 clips, 32x256x256: judged by eye in the thesis, no score."""
    return released("progressive-trailerfaces-256", "thesis_256", "trailerfaces.vgc")
