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
from vgen_fast.train.classifier import PLANS, Fit, Plan, accuracy, answers, augmented, drawn, video_accuracy

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


@pytest.mark.parametrize("kind", ["small-lrcn", "frames"])
def test_a_small_network_of_frames_learns_colours_and_is_read_back(kind, tmp_path):
    words = ["--network", kind, "--label", "colour", "--clips", "1000", "--test-clips", "100", "--outdir"]
    assert main(["classifier", *words, str(tmp_path / kind)]) == 0
    found = trained.load(tmp_path / kind)
    assert found.facts.accuracy > 0.6  # of four colours
    video = MovingShapes(SIZE, 3)(torch.arange(2), SIZE)[0]
    features, logits = found.eval().features(video)
    assert (features.shape, logits.shape) == ((2, 64 if kind == "small-lrcn" else 256), (2, 4))
    torch.testing.assert_close(found.probabilities(video), logits.softmax(dim=1))


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
    facts = trained.load(tmp_path / "run").facts
    assert (facts.accuracy, facts.video_accuracy) == (1, 1)
    assert "100.0% on whole videos" in capsys.readouterr().out
    assert main([*words, "--label", "taste", "--clips", "4"]) == 2
    assert "--label taste: " in capsys.readouterr().err


def test_rates_fall_by_ten_or_along_a_cosine():
    steps = PLANS["c3d-finetune"]
    at = [0, 4999 * 30, 5000 * 30, 15_000 * 30]
    assert [steps.rate_after(clips) for clips in at] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-7])
    own = PLANS["own"]
    assert [own.rate_after(clips) for clips in (0, 3000, 6000)] == pytest.approx([1e-3, 5e-4, 0])


def test_published_recipes_are_sgd_whose_biases_learn_twice_as_fast_and_do_not_decay():
    fit = fresh(replace(PLANS["c3d-scratch"], clips=20, batch=10))
    assert isinstance(fit.optimizer, torch.optim.SGD)
    list(fit.go(MovingShapes(SIZE, 0)))
    others, biases = fit.optimizer.param_groups
    assert (others["lr"], others["weight_decay"], others["momentum"]) == (3e-3, 5e-3, 0.9)
    assert (biases["lr"], biases["weight_decay"]) == (6e-3, 0.0)
    assert all(value.ndim == 1 for value in biases["params"])
    assert sum(len(group["params"]) for group in (others, biases)) == len(list(fit.classifier.parameters()))


def test_augmented_clips_are_windows_of_them_and_some_are_mirrored():
    torch.manual_seed(0)
    place = torch.arange(32 * 32).view(32, 32) % 251
    video = place.to(torch.uint8).expand(40, 3, 2, 32, 32)
    found = augmented(video)
    assert found.shape == (40, 3, 2, 28, 28)
    windows = {}
    for top in range(5):
        for left in range(5):
            window = place[top : top + 28, left : left + 28]
            windows |= {(top, left, mirrored): window.flip(-1) if mirrored else window for mirrored in (False, True)}
    seen = [next(key for key, window in windows.items() if torch.equal(window, clip[0, 1].long())) for clip in found]
    assert 10 < sum(mirrored for _, _, mirrored in seen) < 30
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))


def test_a_video_is_told_by_the_mean_of_its_clips():
    """Clips at 0, 8 and 16 of 24 frames: two weak votes for one class, a strong one for another."""
    seen = []

    class Votes:
        facts = FACTS

        def eval(self):
            return self

        def probabilities(self, clips):
            seen.extend(clips[:, 0, 0, 0, 0].tolist())
            second = torch.where(clips[:, 0, 0, 0, 0] == 16, 0.99, 0.4)
            return torch.stack([1 - second, second], dim=1)

    video = torch.arange(24, dtype=torch.uint8).view(1, 24, 1, 1).expand(3, 24, 32, 32)
    assert video_accuracy(Votes(), [(video, 1), (video, 1), (video, 0)]) == pytest.approx(2 / 3)
    assert seen[:3] == [0, 8, 16]
    assert video_accuracy(Votes(), [(video[:, :3], 0)]) == 1  # shorter than a clip


def test_published_weights_are_a_start_for_c3d_alone(tmp_path, capsys):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "c3d.pickle")
    words = ["classifier", "--outdir", str(tmp_path / "run"), "--weights", str(tmp_path / "c3d.pickle")]
    assert main(words) == 2
    assert "--weights are of C3D, the network is small (--network c3d)" in capsys.readouterr().err
    assert main([*words, "--network", "c3d"]) == 2
    assert "c3d.pickle is no C3D" in capsys.readouterr().err


def test_mistakes_and_help(capsys):
    assert classifier(["--help"]) == 0
    said = capsys.readouterr().out
    assert "python -m vgen_fast.train classifier --label colour" in said
    assert main(["classifier", "--clps", "3"]) == 2
    assert "--clips" in capsys.readouterr().err
    assert main(["classifier", "--data", "nowhere.vgc"]) == 2
    assert "nowhere.vgc is no cache" in capsys.readouterr().err
