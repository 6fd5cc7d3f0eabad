import pytest
import torch
from framed import DTYPES, MARGIN, video
from vgen_fast.kernels import feature_moments as kernel


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "features"), [(1, 1), (3, 31), (17, 33), (40, 67)])
def test_rank_update_adds_to_the_lower_triangle_and_nothing_else(rows, features, dtype, device):
    x = (video(rows, features, device=device) + 1000).to(dtype)
    shift = x.double().mean(0) + 0.5
    buffer = torch.full((features * features + 2 * MARGIN,), float("nan"), dtype=torch.float64, device=device)
    out = buffer[MARGIN:-MARGIN].view(features, features)
    lower = torch.ones_like(out).tril().bool()
    start = video(features, features, dtype=torch.float64, device=device)
    out[lower] = start[lower]
    kernel.rank_update(x, shift, out)
    centred = x.double() - shift
    torch.testing.assert_close(out[lower], (start + centred.T @ centred)[lower], rtol=1e-13, atol=1e-12)
    assert out[~lower].isnan().all()
    assert buffer[:MARGIN].isnan().all()
    assert buffer[-MARGIN:].isnan().all()


def test_rank_update_reads_strided_rows(device):
    x = video(12, 40, device=device)[::2, ::3]
    out = torch.zeros(14, 14, dtype=torch.float64, device=device)
    kernel.rank_update(x, torch.zeros(14, dtype=torch.float64, device=device), out)
    torch.testing.assert_close(out, (x.double().T @ x.double()).tril(), rtol=1e-13, atol=1e-12)
