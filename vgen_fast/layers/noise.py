"""Normal noise on what a critic's layers read, while it trains."""

import torch
from torch import Tensor, nn


class Noise(nn.Module):
    """x + N(0, sigma)."""

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x) if self.sigma and self.training else x
