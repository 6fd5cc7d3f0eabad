"""Minibatch standard deviation and its first two derivatives; csrc/minibatch_stddev.h has the formulas.

A feature f is one element of a sample, in memory order; group m of M holds samples m, m + M, m + 2 M ...
Sums over features are partial sums, one per program, added up in a fixed order by whoever needs them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_PARTS = 1024  # programs per group; the reader of the partial sums holds all of them in one block
BLOCK_F = 512


@triton.jit
def wide_feature(f, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Where feature f of a sample lies in a sample of C + 1 channels."""
    return f + f // C if CHANNELS_LAST else f


@triton.jit
def group_moments(x_ptr, f, mask, m, groups, features, eps, G: tl.constexpr, ACC: tl.constexpr):
    """Mean and sqrt(variance + eps) of feature f over group m, the variance from the differences."""
    mean = tl.zeros(f.shape, ACC)
    for k in tl.static_range(G):
        mean += tl.load(x_ptr + (m + k * groups) * features + f, mask=mask, other=0.0).to(ACC)
    mean = mean * (1.0 / G)
    variance = tl.zeros(f.shape, ACC)
    for k in tl.static_range(G):
        x = tl.load(x_ptr + (m + k * groups) * features + f, mask=mask, other=0.0).to(ACC)
        variance += (x - mean) * (x - mean)
    return mean, tl.sqrt(variance * (1.0 / G) + tl.full([1], eps, ACC))


@triton.jit
def deviation_kernel(
    x_ptr, y_ptr, part_ptr, groups, features, positions, parts, eps: tl.float64,
    G: tl.constexpr, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Copies x into y and leaves part `[M, parts]`: sums of the deviations."""
    ACC: tl.constexpr = part_ptr.dtype.element_ty
    m = tl.program_id(0).to(tl.int64)
    acc = tl.zeros([BLOCK_F], ACC)
    for start in range(tl.program_id(1).to(tl.int64) * BLOCK_F, features, parts * BLOCK_F):
        f = start + tl.arange(0, BLOCK_F)
        mask = f < features
        _, deviation = group_moments(x_ptr, f, mask, m, groups, features, eps, G, ACC)
        acc += tl.where(mask, deviation, 0.0)
        wide = wide_feature(f, C, CHANNELS_LAST)
        for k in tl.static_range(G):
            n = m + k * groups
            x = tl.load(x_ptr + n * features + f, mask=mask)
            tl.store(y_ptr + n * (features + positions) + wide, x, mask=mask)
    tl.store(part_ptr + m * parts + tl.program_id(1), tl.sum(acc, 0))


@triton.jit
def write_statistic_kernel(
    part_ptr, y_ptr, groups, features, positions, parts, scale: tl.float64,
    C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The added channel of y: scale times the sum of its group's parts, at every position."""
    n = tl.program_id(0).to(tl.int64)
    offs_s = tl.arange(0, BLOCK_S)
    part = tl.load(part_ptr + n % groups * parts + offs_s, mask=offs_s < parts, other=0.0)
    statistic = tl.sum(part, 0) * tl.full([1], scale, part_ptr.dtype.element_ty)
    p = tl.program_id(1).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    at = p * (C + 1) + C if CHANNELS_LAST else features + p
    value = statistic.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + n * (features + positions) + at, tl.broadcast_to(value, [BLOCK_P]), mask=p < positions)


