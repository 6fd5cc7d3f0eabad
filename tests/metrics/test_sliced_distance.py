"""The distance that tells checkpoints apart: zero, a shift, and the order a person would give."""

import pytest
import torch

from vgen_fast.data.synthetic import MovingShapes
from vgen_fast.metrics.sliced_distance import coarse, sliced_distance


def test_coarse_is_the_mean_of_boxes_and_leaves_small_clips_as_they_are():
    video = torch.arange(2 * 3 * 16 * 16 * 16.0).view(2, 3, 16, 16, 16)
    expected = video.view(2, 3, 8, 2, 8, 2, 8, 2).mean((3, 5, 7)).flatten(1)
    torch.testing.assert_close(coarse(video), expected)
    small = torch.rand(2, 3, 4, 4, 4)
    assert torch.equal(coarse(small), small.flatten(1))


def test_it_is_zero_between_the_same_and_the_mean_projected_shift_of_a_shifted_set():
    x = torch.randn(32, 2, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    assert sliced_distance([(x, x.flip(0))]) == pytest.approx(0, abs=1e-6)
    # W_2 along a direction u is |<u, s>|; over directions its mean square is |s|^2 / D = 9
    shift = 3.0
    assert sliced_distance([(x[:20], x[:20] + shift), (x[20:], x[20:] + shift)]) == pytest.approx(3.0, rel=0.1)


def test_noise_is_further_from_shapes_than_other_shapes_and_blurred_ones_lie_between():
    shapes, _ = MovingShapes((8, 16, 16), 0)(torch.arange(128), (8, 16, 16))
    x, y = shapes[:64].float(), shapes[64:].float()
    noise = torch.randint(256, x.shape, generator=torch.Generator().manual_seed(0)).float()
    blurred = (y + y.mean(0)) / 2
    near, between, far = (sliced_distance([(x, other)]) for other in (y, blurred, noise))
    assert near < between < far
