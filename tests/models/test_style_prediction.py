"""Style-based prediction and DVD-GAN-S against spec/conditional.md B4, B6, B7: counts, sizes, unrolling, motion."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vgen_fast.config import Config as RunConfig
from vgen_fast.models import dvdgan, style_prediction
from vgen_fast.models.style_prediction import Config, Generator
from vgen_fast.models.system import Draw, Inputs, Stage
from vgen_fast.recipes import RECIPES
from vgen_fast.train.schedule import rates_at

from ..train.tiny import take, weights
from .small import CRITICS, SYSTEMS, begun, config_of, count, inputs_for

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "rollout.py"
SPEC = importlib.util.spec_from_file_location("rollout", PATH)
rollout = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rollout)


def parts(generator: Generator) -> list[int]:
    """Encoder, style head, constant, cells, styled convolutions, RGB."""
    head = count(generator.encoder.style) + count(generator.encoder.last)
    cells = sum(count(level.rollout) for level in generator.levels)
    styled = sum(count(level) for level in generator.levels) - cells
    constant = generator.constant.numel()
    return [count(generator.encoder) - head, head, constant, cells, styled, count(generator.rgb)]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [613_856, 447_296, 2_048, 2_047_008, 766_736, 4_163]),
        ({"size": 128, "width": 32}, [3_698_368, 1_754_496, 4_096, 11_725_632, 4_015_648, 8_323]),
        ({"size": 256, "width": 8, "lowest": 8}, [231_856, 140_832, 4_096, 733_392, 343_816, 2_083]),
        ({"size": 256, "width": 8}, [309_872, 116_256, 1_024, 954_768, 450_568, 2_083]),
    ],
)
def test_parameters_are_those_of_the_table(changes, wanted):
    cfg = Config(**changes, noise=False, spectral_norm=False)
    with torch.device("meta"):
        generator = Generator(cfg)
        assert parts(generator) == wanted
        noisy = count(Generator(replace(cfg, noise=True)))
    total = {64: 3_881_107, 128: 21_206_563, 256: 1_456_075 if cfg.lowest == 8 else 1_834_571}[cfg.size]
    assert (count(generator), noisy) == (total, total + 2 * cfg.depth)


@pytest.mark.parametrize(
    ("changes", "total", "encoder", "cells", "styled"),
    [
        ({"size": 128, "width": 32}, 15_219_043, 2_471_968, 8_241_312, 2_738_848),
        ({}, 2_354_995, 307_088, 1_175_760, 418_640),
    ],
)
def test_the_literal_variant_has_the_parameters_of_the_thesis_list(changes, total, encoder, cells, styled):
    with torch.device("meta"):
        generator = Generator(Config(**changes, variant="literal", noise=False, spectral_norm=False))
    assert count(generator) == total
    found = parts(generator)
    assert (found[0], found[3], found[4]) == (encoder, cells, styled)


@pytest.mark.parametrize(("size", "widths", "total"), [
    (128, (256, 256, 128, 64, 32), 15_396_227), (64, (128, 128, 64, 32, 16), 3_852_739),
])  # fmt: skip
def test_dvdgan_s_has_the_parameters_of_the_text(size, widths, total):
    cfg = dvdgan.Config(size=size, widths=widths)
    assert cfg.lowest == size // 16
    with torch.device("meta"):
        assert count(dvdgan.Generator(cfg)) == total


def test_dvdgans_cells_have_its_candidate_and_its_prediction_may_be_given_noise():
    system = dvdgan.build(replace(SYSTEMS["dvdgan-prediction"], noise=True))
    assert {level.rollout.cell.candidate for level in system.generator.levels} == {"relu"}
    inputs = inputs_for(system)
    assert inputs.latents.shape == (4, 8 * 4 * 4)
    other = replace(inputs, latents=inputs.latents + 1)
    assert not system.generator(inputs, Stage()).equal(system.generator(other, Stage()))


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.startswith(("style-", "dvdgan-s-"))])
def test_recipes_make_clips_of_their_size_whose_first_frame_is_the_given_one(recipe):
    config = RECIPES[recipe]()
    frames, height, width = config.system.sizes[-1]
    module = style_prediction if isinstance(config.system, Config) else dvdgan
    with FakeTensorMode():
        system = module.build(config.system)
        video = torch.zeros(1, 3, frames, height, width)
        inputs = system.draw_inputs(video, None, Draw(0, 1, torch.arange(1), video))
        fake = system.generator(inputs, Stage())
        assert fake.shape == video.shape
        seen = {critic.name: critic.view(fake, inputs, Stage()).shape for critic in system.critics}
        shrink = config.system.critics.shrink
        assert seen["frames"] == (1, 6, 8, height, width)
        assert seen["video"] == (1, 3, frames, height // shrink, width // shrink)
        assert all(
            critic.module(critic.view(fake, inputs, Stage()), Stage()).shape == (1,) for critic in system.critics
        )
    assert [critic.weight for critic in system.critics] == [1, 5]
    assert (config.critic_steps, config.optim.clip, config.optim.betas) == (2, 2.5, (0.5, 0.999))


def test_levels_that_run_one_after_the_other_are_frames_that_do():
    """As the released code: a step of all cells for each frame, a grouped convolution for each clip's weights."""
    torch.manual_seed(0)
    generator, inputs = rollout.parts(2, 16, 2)
    generator.double()
    inputs = inputs.each(lambda t: t.double())
    rollout.BLUR = rollout.BLUR.double()
    torch.testing.assert_close(generator(inputs, Stage()), rollout.eager(generator, inputs))


