"""DVD-GAN and TrIVD-GAN, so far as spec/conditional.md has what their authors did (B5, B7).

Hinge loss, spectral norm, rates 1e-4 and 5e-4, two critic steps for each of the generator's, batches of 512. Of our
choosing, as BigGAN has them: widths of critics, betas, and an average of weights that remembers 10,000 steps. They
trained on 32 to 512 TPU replicas for 12 to 96 hours; `--micro-batch` and torchrun are how a batch fits elsewhere.

The caches are `data build kinetics.vgc --layout kinetics --root R --split train --size 128 128` and `data build
bair.vgc --layout bair --root R --split train`; of a cache that holds more, `--split train` takes what is for training.
"""

from ..config import Config, Every, Grow, Optim
from ..layers.dual_critics import Critics
from ..models.dvdgan import Config as System

BATCH = 512


def published(recipe: str, system: System, steps: int, data: str) -> Config:
    return Config(
        recipe=recipe,
        system=system,
        objective="hinge",
        critic_steps=2,
        data=data,
        mirror=True,
        short="repeat",
        clips=steps * BATCH,
        micro_batch=8,
        phases=(Grow(0, steps * BATCH, BATCH),),
        optim=Optim(generator_lr=1e-4, critic_lr=5e-4, betas=(0.0, 0.999), ema=0.9999),
        diverged="go-on",
        every=Every(tick=51_200, samples=512_000, checkpoint=512_000),
    )


def kinetics_128() -> Config:
    """DVD-GAN, told one of 600 actions, 12x128x128: 300,000 steps of 512; the thesis has no score of it."""
    ch = 96
    critics = Critics(
        spatial=(ch, 2 * ch, 4 * ch, 8 * ch, 16 * ch, 16 * ch),
        temporal=(2 * ch, 4 * ch, 8 * ch, 16 * ch, 16 * ch),
        shrink=2,
        weights=(1.0, 1.0),
    )
    widths = (8 * ch, 8 * ch, 8 * ch, 4 * ch, 2 * ch, ch)
    system = System("dvdgan", "synthesis", 128, widths, frames=12, classes=(600,), critics=critics)
    return published("dvdgan-kinetics-128", system, 300_000, "kinetics.vgc")


def trivdgan_bair_64() -> Config:
    """TrIVD-GAN on BAIR, 16x64x64 from one frame: TSRU_p, the best of its cells, and three critics ("stronger")."""
    critics = Critics(decomposition="stronger", shrink=2, weights=(1.0, 1.0))
    system = System(frames=16, cell="tsru_p", critics=critics)
    return published("trivdgan-bair-64", system, 300_000, "bair.vgc")
