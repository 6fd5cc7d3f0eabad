"""Optimizers of torch.optim without the compiler, all of which their methods import when first called: 3 s, 140 MB.

They are wrapped to tell a compiler what to leave alone. Nothing is compiled here, so what is wrapped is called itself.
"""

import inspect

import torch
from torch.optim import Optimizer

METHODS = "add_param_group", "load_state_dict", "state_dict", "zero_grad"


def uncompiled(kind: type[Optimizer]) -> type[Optimizer]:
    """The same optimizer, in name, state and steps."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in METHODS}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


Adam, AdamW, RMSprop, SGD = map(uncompiled, (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD))
