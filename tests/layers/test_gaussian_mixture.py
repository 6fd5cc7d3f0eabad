"""The mixture against closed forms and PyTorch's densities."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from vgen_fast.layers import gaussian_mixture
from vgen_fast.layers.gaussian_mixture import LEAST, Mixture


def test_one_component_is_the_mean_and_the_covariance():
    x = torch.randn(500, 4).double() @ torch.randn(4, 4).double() + 3
    found = gaussian_mixture.fit(x, 1)
    covariance = x.T.cov(correction=0)
    torch.testing.assert_close(found.means[0], x.mean(dim=0))
    least = LEAST * covariance.diagonal().mean() * torch.eye(4).double()
    torch.testing.assert_close(found.factors[0] @ found.factors[0].T, covariance + least)
    wanted = MultivariateNormal(found.means[0], scale_tril=found.factors[0]).log_prob(x)
    torch.testing.assert_close(found.logs(x)[:, 0], wanted)


def test_clusters_are_found_and_no_round_makes_the_points_less_likely():
    torch.manual_seed(0)
    places = torch.tensor([[0.0, 0], [8, 0], [0, 8]]).double()
    x = torch.cat([place + torch.randn(n, 2).double() for place, n in zip(places, (100, 200, 300), strict=True)])
    found = gaussian_mixture.fit(x, 3, seed=1)
    order = torch.cdist(places, found.means).argmin(dim=1)
    assert sorted(order.tolist()) == [0, 1, 2]
    torch.testing.assert_close(found.means[order], places, atol=0.4, rtol=0)
    torch.testing.assert_close(found.weights[order], torch.tensor([1, 2, 3]).double() / 6, atol=0.02, rtol=0)
    assert all(b >= a - 1e-3 for a, b in zip(found.likelihoods, found.likelihoods[1:], strict=False))
    assert found.likelihoods[-1] > found.likelihoods[0] + 0.5


def test_samples_have_the_moments_of_the_mixture():
    factors = torch.stack([torch.eye(2), torch.tensor([[2.0, 0], [1, 0.5]])])
    mixture = Mixture(torch.tensor([0.25, 0.75]), torch.tensor([[20.0, 0], [-20, 1]]), factors)
    torch.manual_seed(0)
    found = mixture.sample(torch.randn(40_000, 2), torch.rand(40_000))
    second = found[:, 0] < 0
    assert second.float().mean().item() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(found[second].mean(dim=0), mixture.means[1], atol=0.1, rtol=0)
    torch.testing.assert_close(found[second].T.cov(), factors[1] @ factors[1].T, atol=0.15, rtol=0)


def test_points_that_coincide_and_too_few_of_them():
    found = gaussian_mixture.fit(torch.ones(10, 3), 2)
    assert found.means.isfinite().all()
    torch.testing.assert_close(found.means, torch.ones(2, 3).double())
    with pytest.raises(ValueError, match="a mixture of 4 Gaussians wants as many points at least, got 3"):
        gaussian_mixture.fit(torch.randn(3, 2), 4)
