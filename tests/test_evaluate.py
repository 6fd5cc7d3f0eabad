"""`evaluate` and `compare` on a short run: every score with its interval, its protocol and that of reals beside it."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from vgen_fast import evaluate, recipes, sides
from vgen_fast.cli import main
from vgen_fast.config import Config, Grow
from vgen_fast.data.cache import Clip, Writer
from vgen_fast.data.synthetic import MovingShapes
from vgen_fast.data.write import mp4
from vgen_fast.layers.dual_critics import Critics
from vgen_fast.metrics import measures
from vgen_fast.metrics.measures import COLOURS, MOTION
from vgen_fast.metrics.presets import PROTOCOLS, Protocol
from vgen_fast.metrics.protocol import read
from vgen_fast.models import style_prediction
from vgen_fast.models.progressive import Config as System
from vgen_fast.models.progressive import rows
from vgen_fast.nets.trained import Trained
from vgen_fast.sides import source
from vgen_fast.train.__main__ import main as train

CLASSIFIED = {"inception score", "frechet, clips", "frechet, frames", "label as asked"}
NAMES = CLASSIFIED | {"frechet, motion", "pieces", "ms-ssim of pairs", "ms-ssim, frame to frame", "content distance"}


def short() -> Config:
    system = System(rows=rows((8, 8, 4, 4), (4, 2, 1, 1)), latents=8, features=8, classes=(8, 3, 4))
    return Config(recipe="short", system=system, clips=40, phases=(Grow(0, 8, 8),) * 4)


def predicting() -> Config:
    critics = Critics(spatial=(8,), temporal=(8,), frames=2, attention=False)
    system = style_prediction.Config(size=32, width=1, frames=8, critics=critics)
    return Config(recipe="predicting", system=system, objective="hinge", clips=8, phases=(Grow(0, 8, 8),))


@pytest.fixture(autouse=True)
def features(tmp_path, monkeypatch):
    monkeypatch.setenv("VGEN_FAST_FEATURES", str(tmp_path / "features"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that ends at 8x32x32, one that has not got beyond 4x4x4, and a classifier."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "short", short)
        assert train(["short", "--outdir", str(folder / "run")]) == 0
        assert train(["short", "--outdir", str(folder / "begun"), "--clips", "8"]) == 0
        patch.setitem(recipes.RECIPES, "predicting", predicting)
        assert train(["predicting", "--outdir", str(folder / "predicting")]) == 0
    assert train(["classifier", "--clips", "40", "--test-clips", "20", "--outdir", str(folder / "classifier")]) == 0
    return folder


def evaluated(folder, *words: str, run: str = "run", clips: int = 24) -> int:
    count = ["--clips", str(clips), *words]
    return main(["evaluate", str(folder / run), "--classifier", str(folder / "classifier"), *count])


def test_every_score_has_an_interval_a_protocol_and_that_of_reals(folder, capsys):
    assert evaluated(folder) == 0
    said = capsys.readouterr().out
    found = read(folder / "run" / "scores.json")
    assert set(found) == NAMES
    for score_name, score in found.items():
        assert score_name in said
        assert math.isfinite(score.real)
        assert score.low <= score.high or math.isnan(score.value), score_name
        assert "24 clips/8x32x32/shapes/seed 0" in score.protocol
        assert ("small-motion@" in score.protocol) == (score_name in CLASSIFIED)
    facts = json.loads((folder / "run" / "scores.json").read_text())["facts"]
    assert facts == {"run": str(folder / "run"), "checkpoint": "newest", "clips_seen": 40}


def test_the_same_command_gives_the_same_numbers_and_another_seed_others(folder):
    for out, seed in (("a.json", "0"), ("b.json", "0"), ("c.json", "1")):
        assert evaluated(folder, "--out", str(folder / out), "--seed", seed) == 0
    a, b, c = (read(folder / name) for name in ("a.json", "b.json", "c.json"))
    assert a == b
    assert a["frechet, clips"].value != c["frechet, clips"].value


def test_untrained_and_trained_are_compared_and_other_counts_are_not(folder, capsys):
    assert evaluated(folder) == 0
    assert evaluated(folder, "--checkpoint", "untrained") == 0
    scores = folder / "run" / "scores.json"
    capsys.readouterr()
    assert main(["compare", str(scores), str(folder / "run" / "scores-untrained.json")]) == 0
    assert "inception score" in capsys.readouterr().out
    assert evaluated(folder, "--out", str(folder / "more.json"), clips=25) == 0
    assert main(["compare", str(scores), str(folder / "more.json")]) == 2
    assert "measured in different ways: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "evaluate wants a run folder or other clips first"),
        (["nowhere"], "is no trained classifier"),
        (["nowhere", "--clps", "3"], "--clips"),
    ],
)
def test_mistakes_are_answered_by_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_what_does_not_fit_together_is_refused(folder, capsys):
    assert evaluated(folder, run="begun") == 2
    assert "this run has reached 4x4x4" in capsys.readouterr().err
    assert evaluated(folder, run="absent") == 2
    assert "absent is no run folder, no cache" in capsys.readouterr().err
    assert main(["compare", "a.json"]) == 2
    assert "compare wants two files" in capsys.readouterr().err


def test_real_clips_are_not_compared_with_themselves(folder, monkeypatch, capsys):
    """Data of 40 clips have no 24 others."""
    monkeypatch.setattr(MovingShapes, "count", 40)
    assert evaluated(folder) == 2
    assert "--clips 24: shapes has 40 clips; real ones are compared with as many others" in capsys.readouterr().err


def test_a_generator_without_labels_is_scored_by_a_classifier_of_any(tmp_path, monkeypatch):
    system = replace(short().system, classes=())
    monkeypatch.setitem(recipes.RECIPES, "bare", lambda: short().model_copy(update={"system": system}))
    assert train(["bare", "--outdir", str(tmp_path / "run")]) == 0
    words = ["--label", "colour", "--clips", "20", "--test-clips", "20", "--outdir", str(tmp_path / "classifier")]
    assert train(["classifier", *words]) == 0
    assert evaluated(tmp_path) == 0
    assert set(read(tmp_path / "run" / "scores.json")) == NAMES - {"label as asked"}


def arrays(folder) -> tuple[str, str]:
    """Generated clips as `generate` leaves them, and real ones."""
    fake, real = folder / "fake.npz", folder / "real.npy"
    if not real.exists():
        assert main(["generate", str(folder / "run"), "--seeds", "0-11", "--out", str(fake)]) == 0
        video, _ = MovingShapes((8, 32, 32), 3)(torch.arange(30), (8, 32, 32))
        np.save(real, video.movedim(1, -1).numpy())
    return str(fake), str(real)


def test_arrays_are_scored_as_the_run_is_that_made_them(folder, capsys):
    fake, real = arrays(folder)
    words = ["--classifier", str(folder / "classifier"), "--clips", "12", "--real", real]
    assert main(["evaluate", fake, *words]) == 0
    array = read(folder / "fake.npz-scores.json")
    assert main(["evaluate", str(folder / "run"), *words, "--out", str(folder / "run.json")]) == 0
    run = read(folder / "run.json")
    assert set(array) == NAMES - {"label as asked"}
    assert {name: run[name] for name in array} == array
    capsys.readouterr()
    assert main(["evaluate", fake, "--classifier", str(folder / "classifier")]) == 2
    assert f"--real: which real clips is {fake} compared with?" in capsys.readouterr().err
    assert main(["evaluate", fake, *words[:2], "--clips", "13", "--real", real]) == 2
    assert f"--clips: {fake} has 12 clips, wanted 13" in capsys.readouterr().err


def test_caches_and_folders_of_videos_are_scored_and_bad_files_left_out_aloud(folder, tmp_path, capsys):
    clips = np.load(arrays(folder)[1])
    writer, films = Writer(tmp_path / "real.vgc", (32, 32), {}), tmp_path / "films"
    films.mkdir()
    for number, frames in enumerate(clips):
        writer.add(str(number), [(Clip(str(number)), frames)])
    for number, frames in enumerate(clips[:5]):
        mp4(films / f"{number}.mp4", frames, fps=8)
    writer.finish({}, {})
    (films / "torn.mp4").write_bytes((films / "0.mp4").read_bytes()[:200])
    words = ["--classifier", str(folder / "classifier"), "--real", str(tmp_path / "real.vgc")]
    assert main(["evaluate", str(films), *words, "--clips", "5", "--size", "8", "32", "32"]) == 0
    assert f"left out {films}/torn.mp4: " in capsys.readouterr().err
    cache = [str(tmp_path / "real.vgc"), *words, "--clips", "31", "--size", "8", "32", "32"]
    assert main(["evaluate", *cache]) == 2  # a clip must not come twice
    assert "real.vgc has 30 clips, wanted 31" in capsys.readouterr().err
    assert "5 clips/8x32x32/" in read(tmp_path / "films-scores.json")["content distance"].protocol
    assert main(["evaluate", str(films), *words, "--clips", "6", "--size", "8", "32", "32"]) == 2
    assert "there are 5 generated clips, wanted 6" in capsys.readouterr().err
    assert main(["evaluate", str(films), *words]) == 2
    assert f"--size: which frames, height and width of {films} are scored?" in capsys.readouterr().err


def test_real_clips_are_shown_to_the_classifier_once(folder, monkeypatch):
    shown = []
    features = Trained.features
    monkeypatch.setattr(Trained, "features", lambda self, video: shown.append(len(video)) or features(self, video))
    assert evaluated(folder, clips=16) == 0
    assert sum(shown) == 2 * 3 * 16  # whole clips and still ones; real, other and generated
    first = read(folder / "run" / "scores.json")
    shown.clear()
    assert evaluated(folder, clips=16) == 0
    assert sum(shown) == 2 * 16
    assert read(folder / "run" / "scores.json") == first
    assert evaluated(folder, "--afresh", clips=16) == 0
    assert sum(shown) == 2 * 4 * 16


def test_any_function_can_describe_frames(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("def places(frames): return frames.mean(axis=(2, 3))")
    monkeypatch.syspath_prepend(tmp_path)
    assert evaluated(folder, "--descriptor", "mine:places") == 0
    assert read(folder / "run" / "scores.json")["content distance"].protocol.startswith("content by mine:places/")
    assert evaluated(folder, "--descriptor", "mine:faces") == 2
    assert "--descriptor: 'mine:faces' cannot be imported: " in capsys.readouterr().err


def test_too_few_real_clips_of_a_published_protocol_come_again_and_that_is_told(folder, monkeypatch, capsys):
    """Such as ten windows of each training video; a score says so in its protocol."""
    metric = measures.mean("light", "near", COLOURS, "content", "colours")
    distance = measures.frechet_distance("distance", MOTION, "motion", "motion")
    monkeypatch.setitem(PROTOCOLS, "fvd", Protocol(lambda seed: [metric, distance], 16, 60))
    monkeypatch.setattr(MovingShapes, "count", 40)
    assert main(["evaluate", str(folder / "run"), "--protocol", "fvd"]) == 0
    said = capsys.readouterr()
    assert "shapes has 40 clips, of 60 wanted; they come again with other frames: none are left" in said.err
    assert re.search(r"distance .* none   low\n", said.out)
    found = read(folder / "run" / "scores.json")
    assert found["light"].protocol == "colours/16 clips/8x32x32/shapes, 40 clips again and again/seed 0"
    assert math.isfinite(found["light"].real)
    assert math.isnan(found["distance"].real)


def test_a_score_that_is_no_distance_is_measured_of_the_real_clips(folder, monkeypatch, capsys):
    """As TGAN's inception score is: there are fewer real clips than twice as many, and no others are looked at."""
    metric = measures.mean("light", "near", COLOURS, "content", "colours")
    monkeypatch.setitem(PROTOCOLS, "tgan", Protocol(lambda seed: [metric], 24, 24, times=2))
    monkeypatch.setattr(MovingShapes, "count", 40)
    assert main(["evaluate", str(folder / "run"), "--protocol", "tgan"]) == 0
    assert "40 clips" not in capsys.readouterr().err
    assert math.isfinite(read(folder / "run" / "scores.json")["light"].real)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "own"])
