"""torch.autocast: convolutions run in its type, every other op in that of its tensors, whatever products are inside."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wanted(x: Tensor) -> torch.dtype | None:
    """The type a convolution of x shall run in, None outside autocast; float64 stays, as with torch's own."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def off(x: Tensor) -> AbstractContextManager:
    """No autocast inside, for what is done to x."""
    return torch.autocast(x.device.type, enabled=False) if wanted(x) else nullcontext()


def keeps_types(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The op, as it is outside autocast."""

    @functools.wraps(op)
    def outside(*arguments, **options) -> Tensor:
        first = next((t for t in (*arguments, *options.values()) if isinstance(t, Tensor)), None)
        with nullcontext() if first is None else off(first):
            return op(*arguments, **options)

    return outside
