"""One training step: phases, accumulation, ranks, penalties, faults; on a tiny progressive GAN."""

from dataclasses import replace

import pytest
import torch

from tests.models.small import begun, config_of
from vgen_fast.data.synthetic import MovingShapes
from vgen_fast.models import progressive
from vgen_fast.train import loop
from vgen_fast.train.loop import micro_batches
from vgen_fast.train.objectives import OBJECTIVES
from vgen_fast.train.schedule import Phase

from .tiny import bits, hexes, make, phase, same, take, weights


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_moves_every_network_that_stands(objective):
    state, training = make(objective)
    before = weights(state)
    losses = take(state, training, 2)[-1]
    assert all(value.isfinite() for value in losses.values())
    for name, old in before.items():
        unused = "rgb.0" in name or "rgb.2" in name or "blocks.2" in name
        if name.startswith("average") or name == "video/head.bias":  # a shift of all scores moves few losses
            continue
        assert torch.equal(weights(state)[name], old) == unused, name


def test_a_phase_trains_its_network_alone():
    state, training = make()
    step = loop.Step(state, training, MovingShapes((8, 16, 16), 3), phase(), progressive.Stage(1), [torch.arange(8)],
                     lambda g: None, torch.zeros(()))  # fmt: skip
    step.load()
    critic = state.system.critics[0]
    with loop.only(state.system, critic.module):
        step.critics(0)
    assert all(p.grad is None for p in state.system.generator.parameters())
    assert any(p.grad is not None for p in critic.module.parameters())
    state.optimizers["video"].zero_grad(set_to_none=True)
    with loop.only(state.system, state.system.generator):
        step.generator()
    assert all(p.grad is None for p in critic.module.parameters())


@pytest.mark.parametrize("objective", ["vanilla", "wgan_gp"])
def test_feature_matching_and_minibatch_discrimination_train_along(objective):
    state, training = make(objective, minibatch="discrimination", matching=0.5)
    critic = state.system.critics[0].module
    before = critic.compare.project.weight.clone()
    losses = take(state, training, 2)[-1]
    assert losses["generator/feature_matching"] > 0
    with_term = losses["generator/loss"]
    assert all(value.isfinite() for value in losses.values())
    assert not torch.equal(critic.compare.project.weight, before)
    without, training = make(objective, minibatch="discrimination")
    assert take(without, training, 2)[-1]["generator/loss"] != with_term


def test_feature_matching_is_the_distance_of_mean_features():
    state, _ = make(matching=1.0)
    system, stage = state.system, progressive.Stage(1)
    (term,), critic = system.terms, system.critics[0].module
    inputs = progressive.Inputs(torch.randn(4, 8), torch.zeros(4, 3, dtype=torch.long))
    fake, real = torch.randn(2, 4, 3, *system.sizes[1])
    features = [critic.encode((video, inputs.condition), stage).mean(0) for video in (fake, real)]
    torch.testing.assert_close(term.value(fake, real, inputs, stage), (features[0] - features[1]).square().sum())
    assert term.value(real, real, inputs, stage).item() == 0


