"""Adversarial losses: pure functions of scores [B], and the penalty that belongs to each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from . import penalties
from .penalties import Penalty


@dataclass(frozen=True)
class Objective:
    critic: Callable[[Tensor, Tensor], Tensor]  # (real, fake scores) -> loss
    generator: Callable[[Tensor], Tensor]  # (fake scores) -> loss
    penalty: Penalty | None = None
    clip: float | None = None  # of the critic's weights, after each of its steps
    distance: bool = False  # whether the critic's loss is one, which falls where the generator gets nearer


def low_is_fake(real: Tensor, fake: Tensor) -> Tensor:
    """The Wasserstein critic: high on real clips (eq. 2.4)."""
    return fake.mean() - real.mean()


def with_drift(real: Tensor, fake: Tensor) -> Tensor:
    return low_is_fake(real, fake) + 0.001 * real.square().mean()


def raise_scores(fake: Tensor) -> Tensor:
    return -fake.mean()


# Non-saturating; F.softplus(-s) = -log sigmoid(s) (eq. 2.1, 2.2).
VANILLA = Objective(
    lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(), lambda fake: F.softplus(-fake).mean()
)

OBJECTIVES = {
    "vanilla": VANILLA,
    "vanilla_r1": replace(VANILLA, penalty=penalties.zero_centred(1.0)),
    "lsgan": Objective(  # targets: fake -1, real 1; generator 0
        lambda real, fake: ((real - 1).square().mean() + (fake + 1).square().mean()) / 2,
        lambda fake: fake.square().mean() / 2,
    ),
    "hinge": Objective(lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), raise_scores),
    "wgan": Objective(low_is_fake, raise_scores, distance=True),  # where a constraint bounds the critic's slope
    "wgan_clip": Objective(low_is_fake, raise_scores, clip=0.01, distance=True),
    "wgan_gp": Objective(with_drift, raise_scores, penalties.gradient_penalty()),
    # The authors' code: low on real clips, the other way round than eq. 5.2.
    "swgan": Objective(
        lambda real, fake: real.mean() - fake.mean(), lambda fake: fake.mean(), penalties.swgan_released()
    ),
    "swgan_thesis": Objective(low_is_fake, raise_scores, penalties.swgan_thesis()),
}
