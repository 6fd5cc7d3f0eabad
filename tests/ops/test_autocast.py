"""torch.autocast: convolutions take its type and keep their weights wide; the other ops do what they do outside."""

import pytest
import torch

from vgen_fast import ops

TYPES = [torch.bfloat16, torch.float16]
IMPLEMENTATIONS = ["reference", "cpp"]


def layer(dtype=torch.float32, image=False):
    rng = torch.Generator().manual_seed(0)
    size = (6, 8) if image else (3, 6, 8)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=dtype)  # noqa: E731
    tensors = {"x": draw(2, 4, *size), "weight": draw(5, 4, *[3] * len(size)), "style": draw(2, 4), "bias": draw(5)}
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def run(tensors, impl, styled, **changed):
    tensors = {**tensors, **changed}
    style = tensors["style"] if styled else None
    return ops.modulated_conv3d(
        tensors["x"], tensors["weight"], style, bias=tensors["bias"], slope=0.2, up=2, impl=impl
    )


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("styled", [False, True])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_convolution_runs_in_its_type_with_weights_as_they_are(dtype, impl, styled, image):
    inside, outside = layer(image=image), layer(image=image)
    with torch.autocast("cpu", dtype):
        y = run(inside, impl, styled)
    expected = run(outside, impl, styled, x=outside["x"].to(dtype))
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    for a, b in ((y, inside), (expected, outside)):
        a.float().square().sum().backward()
        assert all(t.grad.dtype == torch.float32 for t in b.values() if t.grad is not None)
    for name in ("x", "weight", "bias"):
        assert torch.equal(inside[name].grad, outside[name].grad), name
        if name != "x":  # not every gradient went through a number of 16 bits
            assert not torch.equal(inside[name].grad, inside[name].grad.to(dtype).float()), name


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_float64_stays(impl):
    tensors = layer(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(tensors, impl, False)
    assert torch.equal(y, run(tensors, impl, False))


def test_everything_else_does_what_it_does_outside():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 16, 24, generator=rng)
    theta, (scale, offset) = torch.randn(8, 24, generator=rng), torch.randn(2, 8, generator=rng)
    video = torch.randn(4, 3, 2, 4, 4, generator=rng)

    def results():
        moments = ops.FeatureMoments(24)
        moments.update(x)
        yield ops.sliced_wasserstein(x, y, num_projections=16, seed=1)
        yield ops.sliced_wasserstein(x=x.requires_grad_(), y=y, num_projections=16, seed=1)
        yield ops.sliced_wasserstein(x, y, num_projections=16, seed=1, impl="reference")
        yield ops.sliced_head(x, theta, scale, offset)
        yield ops.sliced_head(x, theta, scale, offset, impl="reference")
        yield ops.pixel_norm(video, slope=0.2)
        yield ops.minibatch_stddev(video)
        yield moments.covariance()

    outside = list(results())
    with torch.autocast("cpu", torch.bfloat16):
        inside = list(results())
        assert (x @ theta.T).dtype == torch.bfloat16  # what would have gone wrong inside the ops
    assert [t.dtype for t in inside] == [t.dtype for t in outside]
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
