"""3D convolutions under autocast on CPU: those of float32, but for what is rounded on the way in and out."""

import pytest
import torch
from torch import nn

from vgen_fast.layers.conv3d import Conv3d, ConvTranspose3d


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "plain"), [(Conv3d, nn.Conv3d), (ConvTranspose3d, nn.ConvTranspose3d)])
def test_autocast_leaves_them_in_float32(kind, plain, dtype):
    torch.manual_seed(0)
    conv = kind(8, 16, (3, 4, 4), (1, 2, 2), 1)
    x = torch.randn(2, 8, 2, 4, 4).to(dtype).float().requires_grad_()
    expected = plain.forward(conv, x)
    g = torch.randn(expected.shape).to(dtype).float()
    wanted = torch.autograd.grad(expected, (x, *conv.parameters()), g)
    with torch.autocast("cpu", dtype):
        y = conv(x)
    assert y.dtype == dtype
    assert torch.equal(y, expected.to(dtype))
    for got, exact in zip(torch.autograd.grad(y, (x, *conv.parameters()), g.to(dtype)), wanted, strict=True):
        assert torch.equal(got, exact)


def test_without_autocast_they_are_torch_s_own():
    conv, x = Conv3d(3, 4, 3), torch.randn(1, 3, 4, 4, 4, dtype=torch.float64)
    assert torch.equal(conv.double()(x), nn.Conv3d.forward(conv, x))
