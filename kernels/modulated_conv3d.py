"""Convolution with resampling and its epilogue, and its weight gradient, as implicit matrix products.

(Over 400 lines, as the two share the grid, the weight preparation and the block sizes.)

Per axis the op is a short correlation on a grid of positions j, one per `unit` (the parity u of the output for up):

    direct  y[j]       taps m < k            reads x[j + m - pad]
    up      y[2 j + u] taps m < (k + 1) / 2  reads x[j + floor((u - pad) / 2) + m], the taps on one input summed first
    down    y[j]       taps m < k + 1        reads x[2 j + m - pad] with the box-averaged kernel

so neither the upsampled nor the unpooled tensor exists. Rows are positions, columns output channels, and the summed
index k runs over (tap, input channel): below 16 channels the taps share a block of k, above each block is one tap.
docs/ops.md derives the table.

Legend: m position, o output channel, k tap and input channel, i input channel, s sample or split, e element.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_NORM_CHANNELS = 512  # one program must hold every channel of a position to normalise it
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
NUM_PROGRAMS = 512  # of the weight gradient; a constant, so that the sums do not depend on the device


@triton.jit
def multiply_add(a, b, acc, PRECISION: tl.constexpr):
    if INTERPRETED and a.dtype == tl.bfloat16:  # triton's interpreter would multiply the bit patterns
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def aligned(stride_n, stride_t, stride_h, stride_w, ALIGN: tl.constexpr):
    """The strides, with a factor the compiler can see: it knows of 16 itself, but 8 channels need vectors too."""
    return stride_n // ALIGN * ALIGN, stride_t // ALIGN * ALIGN, stride_h // ALIGN * ALIGN, stride_w // ALIGN * ALIGN


@triton.jit
def address(n, t, h, w, stride_n, stride_t, stride_h, stride_w):
    return n * stride_n + t.to(tl.int64) * stride_t + h.to(tl.int64) * stride_h + w.to(tl.int64) * stride_w


@triton.jit
def first_input(j, unit, pad, UP: tl.constexpr, DOWN: tl.constexpr):
    """Where tap 0 of a unit reads at grid position j."""
    if UP == 2:
        return j + ((unit - pad) >> 1)
    else:
        return j * DOWN - pad


@triton.jit
def summed_tap(tap, unit, pad, term, UP: tl.constexpr):
    """The tap of the op's kernel that is the `term`-th summand of a unit's tap; may lie outside the kernel."""
    if UP == 2:
        return 2 * (tap + ((unit - pad) >> 1)) - (unit - pad) + term
    else:
        return tap - term


@triton.jit
def containing_tap(k, pad, term, UP: tl.constexpr):
    """The `term`-th tap of a unit that contains tap k of the op's kernel; for up the unit is `term`."""
    if UP == 2:
        return ((term + k - pad) >> 1) - ((term - pad) >> 1)
    else:
        return k + term


