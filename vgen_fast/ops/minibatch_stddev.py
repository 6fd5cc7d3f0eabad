"""Minibatch standard deviation: how much the samples of a group differ, as one more channel for the critic."""

import torch
from torch import Tensor

from . import expect
from .choose import choose
from .layout import channels_last, dense_like, empty_like_layout
from .native import _C, address, where
from .reference import minibatch_stddev as reference
from .registered import autograd, call, implements

ORDER = 2
OP = "minibatch_stddev"


def minibatch_stddev(x: Tensor, *, group_size: int = 4, eps: float = 1e-8, impl: str | None = None) -> Tensor:
    """x with one channel appended: per group, the mean over features of sqrt(variance over the group + eps).

    x        [B, C, T, H, W] or [B, C, H, W]; groups of G = min(group_size, B) samples, which must divide B;
             group m holds the samples i with i mod (B / G) == m
    returns  [B, C + 1, ...] in x's type and memory format
    """
    expect.video_or_image(OP, "x", x)
    expect.positive_integer(OP, "group_size", group_size)
    expect.finite_number(OP, "eps", eps, 0)
    group = min(group_size, max(x.shape[0], 1))
    if x.shape[0] % group:
        expect.fail(OP, "x", f"a batch that is a multiple of the group size {group}", f"a batch of {x.shape[0]}")

    def supports(impl: str) -> str | None:
        return "an empty tensor has nothing to fuse" if x.numel() == 0 else None

    impl = choose(OP, impl if x.numel() else None, x.device, supports)
    if impl == "reference":
        return reference.minibatch_stddev(x, group_size=group_size, eps=eps)
    video = x if x.ndim == 5 else x.unsqueeze(2)
    y = call("minibatch_stddev", video, group, float(eps), impl)
    return y if x.ndim == 5 else y.squeeze(2)


torch.library.define("vgen_fast::minibatch_stddev", "(Tensor x, SymInt group, float eps, str impl) -> Tensor")
torch.library.define(
    "vgen_fast::minibatch_stddev_backward", "(Tensor g, Tensor x, SymInt group, float eps, str impl) -> Tensor"
)
torch.library.define(
    "vgen_fast::minibatch_stddev_double_backward",
    "(Tensor v, Tensor g, Tensor x, SymInt group, float eps, str impl) -> (Tensor, Tensor)",
)


def _like(x: Tensor, extra: int) -> Tensor:
    return empty_like_layout(x, (x.shape[0], x.shape[1] + extra, *x.shape[2:]))


def _sizes(x: Tensor) -> list[int]:
    return [x.shape[0], x.shape[1], x.shape[2] * x.shape[3] * x.shape[4]]


def _kernel():
    from vgen_fast.kernels import minibatch_stddev as kernel

    return kernel


@implements("minibatch_stddev")
def _forward(x, group, eps, impl):
    y = _like(x, 1)
    x = dense_like(x, _like(x, 0))
    if impl == "triton":
        _kernel().minibatch_stddev_forward(x, y, group, eps)
    else:
        _C.minibatch_stddev_forward(where(x), address(x), address(y), _sizes(x), group, channels_last(x), eps)
    return y


@torch.library.register_fake("vgen_fast::minibatch_stddev")
def _forward_fake(x, group, eps, impl):
    return _like(x, 1)


@implements("minibatch_stddev_backward")
def _backward(g, x, group, eps, impl):
    gx = _like(x, 0)
    x, g = dense_like(x, gx), dense_like(g, _like(x, 1))
    if impl == "triton":
        _kernel().minibatch_stddev_backward(g, x, gx, group, eps)
    else:
        _C.minibatch_stddev_backward(
            where(x), address(g), address(x), address(gx), _sizes(x), group, channels_last(x), eps
        )
    return gx


@torch.library.register_fake("vgen_fast::minibatch_stddev_backward")
def _backward_fake(g, x, group, eps, impl):
    return _like(x, 0)


@implements("minibatch_stddev_double_backward")
def _double_backward(v, g, x, group, eps, impl):
    gg, gx = _like(x, 1), _like(x, 0)
    x, g, v = dense_like(x, gx), dense_like(g, gg), dense_like(v, gx)
    if impl == "triton":
        _kernel().minibatch_stddev_double_backward(v, g, x, gg, gx, group, eps)
    else:
        tensors = (address(t) for t in (v, g, x, gg, gx))
        _C.minibatch_stddev_double_backward(where(x), *tensors, _sizes(x), group, channels_last(x), eps)
    return gg, gx


@torch.library.register_fake("vgen_fast::minibatch_stddev_double_backward")
def _double_backward_fake(v, g, x, group, eps, impl):
    return _like(x, 1), _like(x, 0)


def _setup(ctx, inputs, output):
    x, *ctx.flags = inputs
    ctx.save_for_backward(x)


def _first(ctx, gy):
    (x,) = ctx.saved_tensors
    return call("minibatch_stddev_backward", gy, x, *ctx.flags), None, None, None


def _setup_backward(ctx, inputs, output):
    g, x, *ctx.flags = inputs
    ctx.save_for_backward(g, x)


def _second(ctx, v):
    g, x = ctx.saved_tensors
    gg, gx = call("minibatch_stddev_double_backward", v, g, x, *ctx.flags)
    return gg, gx, None, None, None


def _third(ctx, *_):
    raise RuntimeError(f"{OP} can be differentiated twice, not three times; use impl='reference' for more")


autograd("minibatch_stddev", _setup, _first)
autograd("minibatch_stddev_backward", _setup_backward, _second)
autograd("minibatch_stddev_double_backward", None, _third)
