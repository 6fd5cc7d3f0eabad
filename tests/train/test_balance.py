"""The rule of eq. 4.9, its hysteresis, and both in the loop."""

import math

import pytest
import torch

from vgen_fast.train import checkpoint
from vgen_fast.train.balance import AGAIN, balanced
from vgen_fast.train.loop import Rule

from .tiny import make, take, weights

BOTH, GENERATOR, CRITIC = (True, True), (False, True), (True, False)


def told(ratio, weight=1.0):
    return {"video/loss": 2.0 * ratio, "video/real": 5.0, "generator/adversarial": 2.0 * weight}


@pytest.mark.parametrize(
    ("ratio", "wanted"), [(0.05, GENERATOR), (0.1, BOTH), (1.0, BOTH), (10.0, BOTH), (10.01, CRITIC)]
)
@pytest.mark.parametrize("before", [BOTH, GENERATOR, CRITIC])
def test_who_steps_follows_from_the_ratio(ratio, wanted, before):
    assert balanced(1.0)(told(ratio), before) == wanted
    assert balanced(100.0)(told(ratio, 100.0), before) == wanted


def test_a_critic_that_rests_goes_on_above_half():
    gate, said, seen = balanced(1.0, AGAIN), BOTH, []
    for ratio in (0.2, 0.05, 0.2, 0.49, 0.5, 0.2, 0.09, 11.0):
        said = gate(told(ratio), said)
        seen.append(said)
    assert seen == [BOTH, GENERATOR, GENERATOR, GENERATOR, BOTH, BOTH, GENERATOR, CRITIC]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_vetoes_nothing(broken):
    assert balanced(1.0)({"video/loss": broken, "generator/adversarial": 1.0}, GENERATOR) == BOTH


def test_no_loss_of_the_generator_leaves_the_critic():
    assert balanced(1.0)({"video/loss": 1.0, "generator/adversarial": 0.0}, BOTH) == CRITIC


def test_the_loop_asks_with_what_was_said_before():
    asked = []

    def gate(losses, before):
        asked.append(before)
        return (len(asked) % 2 == 1, True)

    state, training = make(gate=gate)
    take(state, training, 3)
    assert asked == [(True, True), (True, True), (False, True)]
    assert state.allowed == (True, True)
    assert state.events == {"video/vetoed": 1}


def test_what_was_said_last_is_part_of_a_checkpoint(tmp_path):
    state, _ = make()
    state.allowed = GENERATOR
    saved = checkpoint.save(tmp_path, state, {})
    fresh, _ = make()
    checkpoint.load(saved, fresh)
    assert fresh.allowed == GENERATOR


def test_decay_of_the_critics_alone_leaves_the_generator_as_it_is():
    for alone in (False, True):
        state, training = make(rule=Rule(weight_decay=10.0, critics_decay=alone))
        decays = {name: optimizer.defaults["weight_decay"] for name, optimizer in state.optimizers.items()}
        assert decays == {"generator": 0.0 if alone else 10.0, "video": 10.0}
    before = weights(state)
    take(state, training)
    assert any(not torch.equal(value, before[name]) for name, value in weights(state).items())