def test_a_published_protocol_tells_which_file_it_misses(folder, tmp_path, monkeypatch, capsys, protocol):
    monkeypatch.setenv("VGEN_FAST_WEIGHTS", str(tmp_path))
    assert main(["evaluate", str(folder / "run"), "--protocol", protocol]) == 2
    assert re.fullmatch(rf"vgen_fast: .*: put \S+ from https://\S+.* into {tmp_path}\n", capsys.readouterr().err)


def test_a_cache_is_named_by_its_content(tmp_path):
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        writer = Writer(tmp_path / f"{name}.vgc", (32, 32), {})
        writer.add("s", [(Clip("s"), np.full((8, 32, 32, 3), value, np.uint8))])
        writer.finish({}, {})
    configs = (short().model_copy(update={"data": str(tmp_path / f"{name}.vgc")}) for name in "abc")
    a, b, c = map(source, configs)
    assert a == b != c


def test_arrays_and_folders_are_named_by_their_content(tmp_path):
    """Not by their name, which those of other clips may have."""
    clips = np.random.default_rng(0).integers(256, size=(5, 8, 32, 32, 3), dtype=np.uint8)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        clips[0, 0, 0, 0, 0] = name == "c"
        np.save(tmp_path / name / "real.npy", clips)
        mp4(tmp_path / name / "0.mp4", clips[int(name == "c")], fps=8)
    a, b, c = (sides.of_array(tmp_path / name / "real.npy", 0).about for name in "abc")
    assert a == b != c
    np.savez(tmp_path / "d.npz", clips=clips)
    assert sides.of_array(tmp_path / "d.npz", 0).about == c
    a, b, c = (sides.content(tmp_path / name) for name in "abc")
    assert a == b != c
    (tmp_path / "b" / "0.mp4").rename(tmp_path / "b" / "1.mp4")
    assert sides.content(tmp_path / "b") != a
    a, b = (source(short().model_copy(update={"data": str(tmp_path / name)})) for name in "ab")
    assert a != b


