"""Fine-tuning VGAN's critic, and sampling what has no latents of its own, on runs of a few steps."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.models.small import config_of, count
from vgen_fast import cli, finetune, recipes, sample
from vgen_fast.data.cache import Cache, Clip, Writer
from vgen_fast.data.loader import CachedClips, Window
from vgen_fast.models import vgan
from vgen_fast.train.__main__ import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for name in ("vgan", "vgan-autoencoder", "vgan-prediction", "vgan-prediction-released", "tgan", "mocogan"):
        recipes.RECIPES[name] = lambda name=name: config_of(name, clips=16)
        assert main([name, "--outdir", str(folder / name)]) == 0
        del recipes.RECIPES[name]
    return folder


def test_the_classifier_has_the_counts_of_the_paper():
    classifier = vgan.Classifier(vgan.Config(), 101)
    assert count(classifier) == 12_679_973
    assert count(classifier.last) == 1_654_885
    assert classifier.dropout.p == 0.5


def test_the_central_clip_is_in_the_middle(tmp_path):
    """132 frames of their own numbers: of 32 the middle ones are 50 to 81."""
    writer = Writer(tmp_path / "a.vgc", (4, 4), {})
    writer.add("a", [(Clip("a"), np.broadcast_to(np.arange(132, dtype=np.uint8)[:, None, None, None], (132, 4, 4, 3)))])
    writer.finish({}, {})
    clips = finetune.spread(CachedClips(Cache(tmp_path / "a.vgc"), Window(32), 0), 0, (32, 4, 4))
    assert clips[:, 0, [0, -1], 0, 0].tolist()[::5] == [[0, 31], [56, 87], [50, 81]]


def test_the_released_predictors_critic_is_as_wide_as_its_classifier(trained, tmp_path, capsys):
    words = ["--start", "critic", "--steps", "1", "--batch", "4", "--share", "0.02", "--out", str(tmp_path / "a.json")]
    assert cli.main(["finetune", str(trained / "vgan-prediction-released"), *words]) == 0
    assert "critic: " in capsys.readouterr().out


def test_all_three_ways_are_tried_and_written_down(trained, tmp_path, capsys):
    out = tmp_path / "told.json"
    words = ["--steps", "2", "--batch", "8", "--share", "0.02", "--out", str(out)]
    assert cli.main(["finetune", str(trained / "vgan"), *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["critic", "drawn", "frozen"]
    found = json.loads(out.read_text())
    assert set(found["accuracy"]) == {"critic", "drawn", "frozen"}
    assert found["share"] == 0.02
    assert found["clips_seen"] == 16


def test_published_splits_of_a_cache_are_learned_one_after_the_other(trained, tmp_path, capsys):
    """Videos of light and of dark frames, some shorter than a clip; a video's test is ten clips of it."""
    writer, rng = Writer(tmp_path / "a.vgc", (16, 16), {}), np.random.default_rng(0)
    for n in range(24):
        frames = rng.integers(0, 60, (5 + n, 16, 16, 3), dtype=np.uint8) + np.uint8(180 * (n % 2))
        split = f"{'test' if n % 6 > 3 else 'train'}{1 + n // 12}"
        writer.add(str(n), [(Clip(str(n), label=n % 2, split=split), frames)])
    writer.finish({"light": ("dark", "bright")}, {})
    words = ["--data", str(tmp_path / "a.vgc"), "--splits", "1,2", "--steps", "40", "--batch", "8"]
    assert cli.main(["finetune", str(trained / "vgan"), *words, "--out", str(tmp_path / "a.json")]) == 0
    said = capsys.readouterr().out
    assert "split 1, critic: 100.0% of 4 videos, 100.0% by their central clips" in said
    assert "mean of 2 splits, critic: 100.0%" in said
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["accuracy"]["frozen"] == {"video": 1, "centre": 1}
    config = sample.recorded(trained / "vgan")
    clips = finetune.labelled(config, finetune.Command(data=str(tmp_path / "a.vgc")), "1")
    read, label = clips.test[0]
    assert (tuple(read().shape), label) == ((11, 3, 8, 16, 16), 0)
    assert cli.main(["finetune", str(trained / "vgan"), "--data", str(tmp_path / "a.vgc"), "--splits", "3"]) == 2


