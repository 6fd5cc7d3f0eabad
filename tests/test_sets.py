"""Sets of generated clips: who sees what in them, which are taken, what they are worth as training data."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vgen_fast import cli, sets
from vgen_fast.classify import started
from vgen_fast.data.cache import Cache, Clip, Writer
from vgen_fast.data.loader import CachedClips, Window
from vgen_fast.metrics import inception_score
from vgen_fast.nets import trained
from vgen_fast.train.classifier import PLANS, optimizer_of

FACTS = trained.Facts("small", (2, 32, 32), "colour", ("red", "green", "blue"), "colours", 0, 0)


def coloured(label: int, rng: np.random.Generator, frames: int = 2, noise: int = 60) -> np.ndarray:
    video = rng.integers(0, noise + 1, (frames, 32, 32, 3))
    video[..., label] += 150
    return video.astype(np.uint8)


def cache(path, labels, seed=0, split="train", recipe=None, shown=None, **more):
    """Clips of one colour each; `shown`: another one than the label says."""
    rng, writer = np.random.default_rng(seed), Writer(path, (32, 32), recipe or {})
    for i, label in enumerate(labels):
        frames = coloured(label if shown is None else shown[i], rng, **more)
        known = Clip(f"{i:04}", 8.0, int(label), split if isinstance(split, str) else split[i])
        writer.add(known.id, [(known, frames)])
    writer.finish({"colour": FACTS.values}, {})
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A classifier of three colours, and one that sees everything as blue."""
    folder = tmp_path_factory.mktemp("sets")
    data = cache(folder / "data.vgc", [i % 3 for i in range(60)], split=["train", "test"] * 30)
    words = ["train", "classifier", "--data", str(data), "--split", "train", "--clips", "240", "--batch", "12"]
    assert cli.main([*words, "--outdir", str(folder / "knows")]) == 0
    facts, network = replace(FACTS, data=str(data)), trained.network(FACTS)
    torch.nn.init.zeros_(network.fc8.weight)
    network.fc8.bias.data = torch.tensor([0.0, 0.0, 5.0])
    (folder / "blind").mkdir()
    (folder / "blind" / trained.FACTS).write_bytes(trained.facts_json(facts))
    torch.save(network.state_dict(), folder / "blind" / trained.WEIGHTS)
    return folder


def test_scores_are_those_of_each_classifier_and_the_leader_s_own_is_marked(made, tmp_path, capsys):
    name = trained.load(made / "knows").name
    labels, shown = [0, 1, 2, 0], [0, 1, 2, 1]  # the last is not what it was asked to be
    by_it = cache(tmp_path / "a.vgc", labels, recipe={"generator": "G", "condition": name}, shown=shown)
    other = cache(tmp_path / "b.vgc", labels, recipe={"generator": "G", "condition": "another"}, shown=shown)
    scorers = f"{made / 'knows'},{made / 'blind'}"
    words = ["sets", "score", str(by_it), str(other), "--scorers", scorers, "--real", str(made / "data.vgc")]
    assert cli.main([*words, "--split", "test", "--out", str(tmp_path / "s.json")]) == 0
    table = capsys.readouterr().out
    rows = json.loads((tmp_path / "s.json").read_text())
    knows, blind = rows[0]["by"].values()
    assert (knows["as asked"], blind["as asked"]) == (0.75, 0.25)
    assert blind["inception score"] == pytest.approx(1)
    video = torch.from_numpy(np.stack([Cache(other).read(i) for i in range(4)])).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        p = trained.load(made / "knows").eval()(video).softmax(dim=1)
    assert knows["inception score"] == pytest.approx(float(inception_score.inception_score(p)[0]), rel=1e-5)
    fooling = [[cell["fooling"] for cell in row["by"].values()] for row in rows]
    assert fooling == [[True, False], [False, False], [False, False]]
    assert table.count("fooling") == 1
    assert rows[2]["generator"] == "real clips"
    assert "30 clips" in rows[2]["by"][name]["protocol"]
    assert rows[2]["by"][name]["as asked"] == 1
    assert (tmp_path / "s.md").read_text() in table


