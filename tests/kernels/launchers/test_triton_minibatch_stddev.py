import pytest
import torch
from framed import DTYPES, Frame, assert_close, video, wide
from vgen_fast.kernels import minibatch_stddev as kernel

from vgen_fast.ops.minibatch_stddev import minibatch_stddev
from vgen_fast.ops.reference.minibatch_stddev import minibatch_stddev as reference

EPS = 1e-3
CASES = [((1, 1, 1, 1, 1), 1), ((4, 3, 2, 3, 5), 2), ((6, 7, 1, 4, 4), 3), ((4, 5, 3, 7, 11), 4), ((3, 65, 1, 2, 4), 1)]
every_case = pytest.mark.parametrize(("shape", "group"), CASES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
both_layouts = pytest.mark.parametrize("channels_last", [False, True])


def wider(shape):
    return (shape[0], shape[1] + 1, *shape[2:])


@every_case
@every_dtype
@both_layouts
def test_forward_matches_the_reference(shape, group, dtype, channels_last, device):
    options = dict(dtype=dtype, device=device, channels_last=channels_last)
    x, y = video(*shape, **options), Frame(*wider(shape), **options)
    kernel.minibatch_stddev_forward(x, y.view, group, EPS)
    exact, plain = (reference(t, group_size=group, eps=EPS) for t in (x.double(), x))
    assert_close(y.written(), exact, plain)


@every_case
@every_dtype
@both_layouts
def test_first_and_second_derivative_match_autograd(shape, group, dtype, channels_last, device):
    options = dict(dtype=dtype, device=device, channels_last=channels_last)
    x, v, g = video(*shape, **options), video(*shape, **options), video(*wider(shape), **options)
    gx, gg, ggx = Frame(*shape, **options), Frame(*wider(shape), **options), Frame(*shape, **options)
    found = []
    for kind in (torch.float64, wide(dtype)):
        leaf, leaf_g = x.to(kind).requires_grad_(), g.to(kind).requires_grad_()
        (first,) = torch.autograd.grad(reference(leaf, group_size=group, eps=EPS), leaf, leaf_g, create_graph=True)
        found.append((first, *torch.autograd.grad(first, (leaf_g, leaf), v.to(kind))))
    kernel.minibatch_stddev_backward(g, x, gx.view, group, EPS)
    kernel.minibatch_stddev_double_backward(v, g, x, gg.view, ggx.view, group, EPS)
    for frame, exact, plain in zip((gx, gg, ggx), *found, strict=True):
        if exact.abs().max() == 0:  # a group of one does not deviate
            assert frame.written().abs().max() == 0
        else:
            assert_close(frame.written(), exact, plain)


def test_more_features_than_the_programs_of_a_group_take_at_once(device, monkeypatch):
    monkeypatch.setattr(kernel, "MAX_PARTS", 2)
    test_forward_matches_the_reference((4, 9, 3, 8, 16), 2, torch.float32, True, device)
    test_first_and_second_derivative_match_autograd((4, 2, 3, 32, 16), 2, torch.float32, False, device)


def test_the_op_is_differentiated_twice_as_the_reference(device):
    x = video(4, 3, 2, 3, 4, dtype=torch.float64, device=device).requires_grad_()
    found = []
    for impl in ("triton", "reference"):
        y = minibatch_stddev(x, group_size=2, impl=impl)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        found.append([y, first, *torch.autograd.grad(first.square().sum(), x)])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
