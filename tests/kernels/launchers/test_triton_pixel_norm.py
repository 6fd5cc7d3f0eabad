import pytest
import torch
from framed import DTYPES, Frame, assert_close, video, wide
from vgen_fast.kernels import pixel_norm as kernel

import vgen_fast.ops.modulated_conv3d  # noqa: F401 - registers act_backward
from vgen_fast.ops.pixel_norm import pixel_norm
from vgen_fast.ops.reference.pixel_norm import pixel_norm as reference

SHAPES = [(1, 1, 1, 1, 1), (2, 8, 3, 5, 7), (3, 17, 1, 4, 4), (1, 129, 2, 3, 11), (2, 600, 1, 1, 3)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_matches_the_reference(shape, dtype, channels_last, device):
    options = dict(dtype=dtype, device=device, channels_last=channels_last)
    x, y = video(*shape, **options), Frame(*shape, **options)
    r = Frame(shape[0], *shape[2:], dtype=wide(dtype), device=device)
    kernel.pixel_norm_forward(x, y.view, r.view, 0.3, 1e-3)
    assert_close(y.written(), reference(x.double(), slope=0.3, eps=1e-3), reference(x, slope=0.3, eps=1e-3))
    a = torch.nn.functional.leaky_relu(x.double(), 0.3)
    exact = (a.square().mean(1) + 1e-3).rsqrt()
    assert_close(r.written(), exact, exact)
    again = Frame(*shape, **options)
    kernel.pixel_norm_forward(x, again.view, None, 0.3, 1e-3)
    assert torch.equal(again.written(), y.written())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_matches_autograd(shape, dtype, channels_last, device):
    options = dict(dtype=dtype, device=device, channels_last=channels_last)
    g, z, gz = video(*shape, **options), video(*shape, **options), Frame(*shape, **options)
    found = []
    for kind in (torch.float64, dtype):
        leaf = z.to(kind).requires_grad_()
        y = reference(torch.nn.functional.leaky_relu(leaf, 0.3) * 1.7, eps=1e-3)
        found += torch.autograd.grad(y, leaf, g.to(kind))
    a = torch.nn.functional.leaky_relu(z.double(), 0.3) * 1.7
    r = (a.square().mean(1) + 1e-3).rsqrt()
    y = torch.empty_like(z).copy_(a * r.unsqueeze(1))
    kernel.pixel_norm_backward(g, y, r.to(wide(dtype)), gz.view, 0.3, 1.7)
    if dtype.itemsize > 2:  # in 16 bits y itself is rounded, which the reference's gradient at z does not see
        assert_close(gz.written(), *found)
    assert (gz.written().double() - found[0]).norm() <= 8 * torch.finfo(dtype).eps * g.double().norm() * r.max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_without_norm_is_the_mask_and_the_gain(dtype, device):
    shape = (2, 5, 3, 7, 11)
    g, y = (video(*shape, dtype=dtype, device=device) for _ in range(2))
    y[0, 0, 0, 0, :3] = 0
    gz = Frame(*shape, dtype=dtype, device=device)
    kernel.pixel_norm_backward(g, y, None, gz.view, 0.3, 1.7)
    exact = g.double() * torch.where(y > 0, 1.7, 1.7 * 0.3).double()
    assert_close(gz.written(), g.double() * 1.7 * torch.where(y > 0, torch.ones_like(exact), 0.3), exact)


def test_the_op_is_differentiated_twice_as_the_reference(device):
    x = video(2, 3, 2, 3, 4, dtype=torch.float64, device=device).requires_grad_()
    found = []
    for impl in ("triton", "reference"):
        y = pixel_norm(x, slope=0.2, impl=impl)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        found.append([y, first, *torch.autograd.grad(first.square().sum(), x)])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
