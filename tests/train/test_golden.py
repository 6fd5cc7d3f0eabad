"""Runs of each checkpoint format that was ever released, kept here as files: they load, sample and go on.

`python -m tests.train.test_golden` makes the one of the format as it is.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from vgen_fast import cli, recipes
from vgen_fast.config import Config, Every, Grow
from vgen_fast.models.progressive import Config as System
from vgen_fast.models.progressive import Row
from vgen_fast.sample import recorded
from vgen_fast.train import checkpoint
from vgen_fast.train.__main__ import main

GOLDEN = Path(__file__).parent / "golden"
FORMATS = sorted(path.name for path in GOLDEN.iterdir())
KEPT = ("config.yaml", "env.json", "checkpoints", "two.npz")
TWO = ("--seeds", "0,1", "--out")


@pytest.fixture
def run(request, tmp_path, monkeypatch):
    folder = tmp_path / request.param
    shutil.copytree(GOLDEN / request.param, folder)
    monkeypatch.setitem(recipes.RECIPES, "golden", lambda: recorded(folder))
    return folder


@pytest.mark.parametrize("run", FORMATS, indirect=True)
def test_a_run_of_this_format_is_whole_samples_and_goes_on(run, capsys):
    assert cli.main(["verify", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["goes_on_from"], told["best"], told["damaged"]) == (16, 16, [])
    assert cli.main(["generate", str(run), *TWO, str(run / "again.npz")]) == 0
    with np.load(run / "two.npz") as kept, np.load(run / "again.npz") as again:
        np.testing.assert_allclose(
            again["videos"].astype(int), kept["videos"].astype(int), atol=1
        )  # another CPU rounds
        assert kept["videos"].std() > 5
    assert main(["golden", "--outdir", str(run), "--clips", "24"]) == 0
    assert cli.main(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    assert "24 clips" in said
    assert "the run goes on here" in said


@pytest.mark.parametrize("run", FORMATS[-1:], indirect=True)
def test_damage_is_told_and_counted(run, capsys):
    assert main(["golden", "--outdir", str(run), "--clips", "24"]) == 0
    newer, older = (run / "checkpoints" / f"{clips:010d}" for clips in (24, 16))
    torn = (newer / "average.safetensors").read_bytes()[:-1]
    (newer / "average.safetensors").write_bytes(torn)
    capsys.readouterr()
    assert cli.main(["verify", str(run), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in told["whole"]] == [str(older)]
    assert told["goes_on_from"] == 16
    assert told["damaged"] == [f"{newer / 'average.safetensors'}: {len(torn)} bytes, its manifest says {len(torn) + 1}"]
    (older / "manifest.json").unlink()
    assert cli.main(["verify", str(run)]) == 66
    assert "holds no whole checkpoint" in capsys.readouterr().out
    assert cli.main(["verify", str(run / "nowhere")]) == 2


def test_the_format_as_it_is_has_a_small_run_here():
    assert FORMATS[-1] == f"format-{checkpoint.FORMAT}"
    for name in FORMATS:
        assert sum(file.stat().st_size for file in (GOLDEN / name).rglob("*") if file.is_file()) < 200_000


def make() -> None:
    def golden() -> Config:
        return Config(
            recipe="golden",
            system=System(rows=(Row(4, 4, 4), Row(4, 2, 2)), latents=4, features=4, classes=(8, 3, 4)),
            clips=16,
            phases=(Grow(0, 8, 8), Grow(8, 8, 8)),
            every=Every(tick=8, samples=0, checkpoint=0, judged=4),
        )

    recipes.RECIPES["golden"] = golden
    with tempfile.TemporaryDirectory() as folder:
        run, target = Path(folder) / "run", GOLDEN / f"format-{checkpoint.FORMAT}"
        assert main(["golden", "--outdir", str(run)]) == 0
        assert cli.main(["generate", str(run), *TWO, str(run / "two.npz")]) == 0
        for path in run.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        name = json.loads((run / "env.json").read_text())["run"]
        (run / "env.json").write_text(json.dumps({"run": name, "starts": []}) + "\n")
        shutil.copytree(run, target)


if __name__ == "__main__":
    make()
