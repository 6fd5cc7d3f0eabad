"""The command itself, as a person runs it: run folders, resuming, signals, kills, two writers, mistakes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from vgen_fast import recipes
from vgen_fast.data import write
from vgen_fast.data.cache import Clip, Writer
from vgen_fast.data.journal import whole_lines
from vgen_fast.train import checkpoint
from vgen_fast.train.__main__ import main, opened
from vgen_fast.train.folder import Folder, InUse

from . import tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/train/tiny_recipe.py"


def command(folder, *options):
    return [sys.executable, str(TINY), "--outdir", str(folder), *map(str, options)]


def run(folder, *options, timeout=120):
    return subprocess.run(command(folder, *options), capture_output=True, text=True, timeout=timeout)


def launch(folder, *options):
    return subprocess.Popen(
        command(folder, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def committed(folder):
    return [e["clips_seen"] for e in whole_lines(folder / "events.jsonl") if e["event"] == "checkpoint_committed"]


def newest(folder):
    name = json.loads((folder / "env.json").read_text())["run"]
    return checkpoint.candidates(folder / "checkpoints", name, lambda reason: None)[0]


def digests(folder):
    return {name: entry["sha256"] for name, entry in newest(folder).manifest["files"].items()}


def losses(folder):
    return {row["clips_seen"]: row["hex"] for row in whole_lines(folder / "stats.jsonl")}


@pytest.fixture
def here(monkeypatch):
    """The tiny recipe in this process, where no start has to be waited for."""
    monkeypatch.setitem(recipes.RECIPES, "tiny", tiny_recipe.tiny)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An undisturbed run over every kind of place: stable, a switch, mid-fade, stable again."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    done = run(folder, "--clips", 160)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_leaves_the_folder_a_person_expects(straight):
    names = {p.name for p in straight.iterdir()} - {".lock"}
    assert names == {
        *("config.yaml", "command.txt", "env.json", "stats.jsonl", "events.jsonl"),
        *("samples", "checkpoints", "report.html"),
    }
    samples = {p.name for p in (straight / "samples").iterdir()}
    assert {"reals.mp4", "reals.png", "fakes-000000000.mp4", "fakes-000000160.png"} <= samples
    assert not any(name.endswith(".partial") for name in samples)
    assert yaml.safe_load((straight / "config.yaml").read_text())["clips"] == 160
    assert [row["clips_seen"] for row in whole_lines(straight / "stats.jsonl")] == list(range(8, 161, 8))
    page = (straight / "report.html").read_text()
    assert "fakes-000000160" in page
    assert "<polyline" in page
    assert "{" + "title}" not in page


def test_the_end_of_a_run_is_told_wherever_the_ticks_fall(tmp_path):
    done = run(tmp_path / "run", "--clips", 40, "--every.tick", 16)
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stdout.splitlines()[-1], done.stdout
    assert [row["clips_seen"] for row in whole_lines(tmp_path / "run/stats.jsonl")] == [16, 32, 40]


def test_the_same_command_says_that_it_is_complete_and_more_clips_go_on(tmp_path, straight):
    folder = tmp_path / "run"
    assert run(folder, "--clips", 80).returncode == 0
    again = run(folder, "--clips", 80)
    assert again.returncode == 0
    assert "complete: 80 clips seen" in again.stdout
    assert run(folder, "--clips", 160).returncode == 0
    assert digests(folder) == digests(straight)
    assert losses(folder) == losses(straight)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_saves_and_ends_with_its_own_code(tmp_path, straight, name):
    folder, number = tmp_path / "run", getattr(signal, name)
    process = launch(folder, "--clips", 100_000)
    while len(whole_lines(folder / "stats.jsonl")) < 3:
        time.sleep(0.02)
        assert process.poll() is None, process.stderr.read()
    began = time.monotonic()
    process.send_signal(number)
    process.send_signal(number)
    process.communicate(timeout=25)
    assert process.returncode == 128 + number
    assert time.monotonic() - began < 25
    rows = whole_lines(folder / "stats.jsonl")
    assert newest(folder).clips_seen >= rows[-1]["clips_seen"]


def test_kill_9_loses_no_more_than_the_last_checkpoint_and_changes_no_bit(tmp_path, straight):
    folder, rng = tmp_path / "run", random.Random(4)
    kills = 0
    for _ in range(40):
        process = launch(folder, "--clips", 160)
        rows = len(whole_lines(folder / "stats.jsonl"))
        wanted = rows + rng.randrange(3, 7)
        while process.poll() is None and len(whole_lines(folder / "stats.jsonl")) < wanted:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)
        before = committed(folder)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        if process.returncode == 0:
            break
        if before:
            assert newest(folder).clips_seen >= before[-1]
    assert process.returncode == 0
    assert kills >= 3
    assert digests(folder) == digests(straight)
    assert newest(folder).manifest["state"] == newest(straight).manifest["state"]
    assert losses(folder) == losses(straight)
    assert not list((folder / "checkpoints").glob(".partial*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_with_74_and_space_lets_it_go_on(small_disk, straight):
    """Whatever is being written when the disk is full: checkpoint, samples, statistics or report."""
    for free in (40, 260, 500):  # KiB left when the run starts
        folder = small_disk / "run"
        for path in sorted(small_disk.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (small_disk / "ballast").write_bytes(b"x" * (6144 - free) * 1024)
        full = run(folder, "--clips", 160, timeout=30)
        assert full.returncode == 74, full.stderr
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        if last := committed(folder):
            assert newest(folder).clips_seen >= last[-1]
    (small_disk / "ballast").unlink()
    again = run(folder, "--clips", 160)
    assert again.returncode == 0, again.stderr
    assert digests(folder) == digests(straight)


def test_a_complete_run_sweeps_up_what_a_killed_save_left(tmp_path):
    folder = tmp_path / "run"
    assert run(folder, "--clips", 24).returncode == 0
    left = folder / "checkpoints/.partial-0000000016"
    left.mkdir()
    (left / "average.safetensors").write_bytes(b"half")
    assert run(folder, "--clips", 24).returncode == 0
    assert not left.exists()


def test_a_damaged_checkpoint_is_skipped_aloud_and_without_any_whole_one_the_run_refuses(tmp_path, straight):
    folder = tmp_path / "run"
    assert run(folder, "--clips", 80).returncode == 0
    found = sorted((folder / "checkpoints").iterdir())
    (found[-1] / "average.safetensors").write_bytes(b"rot")
    again = run(folder, "--clips", 160)
    assert again.returncode == 0
    assert "skipped a damaged checkpoint" in again.stderr
    assert digests(folder) == digests(straight)
    for path in (folder / "checkpoints").iterdir():
        (path / "generator.safetensors").write_bytes(b"rot")
    refused = run(folder, "--clips", 200)
    assert refused.returncode == 66
    assert "none that is whole" in refused.stderr


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path):
    folder = tmp_path / "run"
    first = launch(folder, "--clips", 100_000)
    while len(whole_lines(folder / "stats.jsonl")) < 1:
        time.sleep(0.02)
    second = run(folder, "--clips", 100_000, timeout=20)
    assert second.returncode == 2
    assert "another process is training" in second.stderr
    rows, until = len(whole_lines(folder / "stats.jsonl")), time.monotonic() + 30
    while len(whole_lines(folder / "stats.jsonl")) == rows and time.monotonic() < until:
        time.sleep(0.02)
    assert first.poll() is None
    assert len(whole_lines(folder / "stats.jsonl")) > rows
    first.kill()
    first.communicate()
    Folder(folder).close()  # the lock went with the process
    held = Folder(folder)
    with pytest.raises(InUse):
        Folder(folder)
    held.close()


def test_another_configuration_in_the_folder_is_refused(straight):
    done = run(straight, "--clips", 160, "--seed", 5)
    assert done.returncode == 2
    assert "another configuration" in done.stderr


def test_a_setting_of_the_system_makes_another_configuration(tmp_path, here, capsys):
    opened(tiny_recipe.tiny(), tmp_path, []).close()
    assert main(["tiny", "--outdir", str(tmp_path), "--system.latents", "9"]) == 2
    assert "is a run of another configuration" in capsys.readouterr().err


def test_a_torn_line_of_a_log_is_dropped(tmp_path):
    Folder(tmp_path).close()
    with open(tmp_path / "stats.jsonl", "w") as file:
        file.write('{"clips_seen": 8}\n{"clips_seen": 16}\n{"clips_s')
    folder = Folder(tmp_path)
    folder.stats({"clips_seen": 24})
    folder.forget_after(16)
    folder.close()
    assert [row["clips_seen"] for row in whole_lines(tmp_path / "stats.jsonl")] == [8, 16]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--btach", "4"], "there is no option --btach; the nearest is --batch"),
        (["--batch", "many"], "--batch should be a valid integer"),
        (["--batch", "8", "--micro-batch", "3"], "micro_batch 3 does not divide the batch of 8"),
        (["--batch"], "--batch wants INT, got nothing"),
        (["--seed", "1", "--seed", "2"], "--seed is given twice"),
        (["--data", "nowhere"], "--data nowhere"),
    ],
)
def test_a_mistake_is_answered_by_one_sentence_and_exit_2(tmp_path, here, capsys, options, sentence):
    assert main(["tiny", "--outdir", str(tmp_path / "run"), *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_built_in_clips_have_the_labels_that_the_system_knows(tmp_path, capsys):
    assert main(["shape-motion-tgan", "--data", "shapes", "--outdir", str(tmp_path / "run")]) == 2
    assert "shapes has 8, 3, 4 classes, the system 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_exit_code_of_a_mistake_reaches_the_shell(tmp_path):
    done = run(tmp_path / "run", "--btach", 4)
    assert done.returncode == 2
    assert done.stderr.strip() == "vgen_fast: there is no option --btach; the nearest is --batch"


def test_a_folder_of_strips_trains_and_what_is_bad_in_it_is_an_event_or_the_end(tmp_path, monkeypatch, capsys):
    small = tiny_recipe.tiny()
    two = small.model_copy(update={"system": replace(small.system, classes=(2,)), "recipe": "strips"})
    monkeypatch.setitem(recipes.RECIPES, "strips", lambda: two)
    data = tmp_path / "data"
    for label in ("a", "b"):
        (data / label).mkdir(parents=True)
        for number in range(11):
            write.png(data / label / f"{number}.png", np.full((16, 16 * 8, 3), number, np.uint8))
    (data / "a/3.png").write_bytes(b"torn")
    train = ["strips", "--data", str(data), "--outdir", str(tmp_path / "run"), "--clips", "48"]
    assert main(train) == 0
    (event,) = [e for e in whole_lines(tmp_path / "run/events.jsonl") if e["event"] == "sample_rejected"]
    assert event["reason"].startswith(str(data / "a/3.png"))
    assert event["reason"] in capsys.readouterr().err
    (data / "b/4.png").write_bytes(b"torn")
    assert main([*train[:-1], "96"]) == 65
    assert "2 of 22 files are bad" in capsys.readouterr().err
    assert [e["code"] for e in whole_lines(tmp_path / "run/events.jsonl") if e["event"] == "exit"] == [0, 65]


def test_list_help_and_dry_run(tmp_path, here, capsys):
    listed = subprocess.run(
        [sys.executable, "-m", "vgen_fast.train", "--list"], capture_output=True, text=True, check=True
    )
    assert "progressive-ucf101-128" in listed.stdout
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--micro-batch INT" in shown
    assert shown.rstrip().splitlines()[-1].strip().startswith("python -m vgen_fast.train --list")
    assert main(["tiny", "--outdir", str(tmp_path / "run"), "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert "parameters" in dry
    assert "8x16x16" in dry
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_name_and_its_place_where_its_records_are_lost(tmp_path, here, capsys):
    folder = tmp_path / "run"
    assert main(["tiny", "--clips", "80", "--outdir", str(folder)]) == 0
    name = json.loads((folder / "env.json").read_text())["run"]
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(b""), lambda path: path.write_text("[]")):
        spoil(folder / "env.json")
        assert main(["tiny", "--clips", "80", "--outdir", str(folder)]) == 0
        assert "complete: 80 clips seen" in capsys.readouterr().out
        assert json.loads((folder / "env.json").read_text())["run"] == name
    (folder / "config.yaml").unlink()
    assert main(["tiny", "--clips", "80", "--seed", "1", "--outdir", str(folder)]) == 2
    assert "is a run of another configuration; choose another" in capsys.readouterr().err
    assert main(["tiny", "--clips", "80", "--outdir", str(folder)]) == 0
    for text in ("", "recipe: [", "recipe: tiny\nno_such: 1\n"):
        (folder / "config.yaml").write_text(text)
        assert main(["tiny", "--clips", "80", "--outdir", str(folder)]) == 2
        told = capsys.readouterr().err
        assert "config.yaml cannot be read: " in told
        assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--split", "train"], "--split is of caches (.vgc); --data is shapes"),
        (["--mirror"], "--mirror is of caches"),
        (["--shrink", "crop"], "--shrink is of folders of film strips"),
        (["--objective", "hinge", "--penalty", "7"], "--penalty: the objective hinge has no penalty"),
        (["--seed", "-1"], "--seed should be greater than or equal to 0, got '-1'"),
        (["--seed", "9" * 30], "--seed "),
        (["--optim.betas", "1.5", "0.9"], "--optim.betas wants two numbers from 0 to below 1"),
        (["--optim.generator-lr", "inf"], "--optim.generator-lr should be a finite number"),
        (["--inflate", "nowhere", "--dry-run"], "--inflate is of stgan with depth 3"),
    ],
)
def test_an_option_that_would_do_nothing_or_cannot_be_is_one_sentence(words, sentence, tmp_path, here, capsys):
    assert main(["tiny", "--outdir", str(tmp_path / "run"), *words]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_help_is_given_wherever_it_stands(here, capsys):
    assert main(["tiny", "--clips", "10", "--help"]) == 0
    assert "--clips INT" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [{}, {"class": ("a", "b")}], ids=["no labels", "two classes"])
def test_the_built_in_recipe_takes_the_labels_of_other_data_or_none(labels, tmp_path, capsys):
    writer = Writer(tmp_path / "my.vgc", (32, 32), {})
    clips = np.random.default_rng(0).integers(0, 256, (4, 8, 32, 32, 3)).astype(np.uint8)
    for i, frames in enumerate(clips):
        writer.add(str(i), [(Clip(str(i), 8.0, i % 2 if labels else None), frames)])
    writer.finish(labels, {})
    words = [
        "--data",
        str(tmp_path / "my.vgc"),
        "--outdir",
        str(tmp_path / "run"),
        "--clips",
        "8",
        "--every.judged",
        "0",
    ]
    assert main(words) == 0, capsys.readouterr().err
    system = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["system"]
    assert system["classes"] == ([2] if labels else [])
    assert main(words) == 0
    assert "complete: 8 clips seen" in capsys.readouterr().out
