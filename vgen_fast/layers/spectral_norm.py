"""Spectral normalisation: a layer's weight divided by its largest singular value (Miyato et al. 2018).

The singular vectors are followed by a step of power iteration after each of the optimizer's, not in the forward pass:
so that a pass is a function of the weights alone, however often it is made again, in parts, or on other ranks.

Legend: W [out, in x kernel] a layer's weight as a matrix, u, v its first singular vectors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..ops import autocast


class Spectral(nn.Module):
    """W -> W / u^T W v, differentiable in W; u and v are constants."""

    def __init__(self, weight: Tensor):
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        self.iterate(weight)  # which is enough for orthogonal ones

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        matrix = weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        with autocast.off(weight):
            return weight / (self.u @ (weight.flatten(1) @ self.v))


def normalised(module: nn.Module) -> nn.Module:
    """The same module; from now on, all weights of its convolutions and linear layers are divided so."""
    for part in list(module.modules()):
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d):
            parametrize.register_parametrization(part, "weight", Spectral(part.weight), unsafe=True)
    return module


def follow(module: nn.Module) -> None:
    """A step of power iteration for all weights of the module that are normalised: after each of the optimizer's."""
    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            found = part.parametrizations.weight
            found[0].iterate(found.original)
