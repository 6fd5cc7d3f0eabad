"""Other GAN libraries' ops with their names, argument order and defaults, and the reversible `patch()`.

The flat names have NVlabs' signatures; `compat.rosinality.upfirdn2d` is the other library's op of that name.
"""

from . import nvlabs, rosinality
from .nvlabs import bias_act, downsample2d, filter2d, modulated_conv2d, setup_filter, upfirdn2d, upsample2d
from .patching import Patch, patch
from .rosinality import fused_leaky_relu

__all__ = [
    "Patch",
    "bias_act",
    "downsample2d",
    "filter2d",
    "fused_leaky_relu",
    "modulated_conv2d",
    "nvlabs",
    "patch",
    "rosinality",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
