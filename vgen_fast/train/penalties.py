"""Penalties on a critic's slope; each is (critic, real, fake, stage, draw, scale) -> mean over the batch.

`critic` is the module, `real` and `fake` are what it sees, `draw` gives random numbers. Everything is reduced
over all but the batch, so that any shape of clip will do. Gradients by the weights are left out of the inner backward
(ops.no_weight_gradients): autograd could not tell that nobody wants them.

Under autocast the critic's forward pass alone is in its type; the inner backward runs on scores multiplied by `scale`,
so that small slopes are no zeros in float16, and slopes are divided by it, in the type of what is seen, before anything
is made of them.

Legend: B samples, K features of a sliced critic's encoder.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import ops
from ..models.system import Draw, Seen, Stage, scores_of
from ..ops import autocast

Penalty = Callable[[nn.Module, Seen, Seen, Stage, Draw, float], Tensor]


def parts(seen: Seen) -> tuple:
    return seen if isinstance(seen, tuple) else (seen,)


def floating(seen: Seen) -> list[Tensor]:
    return [t for t in parts(seen) if isinstance(t, Tensor) and t.is_floating_point()]


def interpolate(real: Seen, fake: Seen, mix: Tensor) -> Seen:
    """Between real and fake, one share a sample for all of it, to be differentiated by. Labels are the real ones."""

    def between(a, b):
        if not (isinstance(a, Tensor) and a.is_floating_point()):
            return a
        share = mix.to(a.dtype).reshape(-1, *[1] * (a.ndim - 1))
        return torch.lerp(a.detach(), b.detach(), share).requires_grad_()

    mixed = tuple(between(a, b) for a, b in zip(parts(real), parts(fake), strict=True))
    return mixed if isinstance(real, tuple) else mixed[0]


def squared_slopes(value: Tensor, seen: Seen, scale: float) -> Tensor:
    """Per sample, the squared gradient of the summed value by all that is seen; with a graph."""
    with ops.no_weight_gradients(), autocast.off(value):
        gradients = torch.autograd.grad(value.sum() * scale, floating(seen), create_graph=True)
    wide = [g.to(torch.promote_types(g.dtype, torch.float32)) / scale for g in gradients]
    return torch.stack([g.square().flatten(1).sum(1) for g in wide]).sum(0)  # [B]


def norm(squares: Tensor) -> Tensor:
    """Square root with derivative 0 at 0, where that of the norm does not exist."""
    return torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)


def gradient_penalty(weight: float = 10.0, target: float = 1.0) -> Penalty:
    """WGAN-GP: weight * mean (|grad D(x^)| - target)^2, x^ between real and fake (eq. 2.7)."""

    def penalty(critic, real, fake, stage, draw, scale=1.0):
        seen = interpolate(real, fake, draw.uniform())
        return weight * (norm(squared_slopes(scores_of(critic(seen, stage)), seen, scale)) - target).square().mean()

    return penalty


def zero_centred(weight: float) -> Penalty:
    """R1: weight / 2 * mean |grad D(x)|^2 on real samples."""

    def penalty(critic, real, fake, stage, draw, scale=1.0):
        seen = interpolate(real, real, draw.uniform())
        return weight / 2 * squared_slopes(scores_of(critic(seen, stage)), seen, scale).mean()

    return penalty


def swgan_released(slope_weight: float = 50.0, head_weight: float = 10.0, target: float = 0.01) -> Penalty:
    """The authors' code: the slope by the real end point to 0, scale * |lrelu| * (1 or 0.2) of the head to `target`.

    The second is called a derivative there; the true one has no |lrelu|. Both are taken at x^.
    """

    def penalty(critic, real, fake, stage, draw, scale=1.0):
        mix = draw.uniform()
        seen = interpolate(real, fake, mix)
        y = critic.encode(seen, stage)
        slopes = squared_slopes(critic.head(y), seen, scale) * (1 - mix).square()
        out = critic.head.activations(y)
        head = critic.head.scale * out.abs() * torch.where(out >= 0, 1.0, 0.2)
        return slope_weight * slopes.mean() + head_weight * (head - target).square().mean()

    return penalty


def swgan_thesis(slope_weight: float = 5e-4, head_weight: float = 10.0) -> Penalty:
    """Eq. 5.3: slope_weight * E |J_E(x^)|^2 + head_weight * E (|grad f(y^)| - k)^2, k = sqrt(0.52 / K).

    |J_E|^2 is estimated without bias by one vector v of signs: |grad (v . E)|^2. The slope of the head is
    sqrt(sum_i (scale_i lrelu'_i)^2) / K; it depends on y^ through the signs alone, so that y^ needs no graph.
    """

    def penalty(critic, real, fake, stage, draw, scale=1.0):
        mix = draw.uniform()
        seen = interpolate(real, fake, mix)
        y = critic.encode(seen, stage)
        slopes = squared_slopes(y * draw.signs(y.shape[1]), seen, scale)
        with torch.no_grad():
            mixed = torch.lerp(critic.encode(real, stage), critic.encode(fake, stage), mix[:, None])
            rising = critic.head.activations(mixed) >= 0
        factors = critic.head.scale * torch.where(rising, 1.0, 0.2)  # [B, K]
        num = factors.shape[1]
        head = (norm(factors.square().sum(1)) / num - (0.52 / num) ** 0.5).square()
        return slope_weight * slopes.mean() + head_weight * head.mean()

    return penalty
