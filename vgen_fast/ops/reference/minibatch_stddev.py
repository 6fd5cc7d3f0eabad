"""Minibatch standard deviation (progressive GAN; spec/unconditional.md 5.2)."""

import torch
from torch import Tensor


def minibatch_stddev(x: Tensor, *, group_size: int = 4, eps: float = 1e-8) -> Tensor:
    """Append one channel: per group of samples, mean over features and positions of sqrt(var over the group + eps).

    x `[B, C, ...]` -> `[B, C + 1, ...]`. G = min(group_size, B); group m holds the samples i with i mod (B / G) == m,
    so the batch reshapes to `[G, B / G, ...]`.
    """
    batch = x.shape[0]
    if batch == 0:
        return torch.cat([x, x.new_empty(0, 1, *x.shape[2:])], dim=1)  # keeps the graph
    group = min(group_size, batch)
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(group, batch // group, *x.shape[1:])
    centred = wide - wide.mean(dim=0)
    deviation = (centred.square().mean(dim=0) + eps).sqrt()  # `var` along a first dimension takes nine times as long
    statistic = deviation.flatten(1).mean(dim=1).to(x.dtype)  # [B / G]
    channel = statistic.repeat(group).reshape(batch, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)
