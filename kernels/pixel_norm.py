"""Pixel norm with a leaky ReLU before it, and its backward: one read and one write of the tensor.

A program holds BLOCK_P positions with all their channels. Both layouts share the kernels: the strides say which index
is innermost, and channels-last tensors are one long run of positions.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def pixel_norm_forward_kernel(
    x_ptr, y_ptr, r_ptr, positions, stride_n, stride_c, stride_p, slope: tl.float64, eps: tl.float64,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """a = lrelu(x), r = 1 / sqrt(mean_c a^2 + eps), y = r a."""
    ACC: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    blocks = tl.cdiv(positions, BLOCK_P)
    n = tl.program_id(0).to(tl.int64) // blocks
    offs_p = tl.program_id(0).to(tl.int64) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_c = tl.arange(0, BLOCK_C)
    mask = (offs_p < positions)[:, None] & (offs_c < C)[None, :]
    at = n * stride_n + (offs_p * stride_p)[:, None] + (offs_c.to(tl.int64) * stride_c)[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC)
    a = tl.where(x > 0, x, x * tl.full([1, 1], slope, ACC))
    r = tl.rsqrt(tl.sum(a * a, 1) * (1.0 / C) + tl.full([1], eps, ACC))
    tl.store(y_ptr + at, (a * r[:, None]).to(y_ptr.dtype.element_ty), mask=mask)
    if r_ptr is not None:
        tl.store(r_ptr + n * positions + offs_p, r, mask=offs_p < positions)


@triton.jit
def pixel_norm_backward_kernel(
    g_ptr, y_ptr, r_ptr, gz_ptr, positions, stride_n, stride_c, stride_p, slope: tl.float64, gain: tl.float64,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """gz = lrelu'(z) gain r (g - y mean_c(g y)); the sign of z is that of y."""
    ACC: tl.constexpr = r_ptr.dtype.element_ty
    blocks = tl.cdiv(positions, BLOCK_P)
    n = tl.program_id(0).to(tl.int64) // blocks
    offs_p = tl.program_id(0).to(tl.int64) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_c = tl.arange(0, BLOCK_C)
    mask_p = offs_p < positions
    mask = mask_p[:, None] & (offs_c < C)[None, :]
    at = n * stride_n + (offs_p * stride_p)[:, None] + (offs_c.to(tl.int64) * stride_c)[None, :]
    g = tl.load(g_ptr + at, mask=mask, other=0.0).to(ACC)
    y = tl.load(y_ptr + at, mask=mask, other=0.0).to(ACC)
    r = tl.load(r_ptr + n * positions + offs_p, mask=mask_p, other=0.0)
    ga = (g - y * (tl.sum(g * y, 1) * (1.0 / C))[:, None]) * r[:, None]
    gz = ga * tl.full([1, 1], gain, ACC)
    gz = tl.where(y > 0, gz, gz * tl.full([1, 1], slope, ACC))
    tl.store(gz_ptr + at, gz.to(gz_ptr.dtype.element_ty), mask=mask)


@triton.jit
def act_backward_kernel(
    g_ptr, y_ptr, gz_ptr, num_elements, slope: tl.float64, gain: tl.float64, BLOCK_E: tl.constexpr
):  # fmt: skip
    """gz = lrelu'(z) gain g."""
    ACC: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    offs_e = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask = offs_e < num_elements
    gz = tl.load(g_ptr + offs_e, mask=mask, other=0.0).to(ACC) * tl.full([1], gain, ACC)
    y = tl.load(y_ptr + offs_e, mask=mask, other=0.0).to(ACC)
    gz = tl.where(y > 0, gz, gz * tl.full([1], slope, ACC))
    tl.store(gz_ptr + offs_e, gz.to(gz_ptr.dtype.element_ty), mask=mask)


def _tiles(x: Tensor) -> tuple[int, tuple, dict]:
    """Number of programs, (positions, stride_n, stride_c, stride_p), and block sizes for dense x `[B, C, T, H, W]`."""
    batch, C = x.shape[:2]
    positions = x[0, 0].numel()
    if x.is_contiguous():
        layout = (positions, C * positions, positions, 1)
    else:
        layout, batch = (batch * positions, 0, 1, C), 1
    block_c = triton.next_power_of_2(C)
    block_p = max(1, min(2048 // block_c, triton.next_power_of_2(layout[0])))
    num_warps = 4 if block_c * block_p <= 4096 else 16
    blocks = dict(C=C, BLOCK_C=block_c, BLOCK_P=block_p, num_warps=num_warps)
    return batch * triton.cdiv(layout[0], block_p), layout, blocks


def pixel_norm_forward(x: Tensor, y: Tensor, r: Tensor | None, slope: float, eps: float) -> None:
    """Fills y, dense with x's strides, and, where given, r `[B, T, H, W]` in the compute type."""
    programs, layout, blocks = _tiles(x)
    with torch.cuda.device_of(x):
        pixel_norm_forward_kernel[(programs,)](x, y, r, *layout, float(slope), float(eps), **blocks)


def pixel_norm_backward(g: Tensor, y: Tensor, r: Tensor | None, gz: Tensor, slope: float, gain: float) -> None:
    """Fills gz; g, y and gz are dense with the same strides. Without r there is no norm, only the mask and gain."""
    if y.numel() == 0:
        return
    programs, layout, blocks = _tiles(y)
    with torch.cuda.device_of(y):
        if r is None:
            grid = (triton.cdiv(y.numel(), 2048),)
            act_backward_kernel[grid](g, y, gz, y.numel(), float(slope), float(gain), BLOCK_E=2048)
        else:
            pixel_norm_backward_kernel[(programs,)](g, y, r, gz, *layout, float(slope), float(gain), **blocks)
