"""Activation maximisation: the rule of spec A6 by hand, its stops, objectives and priors; the verb."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.models.small import SYSTEMS, config_of
from tests.models.test_stgan import caffe_layers
from tests.nets.caffe_files import new_net
from vgen_fast import ascent as climb
from vgen_fast import cli, conditions, maximize, recipes
from vgen_fast.ascent import LARGEST, Rule, climbed, maximised
from vgen_fast.data.cache import Cache
from vgen_fast.models import stgan
from vgen_fast.nets import caffenet, lrcn, trained
from vgen_fast.nets.c3d import C3D
from vgen_fast.nets.lrcn import LRCN
from vgen_fast.train import memory
from vgen_fast.train.__main__ import main


def seeded(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def run(codes, condition, rule, classes=None, encode=lambda clip: clip.flatten(2), make=lambda h: h):
    """Codes are their own clip, but for what a test makes of them."""
    path = []
    classes = torch.zeros(len(codes), dtype=torch.long) if classes is None else classes
    last = maximised(make, encode, condition, codes, classes, rule, seeded(len(codes)),
                     lambda i, seen: path.append(seen.codes))  # fmt: skip
    return last, path


def linear(number, classes=3):
    """Logits of each frame, linear in the code."""
    torch.manual_seed(1)
    weight = torch.randn(number, classes) / 100
    return lambda clip: clip @ weight


def test_a_step_changes_a_code_by_its_length_on_average():
    codes = 15 + torch.rand(2, 3, 8)  # far from both ends
    last, path = run(codes, linear(8), Rule(iterations=10, back=1e-3))
    moves = [float((b - a).abs().mean()) for a, b in pairwise(path)]
    assert moves == pytest.approx([1.0 - 0.9 * i / 10 for i in range(10)], rel=1e-4)
    assert torch.equal(last.codes, path[-1])


def test_lengths_are_those_of_the_rule():
    rule = Rule(iterations=100)
    assert rule.length(0) == 1.0
    assert rule.length(99) == pytest.approx(0.109)
    assert Rule(iterations=100, inclusive=True).length(99) == pytest.approx(0.1)
    assert Rule(iterations=1, inclusive=True).length(0) == 1.0


@pytest.mark.parametrize("objective", ["ppgn", "log_softmax"])
def test_the_gradient_at_the_logits_is_the_published_one(objective):
    logits = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([3, 0])
    value, p = climbed(logits, classes, objective)
    (found,) = torch.autograd.grad(value, logits)
    shares = logits.detach().softmax(dim=2)
    mine = torch.nn.functional.one_hot(classes, 5)[:, None].double()
    of_class = (shares * mine).sum(dim=2, keepdim=True)
    wanted = mine * (1 - of_class) if objective == "ppgn" else mine - shares
    torch.testing.assert_close(found, wanted / 4)  # a frame's share
    torch.testing.assert_close(p, of_class[..., 0].mean(dim=1))


def test_codes_stay_between_0_and_30():
    codes = torch.randn(2, 3, 8) * 20
    last, path = run(codes, linear(8), Rule(iterations=5))
    assert path[0].min() < 0
    assert all(found.min() >= 0 and found.max() <= LARGEST for found in path[1:])
    assert last.codes.min() == 0


def test_a_video_that_is_seen_for_certain_stays_and_the_others_go_on():
    codes = torch.stack([torch.full((2, 4), 10.0), torch.full((2, 4), 1.0)])
    sure = lambda clip: torch.stack([clip.mean(dim=2) * 20 - 180, torch.zeros(clip.shape[:2])], dim=2)  # noqa: E731
    last, path = run(codes, sure, Rule(iterations=6))
    assert all(torch.equal(found[0], codes[0]) for found in path)
    assert last.probability[0] == 1
    assert len(path) == 7
    assert (path[1][1] != codes[1]).all()


def test_all_are_done_before_the_end_where_nothing_moves_them():
    codes = torch.full((2, 3, 4), 5.0)
    still = lambda clip: clip.sum() * 0 + torch.zeros(2, 3, 5)  # noqa: E731
    _, path = run(codes, still, Rule(iterations=50, prior="none", noise=0.0))
    assert len(path) == 1


def test_the_prior_goes_where_the_encoder_points():
    codes, wanted = torch.full((1, 2, 4), 5.0), torch.tensor([9.0, 5.0, 1.0, 5.0])
    still = lambda clip: clip.sum() * 0 + torch.zeros(1, 2, 5)  # noqa: E731
    encode = lambda clip: wanted.expand(1, 2, 4)  # noqa: E731
    _, path = run(codes, still, Rule(iterations=1, noise=0.0), encode=encode)
    torch.testing.assert_close(path[1] - codes, torch.tensor([2.0, 0.0, -2.0, 0.0]).expand(1, 2, 4))
    _, path = run(codes, still, Rule(iterations=1, noise=0.0, prior="l1"))
    torch.testing.assert_close(path[1], codes - 1)


def test_a_gradient_that_is_no_number_is_not_passed_over():
    broken = lambda clip: torch.stack([clip.mean(dim=2), (clip[..., 0] - 5).sqrt()], dim=2)  # noqa: E731
    codes = torch.full((2, 3, 4), 7.0)
    codes[1] = 5.0  # where the root has no slope
    with pytest.raises(FloatingPointError, match="of video 1 is not finite after 0 steps"):
        run(codes, broken, Rule(iterations=3))


def test_noise_of_the_published_size_changes_nothing_and_a_larger_one_is_each_video_s_own():
    codes = 15 + torch.rand(2, 3, 8)
    quiet, published, loud = (
        run(codes, linear(8), Rule(iterations=3, noise=noise))[0].codes for noise in (0.0, 1e-17, 1e-3)
    )
    assert torch.equal(quiet, published)
    assert not torch.equal(quiet, loud)
    alone = maximised(lambda h: h, lambda clip: clip, linear(8), codes[1:], torch.zeros(1, dtype=torch.long),
                      Rule(iterations=3, noise=1e-3), seeded(2)[1:]).codes  # fmt: skip
    torch.testing.assert_close(alone[0], loud[1])


@pytest.mark.parametrize("objective", ["ppgn", "log_softmax"])
def test_the_class_becomes_more_probable(objective):
    codes, classes = torch.rand(4, 3, 8) * 5, torch.tensor([0, 1, 2, 0])
    condition = lambda clip: linear(8)(clip) * 10  # noqa: E731
    before = climbed(condition(codes), classes, objective)[1]
    last, _ = run(codes, condition, Rule(iterations=30, objective=objective), classes)
    assert (last.probability > before).all()


# ------------------------------------------------------------------------------------------------- conditions, the verb

SMALL = replace(SYSTEMS["stgan"], size=32)
FACTS = trained.Facts("small", (2, 32, 32), "motion", ("up", "down", "left"), "shapes", 0, 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run and a classifier, neither of them trained."""
    folder = tmp_path_factory.mktemp("made")
    recipes.RECIPES["small"] = lambda: config_of("stgan", system=SMALL, clips=8, optim={"ema": 0.0})
    assert main(["small", "--outdir", str(folder / "run")]) == 0
    recipes.RECIPES["small"] = lambda: config_of("tgan", clips=8, optim={"rule": "rmsprop"})
    assert main(["small", "--outdir", str(folder / "tgan")]) == 0
    del recipes.RECIPES["small"]
    (folder / "classifier").mkdir()
    (folder / "classifier" / trained.FACTS).write_bytes(trained.facts_json(FACTS))
    torch.manual_seed(0)
    network = trained.network(FACTS)
    with torch.no_grad():
        for p in network.parameters():  # torch's own fade from layer to layer
            p.mul_(3.0)
    torch.save(network.state_dict(), folder / "classifier" / trained.WEIGHTS)
    return folder


