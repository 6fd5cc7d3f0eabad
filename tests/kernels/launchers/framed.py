"""Output buffers that show what a kernel did not write, or wrote outside, and the tolerance of the house."""

import torch
from torch import Tensor

MARGIN = 64
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def video(*shape, dtype=torch.float32, device="cpu", channels_last=False) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64).to(device, dtype)
    return x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x


class Frame:
    """`view` is an output full of NaN (-1 for integers) inside a larger buffer of the same."""

    def __init__(self, *shape, dtype=torch.float32, device="cpu", channels_last=False):
        layout = torch.empty(shape, dtype=dtype, device="meta")
        layout = layout.contiguous(memory_format=torch.channels_last_3d) if channels_last else layout
        fill = float("nan") if dtype.is_floating_point else -1
        self.buffer = torch.full((layout.numel() + 2 * MARGIN,), fill, dtype=dtype, device=device)
        self.view = self.buffer.as_strided(shape, layout.stride(), MARGIN)

    def unwritten(self, values: Tensor) -> Tensor:
        return values.isnan() if values.dtype.is_floating_point else values == -1

    def written(self) -> Tensor:
        """The output, after checking that all of it and nothing else was written."""
        assert not self.unwritten(self.view).any(), f"{int(self.unwritten(self.view).sum())} elements are unwritten"
        margins = torch.cat([self.buffer[:MARGIN], self.buffer[-MARGIN:]])
        assert self.unwritten(margins).all(), "elements outside the output were written"
        return self.view


def assert_close(got: Tensor, exact: Tensor, plain: Tensor) -> None:
    """Error <= 2 x the error of plain PyTorch in the same type + a few ulps of the output's scale.

    More of them in float64, where `plain` is `exact` and has no error to double.
    """
    floor = torch.finfo(got.dtype).eps * (64 if got.dtype == torch.float64 else 4)
    got, exact = got.double().cpu(), exact.double().cpu()
    assert got.shape == exact.shape
    bound = 2 * (plain.double().cpu() - exact).abs().max() + floor * exact.abs().max()
    error = (got - exact).abs().max()
    assert error <= bound, f"error {error:.3g} is above {bound:.3g}"
