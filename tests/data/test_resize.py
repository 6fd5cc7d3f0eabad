from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vgen_fast.data.decode import Rejected
from vgen_fast.data.resize import AS_IT_IS, Fit, resize, weights


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((240, 320), (64, 85)),
        ((240, 320), (128, 171)),
        ((24, 32), (51, 68)),
        ((37, 41), (13, 50)),
        ((5, 3), (2, 9)),
        ((7, 7), (1, 1)),
        ((1, 1), (4, 3)),
    ],
)
def test_the_filter_is_that_of_torch(old, new):
    frame = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    video = torch.from_numpy(frame).movedim(-1, 0)[None].double()
    wanted = F.interpolate(video, new, mode="bicubic", antialias=True)[0].movedim(0, -1).numpy() + 0.5
    off = np.abs(resize(frame, *new) - wanted.clip(0, 255).astype(np.uint8).astype(int))
    assert off.max() <= 1
    assert off.mean() < 1e-3


def test_a_flat_picture_stays_flat():
    assert (resize(np.full((31, 17, 3), 200, np.uint8), 9, 40) == 200).all()
    assert np.allclose(weights(320, 85).sum(1), 1, atol=1e-6)


def test_stripes_finer_than_the_new_pixels_vanish():
    """Every second column white: picking columns would give white or black."""
    stripes = np.zeros((32, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, 8, 16)[:, 2:-2].astype(int) - 128).max() <= 1


@pytest.mark.parametrize(
    ("fit", "old", "aspect", "new"),
    [
        (Fit(crop=(227, 227)), (240, 320), 1, (227, 227)),
        (Fit(shorter=128, crop=(128, 128)), (240, 320), 1, (128, 128)),
        (Fit(shorter=128), (240, 320), 1, (128, 171)),
        (Fit(shorter=128), (320, 240), 1, (171, 128)),
        (Fit(stretch=(64, 85), crop=(64, 64)), (240, 320), 1, (64, 64)),
        (AS_IT_IS, (48, 64), Fraction(4, 3), (48, 85)),
        (Fit(shorter=24), (48, 64), Fraction(1, 2), (36, 24)),
    ],
)
def test_shapes(fit, old, aspect, new):
    assert fit(np.zeros((*old, 3), np.uint8), aspect).shape == (*new, 3)
    assert (fit.crop or fit.size(*old, aspect)) == new


def test_the_middle_is_cut_out():
    """STGAN cuts 227x227 from 240x320 at x = 46, y = 6; TGAN keeps columns 10 to 73 of 85."""
    frame = np.arange(240 * 320, dtype=np.int64).reshape(240, 320, 1).repeat(3, 2).astype(np.uint8)
    assert (Fit(crop=(227, 227))(frame) == frame[6:233, 46:273]).all()
    whole = Fit(stretch=(64, 85))(frame)
    assert (Fit(stretch=(64, 85), crop=(64, 64))(frame) == whole[:, 10:74]).all()


def test_bad_fits_are_refused():
    with pytest.raises(Rejected, match="too small: 240x320 when resized, wanted 256x256"):
        Fit(crop=(256, 256))(np.zeros((240, 320, 3), np.uint8))
    with pytest.raises(ValueError, match="not both"):
        Fit(shorter=64, stretch=(64, 64))