def test_a_condition_sees_the_pixels_that_the_classifier_was_trained_on(made):
    network = trained.load(made / "classifier").eval()
    video = torch.randint(256, (2, 3, 2, 32, 32), dtype=torch.uint8)
    clip = stgan.for_caffe(video / 127.5 - 1)
    torch.testing.assert_close(conditions.of_ours(network)(clip)[:, 0], network(video), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["small-lrcn", "frames"])
def test_small_networks_of_frames_lead_as_they_tell(kind, tmp_path):
    facts = replace(FACTS, kind=kind)
    torch.manual_seed(0)
    torch.save(trained.network(facts).state_dict(), tmp_path / trained.WEIGHTS)
    (tmp_path / trained.FACTS).write_bytes(trained.facts_json(facts))
    video = torch.randint(256, (2, 3, 2, 32, 32), dtype=torch.uint8)
    leader = conditions.leader_of(str(tmp_path))
    assert leader.classes == FACTS.values
    assert (leader.label, leader.frames, leader.size) == ("motion", 1, 32)
    logits = leader.condition(stgan.for_caffe(video / 127.5 - 1))
    assert logits.shape == (2, 2, 3)  # of each frame
    wanted = trained.load(tmp_path).eval()(video)
    torch.testing.assert_close(logits.mean(dim=1), wanted, rtol=1e-4, atol=1e-4)