@pytest.mark.parametrize("name", ["style-prediction", "dvdgan-prediction"])
def test_the_first_frame_is_the_given_one(name):
    system = begun(config_of(name))[0].system
    inputs = inputs_for(system)
    assert system.generator(inputs, Stage())[:, :, 0].equal(inputs.condition)


def test_states_that_are_never_updated_give_a_clip_that_stands_still():
    torch.manual_seed(0)
    generator = style_prediction.build(SYSTEMS["style-prediction"]).generator
    with torch.no_grad():
        for level in generator.levels:
            gates = level.rollout.cell.gates.of_input
            gates.bias[: len(gates.bias) // 2] = -100  # u = 0
    inputs = inputs_for(style_prediction.build(SYSTEMS["style-prediction"]))
    video = generator(inputs, Stage())
    torch.testing.assert_close(video[:, :, 1:2].expand(-1, -1, 3, -1, -1), video[:, :, 1:], rtol=0, atol=1e-6)


def test_other_noise_is_another_future():
    system = style_prediction.build(SYSTEMS["style-prediction"])
    inputs = inputs_for(system)
    other = replace(inputs, latents=inputs.latents + 1)
    assert system.generator(inputs, Stage()).equal(system.generator(other, Stage()))  # scalars begin at 0
    with torch.no_grad():
        system.generator.levels[0].up.strength.fill_(0.1)
    assert not system.generator(inputs, Stage()).equal(system.generator(other, Stage()))


@pytest.mark.parametrize("name", ["style-prediction", "style-prediction-drawn", "dvdgan", "dvdgan-prediction"])
def test_a_rollout_in_pieces_is_the_video(name):
    config = config_of(name)
    system = begun(config)[0].system
    system.generator.eval()
    inputs = inputs_for(system, classes=config.system.classes)
    pieces = list(system.rollout(inputs, 2))
    torch.testing.assert_close(torch.cat(pieces, dim=2), system.generator(inputs, Stage()), rtol=1e-4, atol=1e-5)
    assert max(piece.shape[2] for piece in pieces) == 2


def test_a_longer_rollout_of_a_seed_goes_on_from_the_shorter_one():
    torch.manual_seed(0)
    short = style_prediction.build(SYSTEMS["style-prediction"])
    with torch.no_grad():
        short.generator.levels[0].up.strength.fill_(0.5)
    long = style_prediction.build(replace(SYSTEMS["style-prediction"], frames=9))
    long.generator.load_state_dict(short.generator.state_dict())
    frame = torch.rand(1, 3, 1, 16, 16)
    drawn = [system.draw_inputs(frame, None, Draw(5, 1, torch.arange(1), frame)) for system in (short, long)]
    a, b = (system.generator(inputs, Stage()) for system, inputs in zip((short, long), drawn, strict=True))
    torch.testing.assert_close(b[:, :, :4], a, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(b[:, :, 4], b[:, :, 3])


@pytest.mark.parametrize("cell", ["convrnn", "trajgru", "ktrajgru", "tsru_c", "tsru_s"])
def test_any_cell_makes_a_clip(cell):
    system = style_prediction.build(replace(SYSTEMS["style-prediction"], cell=cell))
    assert system.generator(inputs_for(system), Stage()).shape == (4, 3, 4, 16, 16)


def test_micro_batches_give_the_weights_of_the_whole_batch():
    """Where nothing looks at several clips; to 1e-5 of an Adam step, which makes the most of small gradients."""
    from vgen_fast.data.synthetic import MovingShapes

    found = []
    for micro_batch in (8, 2):
        config = config_of("style-prediction", micro_batch=micro_batch, critic_steps=2)
        state, training = begun(config, torch.float64)
        take(state, training, 2, batches=MovingShapes(config.system.sizes[-1], 3))
        found.append(weights(state))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-8, msg=key)


def test_two_styles_cross_at_a_level_of_each_clip():
    cfg = Config(size=64, given=False, mixing=0.5, critics=CRITICS)
    with torch.device("meta"):
        generator = Generator(cfg)
    style = torch.stack([torch.zeros(4, 1), torch.ones(4, 1)], dim=1)  # [B, 2, 1]
    draws = torch.tensor([[0.4, 0.0], [0.4, 0.5], [0.4, 0.99], [0.6, 0.0]])
    found = torch.cat(generator.styles(style, draws), dim=1)
    assert found.tolist() == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 100}, "size 100 must be lowest 4 doubled"),
        ({"mixing": 0.5}, "mixing is of given=False"),
        ({"frames": 5}, "critics.frames must be 1 to 4 of a clip's 5, got 8"),
    ],
)
def test_what_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**changes)


