"""The tests are tested: ops that are wrong on purpose, each of which `check_op` must catch, and by the right check."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vgen_fast.ops import reference
from vgen_fast.ops.layout import channels_last

from .cases import CASES, Case, Tensors, plain_conv
from .check import Call, check_buffers, check_layouts, check_numerical_gradients, check_op, check_penalty

BY_NAME = {str(case): case for case in CASES}
PIXEL_NORM, STDDEV, CONV = "pixel_norm:video", "minibatch_stddev:blocks", "modulated_conv3d:bias_lrelu"
SMALL = "minibatch_stddev:whole_batch"  # where a numerical Jacobian is wanted
IMPL = "wrong"  # the calls below ignore it; check_op asks more of anything that is not the reference


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    if x.ndim == 5 and channels_last(x):
        return y.contiguous(memory_format=torch.channels_last_3d)
    return y.contiguous()


def right(case: Case) -> Call:
    return lambda tensors, impl: in_layout_of(tensors["x"], case.plain(tensors))


def changed(change: Callable[[Tensor], Tensor]) -> Callable[[Case], Call]:
    """The right op with its output changed."""
    return lambda case: lambda tensors, impl: change(right(case)(tensors, impl))


def from_x(function: Callable[[Tensor], Tensor]) -> Callable[[Case], Call]:
    return lambda case: lambda tensors, impl: in_layout_of(tensors["x"], function(tensors["x"]))


class Unwritten(torch.autograd.Function):
    """Copies everything but the last element."""

    @staticmethod
    def forward(ctx, y):
        out, written = torch.empty_like(y), torch.ones_like(y, dtype=torch.bool)
        written[(-1,) * y.ndim] = False
        out[written] = y[written]
        return out

    @staticmethod
    def backward(ctx, g):
        return g


def not_twice(case: Case, *, guarded: bool) -> Call:
    """Its backward is a bare kernel call: the right gradient, unknown to autograd."""

    def backward(ctx, g):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(case.plain({"x": x}), x, g.detach())[0]

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return in_layout_of(x, case.plain({"x": x}))

    methods = {"forward": forward, "backward": once_differentiable(backward) if guarded else backward}
    op = type("NotTwice", (torch.autograd.Function,), {name: staticmethod(f) for name, f in methods.items()})
    return lambda tensors, impl: op.apply(tensors["x"])


def mean_over_time(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=2, keepdim=True) + 1e-8)


def detached_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8).detach()


def stddev(x: Tensor, neighbours: bool = False, detach: bool = False) -> Tensor:
    """The cases whose group is the whole batch, with the faults of minibatch stddev seen in the wild."""
    group = 2 if neighbours else len(x)
    groups = (
        x.reshape(len(x) // group, group, *x.shape[1:]).transpose(0, 1).to(torch.promote_types(x.dtype, torch.float32))
    )
    mean = groups.mean(0)
    variance = (groups - (mean.detach() if detach else mean)).square().mean(0)
    statistic = (variance + 1e-3).sqrt().flatten(1).mean(1).to(x.dtype)
    channel = statistic.repeat_interleave(group)[:, None, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)


def corner_off(y: Tensor) -> Tensor:
    factor = torch.ones_like(y)
    factor[(-1,) * y.ndim] = 1.01
    return y * factor


def nondeterministic(y: Tensor) -> Tensor:
    """Off by an ulp, now and then: within every tolerance."""
    return y * (1 + torch.finfo(y.dtype).eps * torch.randint(0, 2, y.shape).to(y.dtype))


def changes_bias(case: Case) -> Call:
    def call(tensors: Tensors, impl: str | None) -> Tensor:
        y = right(case)(tensors, impl)
        tensors["bias"].data.add_(1)  # behind autograd's back, as a kernel would
        return y

    return call


def ignores_slope(case: Case) -> Call:
    if case.op == "pixel_norm":
        return from_x(lambda x: reference.pixel_norm.pixel_norm(x, slope=0.2, eps=1e-3))(case)
    return lambda tensors, impl: in_layout_of(tensors["x"], plain_conv(**tensors, **{**case.options, "slope": 0.25}))


def slope_only_forward(case: Case) -> Call:
    """The value with the right slope, the gradient with another."""

    def call(tensors: Tensors, impl: str | None) -> Tensor:
        y = right(case)(tensors, impl)
        linear = plain_conv(**tensors, **{**case.options, "slope": None})
        wrong = F.leaky_relu(linear, 0.25)
        return in_layout_of(tensors["x"], wrong + (y - wrong).detach())

    return call


def ignores_strides(x: Tensor) -> Tensor:
    """Reads the memory as if it were contiguous."""
    dense = torch.empty(x.shape).stride()
    flat = x.as_strided(x.shape, dense) if x.untyped_storage().nbytes() >= x.nbytes else x
    return reference.pixel_norm.pixel_norm(flat)


WRONG = {  # what is wrong -> case, op, what check_op says of it
    "last_element_unwritten": (PIXEL_NORM, changed(Unwritten.apply), "error|not finite|never written"),
    "mean_over_the_wrong_axis": (PIXEL_NORM, from_x(mean_over_time), r"float32: error"),
    "groups_of_neighbours": ("minibatch_stddev:image", from_x(lambda x: stddev(x[:, :, None], True)[:, :, 0]), "error"),
    "gradient_misses_a_term": (PIXEL_NORM, from_x(detached_norm), "gradient of x: error"),
    "second_gradient_misses_a_term": (STDDEV, from_x(lambda x: stddev(x, detach=True)), "second gradient of x"),
    "corner_off_by_one_percent": (CONV, changed(corner_off), "float32: error"),
    "not_twice_differentiable": (STDDEV, lambda case: not_twice(case, guarded=False), "expected to be zero"),
    "only_once_differentiable": (SMALL, lambda case: not_twice(case, guarded=True), "Jacobian mismatch"),
    "changes_its_input": (CONV, changes_bias, "bias was changed"),
    "ignores_slope": (CONV, ignores_slope, "float32: error"),
    "pixel_norm_ignores_slope": ("pixel_norm:video_lrelu", ignores_slope, "float32: error"),
    "slope_only_forward": (CONV, slope_only_forward, "gradient of"),
    "ignores_strides": (PIXEL_NORM, from_x(ignores_strides), "with x channels-last"),
    "always_contiguous": (PIXEL_NORM, changed(Tensor.contiguous), "not channels-last"),
    "nondeterministic": (PIXEL_NORM, changed(nondeterministic), "two runs on the same input differ"),
}


@pytest.mark.parametrize("name", [PIXEL_NORM, STDDEV, CONV])
def test_the_right_op_passes(name: str):
    check_op(BY_NAME[name], IMPL, call=right(BY_NAME[name]))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_op_is_caught(wrong: str):
    name, op, said = WRONG[wrong]
    with pytest.raises((AssertionError, RuntimeError), match=said):
        check_op(BY_NAME[name], IMPL, call=op(BY_NAME[name]))


@pytest.mark.parametrize("name", [PIXEL_NORM, "pixel_norm:one", STDDEV, CONV])
def test_an_unwritten_element_shows_even_where_memory_held_the_right_value(name: str):
    with pytest.raises(AssertionError, match="never written"):
        check_buffers(BY_NAME[name], IMPL, changed(Unwritten.apply)(BY_NAME[name]), "cpu")


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("pixel_norm:one", detached_norm, "Jacobian mismatch"),
        (PIXEL_NORM, detached_norm, "Jacobian mismatch"),
        ("minibatch_stddev:whole_batch", lambda x: stddev(x, detach=True), "Jacobian mismatch"),
    ],
)
def test_numerical_gradients_catch_what_op_and_reference_both_get_wrong(name: str, function: Callable, said: str):
    case = replace(BY_NAME[name], plain=lambda tensors: function(tensors["x"]))
    with pytest.raises(RuntimeError, match=said):
        check_numerical_gradients(case, IMPL, right(case))


@pytest.mark.parametrize("guarded", [False, True])
def test_a_penalty_through_an_op_that_is_not_twice_differentiable_is_caught(guarded: bool):
    with pytest.raises((AssertionError, RuntimeError), match=r"penalty gradient of x|once_differentiable"):
        check_penalty(BY_NAME[STDDEV], IMPL, not_twice(BY_NAME[STDDEV], guarded=guarded), "cpu")


def test_a_gradient_read_as_if_contiguous_is_caught():
    class DenseGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            first = g.as_strided((), (), g.storage_offset())
            return g if g.stride() != (0,) * g.ndim else first * (torch.arange(g.numel()) == 0).to(g).reshape(g.shape)

    case = BY_NAME[PIXEL_NORM]
    with pytest.raises(AssertionError, match="expanded gradient"):
        check_layouts(case, IMPL, changed(DenseGradient.apply)(case), "cpu")
