"""SSIM and MS-SSIM against three libraries, and against the formula written out, at sizes where windows shrink."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from pytorch_msssim import ms_ssim as their_ms_ssim
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as another_ms_ssim

from vgen_fast.metrics.ssim import coherence, ms_ssim, similarity_of_pairs, ssim

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def pairs(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures, and noisier, paler ones, as uint8."""
    rng = np.random.default_rng(0)
    x = scipy.ndimage.gaussian_filter(rng.normal(size=shape), (0, 0, 2, 2)) * 400 + 120
    y = 0.8 * x + rng.normal(size=shape) * 12 + 30
    return tuple(torch.from_numpy(side.clip(0, 255).astype(np.uint8)) for side in (x, y))


def gaussian(size: int) -> np.ndarray:
    place = np.arange(size) - (size - 1) / 2
    weight = np.exp(-(place**2) / (2 * (1.5 * size / 11) ** 2))
    return np.outer(weight, weight) / np.outer(weight, weight).sum()


def written_out(x: np.ndarray, y: np.ndarray) -> float:
    """MS-SSIM of one pair [C, H, W], channel by channel and scale by scale."""
    value = 1.0
    for scale, weight in enumerate(WEIGHTS):
        window, terms = gaussian(min(11, *x.shape[1:])), []
        for a, b in zip(x, y, strict=True):
            ma, mb, aa, bb, ab = (scipy.signal.fftconvolve(m, window, "valid") for m in (a, b, a * a, b * b, a * b))
            contrast = (2 * (ab - ma * mb) + 58.5225) / (aa - ma**2 + bb - mb**2 + 58.5225)
            light = (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025)
            terms.append((contrast * light if scale == 4 else contrast).mean())
        value *= max(0.0, np.mean(terms)) ** weight
        box = np.full((1, 2, 2), 0.25)
        x, y = (scipy.ndimage.convolve(side, box, mode="reflect")[:, ::2, ::2] for side in (x, y))
    return value


@pytest.mark.parametrize("size", [(200, 176), (64, 64), (61, 47), (16, 40)])
def test_it_is_the_formula_also_where_windows_shrink(size):
    x, y = pairs(3, 3, *size)
    expected = [written_out(a, b) for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)]
    np.testing.assert_allclose(ms_ssim(x.double(), y.double()), expected, rtol=1e-9)
    np.testing.assert_allclose(ms_ssim(x, y), expected, rtol=1e-5)


def test_it_equals_two_libraries_on_sizes_that_halve():
    """They multiply the scales for each channel and take the mean last: the same for one channel."""
    x, y = (side.double() for side in pairs(4, 1, 192, 176))
    torch.testing.assert_close(ms_ssim(x, y), their_ms_ssim(x, y, 255, size_average=False), rtol=1e-6, atol=0)
    theirs = another_ms_ssim(x, y, data_range=255.0, reduction="none", kernel_size=11, sigma=1.5)
    torch.testing.assert_close(ms_ssim(x, y), theirs.double(), rtol=1e-3, atol=0)  # it mirrors the borders


def test_ssim_equals_scikit_image_where_the_window_lies_inside():
    x, y = pairs(2, 3, 90, 120)
    for a, b, found in zip(x.numpy(), y.numpy(), ssim(x, y).tolist(), strict=True):
        options = {"channel_axis": 0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        _, whole = structural_similarity(a.astype(float), b.astype(float), data_range=255, full=True, **options)
        assert found == pytest.approx(whole[:, 5:-5, 5:-5].mean(), rel=1e-5)


def test_one_for_the_same_symmetric_and_the_same_however_many_at_once():
    x, y = pairs(40, 3, 72, 72)
    assert (ms_ssim(x, x) - 1).abs().max() < 1e-6
    torch.testing.assert_close(ms_ssim(x, y), ms_ssim(y, x))
    torch.testing.assert_close(ms_ssim(x, y), torch.cat([ms_ssim(x[:7], y[:7]), ms_ssim(x[7:], y[7:])]))
    torch.testing.assert_close(ms_ssim(x / 255.0, y / 255.0, peak=1.0), ms_ssim(x, y))


def test_opposite_pictures_give_zero_and_no_nan():
    x = pairs(2, 3, 64, 64)[0]
    assert ms_ssim(x, 255 - x).tolist() == [0, 0]
    flat = torch.full((1, 3, 32, 32), 7, dtype=torch.uint8)
    assert ms_ssim(flat, flat).item() == pytest.approx(1)


def test_pairs_are_of_different_pictures_and_more_alike_means_higher():
    x, _ = pairs(50, 3, 32, 32)
    alike = (x[:1].float() * 0.8 + x.float() * 0.2).to(torch.uint8)
    assert similarity_of_pairs(torch.cat([x[:1], 255 - x[:1]]), 20).tolist() == [0] * 20
    assert similarity_of_pairs(x, 300).mean() < 0.3 < 0.8 < similarity_of_pairs(alike, 300).mean()
    assert torch.equal(similarity_of_pairs(x, 9, seed=4), similarity_of_pairs(x, 9, seed=4))


def test_coherence_is_the_mean_from_frame_to_frame():
    x, y = pairs(3, 3, 32, 32)
    video = torch.stack([x, y, y], dim=2)
    torch.testing.assert_close(coherence(video), (ms_ssim(x, y) + 1) / 2)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"at least 16 pixels each way, got \[1, 3, 8, 32\]"):
        ms_ssim(torch.zeros(1, 3, 8, 32), torch.zeros(1, 3, 8, 32))
    with pytest.raises(ValueError, match="of the same shape"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
    with pytest.raises(ValueError, match="a pair takes two pictures, got 1"):
        similarity_of_pairs(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="two frames at least, got 1"):
        coherence(torch.zeros(1, 3, 1, 32, 32))
