"""conv_act and conv_weight_gradient against the reference, and the op on top of them differentiated twice."""

import itertools

import pytest
import torch
from framed import DTYPES, Frame, assert_close, video, wide
from vgen_fast.kernels import modulated_conv3d as kernel

from vgen_fast.ops.modulated_conv3d import modulated_conv3d
from vgen_fast.ops.reference.modulated_conv3d import modulated_conv3d as reference

ONE, TWO, SPACE = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CASES = {  # B, I, O, size, taps, up, down, padding
    "one voxel": (1, 1, 1, (1, 1, 1), (1, 1, 1), ONE, ONE, (0, 0, 0)),
    "packed taps": (2, 8, 8, (2, 3, 4), (3, 3, 3), ONE, ONE, (1, 1, 1)),
    "rgb image": (2, 3, 17, (1, 5, 9), (1, 3, 5), ONE, ONE, (0, 1, 2)),
    "valid": (1, 5, 2, (3, 6, 4), (3, 5, 1), ONE, ONE, (0, 0, 0)),
    "just over a block": (1, 33, 65, (1, 3, 6), (1, 3, 3), ONE, ONE, (0, 1, 1)),
    "more padding than taps": (1, 4, 3, (2, 3, 4), (1, 3, 1), ONE, ONE, (1, 3, 0)),
    "up": (2, 5, 7, (2, 3, 2), (3, 3, 3), TWO, ONE, (1, 1, 1)),
    "up in space": (1, 17, 3, (2, 2, 4), (1, 5, 3), SPACE, ONE, (0, 2, 1)),
    "up, odd padding": (1, 4, 4, (2, 3, 4), (3, 3, 3), TWO, ONE, (2, 0, 2)),
    "down": (2, 5, 3, (3, 4, 5), (3, 3, 3), ONE, TWO, (1, 1, 1)),
    "down in space": (1, 16, 7, (3, 4, 4), (3, 1, 5), ONE, SPACE, (1, 0, 2)),
}  # fmt: skip


FEW = ("one voxel", "packed taps", "up in space", "down in space")
TYPED = [*itertools.product(CASES, DTYPES[::2]), *itertools.product(FEW, DTYPES[1::2])]


def convolve(x, w, bias=None, noise=None, **options):
    """The reference, one sample at a time where weights are per sample."""
    if w.ndim == 5:
        return reference(x, w, bias=bias, noise=noise, **options)
    samples = [
        reference(x[b : b + 1], w[b], bias=bias, noise=None if noise is None else noise[b : b + 1], **options)
        for b in range(len(x))
    ]
    return torch.cat(samples)


def check_conv_act(case, device, dtype, per_sample=False, full=False, channels_last=False, conv_act=kernel.conv_act):
    B, I, O, size, taps, up, down, padding = case
    x = video(B, I, *size, dtype=dtype, device=device, channels_last=channels_last)
    w = video(*([B] if per_sample else []), O, I, *taps, dtype=wide(dtype), device=device)
    options = dict(slope=None, gain=1.0, pixel_norm=False, up=up, down=down, padding=padding, eps=1e-8)
    bias = noise = None
    if full:
        options |= dict(slope=0.3, gain=1.7, pixel_norm=True, eps=1e-3)
        out = convolve(x.double(), w.double(), **options)
        bias = video(O, dtype=wide(dtype), device=device)
        noise = video(B, 1, *out.shape[2:], dtype=dtype, device=device)
    exact = convolve(x.double(), w.double(), *(t if t is None else t.double() for t in (bias, noise)), **options)
    tensors = [None if t is None else t.to(dtype).to(wide(dtype)) for t in (x, w, bias, noise)]
    plain = convolve(*tensors, **options).to(dtype)
    y = Frame(*exact.shape, dtype=dtype, device=device, channels_last=channels_last)
    r = Frame(B, *exact.shape[2:], dtype=wide(dtype), device=device)
    slope = 1.0 if options["slope"] is None else options["slope"]
    expanded = None if noise is None else noise.expand(exact.shape)
    flags = (slope, options["gain"], options["pixel_norm"], up, down, padding, options["eps"])
    conv_act(x, w, bias, expanded, y.view, r.view, *flags)
    assert_close(y.written(), exact, plain)
    if full:
        factors = []
        for kind in (torch.float64, wide(dtype)):
            a = convolve(*(t.to(kind) for t in tensors), **options | dict(pixel_norm=False))
            factors.append((a.square().mean(1) + options["eps"]).rsqrt())
        assert_close(r.written().to(dtype), *factors)


