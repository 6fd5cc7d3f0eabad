"""STGAN: the tables of spec/conditional.md A1 to A4 as literals, inflation, the released file's order, its losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.nets.caffe_files import new_net
from vgen_fast.models import stgan
from vgen_fast.models.stgan import Generator, VideoCritic, cropped, for_caffe, from_caffe, inflate
from vgen_fast.models.system import Inputs, Stage
from vgen_fast.nets import caffenet, trained
from vgen_fast.nets.caffenet import CaffeNet, Encoder
from vgen_fast.nets.weights import BadWeights
from vgen_fast.recipes import RECIPES
from vgen_fast.systems import build
from vgen_fast.train.schedule import rates_at

from .small import SYSTEMS, count, inputs_for

FLAT, DEEP = stgan.Config(depth=1, frames=1), stgan.Config()
SMALL = SYSTEMS["stgan"]
STAGE = Stage()


def passed(blocks, x):
    """Shapes behind each block, without the batch."""
    shapes = []
    for block in blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    return shapes


@pytest.mark.parametrize(
    ("cfg", "generator", "critic", "convolutions"),
    [
        (FLAT, 56_097_891, 6_129_986, 1_015_104),
        (DEEP, 67_602_531, 8_287_106, 3_165_056),
        (replace(DEEP, uniform=True), 67_602_531, 8_165_890, 3_043_840),
    ],
)
def test_parameters_are_those_of_the_tables(cfg, generator, critic, convolutions):
    with torch.device("meta"):
        made, judge = Generator(cfg), VideoCritic(cfg)
    assert (count(made), count(judge), count(judge.blocks)) == (generator, critic, convolutions)
    assert count(made.dense) == 50_343_936
    assert count(judge.of_code) == 4_720_128


def test_parameters_of_each_layer_are_those_of_the_tables():
    with torch.device("meta"):
        flat, deep = Generator(FLAT), Generator(DEEP)
        critics = VideoCritic(FLAT), VideoCritic(DEEP)
    assert [count(block) for block in flat.blocks] == [
        1_048_832, 1_180_160, 2_097_408, 590_080, 524_416, 147_584, 131_136, 32_800, 1_539
    ]  # fmt: skip
    assert [count(block) for block in deep.blocks] == [
        3_145_984, 3_539_456, 6_291_712, 1_769_728, 1_572_992, 442_496, 393_280, 98_336, 4_611
    ]  # fmt: skip
    assert [[count(block) for block in critic.blocks] for critic in critics] == [
        [4_736, 51_264, 73_856, 295_168, 590_080],
        [32_960, 256_064, 221_312, 884_992, 1_769_728],
    ]
    assert [count(critic.last) for critic in critics] == [1_026, 8_194]


def test_the_encoder_up_to_fc6_has_the_parameters_of_the_table():
    with torch.device("meta"):
        encoder = Encoder(CaffeNet())
        assert count(encoder) == 40_086_912
        seen = encoder(torch.empty(3, 3, 227, 227))
    assert [tuple(x.shape) for x in seen] == [(3, 256, 6, 6), (3, 4096)]


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize(("cfg", "frames"), [(FLAT, 1), (DEEP, 8), (replace(DEEP, frames=48), 48)])
def test_sizes_are_those_of_the_tables(cfg, frames, padding):
    cfg = replace(cfg, time_padding=padding)
    with torch.device("meta"):
        generator, critic = Generator(cfg), VideoCritic(cfg)
        shapes = passed(generator.blocks, torch.empty(1, 256, frames, 4, 4))
        assert [shape[2] for shape in shapes] == [8, 8, 16, 16, 32, 32, 64, 128, 256]
        assert [shape[0] for shape in shapes] == [256, 512, 256, 256, 128, 128, 64, 32, 3]
        assert {shape[1] for shape in shapes} == {frames}
        shapes = passed(critic.blocks, torch.empty(1, 3, frames, 227, 227))
        assert shapes == [(c, frames, s, s) for c, s in [(32, 56), (64, 52), (128, 25), (256, 23), (256, 11)]]
        codes = torch.empty(2, frames, 4096)
        video = generator(Inputs(codes), STAGE)
        assert video.shape == (2, 3, frames, 227, 227)
        assert critic((video, codes), STAGE).shape == (2,)


def random_pair(padding, size=29):
    """A small network of images, its inflation, and a code."""
    torch.manual_seed(0)
    flat = replace(SMALL, depth=1, frames=1, size=size)
    deep = replace(SMALL, frames=5, size=size, time_padding=padding)
    pair = Generator(flat).double(), Generator(deep).double()
    assert inflate(*pair) == []
    return pair, torch.randn(2, 1, SMALL.codes).double()


def test_an_inflated_network_makes_the_image_in_every_frame_of_a_still_clip():
    (flat, deep), code = random_pair("replicate")
    image, video = flat(Inputs(code), STAGE), deep(Inputs(code.expand(-1, 5, -1)), STAGE)
    torch.testing.assert_close(video, image.expand_as(video), rtol=0, atol=1e-12)


def test_with_zeros_beside_it_one_layer_is_wrong_in_the_first_and_last_frame_alone():
    (flat, deep), _ = random_pair("zeros")
    x = torch.randn(2, 16, 1, 4, 4).double()
    image, video = flat.blocks[0][1](x), deep.blocks[0][1](x.expand(-1, -1, 5, -1, -1))
    same = [torch.allclose(video[:, :, t], image[:, :, 0], rtol=0, atol=1e-12) for t in range(5)]
    assert same == [False, True, True, True, False]
    bias = deep.blocks[0][1].bias[:, None, None]
    torch.testing.assert_close(video[:, :, 0] - bias, (image[:, :, 0] - bias) * 2 / 3)


def test_an_inflated_critic_keeps_its_last_layer_and_sees_features_as_of_images():
    torch.manual_seed(0)
    cfg = replace(SMALL, time_padding="replicate")
    flat, deep = VideoCritic(replace(cfg, depth=1, frames=1)).double(), VideoCritic(cfg).double()
    before = deep.last.weight.clone()
    assert inflate(flat, deep) == ["last.weight"]
    assert torch.equal(deep.last.weight, before)
    for ours, theirs in zip(deep.blocks, flat.blocks, strict=True):
        found = next(p for p in ours.parameters() if p.ndim == 5).sum(dim=2)
        torch.testing.assert_close(found, next(p for p in theirs.parameters() if p.ndim == 5)[:, :, 0])
    image = torch.randn(2, 3, 1, 29, 29).double()
    seen = flat.blocks(image)
    torch.testing.assert_close(deep.blocks(image.expand(-1, -1, 2, -1, -1)), seen.expand(-1, -1, 2, -1, -1))


def test_a_score_is_the_logit_of_real_above_that_of_fake():
    """Caffe's class 0 is real."""
    critic = VideoCritic(SMALL)
    torch.nn.init.zeros_(critic.last.weight)
    critic.last.bias.data = torch.tensor([3.0, 1.0])
    scores = critic((torch.zeros(2, 3, 2, 29, 29), torch.zeros(2, 2, SMALL.codes)), STAGE)
    assert scores.tolist() == [2.0, 2.0]


