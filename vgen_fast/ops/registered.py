"""Ops registered with torch.library, each also as a plain autograd function: the same code, 20 to 60 us less a call.

The dispatcher is needed where something watches it: compilation, fake tensors, dispatch modes (selective
checkpointing, FLOP counters) and functorch. Everywhere else `call` goes straight to the kernel or its function.
"""

from collections.abc import Callable

import torch
from torch import Tensor

KERNELS: dict[str, Callable] = {}
FUNCTIONS: dict[str, type[torch.autograd.Function]] = {}


def implements(name: str) -> Callable[[Callable], Callable]:
    """Registers the decorated function as the op's CPU and CUDA implementation."""

    def register(function: Callable) -> Callable:
        torch.library.impl(f"vgen_fast::{name}", ("cpu", "cuda"), function)
        KERNELS[name] = function
        return function

    return register


def autograd(name: str, setup: Callable | None, backward: Callable) -> None:
    """Registers the op's backward; `setup(ctx, inputs, output)` saves what it needs."""

    def forward(ctx, *inputs):
        outputs = KERNELS[name](*inputs)
        if setup is not None:
            setup(ctx, inputs, outputs)
        return outputs

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    FUNCTIONS[name] = type(name, (torch.autograd.Function,), methods)
    torch.library.register_autograd(f"vgen_fast::{name}", backward, setup_context=setup)


def call(name: str, *arguments):
    """Runs an op; gradients, if any are wanted, as registered."""
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    watched = (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors)
    )
    if watched:
        return getattr(torch.ops.vgen_fast, name)(*arguments)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return FUNCTIONS[name].apply(*arguments)
    return KERNELS[name](*arguments)
