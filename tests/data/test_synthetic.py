"""Moving shapes: what the labels promise can be measured in the frames."""

import numpy as np
import pytest
import torch

from vgen_fast.data import transforms
from vgen_fast.data.synthetic import BACKGROUND, COLOURS, LABELS, MovingShapes

SIZE = (8, 64, 64)


def labelled(motion=None, shape=None, count=12):
    data, found = MovingShapes(SIZE, seed=1), []
    for index in range(2000):
        frames, chosen = data.clip(index)
        names = [values[i] for values, i in zip(LABELS.values(), chosen, strict=True)]
        if motion in (None, names[0]) and shape in (None, names[1]):
            found.append((frames.astype(np.float64), names))
        if len(found) == count:
            return found
    raise AssertionError("too few clips")


def mask(frames):
    return np.abs(frames - BACKGROUND).max(-1) > 40


def centres(frames):
    found = []
    for covered in mask(frames):
        y, x = np.nonzero(covered)
        found.append((x.mean() / SIZE[2] - 0.5, y.mean() / SIZE[1] - 0.5))
    return np.array(found)


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_straight_motions_go_where_their_name_says(motion, axis, sign):
    for frames, _ in labelled(motion):
        path = centres(frames)
        assert (np.diff(path[:, axis]) * sign > 0.02).all()
        assert np.ptp(path[:, 1 - axis]) < 0.02


@pytest.mark.parametrize(("motion", "sign"), [("clockwise", 1), ("counterclockwise", -1)])
def test_circles_turn_the_way_their_name_says(motion, sign):
    for frames, _ in labelled(motion):
        path = centres(frames)
        angle = np.unwrap(np.arctan2(path[:, 1], path[:, 0]))  # y points down: growing angles are clockwise
        assert (np.diff(angle) * sign > 0.3).all()


@pytest.mark.parametrize(("motion", "sign"), [("grow", 1), ("shrink", -1)])
def test_sizes_change_the_way_their_name_says(motion, sign):
    for frames, _ in labelled(motion):
        assert (np.diff(mask(frames).sum((1, 2))) * sign > 0).all()
        assert np.ptp(centres(frames), axis=0).max() < 0.04


def test_shapes_differ_in_how_they_fill_their_box():
    fill = {}
    for shape in LABELS["shape"]:
        shares = []
        for frames, _ in labelled("grow", shape):
            covered = mask(frames)[-1]
            y, x = np.nonzero(covered)
            shares.append(covered.sum() / (np.ptp(x) + 1) / (np.ptp(y) + 1))
        fill[shape] = np.mean(shares)
    assert fill["square"] > 0.95
    assert fill["disc"] == pytest.approx(np.pi / 4, abs=0.05)
    assert fill["triangle"] == pytest.approx(0.5, abs=0.07)


def test_colours_are_those_of_the_label():
    for frames, names in labelled(count=40):
        covered = mask(frames)
        middle = np.median(frames[covered], axis=0)
        assert np.abs(middle - COLOURS[names[2]]).max() < 2


def test_a_clip_is_a_function_of_seed_and_index():
    a, b, other = MovingShapes(SIZE, 3), MovingShapes(SIZE, 3), MovingShapes(SIZE, 4)
    assert np.array_equal(a.clip(7)[0], b.clip(7)[0])
    assert not np.array_equal(a.clip(7)[0], other.clip(7)[0])
    assert a.clip(7)[0].dtype == np.uint8


def test_a_batch_is_its_clips_pooled():
    data = MovingShapes((4, 16, 16), 2)
    video, labels = data(torch.tensor([5, 2]), (2, 8, 8))
    assert video.shape == (2, 3, 2, 8, 8)
    assert video.dtype == torch.uint8
    frames, chosen = data.clip(2)
    wanted = frames.reshape(2, 2, 8, 2, 8, 2, 3).astype(np.float64).mean((1, 3, 5))
    assert np.abs(transforms.to_frames(video[1]).numpy() - wanted).max() <= 0.5
    assert labels[1].tolist() == chosen


def test_pooling_to_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 16, 16\) of the video is not a multiple of \(3, 8, 8\)"):
        transforms.shrink(torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8), (3, 8, 8))


def test_bytes_round_and_clamp():
    video = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 7.0])
    assert transforms.to_bytes(video).tolist() == [0, 0, 128, 255, 255, 255]
