"""The built-in recipe, and one of each system for MoCoGAN's shape-motion set: 20 minutes of one CPU core with AVX-512
(40 with AVX2), 30 of those that predict."""

from ..config import Config, Every, Grow, Optim
from ..layers.dual_critics import Critics
from ..models import dvdgan, mocogan, style_prediction, tgan, tgan2, vgan
from ..models.progressive import Config as System
from ..models.progressive import rows


def shapes() -> Config:
    """Moving shapes made on the fly, labelled by motion, shape and colour, 8x32x32: minutes on two CPU cores.

    Few latents, so that the labels weigh as much; the non-saturating loss with a lazy penalty on reals gets further
    than WGAN-GP in as many minutes. Momentum and high rates, which fall at the end, make colours even; a third of
    the clips are seen at 8x8x8, where a colour that stays can be learned and a step takes a fifth of the time.
    """
    system = System(rows=rows((64, 32, 32, 16), (4, 2, 1, 1)), latents=16, features=64, classes=(8, 3, 4), alike=0.5)
    phases = (Grow(0, 1_600, 8), Grow(800, 4_800, 8), Grow(1_200, 2_800, 8), Grow(1_200, 5_200, 8, halving=2_500))
    return Config(
        recipe="shapes",
        system=system,
        objective="vanilla_r1",
        penalty=0.5,
        penalty_every=4,
        clips=17_600,
        phases=phases,
        optim=Optim(generator_lr=5e-3, critic_lr=4e-3, betas=(0.5, 0.99), ema=0.997),
        every=Every(tick=200, samples=1_000, checkpoint=2_000),
    )


def vgan_shapes() -> Config:
    """VGAN at a quarter of its width on the built-in videos, not their labels; `finetune` asks what it has learned."""
    system = vgan.Config(channels=(128, 64, 32), first_frames=1)
    config = shape_motion_of("vgan-shapes", system, "vanilla", 24_000, ADAM.model_copy(update={"ema": 0.0}))
    return config.model_copy(update={"data": "shapes", "shrink": "mean", "phases": (Grow(0, 24_000, 8),)})


def shape_motion() -> Config:
    """MoCoGAN's shape-motion set (--data FOLDER with folders 0 and 1 of strips), 16x32x32, 20 minutes on a CPU core.

    Windows of 16 frames and 32x32 pixels that hold the whole motion, so that shapes keep their edges and one colour.
    Labelled by motion: 0 is up and down, 1 is to the sides. Nearly half of the clips are seen at 8x8x8, where colours
    learn to stay at a quarter of the cost. With ten times the penalty and a faster generator, clips were farther from
    real ones. docs/systems.md has what comes of it.
    """
    system = System(rows=rows((64, 32, 16, 8), (4, 2, 2, 1)), latents=16, features=64, classes=(2,), alike=0.5)
    phases = (Grow(0, 2_400, 8), Grow(1_600, 20_800, 8), Grow(2_400, 10_000, 8), Grow(2_400, 6_400, 8, halving=6_000))
    return Config(
        recipe="shape-motion",
        system=system,
        objective="vanilla_r1",
        penalty=0.05,
        penalty_every=4,
        data="shapes-strips",
        shrink="crop",
        clips=46_000,
        phases=phases,
        optim=shapes().optim.model_copy(update={"generator_lr": 3e-3}),
        every=shapes().every,
    )


def shape_motion_of(recipe: str, system: object, objective: str, clips: int, optim: Optim, **more: object) -> Config:
    """A system of one level on windows cut as in `shape_motion`: 32x32, as many frames as it makes; 8 clips a step.

    Rates stay for five eighths, then fall along a cosine.
    """
    stays = clips * 5 // 8
    return Config(
        recipe=recipe,
        system=system,
        objective=objective,
        data="shapes-strips",
        shrink="crop",
        clips=clips,
        phases=(Grow(0, clips, 8, constant=stays, cosine=clips - stays),),
        optim=optim,
        every=Every(tick=400, samples=4_000, checkpoint=4_000),
        **more,
    )


