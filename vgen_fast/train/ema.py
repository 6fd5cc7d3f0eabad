"""The averaged generator: what samples and metrics are made with."""

import copy

import torch
from torch import nn


def averaged_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches; never a second constructor call."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, module: nn.Module, decay: float, steps: int) -> None:
    """average <- d average + (1 - d) module, d = min(decay, (1 + steps) / (10 + steps)); buffers are copied.

    The ramp forgets the initial weights, which a fixed decay of 0.999 would still hold a third of after 1,000 steps.
    """
    decay = min(decay, (1 + steps) / (10 + steps))
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
    for kept, new in zip(average.buffers(), module.buffers(), strict=True):
        kept.copy_(new)
