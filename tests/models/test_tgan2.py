"""TGANv2 against spec/unconditional.md 3: counts and sizes as literals, subsampling, pooling, the strength of R1."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vgen_fast.layers.batch_norm import BatchNorm
from vgen_fast.models import tgan2
from vgen_fast.models.system import Draw, Inputs, Stage
from vgen_fast.models.tgan2 import Config
from vgen_fast.recipes import RECIPES
from vgen_fast.train.objectives import OBJECTIVES

from .small import SYSTEMS, count, inputs_for


def test_parameters_are_those_of_the_tables():
    system = tgan2.build(Config())
    generator = system.generator
    assert count(generator) == 88_032_460
    assert (count(generator.dense), count(generator.recurrent)) == (2_368_512, 75_501_568)
    ups = [*generator.blocks[0], *generator.blocks[1:]]
    assert [count(block) for block in ups] == [7_606_784, 1_902_848, 476_288, 119_360, 29_984, 19_680]
    assert [count(render) for render in generator.renders] == [3_715, 1_859, 931, 931]
    critics = system.critics[0].module
    assert count(critics) == 116_077_060
    blocks = [count(block) for block in critics.levels[0].blocks]
    assert [*blocks, count(critics.levels[0].dense)] == [116_160, 340_288, 1_360_512, 5_440_768, 21_760_512, 1_025]


def test_batch_norm_has_chainers_eps():
    norms = [part for part in tgan2.Generator(SYSTEMS["tgan2"]).modules() if isinstance(part, BatchNorm)]
    assert len(norms) == 2 * 6 + 4
    assert {norm.eps for norm in norms} == {2e-5}


@pytest.mark.parametrize(
    ("first", "width", "parameters"), [(4, 1024, 89_874_636), (3, 512, 27_600_588), (4, 512, 28_521_676)]
)
def test_generators_of_other_widths_have_the_counts_of_the_table(first, width, parameters):
    with FakeTensorMode():
        assert count(tgan2.Generator(Config(first=first, channels=(width, 512, 256, 128, 64, 32, 32)))) == parameters


def test_training_sees_as_many_voxels_at_every_level_and_a_sample_is_the_last_of_all_frames():
    with FakeTensorMode():
        system = tgan2.build(Config())
        inputs = Inputs(torch.zeros(2, 256), draws=torch.zeros(2, 3))
        videos = system.generator(inputs, Stage())
        assert [tuple(v.shape[1:]) for v in videos] == [
            (3, 16, 24, 24),
            (3, 8, 48, 48),
            (3, 4, 96, 96),
            (3, 2, 192, 192),
        ]
        real = system.real(torch.zeros(2, 3, 16, 192, 192), inputs, Stage())
        assert [v.shape for v in real] == [v.shape for v in videos]
        system.generator.eval()
        assert system.generator(inputs, Stage()).shape == (2, 3, 16, 192, 192)


def test_levels_keep_every_second_frame_from_the_phase_of_the_clip():
    system = tgan2.build(SYSTEMS["tgan2"])
    frames = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 3, 8, 32, 32)
    inputs = Inputs(torch.zeros(2, 6), draws=torch.tensor([[0.1, 0.9, 0.1], [0.9, 0.1, 0.9]]))
    levels = system.real(frames, inputs, Stage())
    kept = [[level[clip, 0, :, 0, 0].tolist() for level in levels] for clip in (0, 1)]
    assert kept[0] == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 2, 4, 6], [2, 6], [2]]
    assert kept[1] == [[0, 1, 2, 3, 4, 5, 6, 7], [1, 3, 5, 7], [1, 5], [5]]
    assert [level.shape[-1] for level in levels] == [4, 8, 16, 32]


def test_what_training_shows_are_frames_of_the_whole_clip():
    """With batch norm at rest, the frames of the last level are those the sample has at the same times."""
    system = tgan2.build(replace(SYSTEMS["tgan2"], classes=()))
    generator, inputs = system.generator, inputs_for(system)
    generator.eval()
    with torch.no_grad():
        sample = generator(inputs, Stage())
        generator.training = True  # the generator's own switch; its layers stay as they are
        shown = generator(inputs, Stage())[-1]
    phases = (inputs.draws >= 0.5).long()
    times = [int(a + 2 * (b + 2 * c)) for a, b, c in phases.tolist()]
    wanted = torch.stack([clip[:, time] for clip, time in zip(sample, times, strict=True)])
    torch.testing.assert_close(shown[:, :, 0], wanted, rtol=1e-4, atol=1e-5)


def test_later_steps_of_the_recurrent_map_are_given_zeros():
    lstm = tgan2.ConvLSTM(3)
    x = torch.randn(2, 3, 4, 4)
    found, hidden, cell = [], torch.zeros_like(x), torch.zeros_like(x)
    for step in range(4):
        given = x if step == 0 else torch.zeros_like(x)
        i, f, o, new = (lstm.given(given) + lstm.remembered(hidden)).chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(new)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        found.append(hidden)
    torch.testing.assert_close(lstm(x, 4), torch.stack(found, dim=1))


@pytest.mark.parametrize("size", [(16, 24, 24), (4, 6, 6), (2, 3, 3), (1, 3, 5), (1, 1, 2)])
def test_a_block_of_the_critic_is_its_layers_one_after_the_other(size):
    torch.manual_seed(0)
    x = torch.randn(2, 4, *size)
    block = tgan2.Down(4, 6)
    y = F.conv3d(x.relu(), block.convs[0].weight, block.convs[0].bias, padding=1).relu()
    y = F.conv3d(y, block.convs[1].weight, block.convs[1].bias, padding=1) + block.shortcut(x)
    for axis, length in enumerate(size, 2):
        if length > 1:
            if length % 2:
                zeros = torch.zeros_like(y.narrow(axis, 0, 1))
                y = torch.cat([zeros, y, zeros], dim=axis)
            pairs = y.shape[axis] // 2
            y = y.narrow(axis, 0, 2 * pairs).unflatten(axis, (pairs, 2)).mean(dim=axis + 1)
    torch.testing.assert_close(block(x), y, rtol=1e-4, atol=1e-5)


def test_a_block_of_the_generator_is_its_layers_one_after_the_other():
    torch.manual_seed(0)
    block, x = tgan2.Up(4, 6), torch.randn(3, 4, 5, 5)
    norms = [nn.BatchNorm2d(4, eps=2e-5), nn.BatchNorm2d(6, eps=2e-5)]
    up = lambda t: t.repeat_interleave(2, 2).repeat_interleave(2, 3)  # noqa: E731
    y = F.conv2d(up(norms[0](x).relu()), block.convs[0].weight, block.convs[0].bias, padding=1)
    y = F.conv2d(norms[1](y).relu(), block.convs[1].weight, block.convs[1].bias, padding=1)
    torch.testing.assert_close(block(x), y + block.shortcut(up(x)), rtol=1e-4, atol=1e-5)


def test_the_recipes_penalty_is_the_authors_sum_for_the_clips_of_a_gpu():
    """0.5 sum over clips and levels of |grad|^2, on 32 clips; their loss is the mean over clips and levels."""
    config = RECIPES["tgan2-ucf101"]()
    system = tgan2.build(replace(SYSTEMS["tgan2"], classes=()))
    (critic,) = system.critics
    video = torch.randn(4, 3, *system.sizes[0])
    inputs = inputs_for(system)
    seen = critic.view(system.real(video, inputs, Stage()), inputs, Stage())
    ours = config.penalty * OBJECTIVES[config.objective].penalty(
        critic.module, seen, seen, Stage(), Draw(0, 4, torch.arange(4), video), 1.0
    )
    *levels, _ = (part.clone().requires_grad_() if part is not None else None for part in seen)
    scores = critic.module((*levels, None), Stage())
    gradients = torch.autograd.grad(scores.sum(), levels)
    of_four = 0.5 * sum(g.square().sum() for g in gradients)
    torch.testing.assert_close(ours, of_four * 32 / 4)
    assert scores.shape == (4, 4)
    torch.testing.assert_close(OBJECTIVES["vanilla"].generator(scores), F.softplus(-scores).mean())


def test_the_preprints_logit_is_the_sum_over_the_levels():
    config = replace(SYSTEMS["tgan2"], classes=())
    torch.manual_seed(0)
    levels = tgan2.build(config)
    torch.manual_seed(0)
    summed = tgan2.build(replace(config, combine="logit_sum"))
    inputs = inputs_for(levels)
    seen = levels.critics[0].view(levels.generator(inputs, Stage()), inputs, Stage())
    scores = [system.critics[0].module(seen, Stage()) for system in (levels, summed)]
    torch.testing.assert_close(scores[1], scores[0].sum(dim=1))
