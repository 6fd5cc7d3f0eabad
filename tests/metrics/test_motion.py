"""Axes of shapes whose way is known, and features that see nothing but change."""

import numpy as np
import pytest
import torch

from vgen_fast import ops
from vgen_fast.data.synthetic import LABELS, MOTIONS, MovingShapes
from vgen_fast.metrics.frechet import moments
from vgen_fast.metrics.motion import axes, centres, motion_accuracy, motion_features


def moving(step: tuple[int, int], start: tuple[int, int] = (8, 8)) -> np.ndarray:
    frames = np.full((5, 24, 24, 3), 10, np.uint8)
    for t in range(5):
        y, x = start[0] + t * step[0], start[1] + t * step[1]
        frames[t, y : y + 4, x : x + 3] = 200, 90, 30
    return frames


def test_centres_are_the_middle_of_what_is_bright():
    np.testing.assert_allclose(centres(moving((2, 1))), [[9.5 + 2 * t, 9 + t] for t in range(5)])
    assert centres(np.zeros((3, 8, 8, 3), np.uint8)).shape == (0, 2)


def test_axes_and_accuracy():
    videos = np.stack([moving((2, 0)), moving((-1, 0)), moving((0, 2)), moving((1, -2)), moving((0, 0))])
    assert axes(videos).tolist() == [0, 0, 1, 1, -1]
    assert motion_accuracy(videos, np.array([0, 1, 1, 1, 0])) == pytest.approx(3 / 5)
    assert axes(np.zeros((1, 4, 8, 8, 3), np.uint8)).tolist() == [-1]


def test_the_built_in_motions_are_told_apart():
    shapes, labels = MovingShapes((8, 32, 32), 0)(torch.arange(200), (8, 32, 32))
    motion = labels[:, list(LABELS).index("motion")]
    for axis, names in ((0, ("up", "down")), (1, ("left", "right"))):
        chosen = torch.isin(motion, torch.tensor([MOTIONS.index(name) for name in names]))
        clips = shapes[chosen].permute(0, 2, 3, 4, 1).numpy()
        assert len(clips) > 20
        assert motion_accuracy(clips, np.full(len(clips), axis)) == 1


def test_features_by_hand():
    """One pixel of one cell changes from 0 to 255 and stays: a change of 1 / 16 of the cell's 4x4 pixels."""
    video = torch.zeros(1, 3, 3, 16, 16, dtype=torch.uint8)
    video[:, :, 1:, 5, 9] = 255
    found = motion_features(video).view(2, 2, 4, 4)  # lag, mean or deviation, cells
    assert found[0, 0, 1, 2].item() == pytest.approx(1 / 32)
    assert found[0, 1, 1, 2].item() == pytest.approx(1 / 32)
    assert found[1, 0, 1, 2].item() == pytest.approx(1 / 16)
    assert (found != 0).sum() == 3


def test_what_stands_still_has_no_features_and_shuffled_frames_are_further():
    shapes, _ = MovingShapes((8, 32, 32), 0)(torch.arange(400), (8, 32, 32))
    assert motion_features(shapes[:, :, :1].expand(-1, -1, 8, -1, -1)).abs().max() == 0
    real, other = moments(motion_features(shapes[:200])), shapes[200:]
    order = torch.tensor([3, 0, 6, 1, 7, 4, 2, 5])
    near, far = (ops.frechet_distance(real, moments(motion_features(x))) for x in (other, other[:, :, order]))
    assert far > 5 * near


def test_one_frame_does_not_move():
    with pytest.raises(ValueError, match=r"two frames at least, got \[2, 3, 1, 8, 8\]"):
        motion_features(torch.zeros(2, 3, 1, 8, 8))
