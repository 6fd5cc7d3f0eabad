"""Checkpoints: what is put back, what is detected, and what is left when saving fails."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgen_fast.train import checkpoint
from vgen_fast.train.checkpoint import CannotSave, Checkpoint, Damaged, NotFinite

from .tiny import bits, hexes, make, same, take

OURS = f'"format": {checkpoint.FORMAT},'
FACTS = {"run": "r1", "threads": 2}


def spoil(gradients):
    gradients[0].view(-1)[0] = float("inf")


@pytest.fixture
def saved(tmp_path):
    state, training = make()
    take(state, training, 2)
    return state, training, checkpoint.save(tmp_path, state, FACTS)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", ["wgan_gp", "swgan"])
def test_six_steps_are_three_saved_loaded_and_three_more(tmp_path, objective, autocast):
    straight, training = make(objective, autocast=autocast)
    wanted = take(straight, training, 2) + take(straight, training, 1, total=spoil) + take(straight, training, 3)
    first, _ = make(objective, autocast=autocast)
    take(first, training, 2)
    take(first, training, 1, total=spoil)  # saved right after a step that is left out
    found = checkpoint.save(tmp_path, first, FACTS)
    assert first.events == {f"{n}/{'overflow' if first.scale > 1 else 'nonfinite'}": 1 for n in first.steps}
    second, _ = make(objective, autocast=autocast)
    torch.manual_seed(99)  # nothing may hang on the state of global generators
    checkpoint.load(found, second)
    got = take(second, training, 3)
    assert same(bits(second), bits(straight))
    assert hexes(got) == hexes(wanted[3:])
    for field in checkpoint.FIELDS:
        assert getattr(second, field) == getattr(straight, field)


def test_a_saved_folder_is_complete_and_nothing_else_is_left(saved, tmp_path):
    _, _, found = saved
    assert [p.name for p in tmp_path.iterdir()] == ["0000000016"]
    manifest = json.loads((found.path / "manifest.json").read_text())
    assert manifest["format"] == checkpoint.FORMAT
    assert manifest["run"] == "r1"
    assert set(manifest["files"]) == {p.name for p in found.path.iterdir()} - {"manifest.json"}
    assert checkpoint.read(found.path) == found


def test_saving_the_same_place_again_leaves_the_committed_one(saved, tmp_path):
    state, _, found = saved
    before = {p.name: p.stat().st_mtime_ns for p in found.path.iterdir()}
    assert checkpoint.save(tmp_path, state, FACTS) == found
    assert {p.name: p.stat().st_mtime_ns for p in found.path.iterdir()} == before
    with pytest.raises(CannotSave, match="another run"):
        checkpoint.save(tmp_path, state, {**FACTS, "run": "r2"})


def test_every_kind_of_rot_is_detected_and_the_one_before_is_used(saved, tmp_path):
    state, training, older = saved
    take(state, training)
    newer = checkpoint.save(tmp_path / "c", state, FACTS)
    shutil.copytree(older.path, tmp_path / "c" / older.path.name)
    pristine = tmp_path / "pristine"
    shutil.copytree(newer.path, pristine)
    rng, names = random.Random(0), sorted(p.name for p in newer.path.iterdir())

    def flip(path):
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

    def truncate(path):
        os.truncate(path, rng.randrange(path.stat().st_size))

    def zero(path):
        content = bytearray(path.read_bytes())
        at = rng.randrange(len(content))
        page = content[at : at + 4096]
        if not any(page):
            page[0] = 1
        content[at : at + len(page)] = bytes(len(page)) if any(content[at : at + len(page)]) else page
        path.write_bytes(content)

    def swap(path):
        other = path.with_name("average.safetensors" if path.name != "average.safetensors" else "video.safetensors")
        a, b = path.read_bytes(), other.read_bytes()
        path.write_bytes(b)
        other.write_bytes(a)

    tensors = [name for name in names if name != "manifest.json"]
    cases = [(flip, n) for n in rng.choices(names, k=64)] + [(truncate, n) for n in rng.choices(names, k=64)]
    cases += [(zero, n) for n in rng.choices(names, k=16)] + [(swap, n) for n in rng.choices(tensors, k=8)]
    cases += [(Path.unlink, n) for n in rng.choices(names, k=8)]
    detected = 0
    for damage, name in cases:
        damage(newer.path / name)
        said = []
        found = checkpoint.candidates(tmp_path / "c", "r1", said.append)
        assert [c.clips_seen for c in found] == [older.clips_seen], (damage.__name__, name)
        assert len(said) == 1
        assert newer.path.name in said[0]
        detected += 1
        shutil.rmtree(newer.path)
        shutil.copytree(pristine, newer.path)
    assert detected == 160
    assert len(checkpoint.candidates(tmp_path / "c", "r1", said.append)) == 2


def test_a_manifest_of_another_step_or_with_a_key_twice_is_refused(saved, tmp_path):
    _state, _training, found = saved
    text = (found.path / "manifest.json").read_text()
    moved = tmp_path / "0000000099"
    shutil.copytree(found.path, moved)
    with pytest.raises(Damaged, match="16 clips"):
        checkpoint.read(moved)
    (found.path / "manifest.json").write_text(text.replace(OURS, OURS * 2))
    with pytest.raises(Damaged, match="twice"):
        checkpoint.read(found.path)
    (found.path / "manifest.json").write_text(text.replace(OURS, '"format": 1,'))
    with pytest.raises(Damaged, match="format 1"):
        checkpoint.read(found.path)


def test_a_checkpoint_of_another_run_is_not_a_candidate(saved, tmp_path):
    assert checkpoint.candidates(tmp_path, "r2", pytest.fail) == []


def test_weights_that_are_not_finite_are_never_saved(saved, tmp_path):
    state, training, _ = saved
    take(state, training)
    with torch.no_grad():
        state.average.dense.bias[0] = float("nan")
    with pytest.raises(NotFinite, match=r"1 tensors are not finite.*average.*dense.bias"):
        checkpoint.save(tmp_path, state, FACTS)
    assert [p.name for p in tmp_path.iterdir()] == ["0000000016"]


def test_pruning_keeps_the_newest_the_best_and_what_is_not_ours(tmp_path):
    state, training = make()
    distances = {8: float("nan"), 16: 0.5}  # clips seen -> distance from real clips, 1 elsewhere
    (tmp_path / "notes").mkdir()
    (tmp_path / "0000000001").mkdir()  # a foreign folder of that kind of name
    foreign, _ = make()
    foreign.clips_seen = 900
    checkpoint.save(tmp_path, foreign, {**FACTS, "run": "other"})
    (tmp_path / ".partial-0000000008").mkdir()
    for _ in range(12):
        take(state, training)
        checkpoint.save(tmp_path, state, {**FACTS, "distance": distances.get(state.clips_seen, 1.0)})
        checkpoint.prune(tmp_path, "r1", 3)
        mine = [c.clips_seen for c in checkpoint.candidates(tmp_path, "r1", lambda reason: None)]
        assert mine[:3] == [state.clips_seen - 8 * i for i in range(min(3, state.clips_seen // 8))]
        assert (16 in mine) == (state.clips_seen >= 16)
        assert len(mine) <= 4
    assert {"notes", "0000000001", "0000000900"} <= {p.name for p in tmp_path.iterdir()}
    assert not (tmp_path / ".partial-0000000008").exists()


def test_the_best_is_one_of_the_newest_level():
    def found(clips, level, distance):
        return Checkpoint(Path(), {"state": {"clips_seen": clips, "structure": [level, False]}, "distance": distance})

    small, worse, better = found(8, 0, 0.1), found(16, 1, 0.4), found(24, 1, 0.3)
    assert checkpoint.best([worse, small]) == worse
    assert checkpoint.best([better, worse, small]) == better
    assert checkpoint.best([found(32, 1, 0.4), better, worse, small]) == better
    assert checkpoint.best([found(32, 1, float("nan"))]) is None
    assert checkpoint.best([]) is None


FULL = """
import sys, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from tests.train.tiny import make, take
from vgen_fast.train import checkpoint
state, training = make()
take(state, training)
folder = Path(sys.argv[1])
checkpoint.save(folder, state, {"run": "r1", "threads": 2})
take(state, training)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    checkpoint.save(folder, state, {"run": "r1", "threads": 2})
except checkpoint.CannotSave as error:
    print("refused:", error)
"""


def test_a_full_disk_is_one_typed_error_and_the_old_checkpoint_stays(tmp_path):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], cwd=root, capture_output=True, text=True, timeout=120)
    assert "refused:" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert [c.clips_seen for c in checkpoint.candidates(tmp_path, "r1", pytest.fail)] == [8]
    assert not list(tmp_path.glob(".partial*"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_files_open_elsewhere_as_plain_safetensors(saved):
    from safetensors.torch import load_file

    state, _, found = saved
    tensors = load_file(found.path / "average.safetensors")
    assert same(tensors, dict(state.average.state_dict()))
