"""`animate`: any photograph in, its proportions and first frame kept; masks, futures, lengths, folders, refusals."""

import re

import av
import numpy as np
import pytest

from tests.models.small import config_of
from vgen_fast import cli, recipes
from vgen_fast.animate import fitted
from vgen_fast.data import decode, pool, write
from vgen_fast.train.__main__ import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A few steps long, at a rate that gives noise some weight."""
    folder = tmp_path_factory.mktemp("runs")
    optim = {"generator_lr": 0.05, "critic_lr": 0.05, "ema": 0.0}
    for name in ("style-prediction", "dvdgan-prediction", "vgan-prediction", "mocogan"):
        recipes.RECIPES[name] = lambda name=name: config_of(name, clips=24, optim=optim, diverged="go-on")
        assert main([name, "--outdir", str(folder / name)]) == 0
        del recipes.RECIPES[name]
    return folder


@pytest.fixture
def photo(tmp_path):
    """48x30 pixels, wider than high."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 48, 3), np.uint8)
    write.png(tmp_path / "photo.png", pixels)
    return tmp_path / "photo.png"


def animated(run, photo, out, *words):
    assert cli.main(["animate", str(photo), "--run", str(run), "--out", str(out), *map(str, words)]) == 0
    with np.load(out) as file:
        return file["videos"]


@pytest.mark.parametrize("name", ["style-prediction", "dvdgan-prediction", "vgan-prediction"])
def test_its_first_frame_is_the_photograph_and_its_proportions_stay(name, runs, photo, tmp_path):
    videos = animated(runs / name, photo, tmp_path / "out.npz")
    square, inside = fitted(decode.picture(photo.read_bytes()), 16, "pad")
    assert videos.shape[2:] == (10, 16, 3)  # 30 : 48 = 10 : 16
    assert (videos[:, 0] == square[inside]).all()
    assert (videos[0, 1] != videos[0, 0]).any()


def test_cropped_it_is_the_middle_square(runs, tmp_path):
    pixels = np.zeros((30, 48, 3), np.uint8)
    pixels[:, :9, 0] = pixels[:, 9:39, 1] = pixels[:, 39:, 2] = 255
    write.png(tmp_path / "bands.png", pixels)
    videos = animated(runs / "style-prediction", tmp_path / "bands.png", tmp_path / "out.npz", "--fit", "crop")
    assert videos.shape == (1, 4, 16, 16, 3)
    assert (videos[0, 0, :, 2:14] == [0, 255, 0]).all()


def test_padding_continues_the_border_and_is_cut_off_again():
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    square, inside = fitted(pixels, 8, "pad")
    assert square.shape == (8, 8, 3)
    assert (square[inside] == pixels).all()
    assert (square[:2] == pixels[0]).all()
    assert (square[6:] == pixels[-1]).all()


def test_seeds_are_futures_and_a_seed_is_the_same_one(runs, photo, tmp_path):
    run = runs / "style-prediction"
    videos = animated(run, photo, tmp_path / "a.npz", "--seeds", "3,4,3")
    assert len(videos) == 3
    assert (videos[0] == videos[2]).all()
    assert (videos[0] != videos[1]).any()


@pytest.mark.parametrize("name", ["style-prediction", "dvdgan-prediction"])
def test_it_is_as_long_as_it_is_asked_to_be(name, runs, photo, tmp_path, capsys):
    run = runs / name
    long = animated(run, photo, tmp_path / "long.npz", "--frames", 60)
    assert "60 frames: the run was trained on 4, what comes after may fall apart or repeat" in capsys.readouterr().out
    usual, short = animated(run, photo, tmp_path / "usual.npz"), animated(run, photo, tmp_path / "a.npz", "--frames", 2)
    assert (long.shape[1], usual.shape[1], short.shape[1]) == (60, 4, 2)
    assert abs(long[:, :4].astype(int) - usual).max() <= 1
    assert (usual[:, :2] == short).all()


def test_what_a_mask_leaves_out_stays_to_the_bit(runs, photo, tmp_path):
    run, mask = runs / "style-prediction", np.zeros((30, 48, 3), np.uint8)
    mask[:, 24:] = 255
    write.png(tmp_path / "mask.png", mask)
    videos = animated(run, photo, tmp_path / "out.npz", "--mask", tmp_path / "mask.png")
    free = animated(run, photo, tmp_path / "free.npz")
    assert (videos[:, :, :, :7] == videos[:, :1, :, :7]).all()
    assert (videos[:, :, :, 9:] == free[:, :, :, 9:]).all()
    assert (free[:, 1, :, :7] != free[:, 0, :, :7]).any()


