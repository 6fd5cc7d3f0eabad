"""The progressive video GAN against Tables A.1 and A.2: counts and sizes as literals, growth as equalities."""

import math

import pytest
import torch
import torch.nn.functional as F

from vgen_fast.models import progressive
from vgen_fast.models.progressive import SCHEDULES, Config, Row
from vgen_fast.models.system import Draw, Inputs, Stage

SMALL = (Row(8, 4, 4), Row(8, 2, 2), Row(4, 1, 2), Row(4, 2, 2))


def count(module):
    return sum(p.numel() for p in module.parameters())


def used(system, level):
    """Parameters of the networks that stand at a level, with its toRGB and fromRGB only."""
    critic, generator = system.critics[0].module, system.generator
    rgb = lambda module: count(module) - sum(count(m) for i, m in enumerate(module.rgb) if i != level)  # noqa: E731
    return rgb(generator), rgb(critic)


@pytest.fixture
def small():
    torch.manual_seed(0)
    return progressive.build(Config(rows=SMALL, latents=6, features=8))


def inputs_for(system, count=4, classes=()):
    video = torch.zeros(count, 3, 4, 4, 4)
    labels = torch.stack([torch.arange(count) % number for number in classes], dim=1) if classes else None
    return system.draw_inputs(video, labels, Draw(1, count, torch.arange(count), video))


@pytest.mark.parametrize(
    ("schedule", "generator", "critic", "table_generator", "table_critic"),
    [
        ("thesis_256", 3_703_597, 3_707_785, 3_702_091, 3_705_801),
        ("release_256", 3_703_597, 3_707_785, 3_702_091, 3_705_801),
        ("ucf_128", 3_698_370, 3_702_545, 3_696_915, 3_700_625),
    ],
)
def test_parameter_counts_are_those_of_the_tables(schedule, generator, critic, table_generator, table_critic):
    system = progressive.build(Config(rows=SCHEDULES[schedule]))
    assert count(system.generator) == generator
    assert count(system.critics[0].module) == critic
    assert used(system, len(SCHEDULES[schedule]) - 1) == (table_generator, table_critic)


@pytest.mark.parametrize(
    ("pixels", "generator", "critic", "generator_core", "critic_core"),
    [
        (128, 22_933_394, 22_941_313, 22_926_080, 22_931_585),
        (256, 23_044_309, 23_052_353, 23_036_800, 23_042_369),
        (512, 23_072_120, 23_080_225, 23_064_512, 23_070_113),
        (1024, 23_079_115, 23_087_249, 23_071_456, 23_077_073),
    ],
)
def test_parameter_counts_of_images_are_those_of_the_authors(pixels, generator, critic, generator_core, critic_core):
    system = progressive.build(Config(rows=progressive.images(pixels), latents=512, features=512))
    modules = system.generator, system.critics[0].module
    assert tuple(map(count, modules)) == (generator, critic)
    assert tuple(count(m) - count(m.rgb) for m in modules) == (generator_core, critic_core)
    assert system.sizes[-1] == (1, pixels, pixels)
    assert [count(layer) for layer in modules[0].rgb][:6] == [1_539, 1_539, 1_539, 1_539, 771, 387]
    assert [count(layer) for layer in modules[1].rgb][:6] == [2_048, 2_048, 2_048, 2_048, 1_024, 512]


def test_an_image_critic_tells_the_label_beside_its_score():
    config = Config(rows=progressive.rows((8, 4), (1, 1)), latents=6, features=8, classes=(3, 2), labels="told")
    system = progressive.build(config)
    (critic,) = system.critics
    inputs = inputs_for(system, 4, (3, 2))
    judged = critic.module(critic.view(system.generator(inputs, Stage(1)), inputs, Stage(1)), Stage(1))
    assert (judged.scores.shape, judged.answer.shape) == ((4,), (4, 5))
    wanted = F.cross_entropy(judged.answer[:, :3], inputs.condition[:, 0])
    wanted = wanted + F.cross_entropy(judged.answer[:, 3:], inputs.condition[:, 1])
    torch.testing.assert_close(critic.task.loss(judged.answer, inputs), wanted)
    assert (critic.task.real, critic.task.fake, critic.task.generator) == (1, 1, 1)
    with pytest.raises(ValueError, match="the sliced head tells no labels"):
        progressive.build(config, sliced=True)