def test_some_clips_of_an_array_are_of_all_of_it(tmp_path):
    """Half of those sorted by class have all ten classes, and each clip comes once."""
    classes = np.arange(10, dtype=np.uint8).repeat(30)
    np.save(tmp_path / "sorted.npy", np.broadcast_to(classes[:, None, None, None, None], (300, 2, 16, 16, 3)))
    orders = []
    for seed in (0, 0, 1):
        stream = sides.of_array(tmp_path / "sorted.npy", seed).stream()
        orders.append([int(clip[0, 0, 0, 0]) for clip, _ in stream])
    assert set(orders[0][:150]) == set(range(10))
    assert sorted(orders[0]) == classes.tolist()
    assert orders[0] == orders[1] != orders[2]


def test_help_ends_with_commands(capsys):
    assert main(["evaluate", "--help"]) == 0
    assert "python -m vgen_fast compare runs/shapes/scores.json best.json" in capsys.readouterr().out


def test_each_frame_of_a_prediction_is_scored_and_drawn_however_long_it_is(folder):
    run = folder / "predicting"
    assert evaluated(folder, run="predicting") == 0
    usual = read(run / "scores.json")
    assert {"frechet, all frames", "frechet, frame by frame"} <= set(usual)
    assert len(usual["frechet, frame by frame"].values) == 8
    assert evaluated(folder, "--frames", "12", "--out", str(folder / "long.json"), run="predicting") == 0
    longer = read(folder / "long.json")["frechet, frame by frame"]
    assert len(longer.values) == 12
    assert longer.values[:8] == pytest.approx(usual["frechet, frame by frame"].values, rel=0.02)
    assert (
        "12 frames" in (folder / "long-frames.svg").read_text()
        or "11 frames" in (folder / "long-frames.svg").read_text()
    )


