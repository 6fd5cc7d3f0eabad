"""Activation maximisation: codes that a classifier's gradient changes until it sees the class (spec A6).

STGAN's generator is no training's here: its codes are. Each step goes along the gradient of the class's probability,
the way back to codes that the encoder gives (or towards 0), and noise; its length is the mean of |change|.

Legend: B videos, T frames, Z numbers of a code, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LARGEST = 30.0  # of a code's numbers, which are not negative
REACHED = 1 - 1e-6  # a probability that needs no more


@dataclass(frozen=True)
class Rule:
    iterations: int = 100
    first: float = 1.0  # lengths of steps, falling linearly
    last: float = 0.1
    inclusive: bool = False  # whether the last step has the last length, and not the step after it
    towards: float = 1.0  # factor on the gradient of the class
    prior: Literal["dae", "l1", "none"] = "dae"
    back: float = 1e-5  # factor on the prior's
    noise: float = 1e-17  # its standard deviation: in float32 nothing, as published
    objective: Literal["ppgn", "log_softmax"] = "ppgn"

    def length(self, i: int) -> float:
        return self.first + (self.last - self.first) * i / max(self.iterations - self.inclusive, 1)


class Seen(NamedTuple):
    """Where a step begins."""

    codes: Tensor  # [B, T, Z]
    clip: Tensor  # [B, 3, T, H, W], in Caffe's colours
    probability: Tensor  # [B], of each one's class, the mean of its frames


def climbed(logits: Tensor, classes: Tensor, objective: str) -> tuple[Tensor, Tensor]:
    """The sum of what each video climbs, and its probability: logits [B, T, K], classes [B].

    "ppgn" seeds the logit of the class alone with 1 - p; the whole gradient of log p has the others' -p too.
    """
    mine = classes[:, None, None].expand(-1, logits.shape[1], 1)
    p = logits.softmax(dim=2).gather(2, mine)[..., 0]  # [B, T]
    if objective == "ppgn":
        value = (1 - p).detach() * logits.gather(2, mine)[..., 0]
    else:
        value = logits.log_softmax(dim=2).gather(2, mine)[..., 0]
    return value.mean(dim=1).sum(), p.mean(dim=1).detach()


def ascent(
    make: Callable[[Tensor], Tensor],
    condition: Callable[[Tensor], Tensor],
    codes: Tensor,
    classes: Tensor,
    objective: str,
) -> tuple[Seen, Tensor]:
    """Where a step begins, and the gradient of what is climbed by the codes."""
    with torch.enable_grad():
        h = codes.detach().requires_grad_()
        clip = make(h)
        value, probability = climbed(condition(clip), classes, objective)
    (gradient,) = torch.autograd.grad(value, h)
    return Seen(codes, clip.detach(), probability), gradient


def maximised(
    make: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
    condition: Callable[[Tensor], Tensor],
    codes: Tensor,
    classes: Tensor,
    rule: Rule,
    rngs: Sequence[torch.Generator],
    watch: Callable[[int, Seen], None] = lambda i, seen: None,
) -> Seen:
    """Codes [B, T, Z] after all steps; a video whose class is seen for certain stays as it is, and costs nothing more.

    `make` takes codes to a clip, `encode` a clip to codes. `watch` is told before each step, and at the end. Noise is
    drawn of a generator of random numbers for each video. FloatingPointError where a gradient is not finite.
    """
    rows, seen = torch.arange(len(codes), device=codes.device), None
    for i in range(rule.iterations + 1):
        if i == rule.iterations:
            with torch.no_grad():
                clip = make(codes[rows])
                part = Seen(codes[rows], clip, climbed(condition(clip), classes[rows], rule.objective)[1])
        else:
            part, gradient = ascent(make, condition, codes[rows], classes[rows], rule.objective)
        seen = part if seen is None else Seen(codes, *map(partial(replaced, rows), seen[1:], part[1:]))
        watch(i, seen)
        if i == rule.iterations:
            break
        if not (finite := gradient.isfinite().flatten(1).all(dim=1)).all():
            bad = int(rows[finite.int().argmin()])
            raise FloatingPointError(f"the gradient of video {bad} is not finite after {i} steps")
        direction = rule.towards * gradient
        if rule.prior == "dae":
            with torch.no_grad():
                direction += rule.back * (encode(part.clip) - part.codes)
        elif rule.prior == "l1":
            direction -= rule.back * part.codes.sign()
        noise = torch.stack([torch.randn(codes.shape[1:], generator=rngs[row]) for row in rows.tolist()])
        direction += rule.noise * noise.to(codes)
        size = direction.abs().mean(dim=(1, 2), keepdim=True)
        moved = (part.codes + rule.length(i) / size.clamp_min(1e-38) * direction).clamp(0, LARGEST)
        going = (part.probability < REACHED) & (size > 0).flatten()
        rows = rows[going]
        if not len(rows):
            break
        codes = codes.index_copy(0, rows, moved[going])
    return seen


def replaced(rows: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return old.index_copy(0, rows, new)
