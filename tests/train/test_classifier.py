"""Classifiers that are trained here: they learn, go on with the same bits, and are read back with what they are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vgen_fast.classify import classifier
from vgen_fast.data.cache import Clip, Writer
from vgen_fast.data.synthetic import MOTIONS, MovingShapes
from vgen_fast.nets import trained
from vgen_fast.nets.trained import Facts, Trained, prepare
from vgen_fast.nets.weights import BadWeights
from vgen_fast.train.__main__ import main
from vgen_fast.train.classifier import Fit, Plan, accuracy, answers, drawn

SIZE = (8, 32, 32)
FACTS = Facts("small", SIZE, "motion", MOTIONS, "shapes", 40, 0)


def fresh(plan: Plan) -> Fit:
    torch.manual_seed(0)
    return Fit(Trained(FACTS, drawn(trained.network(FACTS)), ""), plan, 0)


def state(fit: Fit) -> dict[str, torch.Tensor]:
    return fit.classifier.inner.state_dict()


def test_a_run_that_is_continued_ends_with_the_same_bits(tmp_path):
    plan, shapes = Plan(40, 8, 1e-3, 1e-2), MovingShapes(SIZE, 0)
    whole = fresh(plan)
    assert [seen for seen, _, _ in whole.go(shapes)] == [8, 16, 24, 32, 40]
    first = fresh(plan)
    steps = first.go(shapes)
    next(steps), next(steps)
    first.save(tmp_path)
    second = fresh(plan)
    assert second.restore(tmp_path)
    assert len(list(second.go(shapes))) == 3
    assert all(torch.equal(value, state(second)[name]) for name, value in state(whole).items())
    assert not fresh(plan).restore(tmp_path / "elsewhere")


def test_four_clips_are_learned_by_heart():
    shapes = MovingShapes(SIZE, 0)
    video, labels = shapes(torch.arange(4), SIZE)
    fit = fresh(Plan(240, 4, 1e-3, 0.0))
    list(fit.go(lambda positions, size: (video, labels)))
    assert accuracy(fit.classifier, lambda positions, size: (video[positions], labels[positions]), 4, 0) == 1


def test_a_loss_that_is_no_number_ends_the_run():
    fit = fresh(Plan(40, 8, 1e-3, 0.0))
    with torch.no_grad():
        fit.classifier.inner.fc8.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss of the classifier is nan after 0 clips"):
        list(fit.go(MovingShapes(SIZE, 0)))


def test_answers_are_probabilities_of_clips_in_their_order():
    fit = fresh(Plan(8, 8, 1e-3, 0.0))
    shapes = MovingShapes(SIZE, 5)
    probabilities, wanted = answers(fit.classifier, shapes, 10, 0, batch=4)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(10))
    assert torch.equal(wanted, shapes(torch.arange(10), SIZE)[1][:, 0])


def test_prepared_are_the_middle_frames_from_minus_1_to_1():
    video = torch.arange(10, dtype=torch.uint8)[None, None, :, None, None].expand(2, 3, 10, 32, 32) * 20
    found = prepare(video, SIZE)
    assert found.shape == (2, 3, *SIZE)
    torch.testing.assert_close(found[0, 0, :, 5, 5], torch.arange(1, 9) * 20 / 127.5 - 1)
    assert prepare(video, (8, 16, 16)).shape == (2, 3, 8, 16, 16)
    with pytest.raises(ValueError, match="must have 16 frames at least, got 10"):
        prepare(video, (16, 32, 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    assert main(["classifier", "--clips", "40", "--batch", "20", "--test-clips", "30", "--outdir", str(folder)]) == 0
    return folder


def test_the_command_leaves_what_it_says_and_says_so_again(folder, capsys):
    assert {path.name for path in folder.iterdir()} == {"weights.pt", "classifier.json"}
    facts = json.loads((folder / "classifier.json").read_text())
    assert facts["values"] == list(MOTIONS)
    assert 0 <= facts["accuracy"] <= 1
    before = (folder / "weights.pt").read_bytes()
    assert main(["classifier", "--clips", "40", "--batch", "20", "--test-clips", "30", "--outdir", str(folder)]) == 0
    assert "complete: small-motion@" in capsys.readouterr().out
    assert (folder / "weights.pt").read_bytes() == before
    assert main(["classifier", "--clips", "60", "--outdir", str(folder)]) == 2
    assert "holds another classifier: small-motion@" in capsys.readouterr().err


def test_what_was_written_is_read_back_with_its_digest_in_its_name(folder, tmp_path):
    found = trained.load(folder)
    assert found.name == f"small-motion@{trained.weights.digest(folder / 'weights.pt')[:12]}"
    video = MovingShapes(SIZE, 3)(torch.arange(2), SIZE)[0]
    features, logits = found.features(video)
    assert features.shape == (2, found.inner.fc8.in_features)
    assert torch.equal(found(video), logits)
    with pytest.raises(BadWeights, match=r"is no trained classifier: classifier\.json"):
        trained.load(tmp_path)
    (tmp_path / "classifier.json").write_bytes(trained.facts_json(replace(FACTS, values=MOTIONS[:2])))
    (tmp_path / "weights.pt").write_bytes((folder / "weights.pt").read_bytes())
    with pytest.raises(BadWeights, match=r"fc8\.weight is \[8, \d+\], wanted \[2, \d+\]"):
        trained.load(tmp_path)


def test_a_cache_with_labels_is_learned_from_its_splits(tmp_path, capsys):
    writer, rng = Writer(tmp_path / "a.vgc", (32, 32), {}), np.random.default_rng(0)
    for n in range(12):
        frames = rng.integers(0, 100, (8, 32, 32, 3), dtype=np.uint8) + np.uint8(100 * (n % 2))
        writer.add(str(n), [(Clip(str(n), label=n % 2, split="test" if n > 7 else "train"), frames)])
    writer.finish({"light": ("dark", "bright")}, {})
    words = ["classifier", "--data", str(tmp_path / "a.vgc"), "--outdir", str(tmp_path / "run"), "--batch", "4"]
    assert main([*words, "--clips", "80", "--split", "train", "--test-split", "test"]) == 0
    assert "small-light@" in capsys.readouterr().out
    assert trained.load(tmp_path / "run").facts.accuracy == 1
    assert main([*words, "--label", "taste", "--clips", "4"]) == 2
    assert "--label taste: " in capsys.readouterr().err


def test_mistakes_and_help(capsys):
    assert classifier(["--help"]) == 0
    said = capsys.readouterr().out
    assert "python -m vgen_fast.train classifier --label colour" in said
    assert main(["classifier", "--clps", "3"]) == 2
    assert "--clips" in capsys.readouterr().err
    assert main(["classifier", "--data", "nowhere.vgc"]) == 2
    assert "nowhere.vgc is no cache" in capsys.readouterr().err
