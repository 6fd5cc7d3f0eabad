"""Squares around what masks show: by hand, and from films in FaceForensics' first layout."""

import numpy as np
import pytest

from vgen_fast.data import write
from vgen_fast.data.__main__ import main
from vgen_fast.data.build.masked import square
from vgen_fast.data.cache import Cache
from vgen_fast.data.resize import Fit


def white(height, width, *boxes):
    """A frame for each box: top, left, height, width."""
    frames = np.zeros((len(boxes), height, width, 3), np.uint8)
    for frame, (top, left, rows, columns) in zip(frames, boxes, strict=True):
        frame[top : top + rows, left : left + columns] = 255
    return frames


@pytest.mark.parametrize(
    ("boxes", "found"),
    [
        ([(10, 20, 8, 8)], (10, 20, 8, 8)),
        ([(10, 20, 8, 4)], (10, 18, 8, 8)),
        ([(10, 20, 4, 8)], (8, 20, 8, 8)),
        ([(10, 20, 4, 4), (14, 30, 2, 6)], (5, 20, 16, 16)),  # of all frames together
        ([(0, 56, 4, 8)], (0, 56, 8, 8)),  # moved into the picture
        ([(40, 0, 8, 64)], (0, 8, 48, 48)),  # no wider than it is high
        ([(0, 0, 0, 0)], None),
    ],
)
def test_squares_by_hand(boxes, found):
    assert square(white(48, 64, *boxes)) == found


def test_a_picture_is_cut_before_it_is_resized():
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    fit = Fit(stretch=(8, 8), box=(5, 20, 16, 16))
    assert (fit(frame) == Fit(stretch=(8, 8))(frame[5:21, 20:36])).all()
    assert fit.window(48, 64) == (5, 20, 16, 16)
    cut = Fit(shorter=12, crop=(8, 8), box=(5, 20, 16, 32))
    assert (cut(frame) == Fit(shorter=12, crop=(8, 8))(frame[5:21, 20:52])).all()
    assert cut.window(48, 64) == (8, 31, 11, 11)


def test_faces_of_the_first_faceforensics_fill_the_picture(tmp_path, capsys):
    original, mask = (tmp_path / "data/train" / kind for kind in ("original", "mask"))
    original.mkdir(parents=True)
    mask.mkdir()
    places = [(40, 60 + i, 32, 20) for i in range(12)]  # a face that moves to the right: 32 x 31 in all
    face = white(96, 128, *places) // 255 * np.array([240, 40, 40], np.uint8)
    for name in ("a", "unmasked", "black", "small"):
        write.mp4(original / f"{name}.mp4", face + 8, 25)
    write.mp4(mask / "a.mp4", white(96, 128, *places), 25)
    write.mp4(mask / "black.mp4", white(96, 128, *[(0, 0, 0, 0)] * 12), 25)
    write.mp4(mask / "small.mp4", white(48, 64, *places), 25)
    out = tmp_path / "faces.vgc"
    command = ["build", str(out), "--root", str(tmp_path / "data"), "--layout", "faceforensics", "--builder", "masked"]
    assert main([*command, "--size", "64", "64", "--bad", "0.8"]) == 0
    cache = Cache(out)
    assert cache.column("id") == ["train/a"]
    assert cache.column("crop") == [[40, 59, 32, 32]]
    frames = cache.read(0)
    assert frames.shape[1:] == (64, 64, 3)
    assert (frames[0, 4:-4, 8:36, 0] > 200).all()  # twice as large, from column 2 on
    assert (frames[0, :, 56:, 0] < 60).all()
    said = (out / "rejected.csv").read_text()
    for name, why in {"unmasked": "has none beside it", "black": "is black", "small": "48x64, not 96x128"}.items():
        assert f"train/{name},no mask," in said
        assert why in said
    capsys.readouterr()
    assert main([*command, "--resize", "none"]) == 2
    assert "--builder masked does not read --resize" in capsys.readouterr().err
