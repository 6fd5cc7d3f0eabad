"""The definitions: every op as its formula in plain PyTorch, differentiable as often as autograd allows."""

from . import feature_moments, minibatch_stddev, modulated_conv3d, pixel_norm, sliced_wasserstein

__all__ = ["feature_moments", "minibatch_stddev", "modulated_conv3d", "pixel_norm", "sliced_wasserstein"]
