"""The checks of this folder fail for kernels that are wrong on purpose."""

import pytest
import torch
import triton
import triton.language as tl
from framed import Frame, assert_close, video
from test_triton_modulated_conv3d import CASES, check_conv_act
from vgen_fast.kernels import modulated_conv3d as kernel


@triton.jit
def copy_kernel(x_ptr, y_ptr, first, end, BLOCK_E: tl.constexpr):
    offs_e = first + tl.arange(0, BLOCK_E)
    tl.store(y_ptr + offs_e, tl.load(x_ptr + tl.maximum(offs_e, 0), mask=offs_e < end, other=0.0), mask=offs_e < end)


def copied(x, first, end):
    y = Frame(*x.shape, device=x.device)
    copy_kernel[(1,)](x, y.view, first, end, BLOCK_E=32)
    return y


def test_a_right_kernel_passes(device):
    x = video(3, 5, device=device)
    assert_close(copied(x, 0, 15).written(), x, x)


@pytest.mark.parametrize(
    ("first", "end", "message"), [(0, 14, "1 elements are unwritten"), (-1, 15, "outside"), (0, 16, "outside")]
)
def test_a_kernel_that_misses_an_element_or_writes_beside_the_output_is_caught(first, end, message, device):
    with pytest.raises(AssertionError, match=message):
        copied(video(3, 5, device=device), first, end).written()


def shifted(x, w, bias, noise, y, r, slope, gain, norm, up, down, padding, eps):
    kernel.conv_act(x, w, bias, noise, y, r, slope, gain, norm, up, down, (padding[0], padding[1], padding[2] + 1), eps)


def without_noise(x, w, bias, noise, y, r, *flags):
    kernel.conv_act(x, w, bias, None, y, r, *flags)


def other_slope(x, w, bias, noise, y, r, slope, *flags):
    kernel.conv_act(x, w, bias, noise, y, r, slope + 0.1, *flags)


def first_sample_everywhere(x, w, *rest):
    kernel.conv_act(x, w[:1].expand_as(w).contiguous(), *rest)


@pytest.mark.parametrize("wrong", [shifted, without_noise, other_slope, first_sample_everywhere])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_convolution_is_caught(wrong, dtype, device):
    with pytest.raises(AssertionError, match="is above"):
        check_conv_act(CASES["packed taps"], device, dtype, per_sample=True, full=True, conv_act=wrong)


def test_a_convolution_that_forgets_the_last_positions_is_caught(device, monkeypatch):
    monkeypatch.setattr(kernel, "_grid_positions", lambda size, up: 16)
    with pytest.raises(AssertionError, match="are unwritten"):
        check_conv_act(CASES["packed taps"], device, torch.float32)