def test_the_critics_features_are_what_it_starts_from(trained):
    config = sample.recorded(trained / "vgan")
    weights = finetune.checkpoint.tensors(sample.chosen_checkpoint(trained / "vgan", config), "video.safetensors")
    clips = finetune.labelled(config, finetune.Command(share=0.01), "")
    seen = []
    inner = vgan.Classifier
    try:
        vgan.Classifier = lambda *given: seen.append(inner(*given)) or seen[-1]
        for start in ("frozen", "drawn"):
            finetune.learned(start, config.system, weights, clips, finetune.Command(steps=1, batch=4))
    finally:
        vgan.Classifier = inner
    kept = {name: value for name, value in seen[0].state_dict().items() if name.startswith("features.")}
    assert kept
    assert all(torch.equal(value, weights[name]) for name, value in kept.items())
    assert not torch.equal(seen[1].features[0][0].weight, weights["features.0.0.weight"])


def test_the_regression_on_frozen_features_is_the_best_there_is():
    """No other last layer has a smaller penalised loss: the gradient vanishes at what was found."""
    torch.manual_seed(0)
    cfg = vgan.Config(channels=(8, 4), first_frames=1)
    network = finetune.Told(vgan.Classifier(cfg, 3), cfg.sizes[0])
    video, labels = torch.randint(0, 256, (40, 3, *cfg.sizes[0]), dtype=torch.uint8), torch.arange(40)[:, None] % 3
    clips = finetune.Labelled(lambda rows, size: (video[rows], labels[rows]), 40, [], 3, 0)
    finetune.regress(network, clips, 0.1)
    inner = network.inner
    with torch.no_grad():
        x = inner.features(video / 127.5 - 1).flatten(1)
        torch.testing.assert_close(network(video), x @ inner.last.weight.flatten(1).T + inner.last.bias)
    scale = x.std(dim=0).clamp_min(1e-6) * x.shape[1] ** 0.5
    weight = (inner.last.weight.detach().flatten(1) * scale).requires_grad_()
    bias = inner.last.bias.detach().clone().requires_grad_()
    value = F.cross_entropy(x @ (weight / scale).T + bias, labels[:, 0]) + 0.05 * weight.square().sum()
    gradients = torch.autograd.grad(value, [weight, bias])
    assert all(g.abs().max() < 1e-4 for g in gradients)
    assert value < np.log(3)


@pytest.mark.parametrize(
    ("run", "words", "sentence"),
    [
        ("tgan", [], "is a run of tgan: it has no critic of VGAN's"),
        ("vgan-autoencoder", [], "is a run of vgan: it has no critic"),
        ("vgan", ["--label", "taste"], "--label taste: shapes has motion, shape, colour"),
        ("vgan", ["--share", "0"], "--share should be greater than 0"),
        ("nowhere", [], "is no run folder"),
    ],
)
def test_what_cannot_be_fine_tuned_is_one_sentence(trained, capsys, run, words, sentence):
    assert cli.main(["finetune", str(trained / run), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_an_autoencoders_videos_are_of_codes_from_a_mixture(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "CODES", 512)
    system, config, _ = sample.restored(trained / "vgan-autoencoder")
    some, others = (sample.inputs_of(system, config, seeds, None) for seeds in ([3, 4, 5], [5, 3]))
    assert some.condition is None
    assert torch.equal(some.latents[[2, 0]], others.latents)
    assert len(set(some.latents[:, 0].tolist())) == 3
    assert sample.videos(system, config, some, 16).shape == (3, *config.system.sizes[0], 3)


def test_a_predictors_videos_follow_real_first_frames(trained, tmp_path):
    system, config, _ = sample.restored(trained / "vgan-prediction")
    inputs = sample.inputs_of(system, config, [4, 9], None)
    clips = sample.dataset(config)(torch.tensor([4, 9]), config.system.sizes[-1])[0]
    torch.testing.assert_close(inputs.condition, clips[:, :, 0] / 127.5 - 1)


def test_a_recurrent_generator_goes_on_for_as_long_as_is_asked(trained, tmp_path):
    out = tmp_path / "long.npz"
    assert cli.main(["generate", str(trained / "mocogan"), "--seeds", "0,1", "--frames", "40", "--out", str(out)]) == 0
    with np.load(out) as file:
        assert file["videos"].shape == (2, 40, 32, 32, 3)


def test_latents_with_bounds_of_their_own_are_not_truncated(trained, tmp_path, capsys):
    assert cli.main(["generate", str(trained / "tgan"), "--truncation", "0.5", "--out", str(tmp_path / "a.npz")]) == 2
    assert "--truncation: the latents of a tgan generator are not normal" in capsys.readouterr().err
