"""MoCoGAN, as published (spec/unconditional.md 4.3-4.5): Adam 2e-4 (0.5, 0.999), weight decay 1e-5, 100,000 steps.

Every second frame; 32 clips a step, as the commonly used command has it.
"""

from ..config import Config, Every, Grow, Optim
from ..models.mocogan import Config as System

STEPS, BATCH = 100_000, 32
EVERY = Every(tick=6_400, samples=64_000, checkpoint=64_000)


def released(recipe: str, system: System, data: str) -> Config:
    return Config(
        recipe=recipe,
        system=system,
        objective="vanilla",
        data=data,
        strides=(2, 2),
        short="repeat",
        clips=STEPS * BATCH,
        phases=(Grow(0, STEPS * BATCH, BATCH),),
        optim=Optim(generator_lr=2e-4, critic_lr=2e-4, betas=(0.5, 0.999), weight_decay=1e-5, ema=0.0),
        every=EVERY,
    )


def shapes() -> Config:
    """The shape-motion set, 16x64x64: content distance 1.79 (VGAN 5.02, TGAN 2.08, real 0)."""
    return released("mocogan-shapes", System(classes=(2,)), "moco.vgc")


def ucf101() -> Config:
    """UCF-101, 16x64x64, 101 categories that nobody gave: inception score 12.42; keep the best, it degrades late."""
    return released("mocogan-ucf101", System(categories=101), "tgan.vgc")


def mug() -> Config:
    """MUG, faces at 16x64x64, six expressions: content distance 0.201, motion accuracy 0.581."""
    return released("mocogan-mug", System(classes=(6,)), "mug.vgc")
