"""The inception score on numbers that are known, and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.image.inception import InceptionScore

from vgen_fast.metrics.inception_score import contributions, inception_score, replicates
from vgen_fast.metrics.interval import interval


def softmax(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * logits).softmax(dim=1)


def test_one_where_all_look_alike_and_the_number_of_classes_where_each_is_sure():
    assert inception_score(torch.full((30, 5), 0.2)).item() == pytest.approx(1)
    assert inception_score(torch.eye(5).repeat(6, 1)).item() == pytest.approx(5)
    assert inception_score(softmax(1, 5)).item() == pytest.approx(1)


def test_by_hand():
    """p is (1, 0) and (1/2, 1/2): the mean is (3/4, 1/4)."""
    first = math.log(4 / 3)
    second = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert contributions(p).tolist() == pytest.approx([first, second])
    assert inception_score(p).item() == pytest.approx(math.exp((first + second) / 2))


def test_the_joint_form_is_the_same_number():
    """Eq. A.2 of the thesis: sum over n, i of p(n, i) ln(p(n, i) / (p(n) p(i))), p(n) = 1 / N."""
    p = softmax(200, 7)
    joint = p / len(p)
    information = (joint * (joint / (joint.sum(1, keepdim=True) * joint.sum(0))).log()).sum()
    assert inception_score(p).item() == pytest.approx(information.exp().item(), rel=1e-12)


def test_it_equals_torchmetrics():
    """Its features are handed through; it shuffles before it splits, so one split is compared."""
    logits = torch.randn(300, 9, generator=torch.Generator().manual_seed(1)) * 2
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(logits)
    assert inception_score(logits.softmax(dim=1)).item() == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_splits_are_parts_in_order():
    p = softmax(100, 6)
    found = inception_score(p, splits=4)
    assert found.tolist() == [inception_score(p[i : i + 25]).item() for i in range(0, 100, 25)]


def test_eps_inside_the_logarithms_moves_the_score_a_little():
    sure = torch.eye(5).repeat(6, 1)
    assert 4.99 < inception_score(sure, eps=1e-7).item() < 5 + 1e-6
    p = softmax(50, 5)
    assert inception_score(p, eps=1e-7).item() == pytest.approx(inception_score(p).item(), rel=1e-5)


def test_replicates_spread_as_other_draws_do():
    drawn = torch.stack([inception_score(softmax(400, 8, seed))[0] for seed in range(300)])
    found = replicates(softmax(400, 8, 1000))
    assert found.std() / drawn.std() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("splits", [1, 10])
def test_replicates_lie_around_the_score(splits):
    """Of 101 classes that are sure, a plain bootstrap of 600 lies 8% below it, a deviation being 1.9%."""
    sure = torch.eye(101, dtype=torch.float64)[torch.randint(101, (600,), generator=torch.Generator().manual_seed(0))]
    low, high = interval(replicates(sure, splits=splits))
    assert low < inception_score(sure, splits=splits).mean() < high


def test_frames_of_a_clip_are_drawn_together():
    """Clips of four equal frames are no more than their first ones."""
    p = softmax(400, 8)
    together, once = replicates(p[:, None].expand(-1, 4, -1)), replicates(p)
    torch.testing.assert_close(together, once)


@pytest.mark.parametrize("bad", [torch.ones(3, 2), torch.tensor([[1.5, -0.5]]), torch.full((2, 2), float("nan"))])
def test_what_are_no_probabilities_is_refused(bad):
    with pytest.raises(ValueError, match="must not be negative and must sum to 1"):
        inception_score(bad)


def test_more_splits_than_samples_are_refused():
    with pytest.raises(ValueError, match="3 samples cannot be 4 splits"):
        inception_score(softmax(3, 5), splits=4)