@pytest.mark.parametrize("objective", ["wgan_gp", "swgan", "swgan_thesis", "vanilla_r1"])
def test_micro_batches_add_up_to_the_batch(objective):
    found = []
    for micro in (8, 4):
        state, training = make(objective, torch.float64)
        training = replace(training, phases=(phase(micro=micro),))
        losses = take(state, training, 2)[-1]
        found.append({**weights(state), **losses})
    for name, value in found[0].items():
        torch.testing.assert_close(
            found[1][name], value, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_factor_on_the_penalty_is_a_factor_on_its_loss_and_gradient():
    """Of three runs of one step the critic's gradients lie on a line, at the factor."""
    found = []
    for factor in (1.0, 2.0, 4.0):
        state, training = make("vanilla_r1", torch.float64, penalty=factor)
        reduced = []
        losses = take(state, training, total=lambda tensors, kept=reduced: kept.append([t.clone() for t in tensors]))
        found.append((losses[0]["video/penalty"], torch.cat([g.flatten() for g in reduced[0] if g.ndim])))
    (p1, g1), (p2, g2), (p4, g4) = found
    torch.testing.assert_close(torch.stack([p2, p4]), torch.stack([2 * p1, 4 * p1]))
    torch.testing.assert_close(g4 - g1, 3 * (g2 - g1))
    assert (g2 - g1).norm() > 0


def test_the_length_of_a_gradient_and_the_diversity_of_fakes_are_told():
    state, training = make("vanilla")
    reduced = []
    losses = take(state, training, total=lambda tensors: reduced.append([t.clone() for t in tensors]))[-1]
    for name, gradients in zip(("video", "generator"), reduced, strict=False):
        length = torch.cat([g.flatten() for g in gradients if g.ndim]).norm()  # losses are added up along
        torch.testing.assert_close(losses[f"{name}/gradient"], length, rtol=1e-5, atol=0)
    assert losses["generator/diversity"] > 0
    alike = torch.tensor([0.0, 5.0, 0.0, 5.0])  # samples 0 and 2, and 1 and 3, are judged together
    apart = torch.tensor([0.0, 0.0, 4.0, 2.0])
    for values, wanted in ((alike, 0.0), (apart, 1.5)):  # deviations 2 and 1
        assert loop.diversity(values.view(4, 1, 1, 1, 1).expand(4, 3, 2, 2, 2), group=2).item() == wanted


def test_rows_of_micro_batches_keep_samples_together_that_are_judged_together():
    parts = micro_batches(16, 8, 4)
    assert sorted(torch.cat(parts).tolist()) == list(range(16))
    for part in parts:
        groups = {tuple(sorted(part[i::2].tolist())) for i in range(2)}
        assert groups <= {(g, g + 4, g + 8, g + 12) for g in range(4)}
    ranks = [micro_batches(16, 4, 4, rank, 2) for rank in range(2)]
    assert sorted(torch.cat([row for rank in ranks for row in rank]).tolist()) == list(range(16))


def test_two_ranks_with_added_gradients_step_as_one():
    """Both halves of a batch by hand, as two ranks would do them."""
    whole, training = make(dtype=torch.float32)
    take(whole, training)
    halves = [make(dtype=torch.float32)[0] for _ in range(2)]
    gradients: dict[int, list] = {}

    def collect(rank):
        def total(mine):
            gradients.setdefault(rank, []).append([g.clone() for g in mine])
            for gradient in mine:
                gradient.zero_()

        return total

    for rank, state in enumerate(halves):
        take(state, training, ranks=(rank, 2), total=collect(rank))
    one, _ = make(dtype=torch.float32)
    recorded = []
    take(one, training, total=lambda mine: recorded.append([g.clone() for g in mine]))
    for a, b, wanted in zip(gradients[0][0], gradients[1][0], recorded[0], strict=True):  # the critic's
        torch.testing.assert_close(a + b, wanted, rtol=1e-4, atol=1e-6)


def spoiled(tensor, value):
    """The same tensor with one bad entry; gradients pass."""
    return torch.where(torch.arange(tensor.numel()).view(tensor.shape) == 0, value, tensor)


def bad_output(module, value):
    return module.register_forward_hook(lambda _, inputs, output: spoiled(output, value)).remove


def bad_gradient(module, value):
    return module.blocks[1][0].weight.register_hook(lambda gradient: spoiled(gradient, value)).remove


def bad_part(training, part, value):
    """A loss or a penalty with a bad value."""
    honest = training.objectives["video"]
    wrong = replace(honest, **{part: lambda *seen: getattr(honest, part)(*seen) * value})
    training.objectives["video"] = wrong
    return lambda: training.objectives.update(video=honest)


BOTH, CRITIC, GENERATOR = ("video", "generator"), ("video",), ("generator",)
SITES = {  # where a number goes bad -> how, and who leaves the step out
    "a generated voxel": (lambda state, training, value: bad_output(state.system.generator, value), BOTH),
    "a score": (lambda state, training, value: bad_output(state.system.critics[0].module, value), BOTH),
    "the critic's loss": (lambda state, training, value: bad_part(training, "critic", value), CRITIC),
    "the penalty": (lambda state, training, value: bad_part(training, "penalty", value), CRITIC),
    "the generator's loss": (lambda state, training, value: bad_part(training, "generator", value), GENERATOR),
    "an entry of the critic's gradient": (
        lambda state, training, value: bad_gradient(state.system.critics[0].module, value), CRITIC,
    ),
    "an entry of the generator's gradient": (
        lambda state, training, value: bad_gradient(state.system.generator, value), GENERATOR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("site", list(SITES))
def test_a_bad_number_reaches_nothing(site, value):
    """The networks it concerns, their moments and the average have the bits they had; the others step."""
    state, training = make()
    take(state, training)
    before = bits(state)
    spoil, left_out = SITES[site]
    for module in loop.networks(state.system).values():
        module.requires_grad_(True)
    mend = spoil(state, training, value)
    take(state, training)
    mend()
    assert state.events == {f"{name}/nonfinite": 1 for name in left_out}
    owners = {*left_out, *(["average"] if "generator" in left_out else [])}
    for key, now in bits(state).items():
        assert now.isfinite().all(), key
        if key.split("/")[0] in owners:
            assert torch.equal(now, before[key]), key
    assert state.steps == {name: 1 if name in left_out else 2 for name in ("video", "generator")}
    take(state, training)
    assert state.steps == {name: 2 if name in left_out else 3 for name in ("video", "generator")}


@pytest.mark.parametrize("objective", ["wgan_gp", "swgan", "swgan_thesis", "vanilla_r1", "hinge"])
@pytest.mark.parametrize("video", ["black", "white", "one clip"])
def test_degenerate_batches_give_finite_steps(objective, video):
    """No slope, no deviation, one sample: nothing is divided by any of them."""

    def batches(rows, size):
        clip, labels = MovingShapes((8, 16, 16), 3)(rows * 0, size)
        return clip if video == "one clip" else torch.full_like(clip, 255 * (video == "white")), labels

    state, training = make(objective)
    take(state, training, batches=batches)
    take(state, replace(training, phases=(phase(batch=1, micro=1),)), batches=batches)
    with torch.no_grad():
        for parameter in state.system.critics[0].module.parameters():
            parameter.zero_()  # a critic without slope
    take(state, training, batches=batches)
    assert state.events == {}
    assert all(value.isfinite().all() for value in bits(state).values())


def test_a_gate_vetoes_a_step_and_is_counted():
    state, training = make(gate=lambda losses, _: (losses["video/loss"] > 1e9, losses["generator/adversarial"] > 1e9))
    before = weights(state)
    take(state, training, 2)
    assert state.events == {"video/vetoed": 2, "generator/vetoed": 2}
    assert all(torch.equal(value, before[name]) for name, value in weights(state).items())
    assert state.clips_seen == 16


def test_critic_steps_draw_other_clips_each():
    positions = []

    def batches(rows, size):
        positions.append(rows.tolist())
        return MovingShapes((8, 16, 16), 3)(rows, size)

    state, training = make(critic_steps=3)
    take(state, training, 2, batches=batches)
    assert sorted(p for rows in positions for p in rows) == list(range(48))
    assert (state.clips_seen, state.clips_drawn) == (16, 48)
    assert state.steps == {"generator": 2, "video": 6}


def test_clipped_weights_stay_in_their_box():
    state, training = make("wgan_clip")
    take(state, training)
    standing = list(state.optimizers["video"].state)
    assert max(p.abs().max().item() for p in standing) <= 0.01
    critic = state.system.critics[0].module
    assert critic.rgb[2].weight.abs().max() > 0.1  # a level to come is left alone


def test_moments_are_forgotten_where_the_structure_changes():
    state, training = make()
    training = replace(training, phases=(phase(0), Phase(1, 16, 100, 8, 8, 1e-2, 1e-2)))
    training = replace(training, phases=(replace(training.phases[0], stable_clips=16), training.phases[1]))
    counts = []
    for _ in range(6):
        take(state, training)
        first = next(iter(state.optimizers["generator"].state.values()))
        counts.append(int(first["step"]))
    assert counts == [1, 2, 1, 1, 2, 3]  # stable, fading in over two steps of which the second is whole, stable


def test_the_average_follows_the_generator():
    state, training = make(ema_decay=0.5)
    take(state, training)
    start, training = make(ema_decay=0.5)
    old = {k: v.clone() for k, v in start.average.state_dict().items()}
    take(start, training)
    new = start.system.generator.state_dict()
    decay = min(0.5, 2 / 11)
    for key, value in start.average.state_dict().items():
        torch.testing.assert_close(value, decay * old[key] + (1 - decay) * new[key])


def test_the_same_seed_gives_the_same_bits():
    runs = []
    for _ in range(2):
        state, training = make()
        runs.append((hexes(take(state, training, 3)), weights(state)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])


def test_a_task_is_added_to_the_losses_of_its_critic_and_of_the_generator():
    """By its weights on real clips and on fakes, and in the generator's loss; with none of them nothing changes."""

    def first_step(real, fake, own):
        state, training = begun(config_of("mocogan"))
        frames, video = state.system.critics
        task = replace(video.task, real=real, fake=fake, generator=own)
        state.system = replace(state.system, critics=(frames, replace(video, task=task)))
        return take(state, training, batches=MovingShapes((16, 32, 32), 3))[0]

    none, on_real, on_fake, asked = (first_step(*w) for w in ((0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 3)))
    for taught in (on_real, on_fake):
        assert taught["video/category"] > 1
        torch.testing.assert_close(taught["video/loss"], none["video/loss"] + taught["video/category"])
    torch.testing.assert_close(asked["generator/loss"], none["generator/loss"] + 3 * asked["generator/category"])
    assert "generator/category" not in on_real


@pytest.mark.parametrize("objective", ["wgan", "wgan_clip"])
def test_a_loss_that_is_a_distance_is_no_sign_of_divergence(objective):
    assert OBJECTIVES[objective].distance
    assert sum(objective.distance for objective in OBJECTIVES.values()) == 2
