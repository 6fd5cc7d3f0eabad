"""Mixed precision: gradients against float64 at any scale of the losses, the scale's own course, recomputing."""

import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch

from vgen_fast.data.synthetic import MovingShapes
from vgen_fast.train import loop, penalties

from .tiny import bits, make, phase, same, take

TYPES = {"bf16": (torch.bfloat16, 2e-2), "fp16": (torch.float16, 5e-3)}


def critic_gradients(objective, dtype, autocast, scale, recompute="nothing", seed=0):
    """All gradients of the critic after its part of a first step, as one vector, free of the scale."""
    state, training = make(objective, dtype=dtype, autocast=autocast, seed=seed)
    state.scale = scale
    one = loop.begin(state, replace(training, phases=(replace(phase(), recompute=recompute),)),
                     MovingShapes((8, 16, 16), 3), lambda gradients: None)  # fmt: skip
    one.load()
    critic = state.system.critics[0]
    with loop.only(state.system, critic.module):
        one.critics(0)
    found = [p.grad.flatten() for p in critic.module.parameters() if p.grad is not None]
    assert all(g.dtype == dtype for g in found)
    return torch.cat(found).double() / scale


def error(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("objective", ["wgan_gp", "vanilla_r1", "swgan", "swgan_thesis"])
def test_gradients_with_their_penalty_are_those_of_float64_at_any_scale(objective, precision):
    """On the mean of four seeds: of one, an activation rounded to the other side of 0 can be half of the error."""
    dtype, allowed = TYPES[precision]
    errors = []
    for seed in range(4):
        gradients_of = partial(critic_gradients, objective, seed=seed)
        exact = gradients_of(torch.float64, None, 1.0)
        assert error(gradients_of(torch.float32, None, 2.0**10), exact) < 1e-5
        found = {power: gradients_of(torch.float32, dtype, 2.0**power) for power in (0, 5, 10, 16)}
        if precision == "fp16" and not found[16].isfinite().all():
            del found[16]  # an overflow, which a step sees
        assert all(error(gradients, found[10]) < 1e-3 for gradients in found.values())
        errors.append(error(found[10], exact))
    assert statistics.mean(errors) < allowed, errors


def test_a_penalty_on_scaled_slopes_would_be_seen(monkeypatch):
    honest, exact = penalties.squared_slopes, critic_gradients("wgan_gp", torch.float64, None, 1.0)
    monkeypatch.setattr(penalties, "squared_slopes", lambda value, seen, scale: honest(value * scale, seen, 1.0))
    assert error(critic_gradients("wgan_gp", torch.float32, None, 2.0**3), exact) > 1


@pytest.mark.parametrize("recompute", ["newest", "all"])
@pytest.mark.parametrize("precision", TYPES)
def test_recomputing_changes_no_more_than_the_order_of_sums(precision, recompute):
    dtype, allowed = TYPES[precision]
    kept = critic_gradients("wgan_gp", torch.float32, dtype, 1.0)
    assert error(critic_gradients("wgan_gp", torch.float32, dtype, 1.0, recompute), kept) < allowed / 4


@pytest.mark.parametrize("precision", TYPES)
def test_a_step_keeps_everything_but_activations_wide(precision):
    state, training = make("wgan_gp", autocast=TYPES[precision][0])
    losses = take(state, training, 2)[-1]
    assert {value.dtype for value in bits(state).values()} == {torch.float32}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert state.events == {}
    assert state.scale == (loop.FIRST_SCALE if precision == "fp16" else 1.0)


def test_the_scale_halves_at_an_overflow_and_doubles_after_a_good_while(monkeypatch):
    """Steps 2 and 3 overflow in the critic alone, 6 in both networks; three good ones double."""
    monkeypatch.setattr(loop, "GOOD_STEPS", 3)
    state, training = make("wgan_gp", autocast=torch.float16)
    calls, bad = [], {(2, 0), (3, 0), (6, 0), (6, 1)}

    def total(gradients):
        if (len(calls) // 2 + 1, len(calls) % 2) in bad:
            gradients[0].view(-1)[0] = float("inf")
        calls.append(None)

    scales = []
    for _ in range(10):
        take(state, training, 1, total=total)
        scales.append(state.scale / loop.FIRST_SCALE)
    #                 1    2    3    4     5     6      7      8      9     10
    assert scales == [1, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125, 0.25, 0.25]
    assert state.events == {"video/overflow": 3, "generator/overflow": 1}
    assert state.steps == {"video": 7, "generator": 9}


def test_an_overflow_touches_nothing_and_one_that_no_scale_mends_is_a_fault():
    state, training = make("wgan_gp", autocast=torch.float16)
    take(state, training, 1)
    before = bits(state)

    def total(gradients):
        gradients[0].view(-1)[0] = float("nan")

    take(state, training, 1, total=total)
    assert same(bits(state), before)
    state.scale = 1.0
    take(state, training, 1, total=total)
    assert state.scale == 1.0
    assert state.events == {
        "video/overflow": 1, "generator/overflow": 1, "video/nonfinite": 1, "generator/nonfinite": 1,
    }  # fmt: skip


@pytest.mark.parametrize("precision", TYPES)
def test_micro_batches_add_up(precision):
    dtype, _ = TYPES[precision]
    whole, training = make("wgan_gp", autocast=dtype)
    parts, _ = make("wgan_gp", autocast=dtype)
    # The critic stays: had it moved by a gradient that differs in the last bit, 16-bit roundings behind it would tip.
    still = replace(phase(), critic_rate=0.0)
    a = take(whole, replace(training, phases=(still,)))
    b = take(parts, replace(training, phases=(replace(still, micro_batch=4),)))
    for name, value in a[0].items():
        torch.testing.assert_close(
            b[0][name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
