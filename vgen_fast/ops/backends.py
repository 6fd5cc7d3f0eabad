"""What can run here, and why not: one row per op, device and implementation."""

from dataclasses import dataclass

from . import feature_moments, minibatch_stddev, modulated_conv3d, pixel_norm, sliced_wasserstein
from .choose import IMPLEMENTATIONS, ORDER, unavailable

OPS = {
    "modulated_conv3d": modulated_conv3d,
    "pixel_norm": pixel_norm,
    "minibatch_stddev": minibatch_stddev,
    "sliced_wasserstein": sliced_wasserstein,
    "sliced_head": sliced_wasserstein,
    "FeatureMoments": feature_moments,
}


@dataclass(frozen=True)
class Backend:
    op: str
    device: str
    impl: str
    reason: str | None  # why it cannot run; None if it can


def backends() -> list[Backend]:
    """Op x device x implementation, each with the reason it cannot run here, or None."""
    import torch

    rows = []
    for op, module in OPS.items():
        for device in ORDER:
            for impl in IMPLEMENTATIONS:
                absent = device == "cuda" and not torch.cuda.is_available()
                reason = "torch sees no GPU" if absent else unavailable(impl, device)
                lacks = getattr(module, "lacks", None)  # of ops that have not every implementation
                rows.append(Backend(op, device, impl, reason or (lacks(impl, device) if lacks else None)))
    return rows
