"""A run of layers whose activations can be computed again in the backward pass instead of being kept."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Segment(nn.Sequential):
    """`recompute` keeps only the input between the passes; gradients of any order stay the same."""

    recompute = False

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute:
            return checkpoint(super().forward, x, use_reentrant=False)
        return super().forward(x)