@triton.jit
def prepare_weight_kernel(
    w_ptr, out_ptr, num_elements, pad_t, pad_h, pad_w,
    I: tl.constexpr, O: tl.constexpr, I_PAD: tl.constexpr, O_PAD: tl.constexpr, K_PAD: tl.constexpr,
    KERNEL_T: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    TAPS_T: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    UP_T: tl.constexpr, UP_H: tl.constexpr, UP_W: tl.constexpr,
    DOWN_T: tl.constexpr, DOWN_H: tl.constexpr, DOWN_W: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """w `[S, O, I, k]` -> out `[S, units, K_PAD, O_PAD]`, zero where padded; summed in w's type, rounded once."""
    offs_e = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    o = offs_e % O_PAD
    k = offs_e // O_PAD % K_PAD
    unit = offs_e // (O_PAD * K_PAD) % (UP_T * UP_H * UP_W)
    s = offs_e // (O_PAD * K_PAD * UP_T * UP_H * UP_W)
    i = k % I_PAD
    tap = k // I_PAD
    real = (offs_e < num_elements) & (o < O) & (i < I) & (tap < TAPS_T * TAPS_H * TAPS_W)
    w_ptrs = w_ptr + ((s * O + o) * I + i) * (KERNEL_T * KERNEL_H * KERNEL_W)
    acc = tl.zeros([BLOCK_E], w_ptr.dtype.element_ty)
    for a in tl.static_range(UP_T * DOWN_T):
        t = summed_tap(tap // (TAPS_H * TAPS_W), unit // (UP_H * UP_W), pad_t, a, UP_T)
        for b in tl.static_range(UP_H * DOWN_H):
            h = summed_tap(tap // TAPS_W % TAPS_H, unit // UP_W % UP_H, pad_h, b, UP_H)
            for c in tl.static_range(UP_W * DOWN_W):
                w = summed_tap(tap % TAPS_W, unit % UP_W, pad_w, c, UP_W)
                inside = (t >= 0) & (t < KERNEL_T) & (h >= 0) & (h < KERNEL_H) & (w >= 0) & (w < KERNEL_W)
                acc += tl.load(w_ptrs + (t * KERNEL_H + h) * KERNEL_W + w, mask=real & inside, other=0.0)
    acc = acc * (1.0 / (DOWN_T * DOWN_H * DOWN_W))
    tl.store(out_ptr + offs_e, acc.to(out_ptr.dtype.element_ty), mask=offs_e < num_elements)


@triton.jit
def conv_act_kernel(
    x_ptr, w_ptr, bias_ptr, noise_ptr, y_ptr, r_ptr,
    stride_xn, stride_xc, stride_xt, stride_xh, stride_xw,
    stride_zn, stride_zc, stride_zt, stride_zh, stride_zw,
    stride_yn, stride_yc, stride_yt, stride_yh, stride_yw,
    batch, in_t, in_h, in_w, out_t, out_h, out_w, pad_t, pad_h, pad_w,
    slope: tl.float64, gain: tl.float64, eps: tl.float64,
    I: tl.constexpr, O: tl.constexpr, I_PAD: tl.constexpr, O_PAD: tl.constexpr, K_PAD: tl.constexpr,
    TAPS_T: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    UP_T: tl.constexpr, UP_H: tl.constexpr, UP_W: tl.constexpr,
    DOWN_T: tl.constexpr, DOWN_H: tl.constexpr, DOWN_W: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PACKED: tl.constexpr, PIXEL_NORM: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_X: tl.constexpr, ALIGN_Y: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y = act(conv(x, w) + noise + bias), normalised over channels if PIXEL_NORM. stride_z are the noise's."""
    ACC: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    UNITS: tl.constexpr = UP_T * UP_H * UP_W
    grid_h = tl.cdiv(out_h, UP_H)
    grid_w = tl.cdiv(out_w, UP_W)
    positions = tl.cdiv(out_t, UP_T) * grid_h * grid_w
    stride_xn, stride_xt, stride_xh, stride_xw = aligned(stride_xn, stride_xt, stride_xh, stride_xw, ALIGN_X)
    stride_yn, stride_yt, stride_yh, stride_yw = aligned(stride_yn, stride_yt, stride_yh, stride_yw, ALIGN_Y)

    # Programs that read the same inputs (other output channels, other units) are neighbours.
    pid = tl.program_id(0).to(tl.int64)
    offs_o = (pid % (O_PAD // BLOCK_O)).to(tl.int32) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // (O_PAD // BLOCK_O)
    unit = (pid % UNITS).to(tl.int32)
    pid = pid // UNITS
    if PER_SAMPLE:
        blocks = tl.cdiv(positions, BLOCK_M)
        sample = pid // blocks
        start = pid % blocks * BLOCK_M
        first_n = sample
        end_n = sample + 1
        w_ptr += sample * (UNITS * K_PAD * O_PAD)
    else:  # a block may span samples, so that small stages fill it
        start = pid * BLOCK_M
        first_n = start // positions
        end_n = batch.to(tl.int64)
    offs_m = (start % positions).to(tl.int32) + tl.arange(0, BLOCK_M)
    n = first_n + offs_m // positions
    j_t = offs_m % positions // (grid_h * grid_w)
    j_h = offs_m // grid_w % grid_h
    j_w = offs_m % grid_w
    mask_m = n < end_n

    unit_t = unit // (UP_H * UP_W)
    unit_h = unit // UP_W % UP_H
    unit_w = unit % UP_W
    t_0 = first_input(j_t, unit_t, pad_t, UP_T, DOWN_T)
    h_0 = first_input(j_h, unit_h, pad_h, UP_H, DOWN_H)
    w_0 = first_input(j_w, unit_w, pad_w, UP_W, DOWN_W)
    x_ptrs = x_ptr + address(n, t_0, h_0, w_0, stride_xn, stride_xt, stride_xh, stride_xw)
    t_0 = tl.where(mask_m, t_0, -(1 << 30))  # positions past the end fail the bounds check below
    w_ptrs = w_ptr + unit * (K_PAD * O_PAD) + offs_o[None, :]

    WIDTH: tl.constexpr = BLOCK_K if PACKED else 1  # how many different taps a block of k may hold
    acc = tl.zeros([BLOCK_M, BLOCK_O], ACC)
    for k_0 in range(0, K_PAD, BLOCK_K):
        offs_k = k_0 + tl.arange(0, BLOCK_K)
        tap = (k_0 + tl.arange(0, WIDTH)) // I_PAD
        i = offs_k % I_PAD if PACKED else k_0 % I_PAD + tl.arange(0, BLOCK_K)
        d_t = tap // (TAPS_H * TAPS_W)
        d_h = tap // TAPS_W % TAPS_H
        d_w = tap % TAPS_W
        t = t_0[:, None] + d_t[None, :]
        h = h_0[:, None] + d_h[None, :]
        w = w_0[:, None] + d_w[None, :]
        mask = (t >= 0) & (t < in_t) & (h >= 0) & (h < in_h) & (w >= 0) & (w < in_w) & (i < I)[None, :]
        if PACKED:
            mask &= (tap < TAPS_T * TAPS_H * TAPS_W)[None, :]
        ahead = address(0, d_t, d_h, d_w, 0, stride_xt, stride_xh, stride_xw)
        ahead = ahead + i.to(tl.int64) * stride_xc
        x_MK = tl.load(x_ptrs[:, None] + ahead[None, :], mask=mask, other=0.0)
        w_KO = tl.load(w_ptrs + offs_k[:, None] * O_PAD)
        acc = multiply_add(x_MK, w_KO, acc, PRECISION)

    o_t = j_t * UP_T + unit_t
    o_h = j_h * UP_H + unit_h
    o_w = j_w * UP_W + unit_w
    mask_m &= (o_t < out_t) & (o_h < out_h) & (o_w < out_w)  # an odd size ends inside the last pair
    mask_o = offs_o < O
    mask = mask_m[:, None] & mask_o[None, :]
    o = offs_o.to(tl.int64)
    if noise_ptr is not None:
        at = address(n, o_t, o_h, o_w, stride_zn, stride_zt, stride_zh, stride_zw)
        acc += tl.load(noise_ptr + at[:, None] + (o * stride_zc)[None, :], mask=mask, other=0.0).to(ACC)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_o, mask=mask_o, other=0.0)[None, :]
    acc = tl.where(acc > 0, acc, acc * tl.full([1, 1], slope, ACC)) * tl.full([1, 1], gain, ACC)
    if PIXEL_NORM:  # padded channels are zero and do not count
        r = tl.rsqrt(tl.sum(acc * acc, 1) * (1.0 / O) + tl.full([1], eps, ACC))
        acc = acc * r[:, None]
        if r_ptr is not None:
            tl.store(r_ptr + ((n * out_t + o_t) * out_h + o_h) * out_w + o_w, r, mask=mask_m)
    at = address(n, o_t, o_h, o_w, stride_yn, stride_yt, stride_yh, stride_yw)
    tl.store(y_ptr + at[:, None] + (o * stride_yc)[None, :], acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def conv_weight_gradient_kernel(
    x_ptr, g_ptr, out_ptr,
    stride_xn, stride_xc, stride_xt, stride_xh, stride_xw,
    stride_gn, stride_gc, stride_gt, stride_gh, stride_gw,
    batch, in_t, in_h, in_w, out_t, out_h, out_w, pad_t, pad_h, pad_w, splits, run,
    I: tl.constexpr, O: tl.constexpr, I_PAD: tl.constexpr, O_PAD: tl.constexpr, K_PAD: tl.constexpr,
    TAPS_T: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    UP_T: tl.constexpr, UP_H: tl.constexpr, UP_W: tl.constexpr,
    DOWN_T: tl.constexpr, DOWN_H: tl.constexpr, DOWN_W: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    ALIGN_X: tl.constexpr, ALIGN_Y: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out `[S, splits, units, K_PAD, O_PAD]`: the sum of x g over one run of positions."""
    ACC: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    UNITS: tl.constexpr = UP_T * UP_H * UP_W
    grid_h = tl.cdiv(out_h, UP_H)
    grid_w = tl.cdiv(out_w, UP_W)
    positions = tl.cdiv(out_t, UP_T) * grid_h * grid_w
    stride_xn, stride_xt, stride_xh, stride_xw = aligned(stride_xn, stride_xt, stride_xh, stride_xw, ALIGN_X)
    stride_gn, stride_gt, stride_gh, stride_gw = aligned(stride_gn, stride_gt, stride_gh, stride_gw, ALIGN_Y)

    pid = tl.program_id(0).to(tl.int64)
    offs_o = (pid % (O_PAD // BLOCK_O)).to(tl.int32) * BLOCK_O + tl.arange(0, BLOCK_O)
    pid = pid // (O_PAD // BLOCK_O)
    k_0 = (pid % (K_PAD // BLOCK_K)).to(tl.int32) * BLOCK_K
    pid = pid // (K_PAD // BLOCK_K)
    unit = (pid % UNITS).to(tl.int32)
    start = pid // UNITS % splits * run
    sample = pid // UNITS // splits
    first_n = sample + start // positions
    end_n = sample + 1 if PER_SAMPLE else batch.to(tl.int64)
    start = (start % positions).to(tl.int32)

    WIDTH: tl.constexpr = BLOCK_K if PACKED else 1
    offs_k = k_0 + tl.arange(0, BLOCK_K)
    tap = (k_0 + tl.arange(0, WIDTH)) // I_PAD
    i = offs_k % I_PAD
    d_t = tap // (TAPS_H * TAPS_W)
    d_h = tap // TAPS_W % TAPS_H
    d_w = tap % TAPS_W
    mask_k = (i < I) & (offs_k < TAPS_T * TAPS_H * TAPS_W * I_PAD)
    ahead = address(0, d_t, d_h, d_w, 0, stride_xt, stride_xh, stride_xw)
    x_ptrs = x_ptr + (ahead + i.to(tl.int64) * stride_xc)[:, None]
    g_ptrs = g_ptr + (offs_o.to(tl.int64) * stride_gc)[None, :]
    unit_t = unit // (UP_H * UP_W)
    unit_h = unit // UP_W % UP_H
    unit_w = unit % UP_W

    acc = tl.zeros([BLOCK_K, BLOCK_O], ACC)
    for m_0 in range(0, run, BLOCK_M):
        offs_m = start + m_0 + tl.arange(0, BLOCK_M)
        n = first_n + offs_m // positions
        j_t = offs_m % positions // (grid_h * grid_w)
        j_h = offs_m // grid_w % grid_h
        j_w = offs_m % grid_w
        t_0 = first_input(j_t, unit_t, pad_t, UP_T, DOWN_T)
        h_0 = first_input(j_h, unit_h, pad_h, UP_H, DOWN_H)
        w_0 = first_input(j_w, unit_w, pad_w, UP_W, DOWN_W)
        o_t = j_t * UP_T + unit_t
        o_h = j_h * UP_H + unit_h
        o_w = j_w * UP_W + unit_w
        mask_m = (n < end_n) & (o_t < out_t) & (o_h < out_h) & (o_w < out_w)
        t = tl.where(mask_m, t_0, -(1 << 30))[None, :] + d_t[:, None]
        h = h_0[None, :] + d_h[:, None]
        w = w_0[None, :] + d_w[:, None]
        mask = (t >= 0) & (t < in_t) & (h >= 0) & (h < in_h) & (w >= 0) & (w < in_w) & mask_k[:, None]
        at_x = address(n, t_0, h_0, w_0, stride_xn, stride_xt, stride_xh, stride_xw)
        at_g = address(n, o_t, o_h, o_w, stride_gn, stride_gt, stride_gh, stride_gw)
        x_KM = tl.load(x_ptrs + at_x[None, :], mask=mask, other=0.0)
        g_MO = tl.load(g_ptrs + at_g[:, None], mask=mask_m[:, None] & (offs_o < O)[None, :], other=0.0)
        acc = multiply_add(x_KM, g_MO, acc, PRECISION)

    slot = (sample * splits + pid // UNITS % splits) * UNITS + unit
    tl.store(out_ptr + (slot * K_PAD + offs_k)[:, None] * O_PAD + offs_o[None, :], acc)


@triton.jit
def fold_weight_gradient_kernel(
    part_ptr, gw_ptr, num_elements, splits, pad_t, pad_h, pad_w,
    I: tl.constexpr, O: tl.constexpr, I_PAD: tl.constexpr, O_PAD: tl.constexpr, K_PAD: tl.constexpr,
    KERNEL_T: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    TAPS_T: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    UP_T: tl.constexpr, UP_H: tl.constexpr, UP_W: tl.constexpr,
    DOWN_T: tl.constexpr, DOWN_H: tl.constexpr, DOWN_W: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """gw `[S, O, I, k]`: part `[S, splits, units, K_PAD, O_PAD]` summed over splits in order, taps folded back."""
    offs_e = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    o = offs_e % O  # innermost, as in the partial sums
    i = offs_e // O % I
    w = offs_e // (O * I) % KERNEL_W
    h = offs_e // (O * I * KERNEL_W) % KERNEL_H
    t = offs_e // (O * I * KERNEL_W * KERNEL_H) % KERNEL_T
    s = offs_e // (O * I * KERNEL_W * KERNEL_H * KERNEL_T)
    mask_e = offs_e < num_elements
    UNITS: tl.constexpr = UP_T * UP_H * UP_W
    acc = tl.zeros([BLOCK_E], gw_ptr.dtype.element_ty)
    for split in range(0, splits, BLOCK_S):
        offs_s = split + tl.arange(0, BLOCK_S)
        mask = (offs_s < splits)[:, None] & mask_e[None, :]
        rows = ((s * splits)[None, :] + offs_s[:, None]) * (UNITS * K_PAD)
        for a in tl.static_range(UP_T * DOWN_T):
            tap_t = containing_tap(t, pad_t, a, UP_T)
            for b in tl.static_range(UP_H * DOWN_H):
                tap_h = containing_tap(h, pad_h, b, UP_H)
                for c in tl.static_range(UP_W * DOWN_W):
                    tap = (tap_t * TAPS_H + tap_h) * TAPS_W + containing_tap(w, pad_w, c, UP_W)
                    unit = (a % UP_T * UP_H + b % UP_H) * UP_W + c % UP_W
                    row = rows + (unit * K_PAD + tap * I_PAD + i)[None, :]
                    acc += tl.sum(tl.load(part_ptr + row * O_PAD + o[None, :], mask=mask, other=0.0), 0)
    acc = acc * (1.0 / (DOWN_T * DOWN_H * DOWN_W))
    at = ((((s * O + o) * I + i) * KERNEL_T + t) * KERNEL_H + h) * KERNEL_W + w
    tl.store(gw_ptr + at, acc, mask=mask_e)


def _axes(kernel, up, down) -> tuple[dict, dict, int]:
    """Taps and factors per axis for the kernels, the op's kernel size for those that read or write it, and all taps."""
    taps = [(k + 1) // 2 if u == 2 else k + d - 1 for k, u, d in zip(kernel, up, down, strict=True)]
    named = {"TAPS": taps, "UP": up, "DOWN": down}
    axes = {f"{name}_{axis}": int(n) for name, values in named.items() for axis, n in zip("THW", values, strict=True)}
    return axes, {f"KERNEL_{axis}": int(k) for axis, k in zip("THW", kernel, strict=True)}, math.prod(taps)


def _alignment(x: Tensor) -> int:
    """A common factor of the strides beside the channels', where those are innermost."""
    stride_n, stride_c, *rest = x.stride()
    return math.gcd(16, stride_n, *rest) if stride_c == 1 else 1


def _round_up(n: int, block: int) -> int:
    return triton.cdiv(n, block) * block


def _grid_positions(size, up) -> int:
    positions = math.prod(triton.cdiv(n, u) for n, u in zip(size, up, strict=True))
    if positions >= 2**30:
        raise ValueError(f"modulated_conv3d: a sample must have fewer than 2^30 output positions, got {positions}")
    return positions


def _precision(dtype: torch.dtype) -> str:
    return "tf32" if dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"


def conv_blocks(dtype: torch.dtype, precision: str, I: int, O: int, positions: int, pixel_norm: bool) -> dict:
    """Block sizes and warps of `conv_act_kernel`. `positions` counts those of all programs of one channel block."""
    tensor_cores = dtype.itemsize == 2 or precision == "tf32"
    block_o = max(16, triton.next_power_of_2(O))
    block_o = min(block_o, MAX_NORM_CHANNELS if pixel_norm else 128 if tensor_cores else 64)
    block_m = max(16, min(128, (16384 if tensor_cores else 8192 if dtype == torch.float32 else 4096) // block_o))
    while block_m > 16 and positions // block_m * triton.cdiv(O, block_o) < 256:
        block_m //= 2
    packed = I < 16
    if packed:
        block_k = 32 if tensor_cores else 16
    else:  # the least padding, then the largest block
        choices = (64, 32, 16) if dtype.itemsize == 2 and block_o <= 128 else (32, 16) if tensor_cores else (16,)
        block_k = min(choices, key=lambda block: (_round_up(I, block), -block))
    num_warps = 4 if block_m * block_o <= (8192 if tensor_cores else 4096) else 8
    blocks = dict(PACKED=packed, BLOCK_M=block_m, BLOCK_O=block_o, BLOCK_K=block_k)
    return blocks | dict(num_warps=num_warps, num_stages=3 if tensor_cores else 2)


def gradient_blocks(dtype: torch.dtype, precision: str, I: int, O: int, channels_last: bool) -> dict:
    """Block sizes and warps of `conv_weight_gradient_kernel`; there M is summed over and K are rows."""
    tensor_cores = dtype.itemsize == 2 or precision == "tf32"
    block_o = min(max(16, triton.next_power_of_2(O)), 128 if tensor_cores else 64 if dtype == torch.float32 else 32)
    block_k = 128 if tensor_cores and block_o <= 64 else 64 if dtype != torch.float64 else 32
    block_m = 64 if dtype.itemsize == 2 and channels_last else 32 if tensor_cores else 16
    num_warps = 4 if block_k * block_o <= 4096 else 8
    blocks = dict(PACKED=I % block_k != 0, BLOCK_M=block_m, BLOCK_O=block_o, BLOCK_K=block_k)
    return blocks | dict(num_warps=num_warps, num_stages=3 if tensor_cores else 2)


def conv_act(
    x: Tensor, w: Tensor, bias: Tensor | None, noise: Tensor | None, y: Tensor, r: Tensor | None,
    slope: float, gain: float, pixel_norm: bool, up, down, padding, eps: float,
) -> None:  # fmt: skip
    """Fills y `[B, O, T', H', W']`, and, where given, the factor r `[B, T', H', W']` of pixel norm.

    x `[B, I, T, H, W]` and y of any strides, noise expanded to y's shape; w `[O, I, kt, kh, kw]` or
    `[B, O, I, kt, kh, kw]`, bias `[O]` and r contiguous in the compute type.
    """
    (batch, I), O, per_sample = x.shape[:2], y.shape[1], w.ndim == 6
    if pixel_norm and O > MAX_NORM_CHANNELS:
        wide = torch.empty_like(y, dtype=w.dtype)
        conv_act(x, w, bias, noise, wide, None, slope, gain, False, up, down, padding, eps)
        factor = torch.rsqrt(wide.square().mean(1).add_(eps), out=r)
        y.copy_(wide.mul_(factor.unsqueeze(1)))
        return
    axes, kernel, taps = _axes(w.shape[-3:], up, down)
    positions, units, precision = _grid_positions(y.shape[2:], up), math.prod(up), _precision(x.dtype)
    blocks = conv_blocks(x.dtype, precision, I, O, batch * positions * units, pixel_norm)
    I_pad = I if blocks["PACKED"] else _round_up(I, blocks["BLOCK_K"])
    O_pad, K_pad = _round_up(O, blocks["BLOCK_O"]), _round_up(taps * I_pad, blocks["BLOCK_K"])
    sizes = dict(I=I, O=O, I_PAD=I_pad, O_PAD=O_pad, K_PAD=K_pad)
    samples = batch if per_sample else 1
    prepared = w.new_empty((samples, units, K_pad, O_pad), dtype=x.dtype)
    runs = samples * triton.cdiv(positions * batch // samples, blocks["BLOCK_M"])
    with torch.cuda.device_of(x):
        grid = (triton.cdiv(prepared.numel(), 512),)
        prepare_weight_kernel[grid](w, prepared, prepared.numel(), *padding, **sizes, **kernel, **axes, BLOCK_E=512)
        conv_act_kernel[(runs * units * (O_pad // blocks["BLOCK_O"]),)](
            x, prepared, bias, noise, y, r,
            *x.stride(), *(noise.stride() if noise is not None else [0] * 5), *y.stride(),
            batch, *x.shape[2:], *y.shape[2:], *padding, slope, gain, eps,
            **sizes, **axes, PER_SAMPLE=per_sample, PIXEL_NORM=pixel_norm, PRECISION=precision,
            ALIGN_X=_alignment(x), ALIGN_Y=_alignment(y), **blocks,
        )  # fmt: skip


def conv_weight_gradient(x: Tensor, g: Tensor, gw: Tensor, up, down, padding) -> None:
    """Fills gw `[O, I, kt, kh, kw]` or `[B, O, I, kt, kh, kw]`, contiguous in the compute type, from x and g."""
    (batch, I), O, per_sample = x.shape[:2], g.shape[1], gw.ndim == 6
    axes, kernel, taps = _axes(gw.shape[-3:], up, down)
    positions, units, precision = _grid_positions(g.shape[2:], up), math.prod(up), _precision(x.dtype)
    blocks = gradient_blocks(x.dtype, precision, I, O, x.stride(1) == 1)
    block_k, block_m, block_o = blocks["BLOCK_K"], blocks["BLOCK_M"], blocks["BLOCK_O"]
    O_pad, K_pad = _round_up(O, block_o), _round_up(taps * I, block_k)
    sizes = dict(I=I, O=O, I_PAD=I, O_PAD=O_pad, K_PAD=K_pad)
    samples = batch if per_sample else 1
    programs = samples * units * (K_pad // block_k) * (O_pad // block_o)
    length = positions * batch // samples
    run = _round_up(triton.cdiv(length, triton.cdiv(NUM_PROGRAMS, programs)), block_m)
    run = min(max(run, 4 * block_m), 2**29)
    splits = triton.cdiv(length, run)
    partial = gw.new_empty((samples, splits, units, K_pad, O_pad))
    with torch.cuda.device_of(x):
        conv_weight_gradient_kernel[(programs * splits,)](
            x, g, partial, *x.stride(), *g.stride(), batch, *x.shape[2:], *g.shape[2:], *padding, splits, run,
            **sizes, **axes, PER_SAMPLE=per_sample, PRECISION=precision,
            ALIGN_X=_alignment(x), ALIGN_Y=_alignment(g), **blocks,
        )  # fmt: skip
        fold_weight_gradient_kernel[(triton.cdiv(gw.numel(), 64),)](
            partial, gw, gw.numel(), splits, *padding, **sizes, **kernel, **axes,
            BLOCK_E=64, BLOCK_S=min(16, triton.next_power_of_2(splits)),
        )  # fmt: skip