@pytest.mark.parametrize(("name", "module"), [("style-prediction", style_prediction), ("dvdgan-prediction", dvdgan)])
def test_cells_follow_their_conventions(name, module):
    cfg = SYSTEMS[name]
    cells = lambda cfg: [level.rollout.cell for level in module.Generator(cfg).levels]  # noqa: E731
    assert {cell.candidate for cell in cells(cfg)} == {"tanh" if module is style_prediction else "relu"}
    flows = replace(cfg, cell="tsru_c", conventions=replace(cfg.conventions, warp="flow"))
    assert {cell.warp.kind for cell in cells(flows)} == {"flow"}


def test_a_generators_singular_vectors_follow_its_steps():
    state, training = begun(config_of("dvdgan-prediction"))
    vectors = lambda: state.system.generator.rgb.parametrizations.weight[0].v.clone()  # noqa: E731
    before = vectors()
    take(state, training, 1)
    assert not vectors().equal(before)


def test_rates_stay_and_then_fall_along_a_cosine():
    config = RECIPES["style-landscape-256"]()
    phases, epoch = config.schedule(), 2_488
    assert config.clips == 260 * epoch
    rate = lambda epochs: rates_at(phases, int(epochs * epoch))[1] / 3e-4  # noqa: E731
    found = [rate(epochs) for epochs in (0, 10, 10 + 125, 260)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor([1.0, 1.0, 0.5, 0.0]), rtol=0, atol=1e-6)


def test_rivers_are_trained_for_the_published_million_batches_without_those_of_the_validation():
    for recipe, batch in (("style-landscape-128", 8), ("dvdgan-s-landscape-128", 128)):
        config = RECIPES[recipe]()
        (phase,) = config.schedule()
        assert abs(3 * config.clips - 8_000_000) < 3 * phase.batch == 3 * batch
        assert phase.constant == 10 * (7_480 // 3 // batch * batch)
        assert rates_at((phase,), config.clips)[1] == pytest.approx(0, abs=1e-12)
        assert (config.split, config.diverged) == ("train", "go-on")
    assert RECIPES["style-bair-64"]().split is None


def test_numbers_of_gradients_beyond_a_bound_are_cut_to_it():
    config = config_of("vgan", optim={"generator_lr": 1e-3, "critic_lr": 1e-3, "clip": 1e-4})
    assert isinstance(config, RunConfig)
    state, training = begun(config)
    seen = {}
    step = state.optimizers["video"].step
    state.optimizers["video"].step = lambda: (
        seen.update(most=max(float(p.grad.abs().max()) for p in state.system.critics[0].module.parameters())), step()
    )  # fmt: skip
    losses = take(state, training, 1)[0]
    assert seen["most"] == pytest.approx(1e-4)
    assert losses["video/gradient"] > 1e-3  # told as it was


def test_inputs_of_a_given_clip_hold_its_first_frame():
    system = style_prediction.build(SYSTEMS["style-prediction"])
    video = torch.rand(2, 3, 4, 16, 16)
    inputs = system.draw_inputs(video, None, Draw(0, 2, torch.arange(2), video))
    assert isinstance(inputs, Inputs)
    assert inputs.condition.equal(video[:, :, 0])
