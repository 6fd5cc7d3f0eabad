"""VGAN against spec/unconditional.md 1: counts and sizes as literals, the composition, the terms, two logits."""

import pytest
import torch
import torch.nn.functional as F

from vgen_fast.layers.batch_norm import BatchNorm
from vgen_fast.models import vgan
from vgen_fast.models.system import Inputs, Stage
from vgen_fast.models.vgan import Config

from .small import SYSTEMS, count, inputs_for


@pytest.mark.parametrize(
    ("config", "generator", "critic"),
    [
        (Config(streams=1), 12_663_619, 11_041_473),
        (Config(logits=2), 16_245_383, 11_057_858),
        (Config(form="prediction"), 19_823_019, 11_041_473),
        (Config(form="prediction-released", logits=2), 68_216_455, 44_135_810),
        (Config(form="autoencoder"), 28_908_971, None),
    ],
)
def test_parameters_are_those_of_the_tables(config, generator, critic):
    system = vgan.build(config)
    assert count(system.generator) == generator
    assert [count(c.module) for c in system.critics] == ([critic] if critic else [])


def test_layers_have_the_counts_and_sizes_of_the_tables():
    system = vgan.build(Config())
    streams, critic = system.generator.streams, system.critics[0].module
    assert [count(layer) for layer in streams.foreground] == [1_639_936, 8_389_376, 2_097_536, 524_480]
    assert count(streams.rgb) == 12_291 + 4_097
    assert count(streams.background) == 3_577_667
    assert [count(layer) for layer in critic.features] == [12_352, 524_672, 2_097_920, 8_390_144]
    found = []
    for layer in streams.foreground:
        layer.register_forward_hook(lambda module, x, y: found.append(tuple(y.shape[1:])))
    for layer in critic.features:
        layer.register_forward_hook(lambda module, x, y: found.append(tuple(y.shape[1:])))
    with torch.no_grad():
        video, mask = system.generator(inputs_for(system, 2), Stage())
        critic(video, Stage())
    assert found == [
        (512, 2, 4, 4), (256, 4, 8, 8), (128, 8, 16, 16), (64, 16, 32, 32),
        (64, 16, 32, 32), (128, 8, 16, 16), (256, 4, 8, 8), (512, 2, 4, 4),
    ]  # fmt: skip
    assert video.shape == (2, 3, 32, 64, 64)
    assert mask.shape == (2, 1, 32, 64, 64)


def test_weights_start_narrow_and_scales_of_batch_norm_near_one():
    system = vgan.build(Config())
    weight = system.generator.streams.foreground[1][0].weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.01)
    scales = [m.weight for m in system.generator.modules() if isinstance(m, BatchNorm)]
    assert torch.cat(scales).std().item() == pytest.approx(0.02, rel=0.1)
    assert {m.eps for m in system.critics[0].module.modules() if isinstance(m, BatchNorm)} == {1e-3}


def test_the_background_stands_still_where_the_mask_is_shut_and_is_gone_where_it_is_open():
    system = vgan.build(SYSTEMS["vgan"])
    streams, inputs = system.generator.streams, inputs_for(system)
    with torch.no_grad():
        streams.rgb.bias[3] = -100.0
        video, mask = system.generator(inputs, Stage())
        assert mask.max() < 1e-6
        torch.testing.assert_close(video, video[:, :, :1].expand_as(video))
        streams.rgb.bias[3] = 100.0
        open_video, mask = system.generator(inputs, Stage())
        assert mask.min() == 1
        x = streams.rgb(streams.foreground(inputs.latents[:, :, None, None, None]))
        torch.testing.assert_close(open_video, x[:, :3].tanh())


def test_the_mask_term_is_its_mean_and_no_sum():
    system = vgan.build(SYSTEMS["vgan"])
    (term,) = system.terms
    assert (term.name, term.weight) == ("mask", 0.1)
    fake = (torch.zeros(2, 3, 4, 8, 8), torch.full((2, 1, 4, 8, 8), 0.25))
    assert term.value(fake, fake[0], Inputs(torch.zeros(2, 6)), Stage()).item() == 0.25
    assert vgan.build(SYSTEMS["vgan-one-stream"]).terms == ()


def test_two_logits_are_the_game_of_their_difference():
    critic = vgan.Score(Config(channels=(16, 8), logits=2), 2)
    video = torch.randn(4, 3, 8, 16, 16)
    logits = vgan.VideoCritic.forward(critic, video)
    torch.testing.assert_close(
        F.cross_entropy(logits, torch.ones(4, dtype=torch.long)), F.softplus(-critic(video, Stage())).mean()
    )


@pytest.mark.parametrize("name", ["vgan-prediction", "vgan-prediction-released"])
def test_a_prediction_is_told_the_first_frame_and_held_to_it(name):
    system = vgan.build(SYSTEMS[name])
    video = torch.rand(4, 3, *system.sizes[0]) * 2 - 1
    inputs = system.draw_inputs(video, None, None)  # no noise: nothing is drawn
    assert torch.equal(inputs.condition, video[:, :, 0])
    term = {term.name: term for term in system.terms}["first_frame"]
    fake = system.generator(inputs, Stage())
    assert term.weight == 10
    wanted = (fake[0][:, :, 0] - video[:, :, 0]).abs().mean()
    torch.testing.assert_close(term.value(fake, video, inputs, Stage()), wanted)
    assert ("mask" in {term.name for term in system.terms}) == (name == "vgan-prediction")
