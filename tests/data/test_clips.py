from fractions import Fraction

import numpy as np
import pytest

from vgen_fast.data import clips


def even(num_frames, fps, time_base=Fraction(1, 12800), start=0):
    """Times as a container keeps them, rounded to its time base."""
    times = [start + round(i / (Fraction(fps) * time_base)) for i in range(num_frames + 1)]
    return np.array(times[:-1]), time_base, times[-1]


def test_every_fifth_frame_of_25_fps_makes_5_fps():
    assert clips.resample(*even(50, 25), 5).tolist() == list(range(0, 50, 5))


@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), 8, 60])
@pytest.mark.parametrize("start", [0, -999, 123457])
def test_a_film_at_its_own_rate_is_itself(fps, start):
    assert clips.resample(*even(100, fps, start=start), fps).tolist() == list(range(100))


def test_the_nearest_frame_is_taken_and_of_two_the_earlier():
    """30 fps at 20: times 0, 1.5, 3, 4.5, ... in frames."""
    assert clips.resample(*even(9, 30, Fraction(1, 90000)), 20).tolist() == [0, 1, 3, 4, 6, 7]


def test_more_frames_repeat_the_nearest():
    """8 fps at 25: k * 0.32 frames."""
    wanted = [round(k * 0.32) for k in range(25)]
    assert clips.resample(*even(8, 8), 25).tolist() == [min(7, index) for index in wanted]


def test_gaps_are_filled_by_their_nearer_end():
    times = np.array([0, 40, 1000, 1040])
    assert clips.resample(times, Fraction(1, 1000), 1080, 5).tolist() == [0, 1, 1, 2, 2, 2]


def test_one_frame_lasts_until_its_end():
    assert clips.resample(np.array([7]), Fraction(1, 10), 17, 3).tolist() == [0, 0, 0]


def test_29_97_fps_drifts_by_no_frame_in_an_hour():
    num_frames, fps = 107_892, Fraction(30000, 1001)
    chosen = clips.resample(*even(num_frames, fps, Fraction(1, 90000)), 25)
    assert len(chosen) == 90_000  # 107,892 * 1001 / 30,000 s * 25, rounded up
    exact = [round(Fraction(k, 25) * fps) for k in range(0, 90_000, 997)]
    assert chosen[::997].tolist() == exact


@pytest.mark.parametrize(
    ("num_frames", "length", "stride", "starts"),
    [(16, 16, 1, 1), (17, 16, 1, 2), (15, 16, 1, 0), (31, 16, 2, 1), (30, 16, 2, 0), (5, 1, 9, 5), (0, 1, 1, 0)],
)
def test_starts_are_those_whose_last_frame_exists(num_frames, length, stride, starts):
    assert clips.num_starts(num_frames, length, stride) == starts
    if starts:
        assert clips.window(starts - 1, length, stride)[-1] == num_frames - 1


@pytest.mark.parametrize(
    ("num_frames", "first", "last"), [(32, 0, 31), (33, 0, 31), (34, 1, 32), (250, 109, 140), (29, 0, 28)]
)
def test_the_central_frames(num_frames, first, last):
    chosen = clips.central(num_frames, 32)
    assert (chosen[0], chosen[-1], len(chosen)) == (first, last, 32)


def test_groups_are_whole():
    assert clips.groups(25, 8).tolist() == [list(range(0, 8)), list(range(8, 16)), list(range(16, 24))]
    assert clips.groups(7, 8).shape == (0, 8)
