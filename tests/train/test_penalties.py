"""Penalties against closed forms and against plain autograd over single samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vgen_fast.models.progressive import SlicedHead
from vgen_fast.models.system import Draw, Stage
from vgen_fast.train import penalties

STAGE = Stage()


def draw(count, seed=3):
    return Draw(seed, count, torch.arange(count), torch.zeros((), dtype=torch.float64))


class Linear(nn.Module):
    """<a, x>: its slope is |a| everywhere."""

    def __init__(self, size):
        super().__init__()
        self.a = nn.Parameter(torch.randn(size, dtype=torch.float64))

    def forward(self, x, stage):
        return (x * self.a).flatten(1).sum(1)


class Sliced(nn.Module):
    """A two-layer encoder before a sliced head."""

    def __init__(self, curved=True):
        super().__init__()
        self.first, self.second = nn.Linear(12, 10).double(), nn.Linear(10, 8).double()
        self.head, self.curved = SlicedHead(8).double(), curved
        with torch.no_grad():
            self.head.scale.uniform_(0.5, 1.5)
            self.head.offset.normal_()

    def encode(self, x, stage):
        hidden = self.first(x.flatten(1))
        return self.second(torch.tanh(hidden) if self.curved else hidden)

    def forward(self, x, stage):
        return self.head(self.encode(x, stage))


@pytest.mark.parametrize("target", [1.0, 750.0])
def test_gradient_penalty_of_a_linear_critic_is_its_slope_against_the_target(target):
    critic = Linear((3, 2, 4, 4))
    real, fake = torch.randn(2, 5, 3, 2, 4, 4, dtype=torch.float64)
    got = penalties.gradient_penalty(10.0, target)(critic, real, fake, STAGE, draw(5))
    slope = critic.a.norm()
    torch.testing.assert_close(got, 10 * (slope - target) ** 2)
    (gradient,) = torch.autograd.grad(got, critic.a)
    torch.testing.assert_close(gradient, 20 * (slope - target) * critic.a / slope)


def test_zero_centred_penalty_of_a_quadratic_critic():
    # D(x) = c |x|^2 / 2 has the slope c |x|, at real samples alone.
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    critic = lambda x, stage: c * x.square().flatten(1).sum(1) / 2  # noqa: E731
    real, fake = torch.randn(4, 6, dtype=torch.float64), torch.full((4, 6), 1e3, dtype=torch.float64)
    got = penalties.zero_centred(3.0)(critic, real, fake, STAGE, draw(4))
    mean = real.square().sum(1).mean()
    torch.testing.assert_close(got, 1.5 * c**2 * mean)
    torch.testing.assert_close(torch.autograd.grad(got, c)[0], 3 * c * mean)


def test_a_slope_of_exactly_zero_gives_finite_gradients():
    critic = Linear(7)
    with torch.no_grad():
        critic.a.zero_()
    real, fake = torch.randn(2, 5, 7, dtype=torch.float64)
    got = penalties.gradient_penalty()(critic, real, fake, STAGE, draw(5))
    assert got.item() == 10
    assert torch.autograd.grad(got, critic.a)[0].abs().max() == 0


def test_interpolates_lie_between_with_one_share_a_sample_in_every_tensor():
    real = (torch.zeros(4, 3, 2), torch.tensor([[1], [2], [3], [4]]), torch.zeros(4, 5))
    fake = (torch.ones(4, 3, 2), torch.tensor([[9], [9], [9], [9]]), torch.ones(4, 5))
    mix = torch.tensor([0.0, 0.25, 0.5, 1.0])
    video, labels, other = penalties.interpolate(real, fake, mix)
    assert torch.equal(video, mix[:, None, None].expand(4, 3, 2))
    assert torch.equal(other, mix[:, None].expand(4, 5))
    assert torch.equal(labels, real[1])
    assert video.requires_grad
    assert video.is_leaf


def test_all_that_is_seen_counts_in_the_slope():
    critic = lambda seen, stage: 3 * seen[0].flatten(1).sum(1) + 4 * seen[1].flatten(1).sum(1)  # noqa: E731
    real, fake = ((torch.randn(2, 1), torch.randn(2, 1)) for _ in range(2))
    got = penalties.gradient_penalty(1.0, 0.0)(critic, real, fake, STAGE, draw(2))
    assert got.item() == pytest.approx(25)


def test_swgan_as_released_equals_a_slow_loop():
    critic = Sliced()
    real, fake = torch.randn(2, 6, 3, 2, 2, dtype=torch.float64)
    got = penalties.swgan_released()(critic, real, fake, STAGE, draw(6))
    mixes, slopes, heads = draw(6).uniform(), [], []
    for x, y, mix in zip(real, fake, mixes, strict=True):
        end = x.clone().requires_grad_()
        between = (1 - mix) * end + mix * y
        (gradient,) = torch.autograd.grad(critic(between[None], STAGE).sum(), end, create_graph=True)
        slopes.append(gradient.square().sum())
        out = F.leaky_relu(
            critic.head.scale * (critic.head.theta @ critic.encode(between[None], STAGE)[0]) + critic.head.offset, 0.2
        )
        heads += [
            (scale * o.abs() * (1 if o >= 0 else 0.2) - 0.01) ** 2
            for scale, o in zip(critic.head.scale, out, strict=True)
        ]
    wanted = 50 * torch.stack(slopes).mean() + 10 * torch.stack(heads).mean()
    torch.testing.assert_close(got, wanted)
    parameters = [p for p in critic.parameters() if p is not critic.second.bias]
    for a, b in zip(torch.autograd.grad(got, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_swgan_thesis_estimates_the_jacobian_without_bias():
    # A linear encoder has one Jacobian; 4,000 sign vectors of 6 samples. The mean is within 4.42 of its deviations
    # (false alarms: 1e-5).
    critic = Sliced(curved=False)
    jacobian = critic.second.weight @ critic.first.weight
    real, fake = torch.randn(2, 6, 3, 2, 2, dtype=torch.float64)
    values = torch.stack(
        [penalties.swgan_thesis(1.0, 0.0)(critic, real, fake, STAGE, draw(6, seed)).detach() for seed in range(700)]
    )
    error = (values.mean() - jacobian.square().sum()).abs()
    assert error < 4.42 * values.std() / 700**0.5


def test_swgan_thesis_takes_the_true_slope_of_the_head():
    critic = Sliced()
    real, fake = torch.randn(2, 6, 3, 2, 2, dtype=torch.float64)
    got = penalties.swgan_thesis(0.0, 10.0)(critic, real, fake, STAGE, draw(6))
    mix = draw(6).uniform()[:, None]
    y = ((1 - mix) * critic.encode(real, STAGE) + mix * critic.encode(fake, STAGE)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic.head(y).sum(), y, create_graph=True)
    wanted = 10 * (gradient.norm(dim=1) - (0.52 / 8) ** 0.5).square().mean()
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(got, critic.head.scale)[0], torch.autograd.grad(wanted, critic.head.scale)[0]
    )
