"""VGAN, as published (spec/unconditional.md 1.3, 1.8): Adam 2e-4 (0.5, 0.999), 64 clips a step, days on one GPU."""

from dataclasses import replace

from ..config import Config, Every, Grow, Optim
from ..models.vgan import Config as System

BATCH = 64
EVERY = Every(tick=6_400, samples=64_000, checkpoint=64_000)  # the authors keep every 1,000th step


def released(recipe: str, data: str, steps: int, system: System, batch: int = BATCH) -> Config:
    return Config(
        recipe=recipe,
        system=system,
        objective="vanilla",
        data=data,
        short="repeat",
        clips=steps * batch,
        phases=(Grow(0, steps * batch, batch),),
        optim=Optim(generator_lr=2e-4, critic_lr=2e-4, betas=(0.5, 0.999), ema=0.0),
        every=EVERY,
    )


def golf() -> Config:
    """Tinyvideo golf, 32x64x64, 65,000 steps: C3D-FID 113,007; its critic, fine-tuned, knows 52.1% of UCF-101."""
    return released("vgan-golf", "golf.vgc", 65_000, System())


def golf_one_stream() -> Config:
    """The same without a background: 85% of judges prefer it to the autoencoder, 88% the one with two streams."""
    return released("vgan-golf-one-stream", "golf.vgc", 65_000, System(streams=1))


def golf_prediction() -> Config:
    """The authors' predictor of a golf clip from its first frame, batches of 32; judged by eye."""
    return released("vgan-golf-prediction", "golf.vgc", 65_000, System(form="prediction-released"), 32)


def golf_autoencoder() -> Config:
    """The paper's baseline: two streams and an encoder; with a mixture of 256 Gaussians, 12% prefer it to VGAN."""
    return released("vgan-golf-autoencoder", "golf.vgc", 65_000, System(form="autoencoder"))


def ucf101() -> Config:
    """UCF-101, 32x64x64: inception score 8.18, in the table of TGAN."""
    return released("vgan-ucf101", "tgan.vgc", 100_000, System())


def ucf101_svc() -> Config:
    """The same with singular value clipping and TGAN's objective and steps: inception score 8.31."""
    config = released("vgan-ucf101-svc", "tgan.vgc", 100_000, replace(System(), clip_singular_values=True), 32)
    optim = Optim(rule="rmsprop", generator_lr=5e-5, critic_lr=5e-5, ema=0.0)
    return config.model_copy(update={"objective": "wgan", "optim": optim, "diverged": "go-on"})
