"""STGAN as in the thesis (spec/conditional.md A4, A5), and the network of images it is inflated from (A1).

Adam (0.9, 0.999), decay of the critic's weights alone: 4e-4 beside a loss 100 times as large, 4e-6 here. Networks rest
by the ratio of their losses: images' by their authors' hysteresis, videos' by eq. 4.9.
"""

from dataclasses import replace

from ..config import Config, Every, Grow, Optim
from ..models.stgan import Config as System
from ..models.stgan import Look, Row


def published(recipe: str, system: System, data: str, steps: int, batch: int, rate: float, halved_at, **more) -> Config:
    optim = Optim(generator_lr=rate, critic_lr=rate, betas=(0.9, 0.999), weight_decay=4e-6, critics_decay=True, ema=0.0)
    return Config(
        recipe=recipe,
        system=system,
        objective="vanilla",
        data=data,
        clips=steps * batch,
        phases=(Grow(0, steps * batch, batch, halved_at=tuple(step * batch for step in halved_at)),),
        optim=optim,
        every=Every(tick=100 * batch, samples=2_000 * batch, checkpoint=5_000 * batch),
        **more,
    )


def small(recipe: str, system: System, clips: int, batch: int, rate: float, **more) -> Config:
    optim = Optim(generator_lr=rate, critic_lr=rate, betas=(0.5, 0.999), ema=0.99)
    return Config(
        recipe=recipe,
        system=system,
        objective="vanilla",
        data="shapes.vgc",
        split="unlabelled",
        clips=clips,
        phases=(Grow(0, clips, batch, halving=clips // 3),),
        optim=optim,
        every=Every(tick=clips // 30, samples=clips // 6, checkpoint=clips // 6),
        **more,
    )


SMALL = System(
    depth=1,
    frames=1,
    size=32,
    codes=256,
    first=(64, 4),
    rows=(Row("deconv2", 64), Row("conv2_1", 64, 1), Row("deconv1", 32), Row("conv1_1", 32, 1), Row("deconv0", 3)),
    looks=(Look(16, 5, 2), Look(32, 3), Look(64, 3, 2), Look(64, 3)),
    of_code=(128, 64),
    joined=64,
    encoder="runs/encoder",
    weights=(1e-4, 1e-2, 10.0),
)


def shapes_images() -> Config:
    """Frames of a cache of the built-in videos, 32x32, from codes of the small CaffeNet in runs/encoder (train
    classifier --network frames --outdir runs/encoder): 15 minutes of a CPU core; examples/stgan_offline.py runs it."""
    return small("shapes-stgan-images", SMALL, 96_000, 32, 5e-4, balance="hysteresis")


def shapes() -> Config:
    """Its inflation (--inflate runs/shapes-stgan-images) tuned on their videos, 8x32x32: 10 minutes of a core."""
    return small("shapes-stgan", replace(SMALL, depth=3, frames=8), 8_000, 8, 1e-4, balance="ratio")


def images() -> Config:
    """The network of images from codes of CaffeNet's fc6, 227x227, 1.3 million steps of 64; ImageNet in a cache."""
    halved_at = (300_000, 500_000, 700_000, 900_000, 1_100_000)
    system = System(depth=1, frames=1)
    return published("stgan-images", system, "imagenet.vgc", 1_300_000, 64, 2e-4, halved_at, balance="hysteresis")


def ucf101() -> Config:
    """Its inflation (--inflate) tuned on UCF-101, 8 frames at 5 fps: inception score 17.42 through LRCN, 23.44
    before it is tuned."""
    halved_at = (10_000, 25_000, 50_000, 70_000, 90_000)
    return published("stgan-ucf101", System(), "stgan.vgc", 100_000, 8, 1e-5, halved_at, balance="ratio")
