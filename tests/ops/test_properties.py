"""Hypothesis: any shape, stride, storage offset, type and option agrees with the reference, and writes only its own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vgen_fast import ops
from vgen_fast.ops import layout, minibatch_stddev, modulated_conv3d, pixel_norm, reference
from vgen_fast.ops.choose import unavailable

from .cases import plain_conv
from .check import assert_close

REASON = unavailable("cpp", "cpu")
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
EXAMPLES = settings(deadline=None, max_examples=100, derandomize=True)
MARGIN = 64  # elements on each side
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


class Canaries:
    """An allocator whose tensors lie inside larger buffers of NaN."""

    def __init__(self):
        self.buffers: list[Tensor] = []

    def empty_like_layout(self, x: Tensor, shape) -> Tensor:
        like = layout.empty_like_layout(x, shape)
        buffer = torch.full((like.numel() + 2 * MARGIN,), torch.nan, dtype=like.dtype)
        self.buffers.append(buffer)
        return buffer.as_strided(like.shape, like.stride(), MARGIN)

    def check(self) -> None:
        assert self.buffers, "the op allocated nothing here: this test sees nothing"
        for buffer in self.buffers:
            margins = torch.cat([buffer[:MARGIN], buffer[-MARGIN:]])
            assert margins.isnan().all(), "an op wrote outside its output"
            unwritten = buffer[MARGIN:-MARGIN].isnan()  # all of it: a template of strides
            assert unwritten.all() or not unwritten.any(), "an op left part of its output unwritten"
        self.buffers.clear()


@pytest.fixture(scope="module")
def canaries():
    found = Canaries()
    with pytest.MonkeyPatch.context() as patch:
        for module in (modulated_conv3d, pixel_norm, minibatch_stddev):
            patch.setitem(vars_of(module), "empty_like_layout", found.empty_like_layout)
        yield found


def vars_of(op) -> dict:
    """The globals of an op's module, whose name the op shadows in vgen_fast.ops."""
    return op.__globals__


