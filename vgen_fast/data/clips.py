"""Which frames make a clip: arithmetic on integers, and on times as integers of a film's time base."""

from fractions import Fraction
from functools import lru_cache

import numpy as np


def resample(times: np.ndarray, time_base: Fraction, end: int, fps: Fraction | int) -> np.ndarray:
    """For each k with times[0] + k / fps before `end`, the index of the frame nearest to that time.

    `times` rise, int64, in units of `time_base` seconds, as does `end`, where the last frame leaves the screen. Of two
    equally near frames the earlier one is taken. Exact: no time is rounded.
    """
    ratio = Fraction(fps) * time_base  # wanted frames per unit of time
    count = -((times[0] - end) * ratio.numerator // ratio.denominator)  # rounded up
    wanted = np.arange(int(count), dtype=np.int64) * ratio.denominator
    shown = (times - times[0]) * ratio.numerator
    after = np.searchsorted(shown, wanted).clip(1, max(1, len(times) - 1))
    if len(times) == 1:
        return np.zeros(int(count), dtype=np.int64)
    return after - (wanted - shown[after - 1] <= shown[after] - wanted)


def num_starts(num_frames: int, length: int, stride: int = 1) -> int:
    """How many clips of `length` frames, `stride` apart, start within `num_frames` frames."""
    return max(0, num_frames - (length - 1) * stride)


def window(first: int, length: int, stride: int = 1) -> np.ndarray:
    return first + stride * np.arange(length)


def central(num_frames: int, length: int) -> np.ndarray:
    """The central `length` frames, with the odd one left out at the end; of fewer, the last one repeated."""
    return np.minimum(window(max(0, num_frames - length) // 2, length), num_frames - 1)


def groups(num_frames: int, length: int) -> np.ndarray:
    """[groups, length]: frames in order and once each, the remainder dropped."""
    return np.arange(num_frames // length * length).reshape(-1, length)


@lru_cache(maxsize=8)  # a batch may reach into the next time round, and of several caches
def order(seed: int, time_round: int, count: int) -> np.ndarray:
    """The order of `count` clips in this time round."""
    return np.random.default_rng((seed, time_round)).permutation(count)
