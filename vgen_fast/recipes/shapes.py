"""The built-in recipe."""

from ..config import Config, Every, Grow
from ..models.progressive import Config as System
from ..models.progressive import rows


def shapes() -> Config:
    """Moving shapes made on the fly, 8x32x32, labelled by motion, shape and colour, in 9 minutes on two CPU cores."""
    system = System(rows=rows((64, 48, 32, 32), (4, 2, 1, 1)), latents=64, features=64, classes=(8, 3, 4))
    phases = (Grow(0, 3_200, 8), Grow(1_600, 3_200, 8), Grow(1_600, 3_200, 8), Grow(1_600, 5_600, 8))
    return Config(
        recipe="shapes",
        system=system,
        clips=20_000,
        phases=phases,
        every=Every(tick=400, samples=1_000, checkpoint=2_000),
    )
