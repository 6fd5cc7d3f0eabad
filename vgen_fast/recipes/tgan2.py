"""TGANv2, as published (spec/unconditional.md 3.3-3.5): Adam 1e-4 (0, 0.9) falling to 0 in 100,000 steps.

The caches are `data build tganv2.vgc --layout ucf101 --split train1 --stretch 192 256 --size 192 256`, of which the
columns from 4..60 on are seen, and `ff.vgc` of FaceForensics at 256 pixels.
"""

from ..config import Config, Every, Grow, Optim
from ..models.tgan2 import Config as System

STEPS = 100_000
EVERY = Every(tick=25_600, samples=256_000, checkpoint=256_000)


def released(recipe: str, system: System, data: str, batch: int, on_a_gpu: int = 32, **seen: object) -> Config:
    """`on_a_gpu`: clips of the authors' GPU, which their penalty, a sum, is as strong as, whatever the batch is."""
    return Config(
        recipe=recipe,
        system=system,
        objective="vanilla_r1",
        penalty=float(on_a_gpu),
        data=data,
        clips=STEPS * batch,
        phases=(Grow(0, STEPS * batch, batch, falling=STEPS * batch),),
        optim=Optim(generator_lr=1e-4, critic_lr=1e-4, betas=(0.0, 0.9), eps=8e-8, ema=0.0),
        every=EVERY,
        **seen,
    )


def ucf101() -> Config:
    """UCF-101, 16x192x192, four GPUs of 32 clips: inception score 25.07, FID 3457 after 82,000 steps."""
    return released("tgan2-ucf101", System(), "tganv2.vgc", 128, left=(4, 60), mirror=True)


def ucf101_64() -> Config:
    """The preprint's batch of 64 clips and one logit: inception score 22.70, FID 3591."""
    system = System(combine="logit_sum")
    return released("tgan2-ucf101-64", system, "tganv2.vgc", 64, left=(4, 60), mirror=True)


def faceforensics() -> Config:
    """FaceForensics, 16x256x256, eight GPUs of 16 clips; judged by eye."""
    return released("tgan2-faceforensics", System(first=4), "ff.vgc", 128, on_a_gpu=16)