def test_those_that_add_most_are_taken_of_each_class():
    """By hand: p's mean is even, so a clip adds ln 2 less its entropy."""
    sure, surer, weak = [0.9, 0.1], [0.95, 0.05], [0.6, 0.4]
    p = torch.tensor([sure, surer, weak, sure[::-1], surer[::-1], weak[::-1]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 0])
    chosen, adds = sets.taken(p, labels, most=100)
    entropy = lambda a: -(a * np.log(a) + (1 - a) * np.log(1 - a))  # noqa: E731
    np.testing.assert_allclose(adds[:3], [np.log(2) - entropy(a) for a in (0.9, 0.95, 0.6)])
    assert chosen == [0, 1, 3, 4]
    assert sets.taken(p, labels, most=1)[0] == [1, 4]
    assert sets.taken(p, labels, most=100, least=0.0)[0] == [0, 1, 2, 3, 4]
    assert sets.taken(p, labels, most=100, least=0.0, any_label=True)[0] == list(range(6))


def test_a_selection_is_a_cache_of_what_was_taken(made, tmp_path, capsys):
    labels, shown = [0, 0, 1, 1, 2], [0, 0, 1, 2, 0]
    a = cache(tmp_path / "a.vgc", labels, recipe={"generator": "G", "condition": "C"}, shown=shown)
    words = ["sets", "select", str(a), "--classifier", str(made / "knows"), "--most", "1", "--least", "0"]
    assert cli.main([*words, "--out", str(tmp_path / "chosen.vgc")]) == 0
    assert "2 of 5 clips, of 2 classes, none of blue" in capsys.readouterr().out
    found, whole = Cache(tmp_path / "chosen.vgc"), Cache(a)
    assert [found.labels["colour"][label] for label in found.label] == ["red", "green"]
    assert found.column("sha256")[1] == whole.column("sha256")[2]
    assert found.column("scores")[1]["adds"] > 0
    picture = (tmp_path / "chosen.svg").read_text()
    for told in ("red: 2 made", "red: 1 taken", "blue: 1 made", "blue: 0 taken"):
        assert told in picture


def test_joined_sets_show_each_clip_once_a_round(tmp_path):
    a, b = (cache(tmp_path / f"{n}.vgc", labels, seed=n) for n, labels in ((0, [0, 1, 2]), (1, [2, 2, 0, 1])))
    caches = [Cache(a), Cache(b)]
    joined = sets.Joined(tuple(CachedClips(one, Window(2), 5) for one in caches), 5)
    known = {one.read(i).tobytes(): int(one.label[i]) for one in caches for i in range(len(one))}
    orders = []
    for time_round in range(2):
        video, labels = joined(torch.arange(7) + 7 * time_round, (2, 32, 32))
        bytes_of = [clip.permute(1, 2, 3, 0).contiguous().numpy().tobytes() for clip in video]
        assert set(bytes_of) == set(known)
        assert [known[one] for one in bytes_of] == labels[:, 0].tolist()
        orders.append(bytes_of)
    assert orders[0] != orders[1]


def test_what_sets_are_worth_is_told_for_generated_real_and_both(made, tmp_path, capsys):
    """Generated clips whose labels are wrong make it worse; right ones alone are enough."""
    right = cache(tmp_path / "right.vgc", [i % 3 for i in range(12)], seed=7)
    wrong = cache(tmp_path / "wrong.vgc", [i % 3 for i in range(12)], seed=7, shown=[(i + 1) % 3 for i in range(12)])
    found = {}
    for name, path in {"right": right, "wrong": wrong}.items():
        words = ["sets", "augment", str(path), "--real", str(made / "data.vgc"), "--clips", "360", "--batch", "12"]
        words += ["--seeds", "0,1", "--test-every", "10", "--out", str(tmp_path / f"{name}.json")]
        assert cli.main([*words, "--average", "0.5"]) == 0
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert list(found["right"]["accuracy"]) == ["generated", "real", "both"]
    assert found["right"]["facts"]["test clips"] == 30
    for rows in found["right"]["accuracy"].values():
        assert [len(row["path"]) for row in rows] == [3, 3]
        assert all(row["best"] == max(row["path"]) for row in rows)
        assert all(row["last"] > 0.9 for row in rows)
    assert all(row["last"] < 0.2 for row in found["wrong"]["accuracy"]["generated"])
    assert found["right"]["accuracy"]["real"] == found["wrong"]["accuracy"]["real"]
    assert "| generated | 100.0% | ± 0.0% of 2 | 100.0% | ± 0.0% |" in capsys.readouterr().out


