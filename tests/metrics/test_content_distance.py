"""Content distance on frames whose mean colours are written down."""

import numpy as np
import pytest

from vgen_fast.metrics.content_distance import content_distance


def clip(*colours: tuple[int, int, int], side: int = 3) -> np.ndarray:
    frames = np.full((len(colours), 8, 8, 3), 10, np.uint8)  # a background that does not count
    for t, colour in enumerate(colours):
        frames[t, t : t + side, t : t + side] = colour
    return frames


def test_one_colour_that_moves_is_at_distance_0():
    assert content_distance(clip((200, 30, 0), (200, 30, 0), (200, 30, 0))[None]) == 0


def test_the_mean_over_pairs_and_then_over_clips():
    changing = clip((100, 0, 0), (103, 4, 0), (100, 0, 12))  # 5, 12 and 13 apart
    still = clip((90, 90, 90), (90, 90, 90), (90, 90, 90))
    assert content_distance(changing[None]) == pytest.approx(10)
    assert content_distance(np.stack([changing, still])) == pytest.approx(5)


def test_any_descriptor_of_frames_will_do():
    """The place of the object, which goes by (1, 1) from frame to frame: 1, 1 and 2 steps apart."""
    moving = clip((200, 0, 0), (0, 200, 0), (0, 0, 200))
    places = lambda frames: np.argwhere(frames.max(axis=-1) > 32).reshape(len(frames), -1, 3)[:, 0, 1:]  # noqa: E731
    assert content_distance(moving[None], places) == pytest.approx(np.sqrt(2) * 4 / 3)
    with pytest.raises(ValueError, match=r"descriptors must be \[3 or fewer, D\], got \[3\]"):
        content_distance(moving[None], lambda frames: np.zeros(3))


def test_frames_and_clips_that_show_too_little_are_left_out():
    small, large = clip((250, 0, 0), side=2), clip((100, 0, 0), (104, 3, 0))
    assert content_distance(np.concatenate([small, large])[None]) == pytest.approx(5)
    assert np.isnan(content_distance(small[None]))