def test_lrcn_leads_in_its_own_colours_by_every_frame():
    torch.manual_seed(0)
    with torch.device("meta"):
        network = LRCN(5)
    seen = []
    network.of_frames = lambda pictures: seen.append(pictures) or torch.zeros(4, 6)
    network.over_time = lambda codes: (codes[..., :5], codes)
    video = torch.randint(256, (1, 3, 4, 227, 227)).float()
    assert conditions.of_lrcn(network)(stgan.for_caffe(video / 127.5 - 1)).shape == (1, 4, 5)
    wanted = caffenet.prepare(video[0].transpose(0, 1), lrcn.MEAN)
    torch.testing.assert_close(seen[0], wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["small-lrcn", "frames"])
def test_recomputing_some_frames_at_a_time_changes_no_gradient(kind, tmp_path):
    facts = replace(FACTS, kind=kind)
    torch.manual_seed(0)
    network = trained.network(facts).double().eval().requires_grad_(False)
    make = conditions.of_encoder if kind == "frames" else conditions.of_lrcn
    clip = torch.randn(2, 3, 5, 32, 32).double().mul(50).requires_grad_()
    (kept,), (again,) = (
        torch.autograd.grad(make(network)(clip, recompute).square().sum(), clip) for recompute in (False, True)
    )
    torch.testing.assert_close(again, kept)


def held(made, batch, recompute):
    generator = stgan.Generator(SMALL)
    leader = conditions.leader_of(str(made / "classifier"))
    return maximize.held(generator, maximize.encoder_of(SMALL), leader, batch, recompute)


def size(count):
    return f"{count / 2**20 + 0.001:.3f}MiB"


def test_what_a_step_holds_is_foretold(made):
    found = [held(made, batch, recompute) for batch, recompute in ((1, True), (1, False), (2, False), (4, False))]
    assert found == sorted(set(found))
    generator, leader = stgan.Generator(SMALL).requires_grad_(False), conditions.leader_of(str(made / "classifier"))
    codes, classes = torch.rand(4, 2, SMALL.codes), torch.zeros(4, dtype=torch.long)
    with memory.Live() as live:
        climb.ascent(
            lambda h: maximize.clip_of(generator, h), lambda c: leader.condition(c, False), codes, classes, "ppgn"
        )
    networks = (generator, maximize.encoder_of(SMALL), leader.network)
    weights = sum(p.numel() * 4 for network in networks for p in network.parameters())
    assert found[-1] == pytest.approx(live.most + weights, rel=0.05)