@st.composite
def strided(draw, shape: tuple[int, ...], dtype: torch.dtype, expand: bool = True) -> Tensor:
    """Values of a drawn seed in a drawn order of axes, stepped or not, at a drawn storage offset."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in shape]
    offset = draw(st.integers(0, 3))
    strides, size = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = size * steps[axis]
        size *= shape[axis] * steps[axis]
    x = torch.full((size + offset,), torch.nan, dtype=dtype).as_strided(shape, strides, offset)
    x.copy_(values)
    if expand and draw(st.integers(0, 9)) == 0:
        x = x[:1].expand(shape)
    return x


def nudge(tensor: Tensor) -> Tensor:
    """Each element an ulp, of float32 at least, up or down."""
    eps = torch.finfo(torch.promote_types(tensor.dtype, torch.float32)).eps
    signs = 2 * torch.randint(2, tensor.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    return tensor.double() * (1 + eps * signs)


def compare(call, plain, tensors: dict[str, Tensor], canaries: Canaries) -> None:
    """Value and gradients by the tolerance rule, inputs unchanged, margins untouched."""
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    nudged = {name: nudge(tensor) for name, tensor in tensors.items()}
    found = []
    for function, chosen in ((call, tensors), (plain, tensors), (plain, exact), (plain, nudged)):
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in chosen.items()}
        y = function(leaves)
        g = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)  # sums do not cancel
        found.append(
            {"value": y.detach()} | dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), g), strict=True))
        )
    for name in found[0]:
        got, same_type, double, near = (result[name] for result in found)
        assert_close(got, same_type, double, name, nudged=near)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"
    canaries.check()


small = st.integers(1, 5)
slopes = st.sampled_from([None, 0.0, 0.2, 1.0, 1.5])


@EXAMPLES
@given(data=st.data())
def test_modulated_conv3d(data, canaries):
    draw = data.draw
    dtype = draw(st.sampled_from(DTYPES))
    image = draw(st.booleans())
    axes = 2 if image else 3
    batch, inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 16)), draw(st.integers(1, 18))
    taps = tuple(draw(st.sampled_from([1, 3, 3, 5])) for _ in range(axes))
    ones = (1,) * axes
    factors = tuple(draw(st.sampled_from([1, 2])) for _ in range(axes))
    way = draw(st.sampled_from(["none", "up", "down"]))
    up, down = (factors if way == "up" else ones), (factors if way == "down" else ones)
    padding = draw(st.one_of(st.just("same"), st.tuples(*[st.integers(0, 3)] * axes)))
    sides = [(k - 1) // 2 for k in taps] if padding == "same" else padding
    least = [max(1, -(-(k - 1 + d - 2 * p) // u)) for k, d, p, u in zip(taps, down, sides, up, strict=True)]
    size = tuple(draw(st.integers(n, n + 5)) for n in least)
    out = [(n * u + 2 * p - k + 1) // d for n, u, p, k, d in zip(size, up, sides, taps, down, strict=True)]
    shapes = {"x": (batch, inputs, *size), "weight": (outputs, inputs, *taps)}
    shapes |= {"style": (batch, inputs)} if draw(st.booleans()) else {}
    shapes |= {"bias": (outputs,)} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        shapes["noise"] = tuple(draw(st.sampled_from([1, n])) for n in (batch, outputs, *out))
    # With fewer channels, or equal ones, the gradient of the norm is pure cancellation, below every resolution.
    norm = inputs > 1 and outputs > 3 and draw(st.booleans())
    tensors = {name: draw(strided(shape, dtype, expand=not norm)) for name, shape in shapes.items()}
    options = dict(
        demodulate=draw(st.booleans()), slope=draw(slopes), gain=draw(st.sampled_from([1.0, 0.5, 1.7])),
        up=up, down=down, padding=padding, eps=draw(st.sampled_from([1e-8, 1e-2])),
        pixel_norm=norm,
    )  # fmt: skip
    wide = {"padding": (0, *padding)} if image and padding != "same" else {}
    three = {name: (1, *options[name]) if image else options[name] for name in ("up", "down")}
    compare(
        lambda t: ops.modulated_conv3d(**t, **options, impl="cpp"),
        lambda t: plain_conv(**t, **{**options, **three, **wide}),
        tensors,
        canaries,
    )


@EXAMPLES
@given(data=st.data())
def test_pixel_norm(data, canaries):
    draw = data.draw
    shape = (draw(small), draw(st.integers(2, 20)), *draw(st.lists(st.integers(1, 7), min_size=2, max_size=3)))
    x = draw(strided(shape, draw(st.sampled_from(DTYPES))))
    options = dict(slope=draw(slopes), eps=draw(st.sampled_from([1e-8, 1e-2])))
    compare(
        lambda t: ops.pixel_norm(**t, **options, impl="cpp"),
        lambda t: reference.pixel_norm.pixel_norm(**t, **options),
        {"x": x},
        canaries,
    )


@EXAMPLES
@given(data=st.data())
def test_minibatch_stddev(data, canaries):
    draw = data.draw
    group = draw(small)
    shape = (
        group * draw(st.integers(1, 3)),
        draw(st.integers(1, 7)),
        *draw(st.lists(st.integers(1, 7), min_size=2, max_size=3)),
    )
    x = draw(strided(shape, draw(st.sampled_from(DTYPES))))
    options = dict(group_size=group, eps=draw(st.sampled_from([1e-3, 1e-1])))
    compare(
        lambda t: ops.minibatch_stddev(**t, **options, impl="cpp"),
        lambda t: reference.minibatch_stddev.minibatch_stddev(**t, **options),
        {"x": x},
        canaries,
    )


def test_a_write_past_the_end_is_seen():
    canaries = Canaries()
    y = canaries.empty_like_layout(torch.zeros(1, 2, 1, 1, 3), (1, 2, 1, 1, 3)).zero_()
    canaries.check()
    y = canaries.empty_like_layout(y, y.shape).zero_()
    y.as_strided((1,), (1,), y.storage_offset() + y.numel()).fill_(0)
    with pytest.raises(AssertionError, match="outside its output"):
        canaries.check()
