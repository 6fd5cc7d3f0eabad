"""The ops of the `op` folder of rosinality/stylegan2-pytorch: same signatures, written from the formulas."""

from torch import Tensor

from .. import expect
from . import nvlabs

ORDER = 2


def fused_leaky_relu(
    input: Tensor, bias: Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> Tensor:
    """leaky_relu(input + bias along axis 1) * scale. Twice differentiable.

    input    [N, C] to [N, C, T, H, W]; bias [C]
    returns  input's shape, type and memory format
    """
    op = "fused_leaky_relu"
    expect.tensor(op, "input", input)
    if not 2 <= input.ndim <= 5:
        expect.fail(op, "input", "[N, C] with up to three more axes", expect.shape(input))
    if bias is not None:
        expect.tensor(op, "bias", bias)
        expect.same_device(op, "bias", bias, input, "input")
        expect.has_shape(op, "bias", bias, input.shape[1:2], "[C]")
    expect.finite_number(op, "negative_slope", negative_slope)
    expect.finite_number(op, "scale", scale)
    return nvlabs.activate(input, bias, 1, "lrelu", float(negative_slope), float(scale))


def upfirdn2d(
    input: Tensor,
    kernel: Tensor,
    up: int | tuple[int, int] = 1,
    down: int | tuple[int, int] = 1,
    pad: tuple[int, ...] = (0, 0),
) -> Tensor:
    """`nvlabs.upfirdn2d` with a 2-D kernel, convolved; `pad` is (before, after) for both axes or (x0, x1, y0, y1)."""
    op = "upfirdn2d"
    if not isinstance(kernel, Tensor) or kernel.ndim != 2:
        got = expect.shape(kernel) if isinstance(kernel, Tensor) else type(kernel).__name__
        expect.fail(op, "kernel", "a tensor [h, w]", got)
    sides = tuple(pad) if isinstance(pad, (list, tuple)) else ()
    if len(sides) not in (2, 4) or any(not isinstance(n, int) for n in sides):
        expect.fail(op, "pad", "(before, after) or (x0, x1, y0, y1)", repr(pad))
    return nvlabs.upfirdn2d(input, kernel, up=up, down=down, padding=sides if len(sides) == 4 else sides * 2)
