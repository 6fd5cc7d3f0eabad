"""Recomputed activations give the same losses and gradients, of a penalty too, and are not kept meanwhile."""

import math
import weakref
from dataclasses import replace

import pytest
import torch

from tests.train.tiny import bits, make, take
from vgen_fast.layers import segment as segment_module
from vgen_fast.layers.equalized import EqualizedConv3d
from vgen_fast.layers.segment import Segment, recomputing

HIDDEN = 200  # numbers in an activation inside the segment; x has 24


def segment(dtype=torch.float32) -> Segment:
    return Segment(torch.nn.Linear(6, 50), torch.nn.Tanh(), torch.nn.Linear(50, 50), torch.nn.Tanh()).to(dtype)


@pytest.mark.parametrize("objective", ["wgan_gp", "swgan", "swgan_thesis", "vanilla_r1"])
@pytest.mark.parametrize("places", [1, 2**14])  # samples one by one, and all at once
@pytest.mark.parametrize("recompute", ["newest", "all"])
def test_a_step_with_recomputed_activations_is_the_same_step(objective, recompute, places, monkeypatch):
    monkeypatch.setattr(segment_module, "AT_ONCE", places)
    found = []
    for passes in ("nothing", recompute):
        state, training = make(objective, torch.float64)
        training = replace(training, phases=tuple(replace(phase, recompute=passes) for phase in training.phases))
        losses = take(state, training, 2)[-1]
        found.append({**bits(state), **losses})
    for name, value in found[0].items():
        torch.testing.assert_close(
            found[1][name], value, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("places", [1, 2**14])
def test_gradients_to_order_2_are_those_of_differences(places, monkeypatch):
    monkeypatch.setattr(segment_module, "AT_ONCE", places)
    part = Segment(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5), torch.nn.Tanh()).double()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    with recomputing(part):
        torch.autograd.gradcheck(lambda x, *_: part(x), (x, *part.parameters()))
        torch.autograd.gradgradcheck(lambda x, *_: part(x), (x, *part.parameters()), atol=1e-4)
    assert not part.recompute


def test_frozen_parameters_pass_the_gradient_on():
    part, x = segment().requires_grad_(False), torch.randn(4, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(part(x).sum(), x)
    with recomputing(part):
        assert torch.equal(torch.autograd.grad(part(x).sum(), x)[0], expected)


def test_a_third_derivative_raises():
    part, x = segment(), torch.randn(4, 6, requires_grad=True)
    with recomputing(part):
        (first,) = torch.autograd.grad(part(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            second.sum().backward()


class Kept:
    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize("order", [1, 2])
def test_a_segment_keeps_what_goes_in_alone(order):
    part, x, counts = segment(), torch.randn(4, 6, requires_grad=True), []
    for on in (False, True):
        alive = weakref.WeakSet()

        def pack(tensor, alive=alive):
            alive.add(kept := Kept(tensor))
            return kept

        with (
            recomputing(part, 0 if on else math.inf),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor),
        ):
            y = part(x)
            if order == 2:
                (first,) = torch.autograd.grad(y, x, torch.randn_like(y), create_graph=True)
                del y
            counts.append(sum(kept.tensor.numel() == HIDDEN for kept in alive))
            if order == 2:
                first.sum().backward()
    assert counts[0] > order
    assert counts[1] <= order - 1  # the gradient that goes in


class Types(torch.nn.Module):
    """Passes on, and notes the types it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.dtype)
        return x


def test_what_ran_under_autocast_runs_so_again():
    types = Types()
    part = Segment(EqualizedConv3d(3, 4), types)
    x = torch.randn(2, 3, 2, 4, 4, requires_grad=True)
    with recomputing(part), torch.autocast("cpu", torch.bfloat16):
        y = part(x)
    (gradient,) = torch.autograd.grad(y.float().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert types.seen == [torch.bfloat16] * 3
    assert part[0].weight.grad.dtype == torch.float32