def test_the_error_of_an_accuracy_is_binomial():
    rows = {"real": [{"best": 0.4, "last": 0.3}, {"best": 0.6, "last": 0.5}]}
    line = sets.accuracies(rows, 100).splitlines()[-1]
    assert line == "| real | 50.0% | ± 10.0% of 2 | 40.0% | ± 5.0% |"


def test_the_paper_s_tuning_has_its_rates_and_decay():
    optimizer = optimizer_of(trained.Trained(FACTS, trained.network(FACTS), ""), PLANS["c3d-augment"])
    told = [(group["factor"], group["weight_decay"], group["params"][0].ndim) for group in optimizer.param_groups]
    assert isinstance(optimizer, torch.optim.Adam)
    assert told[-2:] == [(10.0, 5e-4, 2), (10.0, 0.0, 1)]
    assert all(factor == 1.0 and decay == (0.0 if ndim == 1 else 5e-4) for factor, decay, ndim in told[:-2])
    assert [PLANS["c3d-augment"].rate_after(clips) for clips in (0, 49_990)] == [1e-4, 1e-4]


def test_a_training_starts_from_a_classifier_of_ours_but_for_the_last_layer(made):
    facts = trained.load(made / "knows").facts
    known = trained.load(made / "knows").inner.state_dict()
    torch.manual_seed(1)
    found = started(replace(facts, values=("a", "b")), str(made / "knows")).state_dict()
    assert found["fc8.weight"].shape[0] == 2
    assert all(torch.equal(found[name], known[name]) for name in known if not name.startswith("fc8."))


def test_an_lrcn_starts_from_a_network_of_frames(made, tmp_path):
    facts = replace(FACTS, kind="frames")
    network = trained.network(facts)
    torch.save(network.state_dict(), tmp_path / trained.WEIGHTS)
    (tmp_path / trained.FACTS).write_bytes(trained.facts_json(facts))
    known, found = network.state_dict(), started(replace(FACTS, kind="small-lrcn"), str(tmp_path)).state_dict()
    shared = [name for name in found if name.startswith(("convolutions.", "fc6."))]
    assert len(shared) == 12
    assert all(torch.equal(found[name], known[name]) for name in shared)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sets", "sum"], "sets has no 'sum': score, select, augment"),
        (["sets", "score"], "sets score wants sets first"),
        (["sets", "select", "DATA", "DATA"], "sets select wants one set first"),
        (["sets", "score", "none.vgc"], "none.vgc is no cache: it has no index.json"),
        (["sets", "score", "DATA", "--scorers", "nobody"], "'nobody' is neither c3d, nor lrcn, nor a folder"),
        (["sets", "score", "DATA", "--scorers", "c3d"], "put conv3d_deepnetA_ucf.npz from "),
        (["sets", "augment", "DATA"], "--real CACHE has the real clips"),
        (["sets", "augment", "DATA", "--real", "DATA", "--weights", "OTHER"], "is a small of 2x32x32, wanted a "),
        (["sets", "select", "DATA", "--classifier", "KNOWS", "--least", "9", "--out", "OUT"], "takes none of the 60"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_one_sentence(words, sentence, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VGEN_FAST_WEIGHTS", str(tmp_path))
    places = {"DATA": made / "data.vgc", "KNOWS": made / "knows", "OTHER": made / "knows", "OUT": tmp_path / "o.vgc"}
    if "OTHER" in words:
        words = [*words, "--network", "frames"]
    assert cli.main([str(places.get(word, word)) for word in words]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert not (tmp_path / "o.vgc").exists()
