"""Batch norm against PyTorch's; tests/models/test_systems.py has it on two ranks."""

import pytest
import torch
from torch import nn

from vgen_fast.layers import batch_norm
from vgen_fast.layers.batch_norm import BatchNorm
from vgen_fast.layers.segment import Segment, recomputing


def pair(shape, **options):
    torch.manual_seed(0)
    ours = BatchNorm(shape[1], **options).double()
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](
        shape[1], eps=ours.eps, momentum=ours.momentum
    ).double()
    with torch.no_grad():
        for a, b in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
            if a is not None:
                b.copy_(a.normal_())
    return ours, theirs


@pytest.mark.parametrize("over_ranks", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"eps": 1e-3, "momentum": 0.5}])
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (2, 3, 4, 4), (2, 3, 2, 4, 4)])
def test_it_is_pytorchs(shape, options, over_ranks):
    """One rank that adds up over itself alone takes the way of many."""
    ours, theirs = pair(shape, **options)
    x = (3 * torch.randn(shape) + 1).double()
    with batch_norm.across((lambda tensors: None) if over_ranks else None):
        for _ in range(2):
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            torch.testing.assert_close(ours(a), theirs(b))
            (ours(a).sin().sum()).backward()
            (theirs(b).sin().sum()).backward()
            torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.variance, theirs.running_var)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))


def test_computing_again_counts_no_batch_twice():
    norm = BatchNorm(3)
    segment = Segment(nn.Conv2d(3, 3, 3), norm, together=True)
    x = torch.randn(64, 3, 32, 32, requires_grad=True)  # a segment that may be taken apart would be
    wanted = torch.randn_like(x[:, :, 2:, 2:])
    with recomputing(segment):
        (segment(x) * wanted).sum().backward()
    kept = norm.mean.clone(), x.grad.clone()
    norm.mean.zero_()
    x.grad = None
    (segment(x) * wanted).sum().backward()
    torch.testing.assert_close(kept, (norm.mean, x.grad), rtol=1e-4, atol=1e-5)
