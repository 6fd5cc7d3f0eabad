"""The references against something that is not ours: values worked by hand, slow loops, torch's own operators."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vgen_fast.ops.reference.minibatch_stddev import minibatch_stddev
from vgen_fast.ops.reference.modulated_conv3d import modulate, modulated_conv3d
from vgen_fast.ops.reference.pixel_norm import pixel_norm


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_video(values: list[float]) -> Tensor:
    """One sample and one row of voxels with one channel."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, 1, -1)


# ------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("channels", "slope", "eps", "expected"),
    [
        ([3, 4], None, 0, [3 / math.sqrt(12.5), 4 / math.sqrt(12.5)]),
        ([3, -4], 0.5, 0, [3 / math.sqrt(6.5), -2 / math.sqrt(6.5)]),
        ([1, 1, 1], None, 3, [0.5, 0.5, 0.5]),
        ([0, 0], None, 1e-8, [0, 0]),
        ([-2], 0.25, 0, [-1]),
    ],
)
def test_pixel_norm_by_hand(channels, slope, eps, expected):
    x = torch.tensor(channels, dtype=torch.float64).reshape(1, -1, 1, 1)
    torch.testing.assert_close(pixel_norm(x, slope=slope, eps=eps).flatten().tolist(), [float(e) for e in expected])


@pytest.mark.parametrize(
    ("batch", "group", "eps", "expected"),
    [
        ([1, 3], 2, 0, [1, 1]),  # mean 2, deviation 1
        ([1, 10, 5, 30], 2, 0, [2, 10, 2, 10]),  # groups (1, 5) and (10, 30): i mod 2
        ([1, 10, 5, 30], 4, 0, [math.sqrt(124.25)] * 4),  # mean 11.5, variance 497 / 4
        ([7, 7, 7], 3, 4, [2, 2, 2]),
        ([5], 4, 0.25, [0.5]),
    ],
)
def test_minibatch_stddev_by_hand(batch, group, eps, expected):
    x = torch.tensor(batch, dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    y = minibatch_stddev(x, group_size=group, eps=eps)
    assert y[:, 0].flatten().tolist() == batch
    torch.testing.assert_close(y[:, 1].flatten().tolist(), [float(e) for e in expected])


@pytest.mark.parametrize(
    ("x", "weight", "options", "expected"),
    [
        ([1, 2, 3], [1, 10, 100], {}, [210, 321, 32]),  # a correlation: taps are not reversed
        ([1, 2, 3], [1, 10, 100], {"padding": (0, 0, 0)}, [321]),
        ([1, 2], [1, 10, 100], {"up": (1, 1, 2)}, [110, 211, 221, 22]),  # of 1 1 2 2
        ([1, 2, 3, 4, 9], [1, 10, 100], {"down": (1, 1, 2)}, [265.5, 687.5]),  # means of 210 321 | 432 943
        ([1, -2], [1], {"slope": 0.5, "padding": (0, 0, 0)}, [1, -1]),
        ([1, -2], [1], {"slope": 0.5, "gain": 3.0, "padding": (0, 0, 0)}, [3, -3]),
        ([1, -2], [1], {"slope": 0.5, "bias": [4], "padding": (0, 0, 0)}, [5, 2]),
        ([1, -2], [1], {"slope": 0.5, "noise": [-2, 1], "padding": (0, 0, 0)}, [-0.5, -0.5]),
        ([1, -2], [1], {"pixel_norm": True, "padding": (0, 0, 0)}, [1, -1]),
        ([1, 2], [3, 4, 0], {"style": [[2]], "eps": 0.0}, [0.8, 2.2]),  # weights 0.6 0.8 0 whatever the style
        ([1, 2], [3, 4, 0], {"style": [[2]], "demodulate": False}, [8, 22]),
        ([1, 2], [3, 4, 0], {"style": [[0.2]], "eps": 3.0}, [0.4, 1.1]),  # norm sqrt(0.36 + 0.64 + 3) = 2
    ],
)
def test_modulated_conv3d_by_hand(x, weight, options, expected):
    options = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in options.items()}
    options.setdefault("padding", (0, 0, 1))
    y = modulated_conv3d(as_video(x), as_video(weight), **options)
    torch.testing.assert_close(y.flatten().tolist(), [float(e) for e in expected])


# --------------------------------------------------------------------------------------------------------- slow loops