def test_a_folder_becomes_a_folder_and_bad_files_are_named(runs, photo, tmp_path, capsys):
    folder, out = photo.parent / "in", tmp_path / "moving"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xd9")
    words = ["animate", str(folder), "--run", str(runs / "style-prediction"), "--out", str(out)]
    assert cli.main(words) == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.mp4")) == ["a.mp4", "more/b.mp4"]
    assert f"left out {folder / 'bad.jpg'}" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["mp4", "gif", "png"])
def test_futures_lie_side_by_side(ending, runs, photo, tmp_path):
    out = tmp_path / f"out.{ending}"
    words = ["animate", str(photo), "--run", str(runs / "style-prediction"), "--out", str(out), "--seeds", "0-2"]
    assert cli.main(words) == 0
    if ending == "png":
        assert decode.picture(out.read_bytes()).shape == (3 * 11, 4 * 17, 3)
    else:
        with av.open(str(out)) as file:
            assert (file.streams.video[0].height, file.streams.video[0].width) == (
                42 - (ending == "gif"),
                196 - (ending == "gif"),
            )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["animate"], "wants a photograph or a folder first"),
        (["animate", "PHOTO"], "--run: which generator?"),
        (["animate", "nothing.jpg", "--run", "RUN"], "nothing.jpg is neither a photograph nor a folder"),
        (["animate", "PHOTO", "--run", "RUN", "--out", "x.avi"], "--out wants a name that ends in .mp4, .gif"),
        (["animate", "PHOTO", "--run", "nowhere"], "nowhere is no run folder"),
        (["animate", "PHOTO", "--run", "MOCOGAN"], "is a mocogan generator that starts from no frame"),
        (["animate", "PHOTO", "--run", "VGAN", "--frames", "9"], "the length of a vgan generator's clips is fixed, 8"),
        (["animate", "PHOTO", "--run", "RUN", "--mask", "SMALL"], "is 8x8 pixels, .* is 48x30"),
        (["animate", "PHOTO", "--run", "RUN", "--mask", "none.png"], "--mask none.png: not a file: No such file"),
        (["animate", "BAD", "--run", "RUN"], "neither a JPEG nor a PNG"),
        (["animate", "PHOTO", "--run", "VGAN", "--seeds", "0-1"], "this vgan generator draws nothing at random"),
    ],
)
def test_what_cannot_be_animated_is_refused_in_one_sentence(words, sentence, runs, photo, tmp_path, capsys):
    write.png(tmp_path / "small.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "bad.png").write_bytes(b"nothing")
    names = {
        "PHOTO": photo, "RUN": runs / "style-prediction", "MOCOGAN": runs / "mocogan", "SMALL": tmp_path / "small.png",
        "VGAN": runs / "vgan-prediction", "BAD": tmp_path / "bad.png",
    }  # fmt: skip
    assert cli.main([str(names.get(word, word)) for word in words]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1

    assert re.search(sentence, said)


@pytest.mark.parametrize("verb", ["animate", "evaluate", "train"])
def test_an_ffmpeg_with_known_holes_is_refused_in_one_sentence(verb, runs, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pool, "ffmpeg", "8.1.1")
    (tmp_path / "strips/0").mkdir(parents=True)
    write.png(tmp_path / "strips/0/0.png", np.zeros((8, 64, 3), np.uint8))
    words = {
        "animate": [str(photo), "--run", str(runs / "style-prediction")],
        "evaluate": [str(runs / "style-prediction")],
        "train": ["shape-motion", "--data", str(tmp_path / "strips")],
    }
    assert cli.main([verb, *words[verb]]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"vgen_fast: FFmpeg 8\.1\.1.* is open to files .*\(pip install -U av\)\n", said)


def test_a_prediction_is_shown_beside_its_frame_and_the_truth(runs, tmp_path):
    out, run = tmp_path / "out.npz", runs / "style-prediction"
    assert cli.main(["generate", str(run), "--seeds", "0-2", "--truth", "--frames", "6", "--out", str(out)]) == 0
    with np.load(out) as file:
        videos = file["videos"]
    assert videos.shape == (3, 6, 16, 48, 3)
    given, real, made = np.split(videos, 3, axis=3)
    assert (given == real[:, :1]).all()
    assert (made[:, 0] == real[:, 0]).all()
    assert (real[:, 4:] == real[:, 3:4]).all()  # it has four frames
    assert (real[:, 1] != real[:, 0]).any()
    assert cli.main(["generate", str(runs / "mocogan"), "--truth", "--out", str(out)]) == 2
