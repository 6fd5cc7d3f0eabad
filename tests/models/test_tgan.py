"""TGAN against spec/unconditional.md 2: counts as literals, singular values by SVD, labels against the naive volume."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vgen_fast.layers import singular_values
from vgen_fast.layers.batch_norm import BatchNorm
from vgen_fast.models import tgan
from vgen_fast.models.system import Stage
from vgen_fast.models.tgan import Config

from .small import SYSTEMS, count, inputs_for


def test_parameters_are_those_of_the_tables():
    system = tgan.build(Config())
    assert count(system.generator.temporal) == 825_444
    assert count(system.generator.image) == 3_622_691
    assert count(system.critics[0].module) == 11_032_385
    assert system.sizes == ((16, 64, 64),)
    labelled = tgan.build(Config(classes=(101,)))
    assert count(labelled.generator.temporal) == 877_156
    assert count(labelled.generator.image) == 4_036_387
    assert count(labelled.critics[0].module) == 11_446_081
    assert count(tgan.build(Config(generator="3d")).generator) == 11_859_267


def test_maps_have_the_sizes_of_the_tables():
    system, found = tgan.build(Config()), []
    note = lambda module, x, y: found.append(tuple(y.shape[1:]))  # noqa: E731
    for layer in (*system.generator.temporal.layers, *system.generator.image.layers):
        layer.register_forward_hook(note)
    critic = system.critics[0].module
    for layer in critic.layers[1::2]:
        layer.register_forward_hook(note)
    with torch.no_grad():
        inputs = inputs_for(system, 2)
        video = system.generator(inputs, Stage())
        critic((video, None), Stage())
    assert found == [
        (512, 1), (256, 2), (128, 4), (128, 8), (100, 16),
        (256, 8, 8), (128, 16, 16), (64, 32, 32), (32, 64, 64),
        (128, 4, 16, 16), (256, 2, 8, 8), (512, 1, 4, 4),
    ]  # fmt: skip
    assert video.shape == (2, 3, 16, 64, 64)
    assert inputs.latents.abs().max() <= 1


@pytest.mark.parametrize("shape", [(6, 3, 4, 4, 4), (64, 16, 4, 4, 4), (1, 32, 1, 4, 4)])
def test_singular_values_are_clipped_as_by_svd(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape) * (4 / min(shape[0] * 8, math.prod(shape[1:]))) ** 0.5
    u, s, vh = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    assert (s > 1).any()
    wanted = ((u * s.clamp(max=1)) @ vh).view(shape).float()
    found = singular_values.clipped(weight)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert torch.linalg.matrix_norm(found.flatten(1), 2) <= 1 + 1e-5
    torch.testing.assert_close(singular_values.clipped(found), found, rtol=1e-5, atol=1e-6)
    assert singular_values.clipped(weight * 1e-3) is not weight
    assert torch.equal(singular_values.clipped(weight * 1e-3), weight * 1e-3)


def test_every_fifth_step_clips_weights_and_scales():
    critic = tgan.VideoCritic(SYSTEMS["tgan"])
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(5.0)
        for module in critic.modules():
            if isinstance(module, BatchNorm):
                module.variance.fill_(4.0)
    singular_values.clip(critic, 4)
    assert all((parameter == 5).all() for parameter in critic.parameters())
    singular_values.clip(critic, 5)
    for name, parameter in critic.named_parameters():
        if parameter.ndim >= 4:
            assert torch.linalg.matrix_norm(parameter.flatten(1), 2) <= 1 + 1e-5
        elif name.endswith("1.weight"):
            torch.testing.assert_close(parameter, torch.full_like(parameter, 2.0), rtol=1e-5, atol=0)
        else:
            assert (parameter == 5).all(), name  # biases
    with torch.no_grad():
        scales = [m for m in critic.modules() if isinstance(m, BatchNorm)]
        scales[0].weight.fill_(-1.0)
    singular_values.clip(critic, 10)
    torch.testing.assert_close(scales[0].weight, torch.full_like(scales[0].weight, 0.02), rtol=1e-5, atol=0)


def test_labels_weigh_as_in_a_one_hot_volume():
    torch.manual_seed(0)
    layer = tgan.LabelledConv3d(3, 5, 7).double()
    video, hot = torch.randn(4, 3, 8, 12, 16).double(), F.one_hot(torch.tensor([0, 4, 2, 4]), 5).double()
    volume = hot[:, :, None, None, None].expand(-1, -1, *video.shape[2:])
    naive = F.conv3d(torch.cat([video, volume], dim=1), layer.weight, layer.bias, 2, 1)
    fast = layer(video, hot)
    torch.testing.assert_close(fast, naive)
    gradients = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (fast, naive)]
    torch.testing.assert_close(*gradients)


def test_frames_between_frames_lie_on_lines_of_the_trajectory():
    system = tgan.build(SYSTEMS["tgan-3d"].__class__(latents=6, channels_in_time=(16, 8, 8), channels=(16, 8)))
    system.generator.eval()
    inputs = inputs_for(system)
    with torch.no_grad():
        video = system.generator(inputs, Stage())
        finer = system.generator.interpolated(inputs, 2)
    assert finer.shape[2] == 3 * (video.shape[2] - 1) + 1
    torch.testing.assert_close(finer[:, :, ::3], video, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(finer[:, :, 1], video[:, :, 0])


def test_without_the_first_latent_images_follow_the_trajectory_alone():
    config = replace(SYSTEMS["tgan"], first_latent=False, classes=())
    system = tgan.build(config)
    assert system.generator.image.still is None
    inputs = inputs_for(system)
    z1 = system.generator.temporal(inputs.latents)
    torch.testing.assert_close(system.generator.image(inputs.latents, z1), system.generator.image(-inputs.latents, z1))


class Reads:
    """A system whose samples and scores are what it is given: the brightness of a video."""

    def __init__(self, samples):
        self.samples = samples
        self.critics = (self,)

    def generator(self, inputs, stage):
        return self.samples

    def view(self, clip, inputs, stage):
        return clip

    def module(self, seen, stage):
        return seen


def test_of_two_pairs_the_one_whose_samples_pass_for_real_wins():
    real = torch.linspace(1, 2, 100)
    good, bad = Reads(real - 0.75), Reads(real - 3)
    found = tgan.play(good, bad, None, real, real, Stage())
    # The threshold of the bad one's critic is 0.5: a quarter of the good one's samples lies below. None of the others
    # passes the good one's critic.
    assert found["samples"] == float("inf")
    assert tgan.play(bad, good, None, real, real, Stage())["samples"] == 0
    assert tgan.play(good, good, None, real, real, Stage()) == {"samples": 1.0, "reals": 1.0}
