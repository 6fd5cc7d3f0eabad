"""W_1 from bins, most of whose samples are not sorted: against scipy, and where bins hold everything or nothing."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vgen_fast import _C
from vgen_fast.ops.native import address, where
from vgen_fast.ops.sliced_wasserstein import BINNED_SAMPLES, sliced_wasserstein

ISAS = ["avx2", "avx512"]
DTYPES = [torch.float32, torch.float64]
LIMITS = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(params=ISAS)
def isa(request):
    before = _C.isa()
    try:
        _C.set_isa(request.param)
    except ValueError:
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    _C.set_isa(before)


def binned(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean over the rows of x [L, n] and y [L, m]."""
    blocks = [torch.cat([some.flatten() for some in side.split(_C.SAMPLE_BLOCK, dim=1)]) for side in (x, y)]
    return _C.binned_wasserstein(where(x), *map(address, blocks), x.shape[1], y.shape[1], len(x))


def scipys(x: torch.Tensor, y: torch.Tensor) -> float:
    pairs = zip(x.double().numpy(), y.double().numpy(), strict=True)
    return sum(scipy.stats.wasserstein_distance(a, b) for a, b in pairs) / len(x)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = {
    "another distribution": (normal(3, 5000), normal(3, 5000, seed=1) * 0.5 + 1),
    "the same distribution": (normal(3, 5000), normal(3, 5000, seed=1)),  # F and G cross again and again
    "a small shift": (normal(3, 5000), normal(3, 5000) + 1e-3),
    "unequal numbers": (normal(3, 5000), normal(3, 3001, seed=1)),
    "far from zero": (normal(3, 5000) + 1000, normal(3, 4000, seed=1) + 1000.5),
    "half of them 0": (normal(3, 5000).relu(), (normal(3, 4000, seed=1) - 0.2).relu()),
    "heavy tails, nearly all in one bin": (normal(3, 5000) ** 9, normal(3, 5000, seed=1) ** 9 * 1.2),
    "two values": (normal(3, 700).sign(), (normal(3, 900, seed=1) + 0.1).sign()),
    "whole numbers": (normal(3, 900).mul(3).round(), normal(3, 800, seed=1).mul(4).round()),
    "one and one": (normal(5, 1), normal(5, 1, seed=1)),
    "one and many": (normal(5, 1), normal(5, 1500, seed=1)),
    "few": (normal(5, 3), normal(5, 5, seed=1)),
    "apart": (normal(3, 2000), normal(3, 2000, seed=1) + 100),
    "tiny": (normal(3, 500) * 1e-30, normal(3, 600, seed=1) * 1e-30),
    "too small to be divided": (normal(3, 500) * 1e-42, normal(3, 600, seed=1) * 1e-42),
    "huge": (normal(3, 500) * 1e37, normal(3, 600, seed=1) * 1e37),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_distance_that_scipy_finds(isa, case, dtype):
    x, y = (side.to(dtype) for side in CASES[case])
    assert binned(x, y) == pytest.approx(scipys(x, y), rel=LIMITS[dtype], abs=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_samples_in_any_order_are_at_0(isa, dtype):
    x = normal(4, 6000).to(dtype)
    assert binned(x, x[:, torch.randperm(6000)]) == 0
    assert binned(torch.ones(2, 70), torch.ones(2, 90)) == 0


@pytest.mark.parametrize("place", [0, 3, 4999])
def test_nan_and_infinity_are_not_lost(isa, place):
    x, y = normal(2, 5000).float(), normal(2, 5003, seed=1).float()
    x[1, place] = math.nan
    assert math.isnan(binned(x, y))
    assert math.isnan(binned(y, x))
    x[1, place] = math.inf
    assert binned(x, y) == math.inf
    x[1, place] = -math.inf
    assert binned(y, x) == math.inf


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_numbers(data):
    """Few values, so that many are equal, over magnitudes that make bins of any fullness."""
    values = data.draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=6))
    draw = lambda: data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=60))  # noqa: E731
    x, y = torch.tensor([draw()]), torch.tensor([draw()])
    wanted = scipys(x, y)
    span = float(max(x.max(), y.max()) - min(x.min(), y.min()))
    assert binned(x, y) == pytest.approx(wanted, rel=1e-6, abs=1e-7 * span)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(BINNED_SAMPLES // 2, BINNED_SAMPLES // 2 + 7), (BINNED_SAMPLES, 3)], ids=str)
def test_the_op_takes_it_for_many_samples_and_agrees_with_sorting_them(sizes, dtype):
    x, y = normal(sizes[0], 9).to(dtype), normal(sizes[1], 9, seed=1).to(dtype) * 1.1
    options = {"num_projections": 37, "seed": 0, "p": 1}
    found = sliced_wasserstein(x, y, impl="cpp", **options)
    sorted_ = sliced_wasserstein(x.clone().requires_grad_(), y, impl="cpp", **options).detach()
    wanted = sliced_wasserstein(x, y, impl="reference", **options)
    for other in (sorted_, wanted):
        torch.testing.assert_close(found, other, rtol=LIMITS[dtype], atol=0)


def test_threads_change_nothing():
    x, y, before = normal(16, 9000), normal(16, 9000, seed=1), torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(binned(x, y))
    torch.set_num_threads(before)
    assert len(set(found)) == 1