def check_weight_gradient(case, device, dtype, per_sample=False, channels_last=False):
    B, I, O, size, taps, up, down, padding = case
    x = video(B, I, *size, dtype=dtype, device=device, channels_last=channels_last)
    w = torch.zeros(*([B] if per_sample else []), O, I, *taps, device=device)
    options = dict(up=up, down=down, padding=padding)

    y = convolve(x.double(), w.double(), **options)
    g = video(*y.shape, dtype=dtype, device=device, channels_last=channels_last)
    grads = []
    for kind in (torch.float64, wide(dtype)):
        leaf = w.detach().to(kind).requires_grad_()
        grads += torch.autograd.grad(convolve(x.to(kind), leaf, **options), leaf, g.to(kind))
    gw = Frame(*w.shape, dtype=wide(dtype), device=device)
    kernel.conv_weight_gradient(x, g, gw.view, up, down, padding)
    assert_close(gw.written(), *grads)


@pytest.mark.parametrize(("name", "dtype"), TYPED)
def test_conv_act_matches_the_reference(name, dtype, device):
    check_conv_act(CASES[name], device, dtype, channels_last=dtype in (torch.bfloat16, torch.float64))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *itertools.product(["packed taps"], DTYPES),
        *((name, torch.float32) for name in ("just over a block", "up", "down")),
    ],
)
def test_conv_act_matches_the_reference_with_everything_in_the_epilogue(name, dtype, device):
    check_conv_act(CASES[name], device, dtype, per_sample=True, full=True, channels_last=dtype == torch.float32)


def test_conv_act_normalises_more_channels_than_a_program_holds(device, monkeypatch):
    monkeypatch.setattr(kernel, "MAX_NORM_CHANNELS", 16)
    check_conv_act((2, 3, 20, (1, 3, 5), (1, 3, 3), ONE, ONE, (0, 1, 1)), device, torch.bfloat16, full=True)


def test_conv_act_reads_strided_input_and_an_explicit_size(device):
    x = video(2, 6, 4, 5, 9, device=device)[:, ::2, 1:, :, ::2]
    w = video(4, 3, 3, 3, 3, device=device)
    y = Frame(2, 4, 5, 3, 8, device=device)
    kernel.conv_act(x, w, None, None, y.view, None, 1.0, 1.0, False, ONE, ONE, ONE, 0.0)
    full = torch.nn.functional.pad(x, (1, 6, 1, 6, 1, 6))
    assert_close(
        y.written(),
        *(torch.nn.functional.conv3d(full.to(t), w.to(t))[:, :, :5, :3, :8] for t in (torch.float64, torch.float32)),
    )


@pytest.mark.parametrize(("name", "dtype"), TYPED)
def test_conv_weight_gradient_matches_the_reference(name, dtype, device):
    check_weight_gradient(
        CASES[name],
        device,
        dtype,
        per_sample=dtype in (torch.float64, torch.bfloat16),
        channels_last=dtype == torch.bfloat16,
    )


def test_conv_weight_gradient_is_the_same_for_every_number_of_splits(device, monkeypatch):
    for programs in (1, 3, 512):
        monkeypatch.setattr(kernel, "NUM_PROGRAMS", programs)
        check_weight_gradient((2, 4, 5, (1, 9, 31), (1, 3, 3), ONE, ONE, (0, 1, 1)), device, torch.float32)


@pytest.mark.parametrize(("up", "down"), [(1, 1), ((1, 2, 2), 1), (1, 2)])
def test_the_op_is_differentiated_twice_as_the_reference(up, down, device):
    x = video(2, 2, 2, 2, 4, dtype=torch.float64, device=device).requires_grad_()
    w = video(3, 2, 1, 3, 3, dtype=torch.float64, device=device).requires_grad_()
    style = video(2, 2, dtype=torch.float64, device=device).requires_grad_()
    found = []
    for impl in ("triton", "reference"):
        y = modulated_conv3d(x, w, style, slope=0.2, gain=1.3, up=up, down=down, impl=impl)
        first = torch.autograd.grad(y.square().sum(), (x, w, style), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, w, style))
        found.append([y, *first, *second])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