def test_a_set_is_kept_as_it_grows_and_goes_on(made, tmp_path, monkeypatch, capsys):
    words = ["maximize", str(made / "run"), "--condition", str(made / "classifier"), "--iterations", "3"]
    words += ["--count", "7", "--batch", "2"]
    assert cli.main([*words, "--out", str(tmp_path / "whole.vgc")]) == 0
    capsys.readouterr()
    whole, ascent, steps = Cache(tmp_path / "whole.vgc"), climb.ascent, []

    def until_it_dies(*given):
        steps.append(given)
        if len(steps) > 7:  # in the third batch of two
            raise KeyboardInterrupt
        return ascent(*given)

    monkeypatch.setattr(climb, "ascent", until_it_dies)
    with pytest.raises(KeyboardInterrupt):
        cli.main([*words, "--out", str(tmp_path / "parts.vgc")])
    monkeypatch.setattr(climb, "ascent", ascent)
    assert "57%  " in capsys.readouterr().out
    assert cli.main([*words, "--out", str(tmp_path / "parts.vgc")]) == 0
    told = capsys.readouterr().out
    assert "up, seed 0" not in told
    assert "100%  " in told
    parts = Cache(tmp_path / "parts.vgc")
    assert whole.labels == parts.labels == {"motion": ("up", "down", "left")}
    assert whole.column("id") == [f"{c}-00000{i}" for i in range(3) for c in FACTS.values][:7]
    assert whole.column("sha256") == parts.column("sha256")
    assert whole.label.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert all(0 <= scores["probability"] <= 1 for scores in whole.column("scores"))
    assert cli.main([*words, "--out", str(tmp_path / "parts.vgc")]) == 2
    assert "is complete" in capsys.readouterr().err


def test_a_video_of_a_set_that_is_no_number_is_left_out_aloud(made, tmp_path, monkeypatch, capsys):
    ascent = climb.ascent

    def broken(make, condition, codes, classes, objective):
        seen, gradient = ascent(make, condition, codes, classes, objective)
        return seen, gradient.where((classes != 1)[:, None, None], torch.nan)

    monkeypatch.setattr(climb, "ascent", broken)
    words = ["maximize", str(made / "run"), "--condition", str(made / "classifier"), "--iterations", "2"]
    assert cli.main([*words, "--count", "4", "--out", str(tmp_path / "set.vgc")]) == 0
    told = capsys.readouterr()
    assert "down-000000 is left out: the gradient of video 0 is not finite after 0 steps" in told.err
    assert "3 of 4 videos" in told.out
    assert Cache(tmp_path / "set.vgc").label.tolist() == [0, 2, 0]
    assert "down-000000,not finite," in (tmp_path / "set.vgc" / "rejected.csv").read_text()


def test_c3d_leads_in_224_pixels_of_the_256(tmp_path, monkeypatch):
    """A clip that is its own position in the 256x256; C3D and its mean cube as they are published, but drawn."""
    monkeypatch.setattr(conditions, "mean_cube", lambda: torch.zeros(3, 16, 128, 171))
    network, seen = C3D(101, ((2,), (2,), (2,), (2,), (2,)), 4, (16, 224, 224), double_stride=True), []
    monkeypatch.setattr(conditions.weights, "find", lambda published: tmp_path)
    monkeypatch.setattr(conditions.weights, "digest", lambda path: "d" * 64)
    monkeypatch.setattr(conditions.c3d, "load", lambda path, double_stride: network if double_stride else None)
    leader = conditions.leader_of("c3d")
    assert leader.classes[11] == "Billiards"
    assert (leader.frames, leader.size, leader.name) == (16, 224, "c3d-ucf101@dddddddddddd")
    monkeypatch.setattr(network, "forward", lambda video: seen.append(video) or SimpleNamespace(logits=video[:, 0, 0]))
    places = torch.arange(256.0)[None, :] + 1000 * torch.arange(256.0)[:, None]
    whole = places.expand(1, 3, 18, 256, 256) - torch.tensor(caffenet.MEAN)[:, None, None, None]
    cfg = stgan.Config(frames=18)
    maximize.asked(cfg, leader, False, stgan.cropped(whole, cfg.size))
    assert seen[0].shape == (1, 3, 16, 224, 224)
    assert torch.equal(seen[0][0, 0, 0], places[16:240, 16:240])


