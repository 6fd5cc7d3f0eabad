"""Minibatch discrimination (Salimans et al. 2016): how near a sample is to the others, by learned projections."""

import torch
from torch import Tensor, nn

from .equalized import EqualizedLinear


class MinibatchDiscrimination(nn.Module):
    """[B, C, ...] -> [B, C + kernels, ...]: o_ib = sum over j != i of exp(-|M_ib - M_jb|_1), M = T x, at every place.

    All samples of a call are judged together.
    """

    def __init__(self, features: int, kernels: int = 16, dims: int = 4):
        super().__init__()
        self.project = EqualizedLinear(features, kernels * dims, gain=1.0)
        self.shape = (kernels, dims)

    def forward(self, x: Tensor) -> Tensor:
        m = self.project(x.flatten(1)).unflatten(1, self.shape)  # [B, K, D]
        distance = (m[:, None] - m[None]).abs().sum(dim=-1)  # [B, B, K]
        others = 1 - torch.eye(len(x), dtype=x.dtype, device=x.device)[..., None]
        nearness = ((-distance).exp() * others).sum(dim=1)  # [B, K]
        return torch.cat(
            [x, nearness.reshape(*nearness.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])], dim=1
        )
