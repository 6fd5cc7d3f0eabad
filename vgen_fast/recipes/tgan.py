"""TGAN on UCF-101, as published (spec/unconditional.md 2.3, 2.5, 2.7): RMSprop 5e-5, 32 clips a step, 100,000 steps.

The cache is `data build tgan.vgc --layout ucf101 --split train1 --stretch 64 85 --size 64 64`.
"""

from ..config import Config, Every, Grow, Optim
from ..models.tgan import Config as System

STEPS, BATCH = 100_000, 32
EVERY = Every(tick=6_400, samples=64_000, checkpoint=64_000)


def released(recipe: str, system: System, objective: str = "wgan", data: str = "tgan.vgc") -> Config:
    return Config(
        recipe=recipe,
        system=system,
        objective=objective,
        data=data,
        clips=STEPS * BATCH,
        phases=(Grow(0, STEPS * BATCH, BATCH),),
        optim=Optim(rule="rmsprop", generator_lr=5e-5, critic_lr=5e-5, ema=0.0),
        diverged="go-on",  # the signs of divergence were chosen on runs of Adam
        every=EVERY,
    )


def ucf101() -> Config:
    """Singular value clipping: inception score 11.85 (about 12 after 20,000 steps elsewhere)."""
    return released("tgan-ucf101", System())


def ucf101_weight_clip() -> Config:
    """Weights in [-0.01, 0.01]: inception score 11.77."""
    return released("tgan-ucf101-weight-clip", System(clip_singular_values=False), "wgan_clip")


def ucf101_normal() -> Config:
    """The original game, with noise in the critic and no clipping: inception score 9.18."""
    return released("tgan-ucf101-normal", System(clip_singular_values=False, noise=0.3), "vanilla")


def ucf101_labels() -> Config:
    """Told the action: inception score 15.83."""
    return released("tgan-ucf101-labels", System(classes=(101,)))


def ucf101_3d() -> Config:
    """The baseline of 3D convolutions, singular values clipped: inception score 4.78 (weights clipped: 4.32)."""
    return released("tgan-ucf101-3d", System(generator="3d"))


def golf() -> Config:
    """Tinyvideo golf, 16x64x64: C3D-FID 112,029, aeroplane 120,417 (in the thesis of the progressive GAN)."""
    return released("tgan-golf", System(), data="golf.vgc")
