"""The streaming covariance's update: a symmetric rank-n product of float64 sums, lower triangle only."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# triton 3.6 aborts while compiling a float64 product of operands loaded in a narrower type.
CAST_ON_LOAD = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9)


@triton.jit
def rank_update_kernel(
    rows_ptr, shift_ptr, out_ptr, num_rows, num_columns, stride_rn, stride_rd, stride_on, stride_od,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out += (rows - shift)^T (rows - shift) on and below the diagonal, in float64, rows added in order."""
    if tl.program_id(1) > tl.program_id(0):
        return
    offs_i = tl.program_id(0).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    offs_j = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    shift_i = tl.load(shift_ptr + offs_i, mask=offs_i < num_columns, other=0.0)
    shift_j = tl.load(shift_ptr + offs_j, mask=offs_j < num_columns, other=0.0)
    acc = tl.zeros([BLOCK_D, BLOCK_D], tl.float64)
    for n_0 in range(0, num_rows, BLOCK_N):
        offs_n = tl.cast(n_0, tl.int64) + tl.arange(0, BLOCK_N)
        mask_n = offs_n < num_rows
        mask_i = (offs_i < num_columns)[:, None] & mask_n[None, :]
        mask_j = mask_n[:, None] & (offs_j < num_columns)[None, :]
        a = tl.load(rows_ptr + (offs_n * stride_rn)[None, :] + (offs_i * stride_rd)[:, None], mask=mask_i, other=0.0)
        b = tl.load(rows_ptr + (offs_n * stride_rn)[:, None] + (offs_j * stride_rd)[None, :], mask=mask_j, other=0.0)
        a = tl.where(mask_i, a.to(tl.float64) - shift_i[:, None], 0.0)
        b = tl.where(mask_j, b.to(tl.float64) - shift_j[None, :], 0.0)
        acc = tl.dot(a, b, acc, out_dtype=tl.float64)
    at = (offs_i * stride_on)[:, None] + (offs_j * stride_od)[None, :]
    mask = (offs_i < num_columns)[:, None] & (offs_j[None, :] <= offs_i[:, None])
    tl.store(out_ptr + at, tl.load(out_ptr + at, mask=mask, other=0.0) + acc, mask=mask)


def rank_update(rows: Tensor, shift: Tensor, out: Tensor) -> None:
    """out `[D, D]` float64, lower triangle only, += the products of rows `[n, D]` less shift `[D]` float64."""
    rows = rows if CAST_ON_LOAD else rows.double()
    num_rows, num_columns = rows.shape
    tiles = triton.cdiv(num_columns, 32)
    with torch.cuda.device_of(rows):
        rank_update_kernel[(tiles, tiles)](
            rows, shift, out, num_rows, num_columns, *rows.stride(), *out.stride(), BLOCK_D=32, BLOCK_N=16
        )
