"""Singular value clipping (TGAN): a critic's Lipschitz constant is held at one by its weights.

Legend: W [out, in x kernel] a layer's weight as a matrix, M = W W^T.
"""

import torch
from torch import Tensor, nn

from .batch_norm import BatchNorm

EVERY = 5  # steps of the critic


def clipped(weight: Tensor) -> Tensor:
    """Singular values above one set to one, the others left: U diag(min(1, l^-1/2)) U^T W with M = U diag(l) U^T.

    Only directions with l > 1 are touched: W - U' diag(1 - l'^-1/2) U'^T W. In float64, as M squares what W is off by.
    """
    wide = weight.flatten(1).double()
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    large = vectors[:, values > 1]
    if large.shape[1] == 0:
        return weight
    shrunk = wide - (large * (1 - values[values > 1].rsqrt())) @ (large.T @ wide)
    return shrunk.to(weight.dtype).view_as(weight)


@torch.no_grad()
def bound_scales(critic: nn.Module) -> None:
    """Of batch norm, into [s / 100, s], s the running deviation."""
    for module in critic.modules():
        if isinstance(module, BatchNorm):
            most = (module.variance + module.eps).sqrt()
            module.weight.copy_(module.weight.clamp(most / 100, most))


@torch.no_grad()
def clip(critic: nn.Module, steps: int) -> None:
    """Every fifth step: weights of convolutions, and scales of batch norm."""
    if steps % EVERY:
        return
    bound_scales(critic)
    for weight in critic.parameters():
        if weight.ndim >= 4:
            weight.copy_(clipped(weight))