def slow_conv(x, weight, style, bias, noise, *, demodulate, up, down, padding, slope, gain, norm, eps) -> np.ndarray:
    """Voxel by voxel and tap by tap, in numpy: which element of x each tap reads comes from integer division."""
    batch, inputs, *size = x.shape
    outputs, _, *taps = weight.shape
    full = [n * u + 2 * p - k + 1 for n, u, p, k in zip(size, up, padding, taps, strict=True)]
    out = np.zeros((batch, outputs, *[n // d for n, d in zip(full, down, strict=True)]))
    for b, o in itertools.product(range(batch), range(outputs)):
        w = weight[o] * (1 if style is None else style[b][:, None, None, None])
        if style is not None and demodulate:
            w = w / np.sqrt((w**2).sum() + eps)
        for place in np.ndindex(*out.shape[2:]):
            total = 0.0
            for copy in np.ndindex(*down):
                for tap in np.ndindex(*taps):
                    at = [i * d + c + k - p for i, d, c, k, p in zip(place, down, copy, tap, padding, strict=True)]
                    if all(0 <= a < n * u for a, n, u in zip(at, size, up, strict=True)):
                        read = tuple(a // u for a, u in zip(at, up, strict=True))
                        total += sum(w[(i, *tap)] * x[(b, i, *read)] for i in range(inputs))
            out[(b, o, *place)] = total / math.prod(down) + bias[o] + noise[(b, 0, *place)]
    out = np.where(out > 0, out, slope * out) * gain
    for b in range(batch if norm else 0):
        for place in np.ndindex(*out.shape[2:]):
            column = (b, slice(None), *place)
            out[column] = out[column] / math.sqrt(sum(v * v for v in out[column]) / outputs + eps)
    return out


@pytest.mark.parametrize(
    ("taps", "padding", "up", "down"),
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        ((1, 3, 5), (0, 2, 1), (1, 1, 1), (1, 1, 1)),
        ((3, 3, 3), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
        ((3, 1, 3), (0, 0, 2), (1, 2, 2), (1, 1, 1)),
        ((3, 3, 3), (1, 1, 1), (1, 1, 1), (2, 2, 2)),
        ((1, 3, 3), (0, 0, 1), (1, 1, 1), (1, 1, 2)),
    ],
)
@pytest.mark.parametrize(("styled", "demodulate"), [(False, True), (True, True), (True, False)])
def test_modulated_conv3d_against_loops(taps, padding, up, down, styled, demodulate):
    x, weight, bias = draw(2, 2, 3, 4, 5), draw(3, 2, *taps, seed=1), draw(3, seed=2)
    style = draw(2, 2, seed=3) if styled else None
    full = [n * u + 2 * p - k + 1 for n, u, p, k in zip(x.shape[2:], up, padding, taps, strict=True)]
    noise = draw(2, 1, *[n // d for n, d in zip(full, down, strict=True)], seed=4)
    options = dict(demodulate=demodulate, up=up, down=down, padding=padding, slope=0.3, gain=1.7, eps=1e-3)
    arrays = [None if t is None else t.numpy() for t in (x, weight, style, bias, noise)]
    got = modulated_conv3d(x, weight, style, bias=bias, noise=noise, pixel_norm=styled, **options)
    torch.testing.assert_close(got, torch.from_numpy(slow_conv(*arrays, norm=styled, **options)))


@pytest.mark.parametrize(("batch", "group"), [(6, 2), (6, 3), (6, 6), (4, 8), (1, 4), (5, 1)])
def test_minibatch_stddev_against_loops(batch, group):
    x = draw(batch, 3, 2, 2, 3)
    y = minibatch_stddev(x, group_size=group, eps=1e-3).numpy()
    np.testing.assert_array_equal(y[:, :3], x.numpy())
    groups = batch // min(batch, group)
    for i in range(batch):
        members = [x[j].numpy() for j in range(batch) if j % groups == i % groups]
        assert len(members) == min(batch, group)
        deviations = [
            math.sqrt(
                sum((m[at] - sum(n[at] for n in members) / len(members)) ** 2 for m in members) / len(members) + 1e-3
            )
            for at in np.ndindex(3, 2, 2, 3)
        ]
        np.testing.assert_allclose(y[i, 3], sum(deviations) / len(deviations), rtol=1e-12)


# -------------------------------------------------------------------------------------------------- torch's operators


def box_summed(weight: Tensor) -> Tensor:
    """[O, I, 3, 3, 3] -> [O, I, 4, 4, 4]: the kernel convolved with 2 x 2 x 2 ones."""
    for axis in (2, 3, 4):
        zeros = torch.zeros_like(weight.narrow(axis, 0, 1))
        weight = torch.cat([weight, zeros], axis) + torch.cat([zeros, weight], axis)
    return weight


def test_up_is_a_transposed_convolution_with_the_box_summed_kernel():
    x, weight = draw(2, 3, 3, 4, 5), draw(4, 3, 3, 3, 3, seed=1)
    got = modulated_conv3d(x, weight, up=(2, 2, 2))
    kernel = box_summed(weight.flip(2, 3, 4)).transpose(0, 1)
    torch.testing.assert_close(got, F.conv_transpose3d(x, kernel, stride=2, padding=1))


def test_down_is_a_strided_convolution_with_the_box_averaged_kernel():
    x, weight = draw(2, 3, 4, 6, 8), draw(4, 3, 3, 3, 3, seed=1)
    got = modulated_conv3d(x, weight, down=(2, 2, 2))
    torch.testing.assert_close(got, F.conv3d(x, box_summed(weight) / 8, stride=2, padding=1))


@pytest.mark.parametrize("up", [(2, 2, 2), (1, 2, 2), (2, 1, 1)])
def test_up_is_nearest_interpolation_then_convolution(up):
    x, weight = draw(2, 3, 3, 4, 5), draw(4, 3, 3, 5, 1, seed=1)
    larger = F.interpolate(x, scale_factor=up, mode="nearest")
    got = modulated_conv3d(x, weight, up=up, padding=(1, 2, 0))
    torch.testing.assert_close(got, F.conv3d(larger, weight, padding=(1, 2, 0)))


@pytest.mark.parametrize("down", [(2, 2, 2), (1, 2, 2), (2, 1, 1)])
def test_down_is_convolution_then_average_pooling(down):
    x, weight = draw(2, 3, 5, 6, 7), draw(4, 3, 3, 5, 1, seed=1)
    pooled = F.avg_pool3d(F.conv3d(x, weight, padding=(1, 2, 0)), down)
    torch.testing.assert_close(modulated_conv3d(x, weight, down=down, padding=(1, 2, 0)), pooled)


def test_modulated_weights_do_not_depend_on_the_scale_of_the_style_and_keep_unit_variance():
    weight, style = draw(6, 5, 3, 3, 3), draw(4, 5, seed=1)
    w = modulate(weight, style, True, 0.0)
    torch.testing.assert_close(w, modulate(weight, 7 * style, True, 0.0))
    torch.testing.assert_close(w.square().sum((2, 3, 4, 5)), torch.ones(4, 6, dtype=torch.float64))
    torch.testing.assert_close(
        w[3, 2] / w[3, 2].norm(), F.normalize(weight[2] * style[3][:, None, None, None], dim=(0, 1, 2, 3))
    )


def test_pixel_norm_is_rms_norm_over_channels():
    x = draw(2, 7, 3, 4, 5)
    expected = F.rms_norm(x.movedim(1, -1), (7,), eps=1e-3).movedim(-1, 1)
    torch.testing.assert_close(pixel_norm(x, eps=1e-3), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_input_is_computed_wider(dtype):
    """260^2 and 1000 terms of 100^2 are past float16; 1 + 1 / 512 is past bfloat16."""
    torch.testing.assert_close(
        pixel_norm(torch.full((1, 4, 2, 2), 260.0, dtype=dtype)), torch.ones(1, 4, 2, 2, dtype=dtype)
    )
    x = torch.full((1, 1000, 1, 1, 1), 100.0, dtype=dtype)
    weight = torch.full((1, 1000, 1, 1, 1), 2.0, dtype=dtype)
    style = torch.full((1, 1000), 100.0, dtype=dtype)
    got = modulated_conv3d(x, weight, style, padding=(0, 0, 0)).item()
    assert got == pytest.approx(100 * math.sqrt(1000), rel=0.01)
    batch = torch.tensor([1000.0, 1000 + 8], dtype=dtype).reshape(2, 1, 1, 1)
    assert minibatch_stddev(batch, group_size=2)[0, 1].item() == 4
