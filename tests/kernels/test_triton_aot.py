"""Every kernel compiles for sm_80 and sm_90 as its launcher specialises it, without spills, with tensor cores."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.slow
if triton.knobs.runtime.interpret:
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

from launched import build, recorded, spilled  # noqa: E402
from vgen_fast.kernels import (  # noqa: E402
    feature_moments,
    minibatch_stddev,
    modulated_conv3d,
    pixel_norm,
    sliced_wasserstein,
)

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
TENSOR_CORES = ("mma.sync", "wgmma.mma_async")
ONE, TWO, SPACE = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CONVOLUTIONS = {  # B, I, O, size, taps, up, down, per_sample, pixel_norm, channels_last
    "8 channels": (4, 8, 8, (32, 256, 256), (3, 3, 3), ONE, ONE, True, True, True),
    "8 channels, contiguous": (4, 8, 8, (32, 256, 256), (3, 3, 3), ONE, ONE, False, True, False),
    "to rgb": (4, 8, 3, (32, 256, 256), (1, 1, 1), ONE, ONE, True, False, True),
    "up to 8 channels": (4, 16, 8, (16, 128, 128), (3, 3, 3), TWO, ONE, True, True, True),
    "64 channels": (4, 64, 64, (8, 32, 32), (3, 3, 3), ONE, ONE, False, True, True),
    "down to 128 channels": (4, 64, 128, (8, 32, 32), (3, 3, 3), ONE, TWO, False, False, True),
    "512 channel image": (16, 512, 512, (1, 16, 16), (1, 3, 3), ONE, ONE, False, True, False),
}  # fmt: skip
every_arch = pytest.mark.parametrize("capability", [80, 90])


def meta(*shape, dtype=torch.float32, channels_last=False):
    x = torch.empty(shape, dtype=dtype, device="meta")
    return x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x


def check(calls, capability, count):
    """Builds each recorded launch; PTX by kernel name."""
    assert len(calls) == count
    ptx = {}
    for kernel, args, options in calls:
        compiled = build(kernel, args, options, capability)
        assert compiled.metadata.shared <= SHARED_MEMORY[capability]
        found = spilled(compiled)  # 64-bit division is a call, around which a register or two may be saved
        assert found["LOCAL"] == 0, kernel.__name__
        assert max(found["STL"], found["LDL"]) <= 4, f"{kernel.__name__}: {found}"
        ptx[kernel.__name__] = compiled.asm["ptx"]
    return ptx


BUILDS = [
    *((name, torch.bfloat16, False, 90) for name in CONVOLUTIONS),
    ("down to 128 channels", torch.float32, True, 90),
    ("up to 8 channels", torch.float32, False, 90),
    ("up to 8 channels", torch.float64, False, 90),
    ("8 channels, contiguous", torch.bfloat16, False, 80),
    ("down to 128 channels", torch.bfloat16, False, 80),
    ("up to 8 channels", torch.float32, True, 80),
    ("512 channel image", torch.float32, False, 80),
    ("64 channels", torch.float64, False, 80),
]


@pytest.mark.parametrize(("name", "dtype", "tf32", "capability"), BUILDS)
def test_convolution_uses_tensor_cores(name, dtype, tf32, capability, monkeypatch):
    monkeypatch.setattr(modulated_conv3d, "_precision", lambda dtype: "tf32" if tf32 else "ieee")
    B, I, O, size, taps, up, down, per_sample, norm, channels_last = CONVOLUTIONS[name]
    out = [n * u // d for n, u, d in zip(size, up, down, strict=True)]
    layout = dict(dtype=dtype, channels_last=channels_last)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, y, noise = meta(B, I, *size, **layout), meta(B, O, *out, **layout), meta(B, 1, *out, dtype=dtype)
    w, r = meta(*([B] if per_sample else []), O, I, *taps, dtype=wide), meta(B, *out, dtype=wide)
    padding = [k // 2 for k in taps]
    with recorded(modulated_conv3d) as calls:
        flags = (0.2, 2**0.5, norm, up, down, padding, 1e-8)
        modulated_conv3d.conv_act(x, w, meta(O, dtype=wide), noise.expand(y.shape), y, r, *flags)
        modulated_conv3d.conv_weight_gradient(x, y, w, up, down, padding)
    ptx = check(calls, capability, 4)
    for kernel in ("conv_act_kernel", "conv_weight_gradient_kernel"):
        used = any(instruction in ptx[kernel] for instruction in TENSOR_CORES)
        assert used == (tf32 or dtype != torch.float32)


@every_arch
@pytest.mark.parametrize(
    ("channels", "dtype", "channels_last"), [(8, torch.bfloat16, True), (512, torch.float32, False)]
)
def test_pixel_norm_compiles(channels, dtype, channels_last, capability):
    x = meta(4, channels, 8, 64, 64, dtype=dtype, channels_last=channels_last)
    r = meta(4, 8, 64, 64, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    with recorded(pixel_norm) as calls:
        pixel_norm.pixel_norm_forward(x, x, r, 0.2, 1e-8)
        pixel_norm.pixel_norm_backward(x, x, r, x, 0.2, 1.0)
        pixel_norm.pixel_norm_backward(x, x, None, x, 0.2, 1.0)
    check(calls, capability, 3)


@every_arch
@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.bfloat16, True)])
def test_minibatch_stddev_compiles(dtype, channels_last, capability):
    layout = dict(dtype=dtype, channels_last=channels_last)
    x, y = meta(32, 128, 4, 4, 4, **layout), meta(32, 129, 4, 4, 4, **layout)
    with recorded(minibatch_stddev) as calls:
        minibatch_stddev.minibatch_stddev_forward(x, y, 4, 1e-8)
        minibatch_stddev.minibatch_stddev_backward(y, x, x, 4, 1e-8)
        minibatch_stddev.minibatch_stddev_double_backward(x, y, x, y, x, 4, 1e-8)
    check(calls, capability, 7)


@every_arch
@pytest.mark.parametrize(("rows", "dtype"), [(64, torch.float32), (1024, torch.float64)])
def test_sorted_columns_compile(rows, dtype, capability):
    x, ranks = meta(rows, 256, dtype=dtype), meta(rows, 256, dtype=torch.int32)
    with recorded(sliced_wasserstein) as calls:
        sliced_wasserstein.sorted_columns(x, x, None)
        sliced_wasserstein.sorted_columns(x, x, ranks)
    check(calls, capability, 2)


@every_arch
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_sliced_head_compiles(dtype, capability):
    p, row, column = meta(32, 128, dtype=dtype), meta(128, dtype=dtype), meta(32, dtype=dtype)
    with recorded(sliced_wasserstein) as calls:
        sliced_wasserstein.sliced_head_forward(p, row, row, column, 0.2)
        sliced_wasserstein.sliced_head_backward(p, column, row, row, p, row, row, 0.2)
    check(calls, capability, 2)


@every_arch
@pytest.mark.parametrize("dtype", [torch.float16])
def test_rank_update_uses_float64_tensor_cores(dtype, capability):
    with recorded(feature_moments) as calls:
        feature_moments.rank_update(
            meta(1024, 2048, dtype=dtype), meta(2048, dtype=torch.float64), meta(2048, 2048, dtype=torch.float64)
        )
    assert "mma.sync" in check(calls, capability, 1)["rank_update_kernel"]
