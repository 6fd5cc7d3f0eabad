"""Sorting the columns of projections, and the sliced critic head with its backward.

Legend: N samples, L directions; B samples and K directions of the head.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_ROWS = 1024


@triton.jit
def order_key(x):
    """Integers of x's width in the order of the numbers, NaN last; its own inverse on the bits."""
    x = tl.where(x != x, float("nan"), x + 0.0)  # one NaN, and -0 is 0
    if x.dtype == tl.float64:
        bits = x.to(tl.int64, bitcast=True)
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    else:
        bits = x.to(tl.int32, bitcast=True)
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def sort_columns_kernel(
    x_ptr, values_ptr, num_rows, num_columns, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr
):  # fmt: skip
    """values: every column of x ascending."""
    offs_l = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_l < num_columns)[:, None] & (offs_n < num_rows)[None, :]
    at = offs_n.to(tl.int64)[None, :] * num_columns + offs_l[:, None]
    key = order_key(tl.load(x_ptr + at, mask=mask, other=0.0))
    WIDE: tl.constexpr = key.dtype == tl.int64
    key = tl.sort(tl.where(mask, key, 0x7FFFFFFFFFFFFFFF if WIDE else 0x7FFFFFFF), dim=1)  # behind NaN
    bits = key ^ ((key >> (63 if WIDE else 31)) & (0x7FFFFFFFFFFFFFFF if WIDE else 0x7FFFFFFF))
    tl.store(values_ptr + at, bits.to(x_ptr.dtype.element_ty, bitcast=True), mask=mask)


@triton.jit
def rank_columns_kernel(
    x_ptr, values_ptr, ranks_ptr, num_rows, num_columns, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr,
    BLOCK_J: tl.constexpr,
):  # fmt: skip
    """values and ranks: each element goes to the place that is the number of elements before it (equal ones by row)."""
    offs_l = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_l = offs_l < num_columns
    mask = mask_l[:, None] & (offs_n < num_rows)[None, :]
    x = tl.load(x_ptr + offs_n.to(tl.int64)[None, :] * num_columns + offs_l[:, None], mask=mask, other=0.0)
    key = order_key(x)
    place = tl.zeros([BLOCK_L, BLOCK_N], tl.int32)
    for j_0 in range(0, num_rows, BLOCK_J):
        offs_j = j_0 + tl.arange(0, BLOCK_J)
        mask_j = mask_l[:, None] & (offs_j < num_rows)[None, :]
        other = order_key(
            tl.load(x_ptr + offs_j.to(tl.int64)[None, :] * num_columns + offs_l[:, None], mask=mask_j, other=0.0)
        )
        earlier = (offs_j[None, None, :] < offs_n[None, :, None]) & (other[:, None, :] == key[:, :, None])
        before = (earlier | (other[:, None, :] < key[:, :, None])) & mask_j[:, None, :]
        place += tl.sum(before.to(tl.int32), 2)
    at = place.to(tl.int64) * num_columns + offs_l[:, None]
    tl.store(values_ptr + at, x, mask=mask)
    tl.store(ranks_ptr + at, tl.broadcast_to(offs_n[None, :], [BLOCK_L, BLOCK_N]), mask=mask)


