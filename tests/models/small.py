"""A small one of every system, and what tests do with it."""

from dataclasses import replace

import torch

from vgen_fast.config import Config, Grow, Optim
from vgen_fast.layers.dual_critics import Critics
from vgen_fast.models import dvdgan, mocogan, progressive, stgan, style_prediction, tgan, tgan2, vgan
from vgen_fast.models.progressive import Row
from vgen_fast.models.system import Draw
from vgen_fast.train import loop
from vgen_fast.train.__main__ import build as with_training
from vgen_fast.train.__main__ import phases_of

CRITICS = Critics(spatial=(8, 32), temporal=(8, 32), frames=2)
SYSTEMS = {
    "progressive": progressive.Config(rows=(Row(8, 4, 4), Row(4, 2, 2)), latents=6, features=8),
    "progressive-images": progressive.Config(
        rows=progressive.rows((8, 4), (1, 1)), latents=6, features=8, classes=(8, 3, 4), labels="told"
    ),
    "vgan": vgan.Config(channels=(16, 8), first_frames=2, latents=6),
    "vgan-one-stream": vgan.Config(channels=(16, 8), first_frames=2, latents=6, streams=1, logits=2),
    "vgan-prediction": vgan.Config(channels=(16, 8), latents=6, form="prediction"),
    "vgan-prediction-released": vgan.Config(channels=(16, 8), latents=6, form="prediction-released"),
    "vgan-autoencoder": vgan.Config(channels=(16, 8), latents=6, form="autoencoder"),
    "tgan": tgan.Config(
        latents=6, channels_in_time=(16, 8, 8), channels=(16, 8, 8), critic_channels=(8, 8, 16), classes=(8, 3, 4)
    ),
    "tgan-3d": tgan.Config(
        generator="3d", latents=6, channels_in_time=(16, 8, 8), channels=(16, 8, 8, 8), channels_3d=(16, 8, 8),
        critic_channels=(8, 8, 16), noise=0.3,
    ),
    "tgan2": tgan2.Config(
        frames=8, first=1, latents=6, channels=(16, 16, 8, 8, 8, 8, 8), critic_channels=(8, 8, 16), classes=(8, 3, 4)
    ),
    "mocogan": mocogan.Config(channels=(16, 8, 8), critic_channels=(8, 8, 16), classes=(8, 3, 4), category_to="both"),
    "mocogan-infogan": mocogan.Config(channels=(16, 8, 8), critic_channels=(8, 8, 16), categories=5, noise=0.0),
    "style-prediction": style_prediction.Config(size=16, width=2, frames=4, styles=8, critics=CRITICS),
    "style-prediction-drawn": style_prediction.Config(
        size=16, width=2, frames=4, styles=8, given=False, mixing=0.5, block="adain", cell="convlstm", critics=CRITICS
    ),
    "dvdgan": dvdgan.Config(
        form="synthesis", size=16, widths=(16, 8), frames=4, classes=(8, 3, 4), cell="tsru_p",
        critics=replace(CRITICS, decomposition="stronger", shrink=2),
    ),
    "dvdgan-prediction": dvdgan.Config(size=16, widths=(8, 8, 8), frames=4, up="bilinear", critics=CRITICS),
    "stgan": stgan.Config(
        frames=2, size=29, codes=16, first=(16, 4), slope=0.2, encoder="drawn",
        rows=(stgan.Row("deconv2", 8), stgan.Row("conv2_1", 8, 1), stgan.Row("deconv1", 8), stgan.Row("deconv0", 3)),
        looks=(stgan.Look(8, 5, 2), stgan.Look(8, 3, 2)), of_code=(8, 8), joined=8, dropout=0.0,
    ),
    "stgan-images": stgan.Config(
        depth=1, frames=1, size=32, codes=16, first=(16, 4), encoder="drawn", compared="fc6", dropout=0.0,
        rows=(stgan.Row("deconv2", 8), stgan.Row("deconv1", 8), stgan.Row("deconv0", 3)),
        looks=(stgan.Look(8, 5, 2), stgan.Look(8, 3, 2)), of_code=(8, 8), joined=8,
    ),
}  # fmt: skip


def config_of(name: str, **changes) -> Config:
    """A run of it on the moving shapes."""
    system = changes.pop("system", SYSTEMS[name])
    objective = {"tgan": "wgan", "tgan2": "vanilla_r1", "style_prediction": "wgan_gp", "dvdgan": "hinge"}
    phases = tuple(Grow(0, 1, 8) for _ in system.sizes)
    optim = Optim(generator_lr=1e-3, critic_lr=1e-3, rule="rmsprop" if system.name == "tgan" else "adam")
    objective = objective.get(system.name, "vanilla")
    settings = dict(recipe=name, system=system, objective=objective, clips=64, phases=phases, optim=optim)
    return Config(**{**settings, **changes})


def begun(config, dtype=torch.float32):
    system, training = with_training(config, phases_of(config))
    for module in loop.networks(system).values():
        module.to(dtype)
    return loop.start(system, training), training


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def inputs_for(system, number=4, classes=(), seed=1):
    size = system.sizes[-1]
    video = torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(7)) * 2 - 1
    labels = torch.stack([torch.arange(number) % values for values in classes], dim=1) if classes else None
    return system.draw_inputs(video, labels, Draw(seed, number, torch.arange(number), video))