def test_the_gradient_of_the_crop_is_padded_14_above_and_15_below():
    whole = torch.zeros(1, 3, 2, 256, 256, requires_grad=True)
    wanted = torch.randn(1, 3, 2, 227, 227)
    cropped(whole, 227).backward(wanted)
    assert torch.equal(whole.grad, F.pad(wanted, (14, 15, 14, 15)))
    assert torch.equal(cropped(whole, 224), whole[..., 16:240, 16:240])


def test_colours_go_to_caffe_and_back():
    video = torch.rand(2, 3, 2, 4, 4) * 2 - 1
    clip = for_caffe(video)
    wanted = (video[:, 2] + 1) * 127.5 - 104
    torch.testing.assert_close(clip[:, 0], wanted)
    torch.testing.assert_close(from_caffe(clip), video, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------- the released file


def caffe_layers(cfg, rng):
    """Weights in Caffe's shapes, by the names of the released file."""
    channels, side = cfg.first
    wide = [cfg.codes, cfg.codes, cfg.codes, channels * side**2]
    layers = {name: [rng.normal(size=(o, i)) / 8, rng.normal(size=o)] for name, i, o in
              zip(stgan.DENSE, wide, wide[1:], strict=False)}  # fmt: skip
    inputs = channels
    for row in cfg.rows:
        k = 4 if row.up == 2 else 3
        layers[row.caffe] = [rng.normal(size=(inputs, row.channels, k, k)) / 8, rng.normal(size=row.channels)]
        inputs = row.channels
    return {name: [array.astype(np.float32) for array in blobs] for name, blobs in layers.items()}


def test_the_released_generator_is_read_in_caffe_s_order(tmp_path):
    """Against the layers as Caffe runs them, 2D transposed convolutions of [in, out, h, w]."""
    cfg = replace(SMALL, depth=1, frames=1)
    layers = caffe_layers(cfg, np.random.default_rng(0))
    path = tmp_path / "generator.caffemodel"
    path.write_bytes(new_net(layers))
    generator = stgan.load(path, cfg)
    code = torch.randn(3, cfg.codes)
    x = code
    for name in stgan.DENSE:
        weight, bias = map(torch.from_numpy, layers[name])
        x = F.leaky_relu(F.linear(x, weight, bias), cfg.slope)
    x = x.view(3, *cfg.first, cfg.first[1])
    for number, row in enumerate(cfg.rows, 1):
        weight, bias = map(torch.from_numpy, layers[row.caffe])
        x = F.conv_transpose2d(x, weight, bias, stride=row.up, padding=1)
        x = x if number == len(cfg.rows) else F.leaky_relu(x, cfg.slope)
    torch.testing.assert_close(generator.whole(code[:, None])[:, :, 0], x)


def test_a_file_without_a_layer_is_refused_by_name(tmp_path):
    cfg = replace(SMALL, depth=1, frames=1)
    layers = caffe_layers(cfg, np.random.default_rng(0))
    del layers["deconv0"]
    path = tmp_path / "generator.caffemodel"
    path.write_bytes(new_net(layers))
    with pytest.raises(BadWeights, match=r"blocks\.3\.1\.weight is missing"):
        stgan.load(path, cfg)


# ------------------------------------------------------------------------------------------------- losses and codes


def test_the_image_loss_of_30_grey_levels_is_the_worked_one():
    system = stgan.build(replace(SMALL, size=32, frames=2))
    image, _ = system.terms
    other = stgan.build(replace(SMALL, weights=(1.0, 2.0, 3.0)))
    assert [term.weight for term in (*other.terms, *other.critics)] == [1.0, 2.0, 3.0]
    real = torch.zeros(4, 3, 2, 32, 32)
    each = 3 * 32 * 32 * 30.0**2  # of a frame
    assert float(image.value(real + 30, real, None, STAGE)) == pytest.approx(each / 2)
    whole = stgan.build(replace(SMALL, size=32, frames=2, mean_of="video")).terms[0]
    assert float(whole.value(real + 30, real, None, STAGE)) == pytest.approx(each)
    assert image.weight * 1.391e8 / 2 == pytest.approx(139, abs=0.5)  # of 227x227


@pytest.mark.parametrize("compared", ["pool5", "fc6"])
def test_the_feature_loss_is_half_the_squared_distance_of_features(compared):
    cfg = replace(SMALL, compared=compared)
    system, encoder = stgan.build(cfg), stgan.encoder_of(cfg)
    fake, real = torch.randn(2, 2, 3, 2, 29, 29).mul(50).unbind(0)
    a, b = (getattr(encoder(stgan.of_frames(clip)), compared) for clip in (fake, real))
    found = system.terms[1].value(fake, real, None, STAGE)
    torch.testing.assert_close(found, F.mse_loss(a, b, reduction="sum") / (2 * 2 * 2))


def test_codes_are_the_encoder_s_of_each_frame_and_no_network_holds_the_encoder():
    system = build_small()
    video = torch.rand(4, 3, 2, 29, 29, generator=torch.Generator().manual_seed(7)) * 2 - 1
    found = inputs_for(system).latents
    encoder = stgan.encoder_of(SMALL)
    for t in range(2):
        pictures = (video[:, :, t].flip(1) + 1) * 127.5 - torch.tensor(caffenet.MEAN)[:, None, None]
        torch.testing.assert_close(found[:, t], encoder(pictures).fc6)
    ours = {id(p) for p in system.generator.parameters()} | {id(p) for p in system.critics[0].module.parameters()}
    assert not ours & {id(p) for p in encoder.parameters()}
    assert not any(p.requires_grad for p in encoder.parameters())


def build_small():
    torch.manual_seed(0)
    return stgan.build(SMALL)


def test_an_encoder_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("VGEN_FAST_WEIGHTS", str(tmp_path))
    with pytest.raises(BadWeights, match=r"the encoder: put bvlc_reference_caffenet\.caffemodel from https://"):
        stgan.encoder_of(DEEP)


def frames_network(folder, kind="frames", side=29):
    """Of `train classifier`, not trained."""
    folder.mkdir()
    facts = trained.Facts(kind, (8, side, side), "motion", ("up", "down"), "shapes", 0, 0)
    network = trained.network(facts)
    (folder / trained.FACTS).write_bytes(trained.facts_json(facts))
    torch.save(network.state_dict(), folder / trained.WEIGHTS)
    return network.eval()


def test_an_encoder_is_the_network_of_frames_that_was_trained_here(tmp_path):
    network = frames_network(tmp_path / "frames")
    encoder = stgan.encoder_of(replace(SMALL, encoder=str(tmp_path / "frames"), codes=256))
    pictures = torch.randn(3, 3, 29, 29) * 50
    seen = network(pictures)
    for found, wanted in zip(encoder(pictures), (seen.pool5, seen.fc6), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("kind", "side", "sentence"),
    [
        ("frames", 32, "a frames of 32x32 pixels, not one of frames of 29x29"),
        ("small-lrcn", 29, "a small-lrcn of 29x29 pixels"),
        ("frames", 29, "codes 16: those of the encoder .* have 256 numbers"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(kind, side, sentence, tmp_path):
    frames_network(tmp_path / "network", kind, side)
    with pytest.raises(BadWeights, match=sentence):
        stgan.encoder_of(replace(SMALL, encoder=str(tmp_path / "network")))


# ---------------------------------------------------------------------------------------------------------- recipes


def test_rates_of_fine_tuning_halve_where_the_thesis_says():
    config = RECIPES["stgan-ucf101"]()
    (phase,) = config.schedule()
    assert (phase.batch, config.clips) == (8, 800_000)
    steps = [0, 9_999, 10_000, 25_000, 50_000, 70_000, 90_000]
    rates = [1e-5, 1e-5, 5e-6, 2.5e-6, 1.25e-6, 6.25e-7, 3.125e-7]
    assert [rates_at((phase,), 8 * step) for step in steps] == [pytest.approx((rate, rate)) for rate in rates]


def test_published_recipes_decay_the_critic_alone():
    for name in ("stgan-images", "stgan-ucf101"):
        optim = RECIPES[name]().optim
        assert (optim.weight_decay, optim.critics_decay) == (4e-6, True)
    assert build(RECIPES["stgan-ucf101"]().model_copy(update={"system": SMALL})).critics[0].weight == 100
