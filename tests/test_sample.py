"""Videos from a run: formats, seeds, labels, lines between latents, refusals."""

import av
import numpy as np
import pytest
import torch

from tests.train.test_run import run
from vgen_fast import cli, sample
from vgen_fast.train import checkpoint
from vgen_fast.train.folder import run_name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = run(folder, "--clips", 64)  # ends where level 1 is stable
    assert done.returncode == 0, done.stderr
    return folder


def videos(folder, tmp_path, verb="generate", *options):
    out = tmp_path / "out.npz"
    assert cli.main([verb, str(folder), "--out", str(out), *options]) == 0
    with np.load(out) as file:
        return file["videos"], file["seeds"].tolist()


def test_a_seed_gives_its_video_whatever_else_is_asked_for(trained, tmp_path):
    some, seeds = videos(trained, tmp_path, "generate", "--seeds", "3-5,9")
    assert seeds == [3, 4, 5, 9]
    assert some.shape == (4, 8, 8, 8, 3)
    assert some.dtype == np.uint8
    one, _ = videos(trained, tmp_path, "generate", "--seeds", "9")
    assert np.abs(one[0].astype(int) - some[3]).max() <= 1
    assert not np.array_equal(some[0], some[1])


def test_labels_by_name_and_by_number_are_the_same(trained, tmp_path):
    by_name, _ = videos(trained, tmp_path, "generate", "--seeds", "1", "--labels", "clockwise,square,red")
    by_number, _ = videos(trained, tmp_path, "generate", "--seeds", "1", "--labels", "4,1,0")
    other, _ = videos(trained, tmp_path, "generate", "--seeds", "1", "--labels", "left,disc,blue")
    assert np.array_equal(by_name, by_number)
    assert not np.array_equal(by_name, other)


def test_the_best_checkpoint_is_the_one_nearest_to_real_clips(trained, tmp_path):
    found = checkpoint.candidates(trained / "checkpoints", run_name(trained), pytest.fail)
    assert len({c.manifest["distance"] for c in found}) == len(found) > 1
    chosen = checkpoint.best(found)
    _, _, clips_seen = sample.restored(trained, "best")
    assert clips_seen == chosen.clips_seen
    assert sample.restored(trained)[2] == found[0].clips_seen
    best, _ = videos(trained, tmp_path, "generate", "--seeds", "3", "--checkpoint", "best")
    newest, _ = videos(trained, tmp_path, "generate", "--seeds", "3")
    assert np.array_equal(best, newest) == (chosen == found[0])


def test_truncated_latents_stay_within_their_bound(trained, tmp_path):
    system, config, _ = sample.restored(trained)
    labels = torch.zeros(50, 3, dtype=torch.long)
    found = [sample.inputs_of(system, config, list(range(50)), labels, most).latents for most in (0.5, None, 100.0)]
    assert found[0].abs().max() <= 0.5
    assert found[1].abs().max() > 1
    assert torch.equal(found[1], found[2])


def test_a_line_starts_and_ends_at_its_seeds(trained, tmp_path):
    options = ("--labels", "grow,disc,green")
    line, _ = videos(trained, tmp_path, "interpolate", "--seeds", "4,7", "--steps", "5", *options)
    ends, _ = videos(trained, tmp_path, "generate", "--seeds", "4,7", *options)
    assert len(line) == 5
    assert np.abs(line[[0, -1]].astype(int) - ends).max() <= 1
    middle = np.abs(line[2].astype(int) - line[0]).sum() + np.abs(line[2].astype(int) - line[4]).sum()
    assert middle > 0


@pytest.mark.parametrize(
    ("name", "shape"), [("a.mp4", (16, 130, 390)), ("a.gif", (8, 130, 390)), ("a.png", (1, 72, 72))]
)
def test_files_of_every_kind_open_elsewhere(trained, tmp_path, name, shape):
    out = tmp_path / "sub" / name
    assert cli.main(["generate", str(trained), "--seeds", "0-7", "--out", str(out)]) == 0
    with av.open(str(out)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert (len(frames), *frames[0].shape[:2]) == shape


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate"], "generate wants a run folder first"),
        (["generate", "/nowhere"], "/nowhere is no run folder"),
        (["generate", "RUN", "--seeds", "x"], "--seeds wants numbers and ranges"),
        (["generate", "RUN", "--seeds", "0,3-1"], "--seeds: the range 3-1 is empty"),
        (["generate", "RUN", "--labels", "left"], "--labels wants 3 values"),
        (["generate", "RUN", "--labels", "left,disc,pink"], "'pink' is none of red, green, blue, yellow"),
        (["generate", "RUN", "--out", "a.avi"], "--out wants a name that ends in .mp4"),
        (["generate", "RUN", "--truncation", "0"], "--truncation should be greater than 0"),
        (["interpolate", "RUN", "--seeds", "1,2,3"], "--seeds wants pairs, got 3"),
        (["interpolate", "RUN", "--stepps", "3"], "there is no option --stepps; the nearest is --steps"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(trained, capsys, arguments, sentence):
    assert cli.main([str(trained) if word == "RUN" else word for word in arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1


def test_longer_clips_and_bounds_are_refused_where_a_generator_has_none(trained, capsys):
    assert cli.main(["generate", str(trained), "--frames", "40"]) == 2
    assert "--frames: the length of a progressive generator's clips is fixed" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["generate", "interpolate", "train"])
def test_help_ends_with_examples(capsys, verb):
    assert cli.main([verb, "--help"]) == 0
    assert (
        f"python -m vgen_fast{'.train' if verb == 'train' else ' ' + verb}" in capsys.readouterr().out.splitlines()[-1]
    )
