"""MoCoGAN against spec/unconditional.md 4: counts as literals, the codes, the category, any length."""

from dataclasses import replace

import pytest
import torch

from vgen_fast.models import mocogan
from vgen_fast.models.mocogan import Config
from vgen_fast.models.system import Draw, Inputs, Judged, Stage

from .small import SYSTEMS, count, inputs_for


@pytest.mark.parametrize(
    ("config", "rnn", "image", "frames", "video"),
    [
        (Config(), 660, 3_249_024, 663_296, 11_056_896),
        (Config(classes=(6,)), 840, 3_249_024, 663_296, 11_253_504),
        (Config(classes=(6,), category_to="both", image_critic="full"), 840, 3_298_176, 2_765_568, 11_253_504),
        (Config(categories=101, category_to="image"), 660, 4_076_416, 663_296, 14_366_464),
        (Config(video_critic="patch"), 660, 3_249_024, 663_296, 2_650_880),
    ],
)
def test_parameters_are_those_of_the_tables(config, rnn, image, frames, video):
    system = mocogan.build(config)
    assert (count(system.generator.rnn), count(system.generator.image)) == (rnn, image)
    assert [count(critic.module) for critic in system.critics] == [frames, video]


def test_maps_have_the_sizes_of_the_tables():
    system, found = mocogan.build(Config(categories=3)), []
    frames, video = (critic.module for critic in system.critics)
    for layer in (*system.generator.image, *frames.layers[1::2], *video.layers[1::2]):
        layer.register_forward_hook(lambda module, x, y: found.append(tuple(y.shape[1:])))
    with torch.no_grad():
        inputs = inputs_for(system, 2)
        clip = system.generator(inputs, Stage())
        assert frames(mocogan.a_frame(clip, inputs, Stage()), Stage()).shape == (2, 16)
        judged = video(clip, Stage())
    assert clip.shape == (2, 3, 16, 64, 64)
    assert isinstance(judged, Judged)
    assert (judged.scores.shape, judged.answer.shape) == ((2, 1), (2, 3))
    assert found == [
        (512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64),
        (64, 32, 32), (128, 16, 16), (256, 8, 8),
        (64, 13, 32, 32), (128, 10, 16, 16), (256, 7, 8, 8), (512, 4, 4, 4),
    ]  # fmt: skip


def test_content_stays_and_motion_is_the_path_of_the_network():
    """The path by a cell, step by step; the first code is the state after the first step."""
    system = mocogan.build(SYSTEMS["mocogan"])
    generator, inputs = system.generator, inputs_for(system, 4, (8, 3, 4))
    codes = generator.codes(inputs)
    content, hidden, noise = inputs.latents.split([50, 10, 160], dim=1)
    hot = torch.zeros(4, 15)
    for row, (a, b, c) in enumerate(inputs.condition.tolist()):
        hot[row, [a, 8 + b, 11 + c]] = 1
    torch.testing.assert_close(codes[..., :65], torch.cat([content, hot], dim=1)[:, None].expand(-1, 16, -1))
    cell = torch.nn.GRUCell(25, 10)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in generator.rnn.state_dict().items()})
    for step in range(16):
        hidden = cell(torch.cat([noise[:, 10 * step : 10 * step + 10], hot], dim=1), hidden)
        torch.testing.assert_close(codes[:, step, 65:], hidden)


def test_a_trained_generator_makes_clips_of_any_length():
    config = SYSTEMS["mocogan"]
    short, long = mocogan.build(config), mocogan.build(replace(config, frames=40))
    long.generator.load_state_dict(short.generator.state_dict(), strict=True)
    assert long.generator(inputs_for(long, 2, (8, 3, 4)), Stage()).shape[2] == 40


def test_the_frame_is_the_one_drawn():
    video = torch.arange(16.0).expand(2, 3, 16).clone()[..., None, None] + torch.tensor([0, 100.0]).view(2, 1, 1, 1, 1)
    inputs = Inputs(torch.zeros(2, 1), draws=torch.tensor([[0.0, 0], [0.999, 0]]))
    frames = mocogan.a_frame(video, inputs, Stage())
    assert frames.shape == (2, 3, 1, 1)
    assert frames[:, 0, 0, 0].tolist() == [0, 115]


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"classes": (4,)}, (1, 0, 1)),
        ({"classes": (4,), "infogan": False}, (1, 0, 0)),
        ({"classes": (4,), "q_on_fake": True}, (1, 1, 1)),
        ({"classes": (), "categories": 4}, (0, 1, 1)),
    ],
)
def test_who_is_taught_the_category(changes, weights):
    task = mocogan.build(replace(SYSTEMS["mocogan"], **changes)).critics[1].task
    assert (task.real, task.fake, task.generator) == weights


def test_without_labels_categories_are_drawn_evenly():
    system = mocogan.build(SYSTEMS["mocogan-infogan"])
    found = system.draw_inputs(None, None, Draw(1, 2000, torch.arange(2000), torch.zeros(()))).condition
    assert found.shape == (2000, 1)
    assert torch.bincount(found[:, 0], minlength=5).min() > 330  # 400, six deviations less


def test_noise_is_there_in_training_alone():
    critic = mocogan.build(SYSTEMS["mocogan"]).critics[0].module
    frame = torch.randn(2, 3, 32, 32)
    assert not torch.equal(critic(frame, Stage()), critic(frame, Stage()))
    critic.eval()
    assert torch.equal(critic(frame, Stage()), critic(frame, Stage()))
