"""What a sample moves a Frechet distance by, against differences; and the spread, against other draws."""

import pytest
import torch

from vgen_fast import ops
from vgen_fast.metrics.frechet import gaussian, influence, moments, replicates
from vgen_fast.metrics.interval import interval, means, weights


def drawn(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Correlated features; the correlation depends on the shift alone."""
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(int(10 * shift)), dtype=torch.float64)
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ mix + shift


def weighted(x: torch.Tensor, weight: torch.Tensor, biased: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance; that of equal weights is the unbiased one, or the one divided by N."""
    mean = weight @ x
    centred = x - mean
    return mean, (weight[:, None] * centred).T @ centred * (1 if biased else len(x) / (len(x) - 1))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("count", [300, 12])
def test_it_is_the_derivative_by_the_weight_of_a_sample(count, biased):
    """Also with fewer samples than dimensions. More weight on i takes from all: (1 - e) w + e at i."""
    x, y = drawn(count, 20, 0), drawn(30, 20, 1, 0.5)
    other = weighted(y, torch.full((30,), 1 / 30, dtype=torch.float64), biased)
    even, found, step = torch.full((count,), 1 / count, dtype=torch.float64), influence(x, moments(y), biased), 1e-6
    for i in range(5):
        moved = []
        for e in (-step, step):
            weight = even * (1 - e)
            weight[i] += e
            moved.append(ops.frechet_distance(weighted(x, weight, biased), other))
        assert found[i].item() == pytest.approx(float(moved[1] - moved[0]) / (2 * step), rel=1e-4)
    assert found.mean().item() == pytest.approx(0, abs=1e-9)


def test_replicates_spread_as_other_draws_do_around_the_distance():
    sides = [(moments(drawn(300, 6, seed)), moments(drawn(300, 6, seed + 1, 0.5))) for seed in range(0, 600, 2)]
    draws = torch.stack([ops.frechet_distance(real, fake) for real, fake in sides])
    found = replicates(drawn(300, 6, 7777), drawn(300, 6, 7778, 0.5))
    assert found.std() / draws.std() == pytest.approx(1, abs=0.25)
    distance = ops.frechet_distance(moments(drawn(300, 6, 7777)), moments(drawn(300, 6, 7778, 0.5)))
    low, high = interval(found)
    assert low < distance < high


def test_replicates_of_covariances_by_n_lie_around_the_distance_by_n():
    """Of 16 samples in as many dimensions it is far below the unbiased one, whose interval need not hold it."""
    x, y = drawn(16, 16, 0), drawn(16, 16, 1, 0.1)
    distance, unbiased = (
        float(ops.frechet_distance(*(gaussian(moments(side), biased) for side in (x, y)))) for biased in (True, False)
    )
    found = replicates(x, y, biased=True)
    assert float(found.mean()) == pytest.approx(distance, abs=abs(unbiased - distance) / 2)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """95% of 400 intervals, give or take 4.4 deviations of 1.1%: wrong once in 100,000 times."""
    held = 0
    for seed in range(400):
        values = torch.randn(120, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3
        low, high = interval(means(values, 300, seed))
        held += low < 3 < high
    assert 0.902 <= held / 400 <= 0.998


def test_weights_are_shares_of_draws_with_replacement():
    found = weights(50, 2000)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2000, dtype=torch.float64))
    assert ((found * 50).round() - found * 50).abs().max() < 1e-9
    # A count is binomial: it varies by 1 - 1/50, and is 0 with (1 - 1/50)^50 = 0.364.
    assert (50 * found).var().item() == pytest.approx(0.98, rel=0.05)
    assert (found == 0).double().mean().item() == pytest.approx(0.364, abs=0.01)


def test_constant_features_do_not_move():
    x, y = torch.ones(10, 4), drawn(30, 4, 0).float()
    assert influence(x, moments(y)).abs().max() == 0