def test_layers_of_the_tables_have_the_counts_listed():
    system = progressive.build(Config())
    generator, critic = system.generator, system.critics[0].module
    assert count(generator.dense) == 1_048_704
    assert [[count(layer) for layer in block] for block in generator.blocks] == [
        [442_496], [442_496, 442_496], [442_496, 442_496], [221_248, 110_656], [55_328, 27_680], [13_840, 6_928],
        [3_464, 1_736],
    ]  # fmt: skip
    assert [count(layer) for layer in generator.rgb] == [387, 387, 387, 195, 99, 51, 27]
    assert [[count(layer) for layer in block] for block in critic.blocks] == [
        [445_952], [442_496, 442_496], [442_496, 442_496], [110_656, 221_312], [27_680, 55_360], [6_928, 13_856],
        [1_736, 3_472],
    ]  # fmt: skip
    assert [count(layer) for layer in critic.rgb] == [512, 512, 512, 256, 128, 64, 32]
    assert (count(critic.dense), count(critic.head)) == (1_048_704, 129)


def test_the_sliced_head_takes_the_place_of_the_last_row():
    plain, sliced = (progressive.build(Config(), head).critics[0].module for head in (False, True))
    assert count(sliced) - count(plain) == 16_640 - 129


@pytest.mark.parametrize(
    ("schedule", "sizes"),
    [
        ("thesis_256", [(4, 4), (8, 8), (8, 16), (8, 32), (16, 64), (16, 128), (32, 256)]),
        ("release_256", [(4, 4), (8, 8), (8, 16), (16, 32), (16, 64), (32, 128), (32, 256)]),
        ("ucf_128", [(4, 4), (8, 8), (8, 16), (16, 32), (16, 64), (32, 128)]),
    ],
)
def test_sizes_of_the_levels_are_those_of_the_schedule(schedule, sizes):
    assert Config(rows=SCHEDULES[schedule]).sizes == tuple((t, s, s) for t, s in sizes)


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("classes", [(), (3,), (2, 3)])
def test_critic_scores_what_the_generator_makes_at_every_level_and_fade(sliced, classes):
    system = progressive.build(Config(rows=SMALL, latents=6, features=8, classes=classes), sliced)
    inputs = inputs_for(system, 8, classes)
    for level, size in enumerate(system.sizes):
        for fade in (0.0, 0.5, 1.0) if level else (1.0,):
            stage = Stage(level, fade)
            video = system.generator(inputs, stage)
            assert video.shape == (8, 3, *size)
            critic = system.critics[0]
            assert critic.module(critic.view(video, inputs, stage), stage).shape == (8,)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("rows", [SMALL, progressive.rows((8, 8, 4, 4), (1, 1, 1, 1))])
def test_a_level_starts_as_the_one_below_and_ends_as_itself(rows, level):
    torch.manual_seed(0)
    small = progressive.build(Config(rows=rows, latents=6, features=8))
    inputs, factor = inputs_for(small), rows[level].factor
    critic = small.critics[0].module
    with torch.no_grad():
        below = small.generator(inputs, Stage(level - 1))
        video = small.generator(inputs, Stage(level))
        start = small.generator(inputs, Stage(level, 0.0))
        torch.testing.assert_close(start, F.interpolate(below, scale_factor=[float(f) for f in factor]))
        torch.testing.assert_close(small.generator(inputs, Stage(level, 0.25)), torch.lerp(start, video, 0.25))
        scores = critic((F.avg_pool3d(video, factor), None), Stage(level - 1))
        torch.testing.assert_close(critic((video, None), Stage(level, 0.0)), scores)
        assert not torch.allclose(critic((video, None), Stage(level)), scores)


