"""Pixel norm, with the leaky ReLU before it when asked, in one pass over the tensor."""

import torch
from torch import Tensor

from . import expect
from .choose import choose
from .layout import dense_like, empty_like_layout
from .native import _C, address, compute_dtype, where
from .reference import pixel_norm as reference
from .registered import autograd, call, implements

ORDER = 2
OP = "pixel_norm"


def pixel_norm(x: Tensor, *, slope: float | None = None, eps: float = 1e-8, impl: str | None = None) -> Tensor:
    """y = a / sqrt(mean over channels of a^2 + eps) with a = leaky_relu(x, slope), or a = x. Twice differentiable.

    x        [B, C, T, H, W] or [B, C, H, W]
    returns  the same shape, type and memory format
    """
    expect.video_or_image(OP, "x", x)
    expect.finite_number(OP, "eps", eps, 0)
    if slope is not None:
        expect.finite_number(OP, "slope", slope)

    def supports(impl: str) -> str | None:
        if slope is not None and slope < 0:
            return "the fused backward reads the sign of the output, which needs slope >= 0"
        return "an empty tensor has nothing to fuse" if x.numel() == 0 else None

    impl = choose(OP, impl if x.numel() else None, x.device, supports)
    if impl == "reference":
        return reference.pixel_norm(x, slope=slope, eps=eps)
    video = x if x.ndim == 5 else x.unsqueeze(2)
    keep_r = torch.is_grad_enabled() and x.requires_grad
    y, _ = call("pixel_norm", video, 1.0 if slope is None else float(slope), float(eps), keep_r, impl)
    return y if x.ndim == 5 else y.squeeze(2)


torch.library.define(
    "vgen_fast::pixel_norm", "(Tensor x, float slope, float eps, bool keep_r, str impl) -> (Tensor, Tensor)"
)


@implements("pixel_norm")
def _pixel_norm(x, slope, eps, keep_r, impl):
    y, r = _pixel_norm_fake(x, slope, eps, keep_r, impl)
    x, factor = dense_like(x, y), r if keep_r else None
    if impl == "triton":
        from vgen_fast.kernels import pixel_norm as kernel

        kernel.pixel_norm_forward(x, y, factor, slope, eps)
    else:
        _C.pixel_norm_forward(where(x), address(x), address(y), address(factor), x.shape, x.stride(), slope, eps)
    return y, r


@torch.library.register_fake("vgen_fast::pixel_norm")
def _pixel_norm_fake(x, slope, eps, keep_r, impl):
    """y, and the factor r for the backward (empty unless it is kept)."""
    size = (x.shape[0], *x.shape[2:]) if keep_r else (0,)
    return empty_like_layout(x, x.shape), torch.empty(size, dtype=compute_dtype(x.dtype), device=x.device)


def _setup(ctx, inputs, output):
    x, ctx.slope, ctx.eps, ctx.keep_r, ctx.impl = inputs
    y, r = output
    ctx.save_for_backward(x, y, r)
    ctx.mark_non_differentiable(r)


def _backward(ctx, gy, _):
    x, y, r = ctx.saved_tensors
    graph = torch.is_grad_enabled()
    if not graph and ctx.keep_r:
        return call("act_backward", gy, y, r, ctx.slope, 1.0, True, ctx.impl), *[None] * 4
    with torch.enable_grad():
        normed = reference.pixel_norm(x, slope=ctx.slope, eps=ctx.eps)
    return torch.autograd.grad(normed, x, gy, create_graph=graph)[0], *[None] * 4


autograd("pixel_norm", _setup, _backward)
