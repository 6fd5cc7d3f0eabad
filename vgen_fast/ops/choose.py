"""Which implementation runs: the call's `impl=`, else `using(...)`, else the first of a fixed order that can."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from . import native

IMPLEMENTATIONS = ("cpp", "triton", "reference")
ORDER = {"cpu": ("cpp", "reference"), "cuda": ("cpp", "triton", "reference")}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_forced: str | None = None
_weight_gradients = True


@contextmanager
def using(impl: str | None) -> Iterator[None]:
    """Run every op with this implementation inside the block (process-wide: backward threads see it too)."""
    global _forced
    if impl is not None and (not isinstance(impl, str) or impl not in IMPLEMENTATIONS):
        raise ValueError(f"using: impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    before, _forced = _forced, impl
    try:
        yield
    finally:
        _forced = before


@contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Leave out gradients of convolution weights and biases in backward passes inside the block.

    For `autograd.grad(critic(x), x, create_graph=True)` in a gradient penalty: autograd cannot tell a custom op that
    only the input's gradient is wanted, so every weight gradient would be computed and thrown away. The second
    backward, outside the block, gives the weights their gradient as usual. Per-sample weights (a style) are kept.
    """
    global _weight_gradients
    before, _weight_gradients = _weight_gradients, False
    try:
        yield
    finally:
        _weight_gradients = before


def weight_gradients_wanted() -> bool:
    return _weight_gradients


def unavailable(impl: str, device: str) -> str | None:
    """Why this implementation cannot run on this kind of device at all, or None."""
    if impl == "reference":
        return None
    if device not in ORDER:
        return f"{impl} runs on cpu and cuda, not on {device}"
    if impl == "cpp":
        if native.MISSING is not None:
            return native.MISSING
        if device == "cpu" and native.ISA == "none":
            return "the compiled kernels need a CPU with AVX2, FMA and F16C"
        if device == "cuda" and not native._C.cuda_archs:
            return "the extension has no CUDA part: no nvcc when it was built, VGEN_FAST_CUDA=0, or it did not compile"
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device == "cpu" and not INTERPRETED:
        return "triton needs a GPU (or TRITON_INTERPRET=1, to test it without one)"
    return None


def transforming() -> str | None:
    """Why no fused kernel can run where PyTorch differentiates forward, or by torch.func, or None."""
    if torch.autograd.forward_ad._current_level >= 0:
        return "it has no forward-mode derivative; the reference has"
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    if any(transform.key() == torch._C._functorch.TransformType.Grad for transform in transforms):
        return "torch.func.grad differentiates plain PyTorch alone, as the reference is"
    return None


def choose(
    op: str,
    impl: str | None,
    device: torch.device,
    supports: Callable[[str], str | None],
    reference_is_faster: bool = False,
) -> str:
    """The implementation to run; `supports(impl)` is the op's own reason against one, or None."""
    wanted = _forced if impl is None else impl
    transformed = None if torch.compiler.is_compiling() else transforming()
    if wanted is None and (reference_is_faster or transformed):
        return "reference"
    if wanted is None:
        for candidate in ORDER.get(device.type, ()):
            if unavailable(candidate, device.type) is None and supports(candidate) is None:
                return candidate
        return "reference"
    if not isinstance(wanted, str) or wanted not in IMPLEMENTATIONS:
        raise ValueError(f"{op}: impl must be one of {', '.join(IMPLEMENTATIONS)}, got {wanted!r}")
    if wanted == "reference":
        return wanted
    reason = unavailable(wanted, device.type) or supports(wanted) or transformed
    if reason is None:
        return wanted
    if impl is None:  # using() names a preference for a whole block; an op that cannot follow runs the definition
        return "reference"
    raise ValueError(f"{op}: impl={impl!r} cannot run: {reason}")