@triton.jit
def sliced_head_forward_kernel(
    p_ptr, scale_ptr, offset_ptr, out_ptr, num_rows, num_columns, stride_pb, slope: tl.float64,
    BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out_b = mean_k lrelu(scale_k p_bk + offset_k)."""
    ACC: tl.constexpr = tl.float64 if p_ptr.dtype.element_ty == tl.float64 else tl.float32
    offs_b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    mask_b = offs_b < num_rows
    acc = tl.zeros([BLOCK_B, BLOCK_K], ACC)
    for k_0 in range(0, num_columns, BLOCK_K):
        offs_k = k_0 + tl.arange(0, BLOCK_K)
        mask_k = offs_k < num_columns
        scale = tl.load(scale_ptr + offs_k, mask=mask_k, other=0.0).to(ACC)
        offset = tl.load(offset_ptr + offs_k, mask=mask_k, other=0.0).to(ACC)
        at = (offs_b * stride_pb)[:, None] + offs_k[None, :]
        p = tl.load(p_ptr + at, mask=mask_b[:, None] & mask_k[None, :], other=0.0).to(ACC)
        z = p * scale[None, :] + offset[None, :]
        acc += tl.where(z > 0, z, z * tl.full([1, 1], slope, ACC))  # columns past the end are 0
    mean = tl.sum(acc, 1) / num_columns.to(ACC)
    tl.store(out_ptr + offs_b, mean.to(out_ptr.dtype.element_ty), mask=mask_b)


@triton.jit
def sliced_head_backward_kernel(
    p_ptr, g_ptr, scale_ptr, offset_ptr, gp_ptr, gscale_ptr, goffset_ptr, num_rows, num_columns, stride_pb,
    stride_gb, slope: tl.float64, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """m_bk = g_b / K lrelu'(scale_k p_bk + offset_k): gp = m scale, gscale = sum_b m p, goffset = sum_b m."""
    ACC: tl.constexpr = tl.float64 if p_ptr.dtype.element_ty == tl.float64 else tl.float32
    offs_k = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask_k = offs_k < num_columns
    scale = tl.load(scale_ptr + offs_k, mask=mask_k, other=0.0).to(ACC)[None, :]
    offset = tl.load(offset_ptr + offs_k, mask=mask_k, other=0.0).to(ACC)[None, :]
    gscale = tl.zeros([BLOCK_B, BLOCK_K], ACC)
    goffset = tl.zeros([BLOCK_B, BLOCK_K], ACC)
    for b_0 in range(0, num_rows, BLOCK_B):
        offs_b = tl.cast(b_0, tl.int64) + tl.arange(0, BLOCK_B)
        mask_b = offs_b < num_rows
        mask = mask_b[:, None] & mask_k[None, :]
        p = tl.load(p_ptr + (offs_b * stride_pb)[:, None] + offs_k[None, :], mask=mask, other=0.0).to(ACC)
        g = tl.load(g_ptr + offs_b * stride_gb, mask=mask_b, other=0.0).to(ACC) / num_columns.to(ACC)
        m = g[:, None] * tl.where(p * scale + offset > 0, 1.0, tl.full([1, 1], slope, ACC))
        gscale += m * p
        goffset += m
        gp = (m * scale).to(gp_ptr.dtype.element_ty)
        tl.store(gp_ptr + offs_b[:, None] * num_columns + offs_k[None, :], gp, mask=mask)
    tl.store(gscale_ptr + offs_k, tl.sum(gscale, 0).to(gscale_ptr.dtype.element_ty), mask=mask_k)
    tl.store(goffset_ptr + offs_k, tl.sum(goffset, 0).to(goffset_ptr.dtype.element_ty), mask=mask_k)


def sorted_columns(x: Tensor, values: Tensor, ranks: Tensor | None) -> None:
    """Fills values `[N, L]`, each column of x ascending (NaN last), and ranks `[N, L]` int32, the row each came from.

    x `[N, L]` float32 or float64, all contiguous. Equal values keep their order.
    """
    num_rows, num_columns = x.shape
    if num_rows > MAX_ROWS:
        raise NotImplementedError(f"sorted_columns: columns of at most {MAX_ROWS} rows fit one program, got {num_rows}")
    if x.numel() == 0:
        return
    with torch.cuda.device_of(x):
        if ranks is None:
            block_n = max(2, triton.next_power_of_2(num_rows))
            block_l = max(1, 512 // block_n)
            grid = (triton.cdiv(num_columns, block_l),)
            sort_columns_kernel[grid](x, values, num_rows, num_columns, BLOCK_N=block_n, BLOCK_L=block_l)
        else:
            grid = (triton.cdiv(num_columns, 8), triton.cdiv(num_rows, 32))
            rank_columns_kernel[grid](
                x, values, ranks, num_rows, num_columns, BLOCK_N=32, BLOCK_L=8, BLOCK_J=16
            )  # fmt: skip


def sliced_head_forward(p: Tensor, scale: Tensor, offset: Tensor, out: Tensor, slope: float) -> None:
    """Fills out `[B]` from p `[B, K]` (rows contiguous), scale and offset `[K]`."""
    num_rows, num_columns = p.shape
    with torch.cuda.device_of(p):
        sliced_head_forward_kernel[(triton.cdiv(num_rows, 4),)](
            p, scale, offset, out, num_rows, num_columns, p.stride(0), float(slope), BLOCK_B=4, BLOCK_K=128
        )


def sliced_head_backward(
    p: Tensor, g: Tensor, scale: Tensor, offset: Tensor, gp: Tensor, gscale: Tensor, goffset: Tensor, slope: float
) -> None:
    """Fills gp `[B, K]` (contiguous), gscale and goffset `[K]` from the gradient g `[B]` of out."""
    num_rows, num_columns = p.shape
    with torch.cuda.device_of(p):
        sliced_head_backward_kernel[(triton.cdiv(num_columns, 32),)](
            p, g, scale, offset, gp, gscale, goffset, num_rows, num_columns, p.stride(0), g.stride(0), float(slope),
            BLOCK_B=32, BLOCK_K=32,
        )  # fmt: skip
