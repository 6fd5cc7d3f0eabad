"""Fused ops for video GANs. Every name here takes video `[B, C, T, H, W]` and images `[B, C, H, W]`."""

from . import compat
from .backends import backends
from .choose import no_weight_gradients, using
from .feature_moments import FeatureMoments, frechet_distance
from .minibatch_stddev import minibatch_stddev
from .modulated_conv3d import modulated_conv3d
from .pixel_norm import pixel_norm
from .sliced_wasserstein import sliced_head, sliced_wasserstein

__all__ = [
    "FeatureMoments",
    "backends",
    "compat",
    "frechet_distance",
    "minibatch_stddev",
    "modulated_conv3d",
    "no_weight_gradients",
    "pixel_norm",
    "sliced_head",
    "sliced_wasserstein",
    "using",
]