def test_a_run_of_images_is_inflated_on_the_way(made, tmp_path):
    out = tmp_path / "out.npz"
    flat = replace(SMALL, depth=1, frames=1)
    recipes.RECIPES["small"] = lambda: config_of("stgan", system=flat, clips=8, optim={"ema": 0.0})
    assert main(["small", "--outdir", str(tmp_path / "flat")]) == 0
    del recipes.RECIPES["small"]
    words = [str(tmp_path / "flat"), "--condition", str(made / "classifier"), "--iterations", "2", "--frames", "3"]
    assert cli.main(["maximize", *words, "--classes", "up", "--out", str(out)]) == 0
    with np.load(out) as file:
        assert file["videos"].shape == (1, 3, 32, 32, 3)


def test_the_verb_makes_a_video_for_each_class_and_seed(made, tmp_path, capsys):
    out = tmp_path / "out.npz"
    words = ["maximize", str(made / "run"), "--condition", str(made / "classifier"), "--iterations", "12"]
    assert cli.main([*words, "--classes", "down,2", "--seeds", "0-2", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "down, seed 0: p = " in told
    assert "left, seed 2: p = " in told
    with np.load(out) as file:
        videos = file["videos"]
    assert videos.shape == (6, 2, 32, 32, 3)
    again = held(made, 1, recompute=True)
    assert cli.main([*words, "--classes", "left", "--seeds", "2", "--memory", size(again), "--out", str(out)]) == 0
    assert "1 of 4 videos at once, activations made again" in capsys.readouterr().out
    with np.load(out) as file:
        assert (np.abs(file["videos"][0].astype(int) - videos[5]) <= 1).all()
    assert cli.main([*words, "--memory", "1MB"]) == 2
    assert "--memory 1MB: a step of one video needs " in capsys.readouterr().err


def test_the_verb_shows_the_way(made, tmp_path):
    out = tmp_path / "way.npz"
    words = ["maximize", str(made / "run"), "--condition", str(made / "classifier"), "--iterations", "6"]
    assert cli.main([*words, "--every", "2", "--out", str(out)]) == 0
    with np.load(out) as file:
        videos = file["videos"]
    assert videos.shape == (3, 4, 32, 32, 3)
    assert (videos[:, 0] != videos[:, -1]).any()


def test_the_released_generator_is_inflated_on_the_way(made, tmp_path, monkeypatch):
    path, out = tmp_path / "generator.caffemodel", tmp_path / "out.npz"
    path.write_bytes(new_net(caffe_layers(SMALL, np.random.default_rng(0))))
    monkeypatch.setattr(stgan, "Config", lambda frames: replace(SMALL, frames=frames))
    words = ["maximize", str(path), "--condition", str(made / "classifier"), "--iterations", "2", "--frames", "3"]
    assert cli.main([*words, "--classes", "up", "--out", str(out)]) == 0
    with np.load(out) as file:
        assert file["videos"].shape == (1, 3, 32, 32, 3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["maximize"], "maximize wants a run folder first"),
        (["maximize", "RUN", "--condition", "none"], "'none' is neither lrcn, nor c3d, nor a folder"),
        (["maximize", "RUN", "--condition", "lrcn"], "--condition: LRCN trained on UCF-101: put RGB_lstm_model"),
        (["maximize", "RUN", "--classes", "sideways"], "'sideways' is none of the 3; the nearest is "),
        (["maximize", "RUN", "--frames", "1"], "sees 2 frames, the videos have 1"),
        (["maximize", "TGAN"], "is a tgan run: maximize changes the codes of stgan's generator"),
        (["maximize", "RUN", "--out", "video.avi"], "--out wants a name that ends in"),
        (["animate", "PHOTO", "--run", "RUN"], "is a stgan generator that starts from no frame"),
    ],
)
def test_what_cannot_be_maximised_is_refused_in_one_sentence(words, sentence, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VGEN_FAST_WEIGHTS", str(tmp_path))
    (tmp_path / "photo.png").write_bytes(b"")
    places = {"RUN": made / "run", "TGAN": made / "tgan", "PHOTO": tmp_path / "photo.png"}
    words = [str(places.get(word, word)) for word in words]
    if words[0] == "maximize" and len(words) > 1 and "--condition" not in words:
        words += ["--condition", str(made / "classifier")]
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
