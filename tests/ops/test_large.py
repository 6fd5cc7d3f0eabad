"""Outputs beyond the size from which the CPU kernels write past the caches: odd ends, odd starts, every type."""

import pytest
import torch
import torch.nn.functional as F

from vgen_fast import ops
from vgen_fast.ops.choose import unavailable

REASON = unavailable("cpp", "cpu")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
STREAM_BYTES = 16 << 20  # kStreamBytes in csrc/cpu/simd.h


def draw(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert x.nbytes > STREAM_BYTES
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_pixel_norm_and_its_gradient(dtype: torch.dtype):
    x = draw(1, 7, 8, 401, 391, dtype=dtype).requires_grad_()
    y, plain = (ops.pixel_norm(x, slope=0.2, impl=impl) for impl in ("cpp", "reference"))
    torch.testing.assert_close(y, plain, rtol=4 * torch.finfo(dtype).eps, atol=1e-7)
    g = torch.randn_like(y)
    found, exact = (torch.autograd.grad(out, x, g)[0].double() for out in (y, plain))
    assert (found - exact).norm() <= 8 * torch.finfo(dtype).eps * exact.norm()
    assert (found - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("pixel_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution(dtype: torch.dtype, pixel_norm: bool):
    size = (9, 331, 301) if dtype == torch.float32 else (9, 401, 501)
    w = torch.randn(5, 2, 3, 3, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = draw(1, 5, *size, dtype=dtype)[:, :2]
    y = ops.modulated_conv3d(x, w, slope=0.2, pixel_norm=pixel_norm, impl="cpp")
    assert y.nbytes > STREAM_BYTES
    exact = F.leaky_relu(F.conv3d(x.double(), w.double(), padding=1), 0.2)
    exact = ops.pixel_norm(exact, impl="reference") if pixel_norm else exact
    torch.testing.assert_close(y.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=4e-5)
