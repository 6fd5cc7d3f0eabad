import pytest
import torch
from framed import DTYPES, Frame, assert_close, video, wide
from vgen_fast.kernels import sliced_wasserstein as kernel

from vgen_fast.ops.reference.sliced_wasserstein import sliced_head


@pytest.mark.parametrize("with_ranks", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (33, 7), (64, 3), (131, 2)])
def test_sorted_columns_are_those_of_torch(rows, columns, dtype, with_ranks, device):
    x = video(rows, columns, dtype=dtype, device=device)
    x[rows // 2 :, 0] = x[0, 0]  # equal values
    x[-1, -1] = float("inf")
    x[0, -1] = -float("inf")
    values = Frame(rows, columns, dtype=dtype, device=device)
    ranks = Frame(rows, columns, dtype=torch.int32, device=device)
    kernel.sorted_columns(x, values.view, ranks.view if with_ranks else None)
    want = x.sort(dim=0, stable=True)
    assert torch.equal(values.written(), want.values)
    if with_ranks:
        assert torch.equal(ranks.written().long(), want.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sorted_columns_put_nan_last_and_keep_ranks_a_permutation(dtype, device):
    x = video(9, 2, dtype=dtype, device=device)
    x[3, 0] = x[5, 0] = float("nan")
    x[1, 0], x[2, 0] = -0.0, 0.0
    values, ranks = torch.empty_like(x), torch.full((9, 2), -1, dtype=torch.int32, device=device)
    kernel.sorted_columns(x, values, ranks)
    want = x.sort(dim=0, stable=True)
    assert torch.equal(ranks.long(), want.indices)
    kernel.sorted_columns(x, values, None)
    torch.testing.assert_close(values, want.values, rtol=0, atol=0, equal_nan=True)


def test_sorted_columns_refuse_what_does_not_fit_a_program():
    with pytest.raises(NotImplementedError, match="at most 1024 rows"):
        kernel.sorted_columns(torch.empty(1025, 1), torch.empty(1025, 1), None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "directions"), [(1, 1), (3, 17), (37, 131)])
def test_sliced_head_matches_the_reference_and_its_gradients(batch, directions, dtype, device):
    p = video(batch, directions, dtype=dtype, device=device)
    scale, offset = (video(directions, dtype=dtype, device=device) for _ in range(2))
    g = video(batch, dtype=dtype, device=device)
    found = []
    for kind in (torch.float64, wide(dtype)):
        leaves = [t.to(kind).requires_grad_() for t in (p, scale, offset)]
        out = sliced_head(leaves[0], torch.eye(directions, dtype=kind, device=device), *leaves[1:], slope=0.3)
        found.append([out, *torch.autograd.grad(out, leaves, g.to(kind))])
    frames = [Frame(*t.shape, dtype=dtype, device=device) for t in found[0]]
    out, gp, gscale, goffset = (frame.view for frame in frames)
    kernel.sliced_head_forward(p, scale, offset, out, 0.3)
    kernel.sliced_head_backward(p, g, scale, offset, gp, gscale, goffset, 0.3)
    for frame, exact, plain in zip(frames, *found, strict=True):
        assert_close(frame.written(), exact, plain)