ADAM = Optim(generator_lr=4e-4, critic_lr=4e-4, betas=(0.5, 0.999), ema=0.998)


def shape_motion_vgan() -> Config:
    """VGAN at a quarter of its width, unconditional; docs/systems.md has what comes of it."""
    return shape_motion_of("shape-motion-vgan", vgan.Config(channels=(128, 64, 32)), "vanilla", 44_000, ADAM)


def shape_motion_tgan() -> Config:
    """TGAN at a quarter of its width, told the motion; docs/systems.md has what comes of it."""
    system = tgan.Config(
        channels_in_time=(128, 64, 64, 32),
        channels=(128, 64, 32, 16),
        critic_channels=(16, 32, 64, 128),
        classes=(2,),
    )
    optim = Optim(rule="rmsprop", generator_lr=6e-4, critic_lr=1e-4, ema=0.998)
    return shape_motion_of("shape-motion-tgan", system, "wgan", 40_000, optim, diverged="go-on")


def shape_motion_tgan2() -> Config:
    """TGANv2 at a sixteenth of its width, told the motion; docs/systems.md has what comes of it.

    With the penalty of the authors' batch, which is 80 times as strong, its critics stayed near chance.
    """
    system = tgan2.Config(
        first=2, latents=64, channels=(64, 64, 32, 32, 16), critic_channels=(16, 32, 64, 128), classes=(2,)
    )
    optim = Optim(generator_lr=2e-4, critic_lr=2e-4, betas=(0.0, 0.9), ema=0.998)
    return shape_motion_of("shape-motion-tgan2", system, "vanilla_r1", 18_000, optim, penalty=0.1)


def shape_motion_mocogan() -> Config:
    """MoCoGAN at a quarter of its width, told the motion; docs/systems.md has what comes of it.

    The critic of clips, at the generator's rate, knew nearly every fake, and the generator learned the category late.
    """
    system = mocogan.Config(channels=(128, 64, 32), critic_channels=(32, 64, 128), classes=(2,))
    optim = Optim(generator_lr=8e-4, critic_lr=1e-4, betas=(0.5, 0.999), weight_decay=1e-5, ema=0.998)
    return shape_motion_of("shape-motion-mocogan", system, "vanilla", 23_000, optim)


# The critic of frames, which sees the given one too, weighs as much as that of the clip: at the thesis' 1 and 5 colours
# drifted to the end of a clip.
SMALL = Critics(spatial=(8, 16, 32, 64), temporal=(8, 16, 32, 64), frames=4, spectral_norm=False, weights=(1.0, 1.0))
REMEMBERS = 3.0  # cells that forget half of their state a step have lost the first frame after three


def shape_motion_predicted(recipe: str, system: object, clips: int) -> Config:
    """Any system that predicts, 8x32x32 from one frame.

    With the thesis' WGAN-GP the scores swung by 100 until the run was sent back; with the hinge loss and spectral norm
    all clips came to one object. So critics have neither, and learn at half the generator's rate.
    """
    optim = Optim(generator_lr=1e-3, critic_lr=5e-4, betas=(0.5, 0.99), ema=0.998)
    more = dict(penalty=0.5, penalty_every=4, diverged="go-on")  # the swings of its losses were taken for a failure
    return shape_motion_of(recipe, system, "vanilla_r1", clips, optim, **more)


def shape_motion_style() -> Config:
    """Style-based prediction from a first frame, 8x32x32, a quarter of the width; 30 minutes on one CPU core.

    Styles are not squeezed by a sigmoid, which is full after some hundred steps at this rate, and the same for all.
    """
    system = style_prediction.Config(size=32, width=4, frames=8, remembers=REMEMBERS, style_act="none", critics=SMALL)
    return shape_motion_predicted("shape-motion-style", system, 24_000)


def shape_motion_dvdgan_s() -> Config:
    """DVD-GAN-S with as many parameters and as much time as shape-motion-style, trained like it."""
    system = dvdgan.Config(size=32, widths=(38, 18, 8, 4), frames=8, remembers=REMEMBERS, critics=SMALL)
    return shape_motion_predicted("shape-motion-dvdgan-s", system, 18_000)