@pytest.mark.parametrize("level", [1, 2])
def test_reals_fade_by_the_factor_of_their_level(small, level):
    video = torch.randn(2, 3, *small.sizes[level])
    inputs, factor = Inputs(torch.zeros(2, 6)), SMALL[level].factor
    boxes = video.clone()
    for t in range(0, video.shape[2], factor[0]):
        for h in range(0, video.shape[3], factor[1]):
            for w in range(0, video.shape[4], factor[2]):
                box = (..., slice(t, t + factor[0]), slice(h, h + factor[1]), slice(w, w + factor[2]))
                boxes[box] = video[box].mean((-3, -2, -1), keepdim=True)
    torch.testing.assert_close(small.real(video, inputs, Stage(level, 0.25)), 0.75 * boxes + 0.25 * video)
    assert torch.equal(small.real(video, inputs, Stage(level)), video)


def test_weights_have_unit_variance_and_their_scale_at_run_time():
    system = progressive.build(Config())
    layer = system.generator.blocks[2][0]
    assert layer.weight.std().item() == pytest.approx(1, abs=0.01)
    assert layer.scale == pytest.approx(math.sqrt(2 / (128 * 27)))
    assert system.generator.dense.scale == pytest.approx(math.sqrt(2) / 4 / math.sqrt(128))
    assert system.generator.rgb[0].scale == pytest.approx(1 / math.sqrt(128))


def test_that_share_of_the_first_channels_starts_alike():
    torch.manual_seed(0)
    weight = progressive.build(Config(rows=SMALL, latents=6, features=8, alike=0.5)).generator.dense.weight
    same = (weight.view(8, 64, 6).std(dim=1) < 1e-6).all(dim=1)  # of each channel over places
    assert same.tolist() == [True] * 4 + [False] * 4
    with pytest.raises(ValueError, match="alike is a share"):
        Config(alike=1.5)


def test_latents_count_by_direction_alone(small):
    inputs = inputs_for(small)
    longer = Inputs(inputs.latents * 3)
    torch.testing.assert_close(small.generator(longer, Stage(1)), small.generator(inputs, Stage(1)))


def test_labels_change_the_video_and_its_score():
    system = progressive.build(Config(rows=SMALL, latents=6, features=8, classes=(3,)))
    latents, video = torch.randn(4, 6), torch.randn(4, 3, 4, 4, 4)
    one, other = (torch.full((4, 1), label) for label in (0, 2))
    with torch.no_grad():
        made = [system.generator(Inputs(latents, labels), Stage(0)) for labels in (one, other)]
        scored = [system.critics[0].module((video, labels), Stage(0)) for labels in (one, other)]
    assert not torch.allclose(*made)
    assert not torch.allclose(*scored)


def test_rows_of_the_sliced_head_stay_orthonormal_and_keep_their_signs():
    head = progressive.SlicedHead(16)
    optimizer = torch.optim.Adam([head.theta], lr=0.05)
    before = head.theta.detach().clone()
    for step in range(20):
        optimizer.zero_grad()
        (head(torch.randn(32, 16)).square().mean() + head.theta[0, 0]).backward()
        head.project_gradient()
        tangent = head.theta.grad @ head.theta.T
        torch.testing.assert_close(tangent, -tangent.T, atol=1e-5, rtol=0)  # along the manifold
        optimizer.step()
        head.retract(step)
        torch.testing.assert_close(head.theta @ head.theta.T, torch.eye(16), atol=1e-5, rtol=0)
        assert ((head.theta * before).sum(1) > 0).all()  # no row was turned round
        before = head.theta.detach().clone()


def test_the_head_does_not_depend_on_the_order_of_its_directions():
    head, other, order = progressive.SlicedHead(8), progressive.SlicedHead(8), torch.randperm(8)
    with torch.no_grad():
        head.scale.normal_()
        head.offset.normal_()
        for name, parameter in head.named_parameters():
            getattr(other, name).copy_(parameter[order])
    y = torch.randn(5, 8)
    torch.testing.assert_close(other(y), head(y))
    torch.testing.assert_close(head(y), head.activations(y).mean(1))
