"""Lines between latents: their ends, arcs, pairs of pictures that show the same scene, videos from images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.small import config_of
from vgen_fast import cli, interpolate, recipes
from vgen_fast.data.cache import Clip, Writer
from vgen_fast.models import progressive
from vgen_fast.models.progressive import Row
from vgen_fast.train.__main__ import main


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A run of images of 16x16 pixels, a few steps long."""
    folder = tmp_path_factory.mktemp("images") / "run"
    rows = progressive.rows((8, 8, 4), (1, 1, 1))
    system = replace(progressive.Config(latents=6, features=8), rows=rows, classes=(8, 3, 4), labels="told")
    config = config_of("progressive-images", system=system, clips=16)
    recipes.RECIPES["images"] = lambda: config.model_copy(
        update={"recipe": "images", "phases": (config.phases * 2)[:3]}
    )
    assert main(["images", "--outdir", str(folder)]) == 0
    del recipes.RECIPES["images"]
    return folder


def test_lines_and_arcs_have_the_ends_they_should():
    a, b = torch.randn(2, 5, 12)
    for path in (interpolate.straight, interpolate.slerp):
        line = path(a, b, 9)
        torch.testing.assert_close(line[:, 0], a)
        torch.testing.assert_close(line[:, -1], b)
    torch.testing.assert_close(interpolate.straight(a, b, 3)[:, 1], (a + b) / 2)
    steps = interpolate.straight(a, b, 9).diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=0)


def test_an_arc_turns_evenly_and_one_of_no_angle_stands_still():
    a, b = torch.tensor([[3.0, 0, 0]]), torch.tensor([[0.0, 3, 0]])
    arc = interpolate.slerp(a, b, 4)[0]
    angles = torch.arange(4) * torch.pi / 6
    torch.testing.assert_close(arc, 3 * torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(interpolate.slerp(a, a, 4)[0], a.expand(4, -1))


def test_pairs_are_alike_within_bounds_each_seed_once_the_likest_first(monkeypatch):
    """Five pictures: two that are nearly the same, two that share a scene, one that is alone."""
    rng = np.random.default_rng(0)
    scene, other, alone = (rng.integers(0, 256, (32, 32, 3)).astype(float) for _ in range(3))
    blur = lambda x, share: (share * x + (1 - share) * alone[::-1]).round().astype(np.uint8)  # noqa: E731
    made = np.stack([blur(scene, 1.0), blur(scene, 0.99), blur(other, 1.0), blur(other, 0.75), blur(alone, 1.0)])
    ends = np.stack([blur(scene, 1.0), blur(scene, 0.6)])
    monkeypatch.setattr(interpolate, "real_clips", lambda config: np.stack([ends, ends]))
    assert interpolate.alike([10, 11, 12, 13, 14], made, None, 3) == [12, 13]
    with pytest.raises(ValueError, match="no two of 2 seeds are as alike as the ends of real clips"):
        interpolate.alike([10, 14], made[[0, 4]], None, 1)


def test_images_become_the_frames_of_a_video(images, tmp_path, capsys):
    out = tmp_path / "walk.npz"
    assert cli.main(["interpolate", str(images), "--seeds", "1,2,5,6", "--out", str(out)]) == 0
    assert "from one frame to the next: MS-SSIM" in capsys.readouterr().out
    with np.load(out) as file:
        walk, seeds = file["videos"], file["seeds"].tolist()
    assert walk.shape == (2, 32, 16, 16, 3)
    assert seeds == [1, 5]
    labels = ["--labels", "left,disc,red"]
    assert cli.main(["interpolate", str(images), "--seeds", "1,2", *labels, "--out", str(out)]) == 0
    single = tmp_path / "single.npz"
    assert cli.main(["generate", str(images), "--seeds", "1,2", *labels, "--out", str(single)]) == 0
    with np.load(out) as walk, np.load(single) as ends:
        assert np.abs(walk["videos"][0, [0, -1]].astype(int) - ends["videos"][:, 0]).max() <= 1


def test_real_clips_are_of_the_images_data(images):
    config = interpolate.restored(images)[1]
    clips = interpolate.real_clips(config)
    assert clips.shape == (64, 32, 16, 16, 3)
    assert (clips[:, 0] != clips[:, -1]).any()
    assert isinstance(config.system.rows[0], Row)


def test_a_video_is_there_whatever_it_can_be_compared_with(tmp_path, monkeypatch, capsys):
    """Of a cache of single frames, and of one that is gone."""
    writer, rng = Writer(tmp_path / "a.vgc", (16, 16), {}), np.random.default_rng(0)
    for n in range(16):
        writer.add(str(n), [(Clip(str(n)), rng.integers(0, 256, (1, 16, 16, 3), np.uint8))])
    writer.finish({}, {})
    system = progressive.Config(latents=6, features=8, rows=progressive.rows((8, 8, 4), (1, 1, 1)))
    config = config_of("progressive-images", system=system, clips=8, data=str(tmp_path / "a.vgc"))
    monkeypatch.setitem(recipes.RECIPES, "still", lambda: config)
    assert main(["still", "--outdir", str(tmp_path / "run")]) == 0
    words = ["interpolate", str(tmp_path / "run"), "--out"]
    assert cli.main([*words, str(tmp_path / "a.npz")]) == 0
    assert "a.vgc holds single frames, no clips to compare with" in capsys.readouterr().out
    assert cli.main([*words, str(tmp_path / "b.npz"), "--pairs", "1"]) == 2
    assert "build it of whole films, without --frames 1" in capsys.readouterr().err
    (tmp_path / "a.vgc").rename(tmp_path / "b.vgc")
    assert cli.main([*words, str(tmp_path / "c.npz")]) == 0
    assert 'neither a folder nor "shapes"' in capsys.readouterr().out
    with np.load(tmp_path / "a.npz") as there, np.load(tmp_path / "c.npz") as gone:
        assert np.array_equal(there["videos"], gone["videos"])


def test_codes_of_images_have_lines_and_a_given_frame_has_none(tmp_path, monkeypatch, capsys):
    for name in ("stgan-images", "vgan-prediction"):
        monkeypatch.setitem(recipes.RECIPES, name, lambda name=name: config_of(name, clips=8))
        assert main([name, "--outdir", str(tmp_path / name)]) == 0
    out = tmp_path / "a.npz"
    assert cli.main(["interpolate", str(tmp_path / "stgan-images"), "--out", str(out)]) == 0
    assert "of real clips 0." in capsys.readouterr().out
    with np.load(out) as file:
        assert file["videos"].shape == (1, 32, 32, 32, 3)
    assert cli.main(["interpolate", str(tmp_path / "vgan-prediction"), "--out", str(out)]) == 2
    assert "is a run of vgan whose generator has no latents" in capsys.readouterr().err


def test_pairs_are_of_images_alone(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "tgan", lambda: config_of("tgan", clips=8))
    assert main(["tgan", "--outdir", str(tmp_path / "tgan")]) == 0
    assert cli.main(["interpolate", str(tmp_path / "tgan"), "--pairs", "1"]) == 2
    assert "--pairs are of a generator of images of 16 pixels at least" in capsys.readouterr().err
    # Of the images of an untrained generator no two need be alike: then that is what is said.
    code = cli.main(["interpolate", str(images), "--pairs", "1", "--out", str(tmp_path / "a.npz")])
    said = capsys.readouterr()
    assert "no two of 100 seeds" in said.err if code else "MS-SSIM" in said.out
