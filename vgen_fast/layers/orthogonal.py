"""Orthogonal weights to begin with.

They are made in float64 and rounded: in float32 the last digits of a decomposition depend on the number of threads, and
ranks must begin alike.
"""

import torch
from torch import Tensor, nn


@torch.no_grad()
def orthogonal_(weight: Tensor, gain: float = 1.0) -> Tensor:
    return weight.copy_(nn.init.orthogonal_(torch.empty_like(weight, dtype=torch.float64), gain))


@torch.no_grad()
def orthogonal(module: nn.Module, gain: float = 1.0) -> None:
    """Weights of convolutions and linear layers; biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d):
            orthogonal_(part.weight, gain)
            if part.bias is not None:
                part.bias.zero_()
