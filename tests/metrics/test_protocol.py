"""Scores go to a file and come back; those of two protocols are not compared."""

import math
from dataclasses import replace

import pytest

from vgen_fast.metrics.protocol import Incomparable, Score, compared, over_seeds, read, write

SCORE = Score(3.5, 3.1, 3.9, 0.2, "low", "frechet/net@12/64 clips")


def test_scores_come_back(tmp_path):
    write(tmp_path / "a.json", {"frechet": SCORE}, {"run": "here"})
    assert read(tmp_path / "a.json") == {"frechet": SCORE}


def test_other_protocols_are_refused_all_at_once():
    other = {name: replace(SCORE, protocol="frechet/net@34/64 clips") for name in ("a", "b")}
    with pytest.raises(Incomparable, match=r"a: frechet/net@12/64 clips against frechet/net@34.*; b: "):
        compared({"a": SCORE, "b": SCORE, "c": SCORE}, other)
    found = compared({"a": SCORE, "x": SCORE}, {"a": replace(SCORE, value=2.0), "y": SCORE})
    assert {name: (a.value, b.value) for name, (a, b) in found.items()} == {"a": (3.5, 2.0)}
    with pytest.raises(Incomparable, match="no score in common"):
        compared({"a": SCORE}, {"b": SCORE})


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"scores": {"a": {"value": 1}}}', '{"scores": 3}'])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(Incomparable, match=r"a\.json holds no scores"):
        read(tmp_path / "a.json")
    with pytest.raises(Incomparable, match=r"absent\.json holds no scores"):
        read(tmp_path / "absent.json")


def test_the_less_of_its_amount_the_better():
    assert SCORE.amount == 3.5
    assert replace(SCORE, better="high").amount == -3.5
    assert replace(SCORE, better="near").amount == pytest.approx(3.3)


def test_several_seeds_are_their_mean_and_deviation():
    one, other = SCORE, replace(SCORE, value=4.5, low=4.1, high=4.9)
    found = over_seeds([one, other])
    assert (found.value, found.low, found.high, found.deviation) == pytest.approx((4.0, 3.6, 4.4, 0.5))
    assert found.values == (3.5, 4.5)
    assert found.protocol == "frechet/net@12/64 clips, 2 times"
    assert over_seeds([one]) is one
    bad = replace(SCORE, value=math.nan, invalid="no covariance")
    assert over_seeds([one, bad]).invalid == "no covariance"
