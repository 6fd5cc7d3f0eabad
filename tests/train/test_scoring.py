"""Scores while a run trains: those that `evaluate` finds, without changing the run, and the best checkpoint by one."""

import json
import math
import xml.etree.ElementTree as ET

import pytest
import torch

from vgen_fast import recipes
from vgen_fast.cli import main
from vgen_fast.data.journal import whole_lines
from vgen_fast.metrics.protocol import read
from vgen_fast.train import checkpoint
from vgen_fast.train.__main__ import main as train
from vgen_fast.train.folder import run_name
from vgen_fast.train.report import scores_plot

from ..test_evaluate import short


@pytest.fixture(autouse=True)
def short_recipe(monkeypatch, tmp_path):
    monkeypatch.setitem(recipes.RECIPES, "short", short)
    monkeypatch.setenv("VGEN_FAST_FEATURES", str(tmp_path / "features"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring") / "classifier"
    assert train(["classifier", "--clips", "40", "--test-clips", "20", "--outdir", str(folder)]) == 0
    return str(folder)


def run(folder, *words: str) -> int:
    return train(["short", "--outdir", str(folder), "--every.checkpoint", "8", *words])


def test_they_are_those_of_evaluate_and_change_no_bit(tmp_path, classifier):
    """Of the last level alone, which is reached after 24 clips; every 4 clips and at every checkpoint, once."""
    scored = ["--scores.classifier", classifier, "--scores.clips", "16", "--scores.every", "4"]
    assert run(tmp_path / "plain") == 0
    assert run(tmp_path / "scored", *scored) == 0
    rows = whole_lines(tmp_path / "scored" / "scores.jsonl")
    assert [row["clips_seen"] for row in rows] == [32, 40]  # a step there is 8 clips
    words = ["evaluate", str(tmp_path / "scored"), "--classifier", classifier, "--clips", "16"]
    assert main(words) == 0
    found = read(tmp_path / "scored" / "scores.json")
    for name, score in found.items():
        told = rows[-1]["scores"][name]
        assert told["protocol"] == score.protocol
        assert told["value"] == (None if math.isnan(score.value) else score.value)
    plain, same = (checkpoint.candidates(tmp_path / name / "checkpoints", run_name(tmp_path / name), print)[0]
                   for name in ("plain", "scored"))  # fmt: skip
    for file in ("average.safetensors", "generator.safetensors"):
        for name, tensor in checkpoint.tensors(plain, file).items():
            assert torch.equal(tensor, checkpoint.tensors(same, file)[name])
    page = (tmp_path / "scored" / "report.html").read_text()
    assert "frechet, motion (low is better)" in page
    assert "<h2>Scores" not in (tmp_path / "plain" / "report.html").read_text()


def test_the_best_checkpoint_is_the_one_with_the_best_score(tmp_path, classifier):
    words = ["--scores.classifier", classifier, "--scores.clips", "16", "--scores.best", "frechet, motion"]
    assert run(tmp_path / "run", *words, "--every.keep", "9") == 0
    values = {row["clips_seen"]: row["scores"]["frechet, motion"]["value"]
              for row in whole_lines(tmp_path / "run" / "scores.jsonl")}  # fmt: skip
    found = checkpoint.candidates(tmp_path / "run" / "checkpoints", run_name(tmp_path / "run"), print)
    best = checkpoint.best(found, "frechet, motion")
    assert len(values) == 2
    assert best.clips_seen == min(values, key=values.get)
    assert best.manifest["scores"]["frechet, motion"] == min(values.values())
    assert checkpoint.best(found, "content distance, of another kind") is None


def test_rows_of_steps_that_are_done_again_are_dropped(tmp_path, classifier):
    words = ["--scores.classifier", classifier, "--scores.clips", "16"]
    assert run(tmp_path / "run", *words) == 0
    folder = tmp_path / "run" / "checkpoints"
    newest = checkpoint.candidates(folder, run_name(tmp_path / "run"), print)[0]
    checkpoint.set_aside(newest, "test")
    with open(tmp_path / "run" / "scores.jsonl", "ab") as file:
        file.write(b'{"torn')
    assert run(tmp_path / "run", *words) == 0
    rows = whole_lines(tmp_path / "run" / "scores.jsonl")
    assert [(row["clips_seen"], row["segment"]) for row in rows] == [(32, 1), (40, 2)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--scores.every", "8"], "scores are measured by a classifier: give scores.classifier too"),
        (["--scores.classifier", "nowhere"], "--scores.classifier: nowhere is no trained classifier"),
        (
            ["--scores.classifier", "CLASSIFIER", "--scores.best", "fid"],
            "--scores.best: 'fid' is none of distance; ",
        ),
    ],
)
def test_mistakes_are_answered_by_one_sentence(tmp_path, classifier, capsys, words, sentence):
    assert run(tmp_path / "run", *(classifier if word == "CLASSIFIER" else word for word in words)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_plot_shows_each_score_its_interval_and_that_of_reals():
    entry = {"value": 3.0, "low": 2.5, "high": 3.5, "real": 1.0, "better": "low"}
    rows = [{"clips_seen": clips, "scores": {"a & b": entry, "none": {**entry, "value": None}}} for clips in (10, 20)]
    root = ET.fromstring(scores_plot(rows))
    (plot,) = root.findall("{*}svg")  # one whose numbers are none is left out
    assert plot.findtext("{*}title") == "a & b (low is better)"
    assert len(plot.findall("{*}polygon")) == 1
    assert [line.get("stroke-dasharray") for line in plot.findall("{*}polyline")] == ["5 4", None]
    assert {text.text for text in plot.findall("{*}text")} >= {"3.5", "1"}
    assert scores_plot([]) == ""
    assert json.dumps(rows, allow_nan=False)
