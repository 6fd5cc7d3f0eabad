"""PGAN's metric against its formulas written with scipy and numpy, and on pictures whose order is known."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from vgen_fast.metrics import sliced_wasserstein
from vgen_fast.metrics.sliced_wasserstein import below, doubled, halved, piece_distance, pieces

FILTER = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def pictures(count: int, size: int, seed: int, blur: float = 1.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    x = scipy.ndimage.gaussian_filter(rng.normal(size=(count, 3, size, size)), (0, 0, blur, blur), mode="wrap")
    return torch.from_numpy((128 + 50 * x / x.std()).clip(0, 255).astype(np.uint8))


def down(x: np.ndarray) -> np.ndarray:
    return scipy.ndimage.convolve(x, FILTER[None, None], mode="mirror")[:, :, ::2, ::2]


def up(x: np.ndarray) -> np.ndarray:
    wide = np.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), x.dtype)
    wide[:, :, ::2, ::2] = x
    return scipy.ndimage.convolve(wide, 4 * FILTER[None, None], mode="mirror")


def even(cut: torch.Tensor) -> torch.Tensor:
    """Pieces [M, C, 7, 7] with each colour of mean 0 and deviation 1."""
    cut = cut.double()
    mean, deviation = cut.mean(dim=(0, 2, 3)), cut.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    return (cut - mean[:, None, None]) / deviation[:, None, None]


def test_levels_are_those_of_scipy():
    x = pictures(3, 64, 0).double()
    np.testing.assert_allclose(halved(x), down(x.numpy()), atol=1e-9)
    np.testing.assert_allclose(doubled(x, (128, 128)), up(x.numpy()), atol=1e-9)


@pytest.mark.parametrize("smaller", [False, True])
def test_pieces_are_cut_where_they_should_be_and_colours_are_evened(monkeypatch, smaller):
    """Of the picture, or of what the smaller level does not tell of it; some pictures at a time."""
    monkeypatch.setattr(sliced_wasserstein, "CHUNK", 2)
    x = pictures(5, 32, 0)
    level = x.double() - torch.from_numpy(up(down(x.double().numpy()))) if smaller else x
    places = torch.randint(32 - 6, (5, sliced_wasserstein.PIECES, 2))
    found = pieces(x, below(x) if smaller else None, places).unflatten(1, (3, 7, 7))
    cut = torch.stack([level[n, :, i : i + 7, j : j + 7] for n in range(5) for i, j in places[n].tolist()])
    torch.testing.assert_close(found.double(), even(cut), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(33, 46), (34, 34), (64, 85)])
def test_odd_levels_lose_what_the_smaller_level_tells_of_them(size):
    """Of a smooth picture nearly nothing is left, and the odd side of some level is no obstacle."""
    down, across = (torch.arange(side, dtype=torch.float64) / side for side in size)
    smooth = (100 * down[:, None] + 100 * across).expand(1, 3, -1, -1)
    rest = smooth - doubled(halved(smooth), size)
    assert rest[..., 4:-4, 4:-4].abs().max() < 1e-9
    drawn = torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(0))
    real, fake = (255 * drawn).byte(), (128 * drawn).byte()
    assert set(piece_distance(real, real).values()) == {0}
    assert all(0 <= value < float("inf") for value in piece_distance(real, fake).values())


def test_it_is_the_mean_over_directions_of_the_mean_difference_of_sorted_projections(monkeypatch):
    """Of one level; the places and directions are taken from the module, the rest is numpy's."""
    seen, whole = {}, sliced_wasserstein.ops.sliced_wasserstein

    def listening(x, y, **options):
        seen.update(x=x, y=y, **options)
        return whole(x, y, **options)

    monkeypatch.setattr(sliced_wasserstein.ops, "sliced_wasserstein", listening)
    found = piece_distance(pictures(6, 16, 0), pictures(6, 16, 1, blur=1.4))
    assert list(found) == [16]
    directions = seen["projections"].numpy()
    assert directions.shape == (147, 512)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-5)
    sides = [np.sort(seen[name].numpy() @ directions, axis=0) for name in ("x", "y")]
    assert sides[0].shape == (6 * 128, 512)
    assert found[16] == pytest.approx(1000 * np.abs(sides[0] - sides[1]).mean(), rel=1e-5)


def test_a_set_is_at_0_from_itself_and_blurrier_is_further():
    real = pictures(64, 64, 0)
    assert set(piece_distance(real, real).values()) == {0}
    floor, *blurred = (
        np.mean(list(piece_distance(real, pictures(64, 64, 1, blur)).values())) for blur in (1.0, 1.2, 1.5, 2.0, 3.0)
    )
    assert floor < blurred[0] < blurred[1] < blurred[2] < blurred[3]


def test_sides_of_different_counts_and_one_seed_one_number():
    real, fake = pictures(20, 32, 0), pictures(13, 32, 1)
    assert piece_distance(real, fake, seed=3) == piece_distance(real, fake, seed=3) != piece_distance(real, fake)
    assert list(piece_distance(real, fake)) == [32, 16]


def test_flat_pictures_are_far_from_others_and_give_no_nan():
    flat = torch.full((8, 3, 32, 32), 90, dtype=torch.uint8)
    assert set(piece_distance(flat, flat).values()) == {0}
    assert all(np.isfinite(value) and value > 100 for value in piece_distance(pictures(8, 32, 0), flat).values())


def test_what_has_no_pieces_is_refused():
    with pytest.raises(ValueError, match=r"fake must be pictures .* of 16 pixels or more, got \[2, 3, 8, 8\]"):
        piece_distance(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="must have the same size"):
        piece_distance(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 32))
