"""Scores go to a file and come back; those of two protocols are not compared."""

from dataclasses import replace

import pytest

from vgen_fast.metrics.protocol import Incomparable, Score, compared, read, write

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
