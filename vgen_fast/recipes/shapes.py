"""The built-in recipe, and one for MoCoGAN's shape-motion set."""

from ..config import Config, Every, Grow, Optim
from ..models.progressive import Config as System
from ..models.progressive import rows


def shapes() -> Config:
    """Moving shapes made on the fly, labelled by motion, shape and colour, 8x32x32: minutes on two CPU cores.

    Few latents, so that the labels weigh as much; the non-saturating loss with a lazy penalty on reals gets further
    than WGAN-GP in as many minutes. Momentum and high rates, which fall at the end, make colours even.
    """
    system = System(rows=rows((64, 32, 32, 16), (4, 2, 1, 1)), latents=16, features=64, classes=(8, 3, 4))
    phases = (Grow(0, 1_600, 8), Grow(800, 1_600, 8), Grow(1_200, 2_000, 8), Grow(1_600, 5_200, 8, halving=2_500))
    return Config(
        recipe="shapes",
        system=system,
        objective="vanilla_r1",
        penalty=0.5,
        penalty_every=4,
        clips=12_800,
        phases=phases,
        optim=Optim(generator_lr=5e-3, critic_lr=4e-3, betas=(0.5, 0.99), ema=0.997),
        every=Every(tick=200, samples=1_000, checkpoint=2_000),
    )


def shape_motion() -> Config:
    """MoCoGAN's shape-motion set (--data FOLDER with folders 0 and 1 of strips), 16x32x32, half an hour on a CPU core.

    Windows of 16 frames and 32x32 pixels that hold the whole motion, so that shapes keep their edges and one colour.
    Labelled by motion: 0 is up and down, 1 is to the sides. docs/systems.md has what comes of it.
    """
    system = System(rows=rows((64, 32, 16, 8), (4, 2, 2, 1)), latents=16, features=64, classes=(2,))
    phases = (Grow(0, 1_600, 8), Grow(800, 1_600, 8), Grow(1_200, 2_000, 8), Grow(1_600, 11_200, 8, halving=6_000))
    return Config(
        recipe="shape-motion",
        system=system,
        objective="vanilla_r1",
        penalty=0.5,
        penalty_every=4,
        data="shapes-strips",
        shrink="crop",
        clips=20_000,
        phases=phases,
        optim=shapes().optim,
        every=shapes().every,
    )
