"""Residual blocks against PyTorch's layers, spectral norm, attention; critics' counts and views of spec B5."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from vgen_fast.layers import dual_critics, spectral_norm
from vgen_fast.layers.dual_critics import Critics, DualCritic, SelfAttention, num_draws, pixels
from vgen_fast.layers.orthogonal import orthogonal
from vgen_fast.layers.residual import Down, Up

from ..models.small import count

LIST_64, LIST_128 = (2, 4, 8, 16, 16), (1, 2, 4, 8, 16, 16)


@pytest.mark.parametrize(
    ("inputs", "width", "widths", "deep", "attention", "parameters"),
    [
        (6, 32, LIST_64, 0, True, 9_863_906),
        (3, 32, LIST_64, 0, True, 9_861_986),
        (3, 32, LIST_64, 0, False, 9_841_345),
        (6, 32, LIST_64, 0, False, 9_843_265),
        (3, 32, LIST_64, 2, True, 10_381_538),
        (3, 32, LIST_64, 2, False, 10_360_897),
        (6, 16, LIST_128, 0, True, 2_474_722),
        (6, 16, LIST_64, 0, True, 2_468_210),
        (3, 64, LIST_128, 2, True, 40_070_530),
        (3, 64, LIST_64, 2, True, 41_505_218),
        (6, 8, LIST_64, 0, True, 618_170),
    ],
)
def test_critics_have_the_parameters_of_the_table(inputs, width, widths, deep, attention, parameters):
    cfg = Critics(attention=attention, spectral_norm=False)
    with torch.device("meta"):
        assert count(DualCritic(inputs, tuple(width * c for c in widths), cfg, deep=deep)) == parameters


def plain(layer, x):
    return (F.conv3d if layer.weight.ndim == 5 else F.conv2d)(x, layer.weight, layer.bias, padding="same")


@pytest.mark.parametrize("first", [False, True])
def test_a_block_down_is_its_layers_and_leaves_out_an_odd_frame(first):
    block = Down(3, 5, first=first, deep=True).double()
    x = torch.randn(2, 3, 5, 6, 4).double()
    y = plain(block.two, plain(block.one, x if first else x.relu()).relu())
    wanted = F.avg_pool3d(y, 2) + plain(block.shortcut, F.avg_pool3d(x, 2))
    torch.testing.assert_close(block(x), wanted)
    assert wanted.shape == (2, 5, 2, 3, 2)
    assert count(block) == 27 * 3 * 5 + 5 + 27 * 5 * 5 + 5 + 3 * 5 + 5


@pytest.mark.parametrize("up", [None, "nearest", "bilinear"])
def test_a_block_up_is_its_layers(up):
    block = Up(3, 5, up=up).double()
    x = torch.randn(2, 3, 4, 3, 5).double()
    frames = x.transpose(1, 2).flatten(0, 1)

    def large(image):
        return image if up is None else F.interpolate(image, scale_factor=2, mode=up)

    norm = lambda image: F.batch_norm(image, None, None, training=True)  # noqa: E731
    y = plain(block.two, norm(plain(block.one, large(norm(frames).relu()))).relu())
    wanted = y + plain(block.shortcut, large(frames))
    torch.testing.assert_close(block(x).transpose(1, 2).flatten(0, 1), wanted, rtol=1e-4, atol=1e-4)


def test_told_batch_norms_have_gains_and_biases_of_their_own_for_each_clip():
    block, told = Up(3, 5, told=2), torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    x = torch.randn(1, 3, 4, 3, 5).expand(2, -1, -1, -1, -1)
    y = block(x, told)
    assert not torch.allclose(y[0], y[1])
    torch.testing.assert_close(block(x, told * 0)[0], block(x, told * 0)[1])


def test_spectral_norm_follows_the_largest_singular_value_and_passes_change_nothing():
    torch.manual_seed(0)
    layer = spectral_norm.normalised(nn.Conv2d(6, 8, 3))
    for _ in range(200):
        spectral_norm.follow(layer)
    assert math.isclose(float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)), 1.0, rel_tol=1e-4)
    before = layer.weight.clone()
    layer.train()(torch.randn(1, 6, 4, 4))
    assert layer.weight.equal(before)
    weight = layer.parametrizations.weight.original
    inner = layer.parametrizations.weight[0]
    slope = torch.autograd.grad(layer.weight.sum(), weight)[0]
    theirs = weight.detach().requires_grad_()
    wanted = torch.autograd.grad((theirs / torch.linalg.matrix_norm(theirs.flatten(1), 2)).sum(), theirs)[0]
    torch.testing.assert_close(slope, wanted, rtol=1e-2, atol=1e-3)
    assert inner.u.shape == (8,)


def test_an_orthogonal_weight_is_normalised_from_the_first_pass():
    layer = nn.Conv2d(6, 8, 3)
    orthogonal(layer, gain=3.0)
    spectral_norm.normalised(layer)
    assert math.isclose(float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)), 1.0, rel_tol=1e-5)


def test_orthogonal_weights_do_not_depend_on_the_number_of_threads():
    found, threads = [], torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        torch.manual_seed(0)
        layer = nn.Conv2d(64, 128, 3)
        orthogonal(layer)
        found.append(layer.weight)
    torch.set_num_threads(threads)
    assert found[0].equal(found[1])


def test_attention_is_within_a_frame_and_off_to_begin_with():
    layer = SelfAttention(8).double()
    x = torch.randn(2, 8, 3, 4, 5).double()
    assert layer(x).equal(x)
    with torch.no_grad():
        layer.gamma.fill_(2.0)
    for t in range(3):
        image = x[:, :, t]
        q, k, v = (plain(part, image).flatten(2) for part in (layer.q, layer.k, layer.v))
        found = F.scaled_dot_product_attention(q.mT, k.mT, v.mT, scale=1.0).mT.unflatten(2, (4, 5))
        torch.testing.assert_close(layer(x)[:, :, t], image + 2 * found)


def test_a_critic_is_differentiated_twice():
    critic = DualCritic(3, (8, 32), Critics()).double()
    with torch.no_grad():
        critic.blocks[1][0].gamma.fill_(0.5)
    x = torch.randn(2, 3, 2, 8, 8).double().requires_grad_()
    slope = torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]
    slope.square().sum().backward()
    weight = critic.blocks[0][0].one.parametrizations.weight.original
    step, direction = 1e-5, torch.randn_like(weight)

    def penalty(offset):
        with torch.no_grad():
            weight.add_(offset * direction)
        value = float(torch.autograd.grad(critic(x).sum(), x)[0].square().sum())
        with torch.no_grad():
            weight.sub_(offset * direction)
        return value

    wanted = (penalty(step) - penalty(-step)) / (2 * step)
    assert math.isclose(float((weight.grad * direction).sum()), wanted, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("decomposition", "shrink", "budget"),
    [("dvd", 2, 233_472), ("dvd", 1, 540_672), ("faster", 2, 135_168), ("stronger", 2, 237_568)],
)
def test_critics_see_the_pixels_of_the_table(decomposition, shrink, budget):
    cfg = Critics(spatial=(8, 32), temporal=(8, 32), decomposition=decomposition, shrink=shrink)
    assert pixels(cfg, 25, 128, 128) == budget
    clip, draws = torch.rand(1, 3, 25, 128, 128), torch.rand(1, num_draws(25))
    parts = dual_critics.critics(cfg, given=False)
    seen = [part.view(clip, None, draws) for part in parts]
    assert sum(video[0, 0].numel() for video in seen) == budget
    assert [(part.name, part.weight) for part in parts] == [("frames", 1), ("video", 5), ("small", 1)][: len(parts)]


def test_the_critic_of_frames_sees_some_once_behind_them_the_first():
    cfg, draws = Critics(spatial=(8, 32), temporal=(8, 32), frames=5), torch.rand(200, num_draws(9))
    times = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(200, 3, 9, 2, 2)
    first = torch.full((200, 3, 2, 2), -7.0)
    frames = dual_critics.critics(cfg, given=True)[0]
    seen = frames.view(times, first, draws)
    assert seen.shape == (200, 6, 5, 2, 2)
    assert (seen[:, 3:] == -7).all()
    chosen = seen[:, 0, :, 0, 0]
    assert all(len(set(row.tolist())) == 5 for row in chosen)
    assert chosen.min() == 1  # 0 is the given one
    assert chosen.max() == 8
    counts = torch.bincount(chosen.flatten().long(), minlength=9)[1:]  # 125 each, +- 4.3 sigma
    assert ((counts - 125).abs() < 30).all()
    assert frames.view(times + 100, first, draws)[:, 0].equal(seen[:, 0] + 100)  # of a real clip the same


def test_a_window_lies_where_it_was_drawn():
    clip = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"))[None, :, None]
    draws = torch.tensor([[0.0, 0.99], [0.5, 0.0]])
    seen = dual_critics.window(clip.expand(2, -1, 3, -1, -1), draws, 2)
    assert seen.shape == (2, 2, 3, 4, 4)
    assert seen[:, :, 0, 0, 0].tolist() == [[0, 4], [2, 0]]
    assert seen[:, :, 2, 3, 3].tolist() == [[3, 7], [5, 3]]


@pytest.mark.parametrize(
    ("changes", "frames", "sentence"),
    [
        ({}, 3, "frames must be 4 and more, got 3"),
        ({"frames": 9}, 9, "critics.frames must be 1 to 8 of a clip's 9, got 9"),
        ({"decomposition": "faster", "shrink": 4}, 9, "critics of 32 pixels and more see 16, 64 made 4 times smaller"),
    ],
)
def test_clips_that_critics_cannot_see_are_refused(changes, frames, sentence):
    with pytest.raises(ValueError, match=sentence):
        Critics(**changes).check(frames, 64, given=True)


def test_labels_join_a_score_by_their_vector():
    critic = DualCritic(3, (8, 32), Critics(spectral_norm=False), classes=(2, 3))
    x, labels = torch.randn(2, 3, 4, 8, 8), torch.tensor([[0, 2], [1, 1]])
    y = critic.blocks(x).relu().sum(dim=(3, 4)).transpose(1, 2)
    vectors = torch.stack([critic.embed.weight[:, 0] + critic.embed.weight[:, 4],
                           critic.embed.weight[:, 1] + critic.embed.weight[:, 3]])  # fmt: skip
    wanted = (critic.last(y)[..., 0] + (y * vectors[:, None]).sum(dim=2)).mean(dim=1)
    torch.testing.assert_close(critic((x, labels)), wanted)
    assert not any(parametrize.is_parametrized(part) for part in critic.modules())