@triton.jit
def statistic_gradient_kernel(
    g_ptr, part_ptr, groups, features, positions, parts,
    G: tl.constexpr, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """part `[M, parts]`: sums of the added channel's gradient over positions and the group."""
    ACC: tl.constexpr = part_ptr.dtype.element_ty
    m = tl.program_id(0).to(tl.int64)
    acc = tl.zeros([BLOCK_P], ACC)
    for start in range(tl.program_id(1).to(tl.int64) * BLOCK_P, positions, parts * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        at = p * (C + 1) + C if CHANNELS_LAST else features + p
        for k in tl.static_range(G):
            n = m + k * groups
            acc += tl.load(g_ptr + n * (features + positions) + at, mask=p < positions, other=0.0).to(ACC)
    tl.store(part_ptr + m * parts + tl.program_id(1), tl.sum(acc, 0))


@triton.jit
def minibatch_stddev_backward_kernel(
    g_ptr, x_ptr, part_ptr, gx_ptr, groups, features, positions, parts, eps: tl.float64, scale: tl.float64,
    G: tl.constexpr, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """gx = g + gs / (F G) (x - mean) / deviation."""
    ACC: tl.constexpr = part_ptr.dtype.element_ty
    m = tl.program_id(0).to(tl.int64)
    offs_s = tl.arange(0, BLOCK_S)
    gs = tl.sum(tl.load(part_ptr + m * parts + offs_s, mask=offs_s < parts, other=0.0), 0) * tl.full([1], scale, ACC)
    f = tl.program_id(1).to(tl.int64) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = f < features
    mean, deviation = group_moments(x_ptr, f, mask, m, groups, features, eps, G, ACC)
    factor = gs / tl.where(mask, deviation, 1.0)
    wide = wide_feature(f, C, CHANNELS_LAST)
    for k in tl.static_range(G):
        n = m + k * groups
        x = tl.load(x_ptr + n * features + f, mask=mask, other=0.0).to(ACC)
        g = tl.load(g_ptr + n * (features + positions) + wide, mask=mask, other=0.0).to(ACC)
        gx = g + factor * (x - mean)
        tl.store(gx_ptr + n * features + f, gx.to(gx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def minibatch_stddev_double_backward_kernel(
    v_ptr, x_ptr, part_ptr, gg_ptr, gx_ptr, sum_ptr,
    groups, features, positions, parts, sums, eps: tl.float64, scale: tl.float64,
    G: tl.constexpr, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """gx, the features of gg (a copy of v), and sum `[M, sums]`: sums of v (x - mean) / deviation."""
    ACC: tl.constexpr = part_ptr.dtype.element_ty
    m = tl.program_id(0).to(tl.int64)
    offs_s = tl.arange(0, BLOCK_S)
    gs = tl.sum(tl.load(part_ptr + m * parts + offs_s, mask=offs_s < parts, other=0.0), 0) * tl.full([1], scale, ACC)
    acc = tl.zeros([BLOCK_F], ACC)
    for start in range(tl.program_id(1).to(tl.int64) * BLOCK_F, features, sums * BLOCK_F):
        f = start + tl.arange(0, BLOCK_F)
        mask = f < features
        mean, deviation = group_moments(x_ptr, f, mask, m, groups, features, eps, G, ACC)
        deviation = tl.where(mask, deviation, 1.0)
        mean_v = tl.zeros([BLOCK_F], ACC)
        dot = tl.zeros([BLOCK_F], ACC)
        for k in tl.static_range(G):
            mean_v += tl.load(v_ptr + (m + k * groups) * features + f, mask=mask, other=0.0).to(ACC)
        mean_v *= 1.0 / G
        for k in tl.static_range(G):  # of what is left of v, as differences from a rounded mean do not add up to 0
            at = (m + k * groups) * features + f
            v = tl.load(v_ptr + at, mask=mask, other=0.0).to(ACC) - mean_v
            dot += v * (tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC) - mean)
        acc += dot / deviation
        pull = dot * (1.0 / G) / (deviation * deviation)
        factor = gs / deviation
        wide = wide_feature(f, C, CHANNELS_LAST)
        for k in tl.static_range(G):
            n = m + k * groups
            v = tl.load(v_ptr + n * features + f, mask=mask, other=0.0)
            x = tl.load(x_ptr + n * features + f, mask=mask, other=0.0).to(ACC)
            gx = factor * (v.to(ACC) - mean_v - (x - mean) * pull)
            tl.store(gx_ptr + n * features + f, gx.to(gx_ptr.dtype.element_ty), mask=mask)
            tl.store(gg_ptr + n * (features + positions) + wide, v, mask=mask)
    tl.store(sum_ptr + m * sums + tl.program_id(1), tl.sum(acc, 0))


def _sizes(x: Tensor, group: int) -> tuple[int, int, int, dict]:
    """Groups, features, positions, and what every kernel knows at compile time, for dense x `[B, C, T, H, W]`."""
    C, features = x.shape[1], x[0].numel()
    known = dict(C=C, CHANNELS_LAST=not x.is_contiguous())
    return x.shape[0] // group, features, features // C, known


def _parts(x: Tensor, groups: int, count: int) -> Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty((groups, min(MAX_PARTS, triton.cdiv(count, BLOCK_F))), dtype=wide)


def _write_statistic(part: Tensor, y: Tensor, groups: int, features: int, positions: int, scale: float, known: dict):
    parts = part.shape[1]
    grid = (y.shape[0], triton.cdiv(positions, 1024))
    write_statistic_kernel[grid](
        part, y, groups, features, positions, parts, scale, **known, BLOCK_P=1024, BLOCK_S=triton.next_power_of_2(parts)
    )


def _statistic_gradient(g: Tensor, groups: int, features: int, positions: int, group: int, known: dict) -> Tensor:
    part = _parts(g, groups, positions)
    parts = part.shape[1]
    statistic_gradient_kernel[(groups, parts)](
        g, part, groups, features, positions, parts, G=group, **known, BLOCK_P=BLOCK_F
    )
    return part


def minibatch_stddev_forward(x: Tensor, y: Tensor, group: int, eps: float) -> None:
    """Fills y `[B, C + 1, T, H, W]` from x `[B, C, T, H, W]`, dense in the same layout."""
    groups, features, positions, known = _sizes(x, group)
    part = _parts(x, groups, features)
    parts = part.shape[1]
    with torch.cuda.device_of(x):
        deviation_kernel[(groups, parts)](
            x, y, part, groups, features, positions, parts, float(eps), G=group, **known, BLOCK_F=BLOCK_F
        )
        _write_statistic(part, y, groups, features, positions, 1.0 / features, known)


def minibatch_stddev_backward(g: Tensor, x: Tensor, gx: Tensor, group: int, eps: float) -> None:
    """Fills gx from the gradient g of y."""
    groups, features, positions, known = _sizes(x, group)
    with torch.cuda.device_of(x):
        part = _statistic_gradient(g, groups, features, positions, group, known)
        parts, scale = part.shape[1], 1.0 / (features * group)
        minibatch_stddev_backward_kernel[(groups, triton.cdiv(features, BLOCK_F))](
            g, x, part, gx, groups, features, positions, parts, float(eps), scale,
            G=group, **known, BLOCK_F=BLOCK_F, BLOCK_S=triton.next_power_of_2(parts),
        )  # fmt: skip


def minibatch_stddev_double_backward(
    v: Tensor, g: Tensor, x: Tensor, gg: Tensor, gx: Tensor, group: int, eps: float
) -> None:
    """Fills gg and gx, the gradients of <v, minibatch_stddev_backward(g, x)> by g and x."""
    groups, features, positions, known = _sizes(x, group)
    part_v = _parts(x, groups, features)
    with torch.cuda.device_of(x):
        part = _statistic_gradient(g, groups, features, positions, group, known)
        parts, sums, scale = part.shape[1], part_v.shape[1], 1.0 / (features * group)
        minibatch_stddev_double_backward_kernel[(groups, sums)](
            v, x, part, gg, gx, part_v, groups, features, positions, parts, sums, float(eps), scale,
            G=group, **known, BLOCK_F=BLOCK_F, BLOCK_S=triton.next_power_of_2(parts),
        )  # fmt: skip
        _write_statistic(part_v, gg, groups, features, positions, scale, known)
