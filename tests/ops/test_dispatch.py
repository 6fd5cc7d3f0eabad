"""The ops under PyTorch's machinery: opcheck, compile, autocast, inference mode, vmap, threads, empty batches."""

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from vgen_fast import ops
from vgen_fast.ops.choose import unavailable
from vgen_fast.ops.modulated_conv3d import FEW_PLACES, SHORT_ROW

from .cases import CASES
from .check import assert_close, leaves

REASON = unavailable("cpp", "cpu")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
BY_NAME = {str(case): case for case in CASES}


def draw(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def grad(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    return draw(*shape, seed=seed, dtype=dtype).requires_grad_()


def conv_act(x, w, bias, noise, slope, gain, norm, up, down, size):
    flags = (slope, gain, norm, [up] * 3, [down] * 3, [1] * 3, size, 1e-8, norm, "cpp")
    return "conv_act", (x, w, bias, noise, *flags)


def conv_weight_gradient(x, g, up, down, per_sample):
    return "conv_weight_gradient", (x, g, [3] * 3, [up] * 3, [down] * 3, [1] * 3, per_sample, "cpp")


X, W, SIZE = (2, 3, 2, 4, 4), (4, 3, 3, 3, 3), [2, 4, 4]
LAST = draw(*X).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
POSITIVE = draw(2, *SIZE).abs() + 0.5
REGISTERED = {
    "plain": conv_act(grad(*X), grad(*W), None, None, 1.0, 1.0, False, 1, 1, SIZE),
    "act": conv_act(LAST, grad(*W), grad(4), grad(1, 4, 1), 0.2, 1.4, False, 1, 1, SIZE),
    "style_up": conv_act(grad(*X), grad(2, *W), grad(4), None, 0.2, 1.0, False, 2, 1, [4, 8, 8]),
    "down": conv_act(grad(*X), grad(*W), None, None, 0.2, 1.0, False, 1, 2, [1, 2, 2]),
    "conv_pixel_norm": conv_act(grad(*X), grad(*W), grad(4), None, 0.2, 1.0, True, 1, 1, SIZE),
    "weight_gradient": conv_weight_gradient(grad(*X), grad(2, 4, *SIZE), 1, 1, False),
    "weight_gradient_up": conv_weight_gradient(LAST, grad(2, 4, 4, 8, 8), 2, 1, True),
    "conv_act_backward": (
        "conv_act_backward",
        (draw(2, 4, *SIZE), draw(2, 4, *SIZE, seed=1), draw(*X), draw(*W), 0.2, 1.3, *[[1] * 3] * 3, True, True),
    ),
    "act_backward": ("act_backward", (grad(*X), draw(*X, seed=1), draw(0), 0.2, 1.3, False, "cpp")),
    "act_backward_norm": ("act_backward", (draw(*X), draw(*X, seed=1), POSITIVE, 0.2, 1.3, True, "cpp")),
    "pixel_norm": ("pixel_norm", (grad(*X), 0.2, 1e-8, True, "cpp")),
    "pixel_norm_last": ("pixel_norm", (LAST, 1.0, 1e-8, False, "cpp")),
    "stddev": ("minibatch_stddev", (grad(*X), 2, 1e-3, "cpp")),
    "stddev_last": ("minibatch_stddev", (LAST, 2, 1e-3, "cpp")),
    "stddev_backward": ("minibatch_stddev_backward", (grad(2, 4, *SIZE), grad(*X), 2, 1e-3, "cpp")),
    "stddev_double_backward": (
        "minibatch_stddev_double_backward",
        (draw(*X), draw(2, 4, *SIZE), draw(*X), 2, 1e-3, "cpp"),
    ),
}


@pytest.mark.parametrize("name", REGISTERED)
def test_opcheck(name: str):
    op, arguments = REGISTERED[name]
    torch.library.opcheck(getattr(torch.ops.vgen_fast, op).default, arguments)


@pytest.mark.parametrize("name", ["conv_pixel_norm", "pixel_norm"])
def test_a_backward_without_the_factor_kept_gives_the_same_gradient(name: str):
    op, (*arguments, keep_r, impl) = REGISTERED[name]
    assert keep_r
    wanted = [a for a in arguments if isinstance(a, Tensor)]
    found = []
    for keep in (True, False):
        y, _ = getattr(torch.ops.vgen_fast, op)(*arguments, keep, impl)
        found.append(torch.autograd.grad(y, wanted, torch.linspace(-1, 1, y.numel()).reshape(y.shape)))
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again)


COMPILED = [
    "modulated_conv3d:plain", "modulated_conv3d:style", "modulated_conv3d:up", "modulated_conv3d:down",
    "modulated_conv3d:pixel_norm",
    "pixel_norm:video_lrelu", "minibatch_stddev:image", "sliced_head:square", "sliced_wasserstein:unequal",
]  # fmt: skip


def value_and_gradients(function, tensors) -> list[Tensor]:
    y = function(tensors)
    return [y, *torch.autograd.grad(y, list(tensors.values()), torch.linspace(-1, 1, y.numel()).reshape(y.shape))]


def compare_compiled(name: str, backend: str) -> None:
    torch.compiler.reset()
    case = BY_NAME[name]

    def function(tensors):
        return case.call(tensors, "cpp")

    start = case.tensors(torch.float32)
    eager = value_and_gradients(function, leaves(start))
    compiled = value_and_gradients(torch.compile(function, backend=backend, fullgraph=True), leaves(start))
    for a, b in zip(compiled, eager, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text: f"{name} {backend}: {text}")


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_whole_equals_eager(name: str):
    compare_compiled(name, "aot_eager")


@pytest.mark.slow
def test_inductor_equals_eager():
    compare_compiled("modulated_conv3d:style", "inductor")


@pytest.mark.parametrize("name", ["modulated_conv3d:bias_lrelu", "minibatch_stddev:image"])
def test_a_penalty_under_compile_raises(name: str):
    torch.compiler.reset()
    case = BY_NAME[name]
    tensors = leaves(case.tensors(torch.float32))
    y = torch.compile(lambda t: case.call(t, "cpp"), backend="aot_eager", fullgraph=True)(tensors)
    (gx,) = torch.autograd.grad(y.square().sum(), tensors["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        gx.square().sum().backward()


def test_no_weight_gradients_leaves_out_shared_weights_only():
    x, w, bias, style, noise = grad(*X), grad(*W), grad(4), grad(2, 3), grad(2, 1, *SIZE)
    with ops.no_weight_gradients():
        y = ops.modulated_conv3d(x, w, bias=bias, noise=noise, slope=0.2, impl="cpp").sum()
        found = torch.autograd.grad(y, (x, w, bias, noise), allow_unused=True)
        assert [g is None for g in found] == [False, True, True, False]
        y = ops.modulated_conv3d(x, w, style, bias=bias, slope=0.2, impl="cpp").sum()
        styled = torch.autograd.grad(y, (x, w, bias, style), allow_unused=True)
        assert not any(g is None for g in styled)
    y = ops.modulated_conv3d(x, w, bias=bias, noise=noise, slope=0.2, impl="cpp").sum()
    outside = torch.autograd.grad(y, (x, w, bias, noise))
    assert torch.equal(outside[0], found[0])
    assert outside[1].abs().sum() > 0


@pytest.mark.parametrize(
    ("frames", "width", "options", "fused"),
    [
        (FEW_PLACES, SHORT_ROW, {}, False),
        (FEW_PLACES, SHORT_ROW + 1, {}, True),
        (FEW_PLACES, SHORT_ROW, {"up": 2}, True),
        (FEW_PLACES, SHORT_ROW, {"style": grad(2, 3)}, False),
        (FEW_PLACES // 256, 32, {}, True),
        (FEW_PLACES // 256 - 1, 32, {}, False),
        (FEW_PLACES // 256, 32, {"style": grad(2, 3)}, False),
        (FEW_PLACES // 256, 32, {"down": 2}, True),
        (FEW_PLACES // 256, 16, {"up": (1, 1, 2)}, True),
        (1, 4, {"impl": "cpp"}, True),
    ],
)
def test_short_rows_and_few_places_go_to_the_library_unless_an_implementation_is_named(
    frames: int, width: int, options: dict, fused: bool
):
    x, w = grad(2, 3, frames, 4, width), grad(*W)
    with profile() as seen:
        ops.modulated_conv3d(x, w, slope=0.2, **options)
    assert any("conv_act" in event.key for event in seen.key_averages()) == fused


NONE = (0, *X[1:])
EMPTY = {
    "conv": (lambda t: ops.modulated_conv3d(**t, slope=0.2), {"x": NONE, "weight": W, "bias": (4,)}, (0, 4, 2, 4, 4)),
    "conv_up": (lambda t: ops.modulated_conv3d(**t, up=2), {"x": NONE, "weight": W, "style": (0, 3)}, (0, 4, 4, 8, 8)),
    "conv_down": (lambda t: ops.modulated_conv3d(**t, down=2), {"x": (0, 3, 4, 4), "weight": W[:4]}, (0, 4, 2, 2)),
    "pixel_norm": (lambda t: ops.pixel_norm(**t, slope=0.2), {"x": NONE}, NONE),
    "stddev": (lambda t: ops.minibatch_stddev(**t), {"x": NONE}, (0, 4, 2, 4, 4)),
    "head": (lambda t: ops.sliced_head(**t), {"y": (0, 3), "theta": (5, 3), "scale": (5,), "offset": (5,)}, (0,)),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("impl", [None, "reference"])
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(name: str, impl: str | None):
    call, shapes, expected = EMPTY[name]
    tensors = {k: grad(*shape) for k, shape in shapes.items()}
    with ops.using(impl):
        y = call(tensors)
        assert y.shape == expected
        for tensor, g in zip(
            tensors.values(), torch.autograd.grad(y.sum(), list(tensors.values()), allow_unused=True), strict=True
        ):
            assert g is None or (g.shape == tensor.shape and not g.any())


@pytest.mark.parametrize("name", ["modulated_conv3d:style", "pixel_norm:video", "minibatch_stddev:image"])
def test_autocast_to_bfloat16(name: str):
    """x may come in 16 bits and parameters in 32: the output has x's type, each gradient its tensor's."""
    case = BY_NAME[name]
    start = case.tensors(torch.float32)
    start["x"] = start["x"].bfloat16().float()
    exact = case.plain({k: t.double() for k, t in start.items()})
    rough = case.plain({**start, "x": start["x"].bfloat16()})
    tensors = leaves({**start, "x": start["x"].bfloat16()})
    with torch.autocast("cpu", torch.bfloat16):
        y = case.call(tensors, "cpp")
    assert y.dtype == torch.bfloat16
    assert_close(y, rough, exact, f"{name} under autocast")
    for tensor, g in zip(tensors.values(), torch.autograd.grad(y.sum(), list(tensors.values())), strict=True):
        assert g.dtype == tensor.dtype
        assert g.isfinite().all()


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("style", "up", "video", "square", "equal")], ids=str)
def test_inference_mode(case):
    tensors = case.tensors(torch.float32)
    expected = case.call(tensors, "cpp")
    with torch.inference_mode():
        y = case.call(tensors, "cpp")
        inside = case.call({k: t.clone() for k, t in tensors.items()}, "cpp")
    assert y.is_inference()
    assert torch.equal(y, expected)
    assert torch.equal(inside, expected)


BIG = {
    "conv": (lambda x, w: ops.modulated_conv3d(x, w, slope=0.2, impl="cpp"), (2, 8, 4, 24, 24), (9, 8, 3, 3, 3)),
    "conv_up": (lambda x, w: ops.modulated_conv3d(x, w, up=2, impl="cpp"), (2, 8, 2, 12, 12), (9, 8, 3, 3, 3)),
    "conv_frames": (lambda x, w: ops.modulated_conv3d(x, w, impl="cpp"), (3, 8, 7, 6, 6), (9, 8, 1, 3, 3)),
    "pixel_norm": (lambda x, w: ops.pixel_norm(x, slope=0.2, impl="cpp") * w, (2, 8, 4, 24, 24), (1,)),
    "stddev": (lambda x, w: ops.minibatch_stddev(x, eps=1e-3, impl="cpp") * w, (4, 8, 4, 24, 24), (1,)),
    "distance": (lambda x, w: ops.sliced_wasserstein(x, w, seed=0, impl="cpp"), (300, 8), (200, 8)),
}


@pytest.mark.parametrize("name", BIG)
def test_threads_agree_and_repeats_give_the_same_bits(name: str):
    call, *shapes = BIG[name]

    def run() -> list[Tensor]:
        x, w = (grad(*shape, seed=i) for i, shape in enumerate(shapes))
        y = call(x, w)
        return [y.detach(), *torch.autograd.grad(y, (x, w), draw(*y.shape, seed=9))]

    before, found = torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found[threads] = run()
            for _ in range(20):
                assert all(torch.equal(a, b) for a, b in zip(run(), found[threads], strict=True)), (
                    f"{name}, {threads} threads"
                )
    finally:
        torch.set_num_threads(before)
    for a, b in zip(found[1], found[2], strict=True):
        scale = a.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=16 * torch.finfo(a.dtype).eps * scale)


@pytest.mark.parametrize("impl", ["cpp", "reference"])
@pytest.mark.parametrize("name", ["modulated_conv3d:plain", "pixel_norm:video", "minibatch_stddev:image"])
def test_vmap_is_a_loop(name: str, impl: str):
    case = BY_NAME[name]
    pairs = [case.tensors(torch.float32, seed=seed) for seed in (0, 1)]
    others = {k: t for k, t in pairs[0].items() if k != "x"}
    xs = torch.stack([pair["x"] for pair in pairs])
    expected = torch.stack([case.call({"x": x, **others}, impl) for x in xs])
    got = torch.func.vmap(lambda x: case.call({"x": x, **others}, impl))(xs)
    torch.testing.assert_close(got, expected)


FORWARD = {
    "modulated_conv3d": (
        lambda x: ops.modulated_conv3d(x, draw(4, 3, 3, 3, 3, dtype=x.dtype), slope=0.2, pixel_norm=True),
        draw(2, 3, 3, 4, 16, dtype=torch.float64),
    ),
    "pixel_norm": (lambda x: ops.pixel_norm(x, slope=0.2), draw(2, 3, 3, 4, 16, dtype=torch.float64)),
    "minibatch_stddev": (ops.minibatch_stddev, draw(4, 3, 2, 3, 4, dtype=torch.float64)),
    "sliced_wasserstein": (
        lambda x: ops.sliced_wasserstein(x, draw(9, 5, seed=1, dtype=x.dtype), seed=0),
        draw(7, 5, dtype=torch.float64),
    ),
    "sliced_head": (
        lambda x: ops.sliced_head(x, torch.eye(5, dtype=x.dtype), *draw(2, 5, seed=1, dtype=x.dtype)),
        draw(7, 5, dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_derivatives_are_those_of_the_reference(name: str):
    """A registered backward alone would make them zero, without an error."""
    call, x = FORWARD[name]
    direction = torch.randn_like(x)
    _, found = torch.func.jvp(call, (x,), (direction,))
    with ops.using("reference"):
        _, wanted = torch.func.jvp(call, (x,), (direction,))
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(found, wanted)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(call(dual)).tangent
    torch.testing.assert_close(tangent, wanted)
    step = 1e-6
    torch.testing.assert_close(found, (call(x + step * direction) - call(x - step * direction)) / (2 * step))
    slope = torch.func.grad(lambda x: call(x).square().sum())(x)
    (plain,) = torch.autograd.grad(call(x.requires_grad_()).square().sum(), x)
    torch.testing.assert_close(slope, plain)


def test_forward_mode_by_a_named_implementation_is_refused():
    x = torch.randn(2, 3, 4, 5, 16)
    with pytest.raises(ValueError, match="impl='cpp' cannot run: it has no forward-mode derivative; the reference has"):
        torch.func.jvp(lambda x: ops.pixel_norm(x, impl="cpp"), (x,), (x,))


def test_a_lazy_negative_is_read_as_what_it_is():
    x = torch.view_as_complex(torch.randn(2, 3, 4, 5, 16, 2)).conj().imag
    weight = torch.randn(4, 3, 3, 3, 3)
    assert x.is_neg()
    wanted = ops.modulated_conv3d(x.clone(), weight, impl="cpp")
    torch.testing.assert_close(ops.modulated_conv3d(x, weight, impl="cpp"), wanted)


@pytest.mark.parametrize("options", [dict(slope=-0.2), dict(gain=-1.0), dict(kernel=17)], ids=str)
def test_the_reference_is_never_refused(options: dict):
    kernel = options.pop("kernel", 3)
    x, weight = torch.randn(1, 2, 2, 3, 20), torch.randn(2, 2, 1, 1, kernel)
    y = ops.modulated_conv3d(x, weight, impl="reference", **options)
    torch.testing.assert_close(y, ops.modulated_conv3d(x, weight, **options))


@pytest.mark.parametrize("width", [2, 4, 5, 16])
@pytest.mark.parametrize("options", [dict(), dict(slope=-0.2)], ids=str)
def test_the_memory_format_is_kept_whatever_runs(width: int, options: dict):
    x, weight = torch.randn(2, 8, 3, 4, width), torch.randn(6, 8, 3, 3, 3)
    y = ops.modulated_conv3d(x.contiguous(memory_format=torch.channels_last_3d), weight, **options)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert ops.modulated_conv3d(x, weight, **options).is_contiguous()
    image = x[:, :, 0].contiguous(memory_format=torch.channels_last)
    assert ops.modulated_conv3d(image, weight[:, :, 0], **options).is_contiguous(memory_format=torch.channels_last)


def test_a_dispatch_mode_sees_every_call():
    """Selective checkpointing and FLOP counters watch through such a mode; the short cut past it must stay off."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    seen = []
    x = torch.randn(2, 4, 3, 5, 6, requires_grad=True)
    with Record():
        ops.minibatch_stddev(ops.pixel_norm(x), group_size=2).sum().backward()
    for name in ("pixel_norm", "minibatch_stddev", "minibatch_stddev_backward", "act_backward"):
        assert any(f"vgen_fast.{name}." in call for call in seen), f"{name} is missing from {seen}"
