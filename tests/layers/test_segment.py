"""Recomputed activations give the same losses and gradients, of a penalty too."""

import pytest
import torch

from tests.train.tiny import bits, make, take
from vgen_fast.layers.segment import Segment
from vgen_fast.train import memory


@pytest.mark.parametrize("objective", ["wgan_gp", "swgan", "vanilla_r1"])
def test_a_step_with_recomputed_activations_is_the_same_step(objective):
    found = []
    for on in (False, True):
        state, training = make(objective, torch.float64)
        memory.recompute(state.system, on)
        losses = take(state, training, 2)[-1]
        found.append({**bits(state), **losses})
    for name, value in found[0].items():
        torch.testing.assert_close(
            found[1][name], value, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_segment_keeps_its_input_alone():
    segment = Segment(torch.nn.Linear(6, 50), torch.nn.Tanh(), torch.nn.Linear(50, 50), torch.nn.Tanh())
    x = torch.randn(4, 6, requires_grad=True)
    kept = []
    for segment.recompute in (False, True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            segment(x)
        kept.append(sum(n for n in sizes if n == 200))
    assert kept[0] > 0
    assert kept[1] == 0
