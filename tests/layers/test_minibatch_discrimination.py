"""Minibatch discrimination against a slow loop, and differentiated twice."""

import torch

from vgen_fast.layers.minibatch_discrimination import MinibatchDiscrimination


def test_nearness_is_the_sum_over_the_others():
    layer = MinibatchDiscrimination(6, kernels=3, dims=2).double()
    x = torch.randn(5, 2, 3, 1, 1, dtype=torch.float64)
    got = layer(x)
    assert got.shape == (5, 5, 3, 1, 1)
    assert torch.equal(got[:, :2], x)
    m = layer.project(x.flatten(1)).reshape(5, 3, 2)
    for i in range(5):
        for b in range(3):
            wanted = sum(torch.exp(-(m[i, b] - m[j, b]).abs().sum()) for j in range(5) if j != i)
            torch.testing.assert_close(got[i, 2 + b], wanted.expand(3, 1, 1))


def test_equal_samples_are_as_near_as_can_be_and_one_alone_is_near_nothing():
    layer = MinibatchDiscrimination(4, kernels=2)
    x = torch.randn(1, 4)
    torch.testing.assert_close(layer(x.expand(3, 4))[:, 4:], torch.full((3, 2), 2.0))
    assert layer(x)[:, 4:].abs().max() == 0


def test_numerical_first_and_second_gradients():
    layer = MinibatchDiscrimination(3, kernels=2, dims=2).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)
