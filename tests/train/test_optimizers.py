"""Optimizers without the compiler make the steps of torch.optim's, bit for bit, and read what these have written."""

import pytest
import torch
from torch import nn

from vgen_fast.train import optimizers

KINDS = {
    "Adam": dict(lr=1e-2, betas=(0.5, 0.9), weight_decay=1e-2, fused=True),
    "AdamW": dict(lr=1e-2),
    "RMSprop": dict(lr=1e-2, alpha=0.9),
    "SGD": dict(lr=1e-2, momentum=0.9),
}


def trained(kinds, options, steps=4) -> tuple[list[torch.Tensor], dict]:
    """Weights after as many steps with each kind, the next going on from the state of the one before."""
    torch.manual_seed(0)
    network, state = nn.Linear(5, 3), None
    for kind in kinds:
        optimizer = kind(network.parameters(), **options)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            network(torch.randn(7, 5)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        state = optimizer.state_dict()
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    return [p.detach() for p in network.parameters()], state


@pytest.mark.parametrize("name", KINDS)
def test_steps_and_states_are_those_of_torch(name):
    theirs, ours = getattr(torch.optim, name), getattr(optimizers, name)
    weights, state = trained([theirs, theirs], KINDS[name])
    for kinds in ([ours, ours], [ours, theirs], [theirs, ours]):
        found, other = trained(kinds, KINDS[name])
        for a, b in zip(found, weights, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(other, state, rtol=0, atol=0)