def test_other_clips_than_those_trained_on_are_continued(folder, tmp_path, monkeypatch):
    """Black ones instead of moving shapes: what is given and what is real are black."""
    writer, seen = Writer(tmp_path / "black.vgc", (32, 32), {}), {}
    for number in range(60):
        clip = Clip(str(number), label=number % 2, split="test")
        writer.add(str(number), [(clip, np.full((8, 32, 32, 3), number % 2, np.uint8))])
    writer.finish({"motion": ["0", "1"]}, {})

    def kept(scores, side, stream, *more, show=evaluate.show):
        clips = seen[side] = []
        show(scores, side, ((clips.append(clip) or clip, label) for clip, label in stream), *more)

    monkeypatch.setattr(evaluate, "show", kept)
    words = ["--data", str(tmp_path / "black.vgc"), "--split", "test", "--out", str(tmp_path / "other.json")]
    assert evaluated(folder, *words, run="predicting") == 0
    assert all((clip[:, 0] <= 1).all() for side in ("real", "fake") for clip in seen[side])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "shapes", "--real", "y"], "--data is for a run, and instead of --real"),
        (["--frames", "12"], "--frames: the length of a progressive generator's clips is fixed"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, words, sentence, capsys):
    assert evaluated(folder, *words) == 2
    assert sentence in capsys.readouterr().err
