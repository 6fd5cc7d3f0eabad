"""nn.Conv3d and nn.ConvTranspose3d that autocast on CPU leaves in float32.

torch's 16-bit weight gradient of both reads memory there that nobody wrote (2.13 and 2.14; doctor says so): any numbers
at all, and NaN now and then. Those of one and two dimensions are right.
"""

from collections.abc import Callable

from torch import Tensor, nn

from ..ops import autocast


def in_float32(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """convolve(x), under autocast on CPU in float32, rounded to its type."""
    dtype = autocast.wanted(x)
    if dtype is None or x.device.type != "cpu":
        return convolve(x)
    with autocast.off(x):
        return convolve(x.float()).to(dtype)


class Conv3d(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return in_float32(super().forward, x)


class ConvTranspose3d(nn.ConvTranspose3d):
    def forward(self, x: Tensor) -> Tensor:
        return in_float32(super().forward, x)
