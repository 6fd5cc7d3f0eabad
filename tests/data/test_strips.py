"""Film strips as MoCoGAN publishes them: frames in order both ways round, classes, windows, bad files."""

import os
import signal

import numpy as np
import pytest
import torch

from vgen_fast.data import write
from vgen_fast.data.decode import Rejected, TooMuchBadData
from vgen_fast.data.sources import NoDataSet
from vgen_fast.data.strips import Strips, cut


def numbered(count: int, side: int = 8, offset: int = 0) -> np.ndarray:
    """Frame t is of colour (t, offset, 255) all over."""
    frames = np.zeros((count, side, side, 3), np.uint8)
    frames[..., 0] = np.arange(count)[:, None, None] * 7
    frames[..., 1:] = offset, 255
    return frames


def save(path, frames: np.ndarray, across: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write.png(path, np.concatenate(frames, axis=1 if across else 0))


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save(tmp_path / ("up" if i % 2 else "aside") / f"{i}.png", numbered(32, offset=i), across=i < 4)
    (tmp_path / "up" / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("across", [True, False])
def test_frames_come_in_order_whichever_way_round_the_strip_is(tmp_path, across):
    frames = np.random.default_rng(0).integers(256, size=(5, 8, 8, 3), dtype=np.uint8)
    save(tmp_path / "a" / "0.png", frames, across)
    np.testing.assert_array_equal(Strips(tmp_path, (5, 8, 8), seed=0).clip(0)[0], frames)


def test_each_time_round_has_every_clip_once_under_its_class(folder):
    strips = Strips(folder, (16, 8, 8), seed=3)
    assert strips.classes == ("aside", "up")
    orders = []
    for start in (0, 6):
        clips = [strips.clip(i) for i in range(start, start + 6)]
        orders.append([int(frames[0, 0, 0, 1]) for frames, _ in clips])
        assert sorted(orders[-1]) == list(range(6))
        for frames, (label,) in clips:
            assert label == frames[0, 0, 0, 1] % 2
            assert (np.diff(frames[:, 0, 0, 0].astype(int)) == 14).all()  # every second frame
    assert orders[0] != orders[1]
    again, _ = Strips(folder, (16, 8, 8), seed=3)(torch.tensor([7, 1]), (8, 4, 4))
    both, _ = strips(torch.tensor([7, 1]), (8, 4, 4))
    assert torch.equal(again, both)
    assert both.shape == (2, 3, 8, 4, 4)
    assert (both[0, 0, :, 0, 0].diff() == 28).all()  # the mean of two frames


def test_a_picked_pixel_of_each_box_keeps_the_colours_that_are_there(tmp_path):
    frames = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), size=(4, 8, 8, 3))
    save(tmp_path / "a" / "0.png", frames)
    picked, _ = Strips(tmp_path, (4, 4, 4), seed=0, shrink="pick").clip(0)
    np.testing.assert_array_equal(picked, frames[:, ::2, ::2])
    means, _ = Strips(tmp_path, (4, 4, 4), seed=0)(torch.tensor([0]), (4, 4, 4))
    assert not set(means.unique().tolist()) <= {0, 255}


def test_a_window_holds_what_is_bright_wherever_that_is_possible(tmp_path):
    """A square of 4 goes down by 1 a frame from row 3: nine frames of it need 12 rows, as many as the window has."""
    frames = np.zeros((20, 32, 32, 3), np.uint8)
    for t in range(20):
        frames[t, 3 + t : 7 + t, 9:13] = 50 + t, 0, 0
    frames[:10, :, :, 2] = 32  # not bright enough
    frames[15:, 0, 31] = 255  # in the last five frames something else is bright, too far away
    save(tmp_path / "a" / "0.png", frames)
    strips = Strips(tmp_path, (9, 12, 12), seed=0, shrink="crop")
    starts, places = set(), set()
    for i in range(60):
        clip, _ = strips.clip(i)
        assert clip.shape == (9, 12, 12, 3)
        bright = clip.max(axis=-1) > 32
        assert (bright.sum(axis=(1, 2)) == 16).all()
        assert (np.diff(clip[..., 0].max(axis=(1, 2)).astype(int)) == 1).all()  # every frame
        starts.add(int(clip[0].max()))
        places.add(int(np.flatnonzero(bright[0].any(axis=0))[0]))
        assert np.flatnonzero(bright[0].any(axis=1))[0] == 0
    assert starts == set(range(50, 57))
    assert places == set(range(9))
    wide = Strips(tmp_path, (9, 8, 8), seed=0, shrink="crop")  # no window holds 12 rows
    assert wide.clip(0)[0].shape == (9, 8, 8, 3)


def test_windows_start_anywhere(folder):
    strips = Strips(folder, (16, 8, 8), seed=0)
    assert {int(strips.clip(i)[0][0, 0, 0, 0]) for i in range(40)} == {0, 7}


def test_a_bad_file_is_named_once_and_replaced_and_too_many_end_it(folder):
    (folder / "up" / "1.png").write_bytes(b"torn")
    save(folder / "up" / "7.png", numbered(3))
    said = []
    strips = Strips(folder, (16, 8, 8), 0, said.append)
    with pytest.raises(TooMuchBadData, match=r"1 of 7 files are bad: .*/(1|7).png: "):
        [strips.clip(i) for i in range(7)]
    for i in range(8, 60):
        save(folder / "up" / f"{i}.png", numbered(16, offset=100))
    said.clear()
    strips = Strips(folder, (16, 8, 8), 0, said.append)
    clips = [strips.clip(i)[0] for i in range(2 * len(strips.files))]
    assert {len(frames) for frames in clips} == {16}
    assert len(said) == 2
    assert any("1.png: format: neither a JPEG nor a PNG" in text for text in said)
    assert any("7.png: too small: 3x8x8 gives no clip of 16x8x8" in text for text in said)


def test_files_are_decoded_elsewhere_and_a_hung_reader_is_replaced(folder):
    strips = Strips(folder, (16, 8, 8), seed=0)
    wanted = [strips.clip(i)[0] for i in range(6)]
    (one,) = strips.pool.readers
    strips.pool.seconds = 0.5
    os.kill(one.process.pid, signal.SIGSTOP)
    for i in range(6):
        np.testing.assert_array_equal(strips.clip(i)[0], wanted[i])
    assert (strips.pool.replaced, strips.rejected) == (1, {})
    ends = [reader.process for reader in strips.pool.readers]
    del strips
    assert [process.poll() for process in ends] == [-signal.SIGKILL]


def test_what_is_no_strip_says_so(tmp_path):
    with pytest.raises(NoDataSet, match="no folders of pictures"):
        Strips(tmp_path, (16, 8, 8), 0)
    with pytest.raises(Rejected, match="8x20 pixels are not a whole number of square frames"):
        cut(np.zeros((8, 20, 3), np.uint8))
