"""Style-based prediction and DVD-GAN-S beside it, as in the thesis (spec/conditional.md B4-B8).

Adam 3e-4 (0.5, 0.999), gradients cut to 2.5, two critic steps for each of the generator's; rates stay for 10 epochs,
then fall to 0 along a cosine over the rest of 260. The authors' loop takes a batch for every step of any network, so
that an epoch of N clips trains the generator on N / 3. Rivers at 128x128 have the million batches of 8 that the
thesis names, 1,070 epochs of them; it does not say how long its DVD-GAN-S was trained, which sees as many clips here.

Their penalty has the weight 1, a tenth of WGAN-GP's: healthy runs wander so far that they look diverged, and go on. Its
drift, 0.001 times the squared scores of reals, is not theirs. Caches hold whole videos; windows are drawn, and mirrored
or not.

Rivers are `data build landscape.vgc --layout landscape --root R --stretch 128 128 --size 128 128 --fps 25`, or of other
films `--builder landscape --size 128 128`, then `data split landscape.vgc 206`; 256x256 is another cache of that name.
"""

from ..config import Config, Every, Grow, Optim
from ..layers.dual_critics import Critics
from ..models import dvdgan
from ..models.style_prediction import Config as System

EPOCHS, CONSTANT = 260, 10
BAIR, SKY, LANDSCAPE = 43_264, 35_392, 7_480  # clips for training
MILLION = 8_000_000 // 3  # clips of the generator in a million batches of 8
OPTIM = Optim(generator_lr=3e-4, critic_lr=3e-4, betas=(0.5, 0.999), clip=2.5, ema=0.0)
EVERY = Every(tick=800, samples=8_000, checkpoint=16_000)
AT_64 = Critics()
AT_128 = Critics(spatial=(16, 32, 64, 128, 256, 256), temporal=(64, 128, 256, 512, 1024, 1024))
AT_256 = Critics(spatial=(16, 32, 64, 128, 128), temporal=(64, 128, 256, 512, 512), shrink=2)


def published(
    recipe: str, system: object, data: str, clips: int, batch: int, micro_batch: int, seen: int | None = None
) -> Config:
    """`seen`: how many clips the generator makes; 260 epochs of a third of `clips` without it."""
    epoch = clips // 3 // batch * batch
    length = seen // batch * batch if seen else EPOCHS * epoch
    return Config(
        recipe=recipe,
        system=system,
        objective="wgan_gp",
        penalty=0.1,
        critic_steps=2,
        data=data,
        split="train" if clips == LANDSCAPE else None,
        mirror=True,
        short="repeat",
        clips=length,
        micro_batch=micro_batch,
        phases=(Grow(0, length, batch, constant=CONSTANT * epoch, cosine=length - CONSTANT * epoch),),
        optim=OPTIM,
        diverged="go-on",
        every=EVERY,
    )


def bair_64() -> Config:
    """BAIR robot pushing, 25x64x64 from one frame: inception score 14.68, FID 41.47; two days on a GTX 1080 Ti."""
    return published("style-bair-64", System(critics=AT_64), "bair.vgc", BAIR, 8, 8)


def sky_128() -> Config:
    """Sky time-lapse, 25x128x128 from one frame; shown, not scored: good for 15 to 20 frames."""
    return published("style-sky-128", System(size=128, width=32, critics=AT_128), "sky.vgc", SKY, 8, 1)


def landscape_128() -> Config:
    """Rivers, 25x128x128 from one frame: inception score 13.07, FID 108.96; up to 14 days."""
    system = System(size=128, width=32, critics=AT_128)
    return published("style-landscape-128", system, "landscape.vgc", LANDSCAPE, 8, 1, MILLION)


def landscape_256() -> Config:
    """Rivers, 15x256x256 from one frame, a generator of 1.5 million parameters from 8x8 on: shown, not scored; 9 GB."""
    system = System(size=256, lowest=8, width=8, frames=15, critics=AT_256)
    return published("style-landscape-256", system, "landscape.vgc", LANDSCAPE, 8, 1)


def dvdgan_s_bair_64() -> Config:
    """DVD-GAN-S on BAIR, 25x64x64 from one frame, batch 128: inception score 10.68, FID 81.02."""
    system = dvdgan.Config(critics=AT_64)
    return published("dvdgan-s-bair-64", system, "bair.vgc", BAIR, 128, 4)


def dvdgan_s_sky_128() -> Config:
    """DVD-GAN-S on sky time-lapse, 25x128x128 from one frame, batch 128; shown, not scored."""
    return published("dvdgan-s-sky-128", wide(), "sky.vgc", SKY, 128, 4)


def dvdgan_s_landscape_128() -> Config:
    """DVD-GAN-S on rivers, 25x128x128 from one frame, batch 128: inception score 29.27, FID 194.30."""
    return published("dvdgan-s-landscape-128", wide(), "landscape.vgc", LANDSCAPE, 128, 4, MILLION)


def wide() -> dvdgan.Config:
    return dvdgan.Config(size=128, widths=(256, 256, 128, 64, 32), critics=AT_128)
