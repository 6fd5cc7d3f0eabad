"""Files written are files others read."""

import av
import numpy as np
import pytest

from vgen_fast.data import write


def gradient(num_frames=5, height=24, width=32):
    t, y, x = np.meshgrid(np.arange(num_frames), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([8 * x, 10 * y, 40 * t], -1).clip(0, 255).astype(np.uint8)


def read(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_png_keeps_every_bit(tmp_path):
    write.png(tmp_path / "a.png", gradient()[1])
    assert np.array_equal(read(tmp_path / "a.png")[0], gradient()[1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("height", "width"), [(24, 32), (25, 33)])
def test_mp4_loops_short_clips_and_takes_odd_sides(tmp_path, height, width):
    frames = gradient(height=height, width=width)
    write.mp4(tmp_path / "a.mp4", frames, fps=8)
    found = read(tmp_path / "a.mp4")
    assert found.shape == (20, height + height % 2, width + width % 2, 3)
    assert np.abs(found[7, :height, :width].astype(int) - frames[2]).mean() < 6


def test_gif_has_every_frame(tmp_path):
    write.gif(tmp_path / "a.gif", gradient())
    assert read(tmp_path / "a.gif").shape == (5, 24, 32, 3)


def test_grid_and_strip_put_videos_where_they_belong():
    videos = np.stack([gradient(3) // (i + 1) for i in range(5)])
    grid = write.grid(videos, columns=2, margin=1)
    assert grid.shape == (3, 75, 66, 3)
    assert np.array_equal(grid[2, 25:49, 33:65], videos[3, 2])
    assert not grid[:, 50:, 33:].any()
    strip = write.strip(videos, margin=0)
    assert strip.shape == (5 * 24, 3 * 32, 3)
    assert np.array_equal(strip[24:48, 64:], videos[1, 2])
    assert np.array_equal(write.enlarge(videos[0], 2)[:, ::2, 1::2], videos[0])
