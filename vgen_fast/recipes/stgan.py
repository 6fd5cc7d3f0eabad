"""STGAN as in the thesis (spec/conditional.md A4, A5), and the network of images it is inflated from (A1).

Adam (0.9, 0.999), decay of the critic's weights alone: 4e-4 beside a loss 100 times as large, 4e-6 here. Networks rest
by the ratio of their losses: images' by their authors' hysteresis, videos' by eq. 4.9.
"""

from ..config import Config, Every, Grow, Optim
from ..models.stgan import Config as System


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
