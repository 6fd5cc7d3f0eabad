"""From published layouts to a cache and two steps of training, by the command that people type. (Over 400 lines: every
layout, and every way in which a build is interrupted or refused.)"""

import csv
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from vgen_fast import recipes
from vgen_fast.config import Config, Every, Grow
from vgen_fast.data.__main__ import main
from vgen_fast.data.build import ingest
from vgen_fast.data.build.selection import within
from vgen_fast.data.cache import Cache, Clip, Writer
from vgen_fast.data.decode import Limits
from vgen_fast.data.journal import whole_lines
from vgen_fast.data.pool import Pool
from vgen_fast.data.resize import Fit
from vgen_fast.data.sources import Listing, Source
from vgen_fast.models.progressive import Config as System
from vgen_fast.models.progressive import Row
from vgen_fast.train.__main__ import main as train

from . import layouts
from .films import number


def first_frames(path):
    """The number of the first frame of each clip, and how many there are."""
    cache = Cache(path)
    return [(number(cache.read(clip, slice(0, 1))[0]), int(cache.frames[clip])) for clip in range(len(cache))]


BUILDS = {
    "ucf101": (layouts.ucf101, ["--split", "train1", "--take", "central", "--frames", "32", "--short", "repeat"]),
    "bair": (layouts.bair, ["--split", "train"]),
    "sky": (layouts.sky, ["--split", "train", "--resize", "shorter"]),
    "landscape": (layouts.landscape, ["--split", "train", "--stretch", "32", "32", "--fps", "25"]),
    "tinyvideo": (layouts.golf, ["--frames", "32", "--short", "repeat"]),
}
FIRST = {  # of the frames, and how many there are
    "ucf101": [(4, 32), (0, 32)] * 3,
    "bair": [(0, 30), (100, 30), (200, 30), (1000, 30), (1100, 30)],
    "sky": [(0, 40), (0, 40), (0, 20)],
    "landscape": [(0, 40), (0, 40)],
    "tinyvideo": [(0, 34), (0, 32), (0, 32)],
}


def small() -> Config:
    rows = (Row(8, 4, 4), Row(4, 2, 2), Row(4, 2, 2), Row(4, 1, 2))  # to 16x32x32
    return Config(
        recipe="small",
        system=System(rows=rows, latents=8, features=8),
        clips=8,
        phases=(Grow(0, 4, 4), Grow(0, 0, 4), Grow(0, 0, 4), Grow(0, 4, 4)),
        every=Every(judged=0),
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", BUILDS)
def test_a_published_layout_becomes_a_cache_and_trains(tmp_path, monkeypatch, capfd, layout):
    make, options = BUILDS[layout]
    root, target = make(tmp_path / "data"), tmp_path / "a.vgc"
    command = ["build", str(target), "--layout", layout, "--root", str(root), *options, "--size", "32", "32"]
    assert main([*command, "--dry-run"]) == 0
    assert "about " in capfd.readouterr().out
    assert not target.exists()
    assert main(command) == 0
    assert main(["check", str(target)]) == 0
    assert first_frames(target) == FIRST[layout]
    assert main(["preview", str(target), str(tmp_path / "p.mp4")]) == 0
    assert (tmp_path / "p.mp4").stat().st_size > 1000
    monkeypatch.setitem(recipes.RECIPES, "small", small)
    assert train(["small", "--data", str(target), "--outdir", str(tmp_path / "run")]) == 0
    (last,) = [
        json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines() if '"exit"' in line
    ]
    assert last["code"] == 0


BUILD = """
import sys
from vgen_fast.data import cache
from vgen_fast.data.__main__ import main
cache.COMMIT_BYTES = 100_000
sys.exit(main(sys.argv[1:]))
"""


def test_a_build_that_was_killed_goes_on_to_the_same_cache(tmp_path):
    root = layouts.ucf101(tmp_path / "data")
    command = ["--layout", "ucf101", "--root", str(root), "--size", "32", "32", "--storage", "raw"]
    assert main(["build", str(tmp_path / "whole.vgc"), *command]) == 0
    killed = tmp_path / "killed.vgc"
    process = subprocess.Popen([sys.executable, "-c", BUILD, "build", str(killed), *command])
    while len(whole_lines(killed / "journal.jsonl")) < 4:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (killed / "index.json").exists()
    assert main(["build", str(killed), *command]) == 0
    for path in (tmp_path / "whole.vgc").iterdir():
        assert path.read_bytes() == (killed / path.name).read_bytes()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_processes_changes_no_byte(tmp_path, workers):
    root = layouts.ucf101(tmp_path / "data")
    command = ["--layout", "ucf101", "--root", str(root), "--size", "32", "32", "--storage", "jpeg"]
    for name, count in (("two", 2), ("other", workers)):
        assert main(["build", str(tmp_path / f"{name}.vgc"), *command, "--workers", str(count)]) == 0
    names = {path.name for path in (tmp_path / "two.vgc").iterdir()}
    assert names == {"index.json", "build.json", "rejected.csv", "shard-00000.zip"}
    for name in names:
        assert (tmp_path / "two.vgc" / name).read_bytes() == (tmp_path / "other.vgc" / name).read_bytes()


def test_bad_videos_are_listed_and_too_many_end_the_build(tmp_path, capfd):
    for n in range(10):
        layouts.film(tmp_path / f"data/{n}.avi", num_frames=20)
    for n in (3, 7):
        path = tmp_path / f"data/{n}.avi"
        path.write_bytes(path.read_bytes()[:1000])
    command = ["build", str(tmp_path / "a.vgc"), "--root", str(tmp_path / "data"), "--storage", "raw"]
    assert main(command) == 65
    assert re.search(r"1 of 10 videos are bad \(1 truncated\): 3.avi", capfd.readouterr().err)
    assert main([*command, "--bad", "0.2"]) == 0
    rows = (tmp_path / "a.vgc/rejected.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["3.avi", "truncated"], ["7.avi", "truncated"]]
    assert json.loads((tmp_path / "a.vgc/build.json").read_text())["rejected"] == {"truncated": 2}
    assert len(Cache(tmp_path / "a.vgc")) == 8


def test_a_build_goes_on_in_the_storage_it_was_begun_in(tmp_path, monkeypatch):
    """Whatever is free by then; and a folder above the cache is made."""
    for n in range(4):
        layouts.film(tmp_path / f"data/{n}.avi", num_frames=20)
    (tmp_path / "data/bad.avi").write_text("no film")
    target = tmp_path / "new/a.vgc"
    command = ["build", str(target), "--root", str(tmp_path / "data"), "--size", "16", "16"]
    monkeypatch.setattr("vgen_fast.data.__main__.disk_usage", lambda path: SimpleNamespace(free=0))
    assert main(command) == 65
    monkeypatch.undo()
    assert main([*command, "--bad", "0.5"]) == 0
    assert Cache(target).storage == "jpeg"


@pytest.mark.parametrize("room", [1, 3000, 1 << 30])
def test_no_more_frames_wait_to_be_written_than_there_is_room_for(tmp_path, monkeypatch, room):
    """Of sources of 1,000 bytes: beside the room, one for each process and the one that is written."""
    monkeypatch.setattr(ingest, "WAITING_BYTES", room)
    made, most = [], []

    class Builder:
        sound = ()

        def __call__(self, source, root, listing, pool):
            made.append(source.name)
            return ingest.Found([(Clip(source.name), np.zeros((10, 1, 100, 1), np.uint8))], [])

    class Slow:
        records, done = (), ()

        def add(self, source, clips, rejected):
            time.sleep(0.02)
            most.append(len(made) - len(most))

    listing = Listing(tuple(Source(str(n), str(n)) for n in range(30)))
    with Pool(2) as pool:
        ingest.build(Slow(), tmp_path, listing, Builder(), pool, 2, 0.0)
    assert len(most) == 30
    assert max(most) <= min(room // 1000 + 3, 10)
    assert room < 1 << 30 or max(most) > 6


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
from vgen_fast.data.__main__ import main
from vgen_fast.data.build import selection
plain = selection.Selection.__call__
def slow(*given):
    time.sleep(0.2)
    return plain(*given)
selection.Selection.__call__ = slow
sys.exit(main(sys.argv[1:]))
"""


def test_a_build_that_is_interrupted_says_so_and_ends(tmp_path):
    layouts.film(tmp_path / "film.avi")
    (tmp_path / "data").mkdir()
    for n in range(300):
        os.link(tmp_path / "film.avi", tmp_path / f"data/{n}.avi")
    words = ["build", str(tmp_path / "a.vgc"), "--root", str(tmp_path / "data"), "--storage", "raw"]
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, *words], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("a.vgc/shard-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert said == "vgen_fast: interrupted; the same command goes on\n"


def test_a_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch, capfd):
    def full(writer):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Writer, "commit", full)
    layouts.film(tmp_path / "data/a.avi", num_frames=20)
    target = str(tmp_path / "a.vgc")
    assert main(["build", target, "--root", str(tmp_path / "data"), "--storage", "raw"]) == 2
    assert f"build: {target}: No space left on device" in capfd.readouterr().err.splitlines()[-1]


def test_any_name_will_do_and_none_reaches_the_terminal_raw(tmp_path, capfd):
    layouts.film(tmp_path / "film.avi", num_frames=20)
    (tmp_path / "data").mkdir()
    names = [b"\xff\xfe.avi", b"a\nb.avi", b"\x1b[2Jc.avi", b"-i.avi", "\u202eiva.avi".encode(), "\u00e9.avi".encode()]
    for name in names:
        os.link(tmp_path / "film.avi", os.path.join(os.fsencode(tmp_path), b"data", name))
        with open(os.path.join(os.fsencode(tmp_path), b"data", b"bad" + name), "w") as file:
            file.write("no film")
    command = ["build", str(tmp_path / "a.vgc"), "--root", str(tmp_path / "data"), "--storage", "raw"]
    assert main(command) == 65
    said = capfd.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in said.err + said.out)
    assert "\\x1b[2J" in said.err
    assert main([*command, "--bad", "0.5"]) == 0
    cache = Cache(tmp_path / "a.vgc")
    assert sorted(map(os.fsencode, cache.column("id"))) == sorted(names)
    with open(tmp_path / "a.vgc/rejected.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rejected = [os.fsencode(row[0]) for row in csv.reader(file)][1:]
    assert sorted(rejected) == sorted(b"bad" + name for name in names)


def test_a_damaged_file_of_records_is_listed_and_the_others_are_kept(tmp_path):
    root, target = layouts.bair(tmp_path / "data"), tmp_path / "a.vgc"
    path = root / "softmotion30_44k/train/traj_256_to_511.tfrecords"
    path.write_bytes(path.read_bytes()[:-5])
    command = ["build", str(target), "--layout", "bair", "--root", str(root), "--bad", "0.2"]
    assert main(command) == 0
    assert len(Cache(target)) == 5
    row = (target / "rejected.csv").read_text().splitlines()[1]
    assert row == "train/traj_256_to_511/0,truncated,record 1 lacks 5 bytes"


def test_caches_that_are_empty_or_cut_off_are_told_in_a_sentence(tmp_path, capfd):
    Writer(tmp_path / "empty.vgc", (8, 8), {}).finish({}, {"versions": {}})
    assert main(["info", str(tmp_path / "empty.vgc")]) == 0
    assert "0 clips, 0 frames" in capfd.readouterr().out
    assert main(["check", str(tmp_path / "empty.vgc")]) == 0
    assert main(["preview", str(tmp_path / "empty.vgc")]) == 2
    assert capfd.readouterr().err.endswith("empty.vgc has no clips\n")
    writer = Writer(tmp_path / "cut.vgc", (8, 8), {}, "jpeg")
    writer.add("a", [(Clip("a"), np.zeros((4, 8, 8, 3), np.uint8))])
    writer.finish({}, {"versions": {}})
    shard = tmp_path / "cut.vgc/shard-00000.zip"
    shard.write_bytes(shard.read_bytes()[:-30])
    assert main(["check", str(tmp_path / "cut.vgc")]) == 1
    said = capfd.readouterr()
    assert "0 of 1 clips are whole" in said.out
    assert "clip 0, a, is not what was built" in said.err
    assert main(["preview", str(tmp_path / "cut.vgc"), str(tmp_path / "p.mp4")]) == 2
    err = capfd.readouterr().err
    assert f"{shard} is cut off or damaged" in err
    assert len(err.splitlines()) == 1


def test_an_array_that_is_none_is_told_in_a_sentence(tmp_path, capfd):
    (tmp_path / "mnist_test_seq.npy").write_bytes(b"no array")
    assert main(["build", str(tmp_path / "a.vgc"), "--layout", "moving-mnist", "--root", str(tmp_path)]) == 2
    err = capfd.readouterr().err
    assert "mnist_test_seq.npy" in err
    assert len(err.splitlines()) == 1


def test_parts_of_a_build_join(tmp_path):
    root = layouts.bair(tmp_path / "data")
    command = ["--layout", "bair", "--root", str(root), "--split", "train", "--size", "32", "32", "--storage", "raw"]
    parts = [str(tmp_path / f"{i}.vgc") for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        assert main(["build", part, *command, "--part", f"{i}/2"]) == 0
    assert main(["merge", str(tmp_path / "joined.vgc"), *parts]) == 0
    assert first_frames(tmp_path / "joined.vgc") == FIRST["bair"]


def test_one_cache_of_ucf101_holds_all_of_its_splits(tmp_path, capsys):
    """Trained on train1 and tested on test1, as documented; a second list puts films into several."""
    root, target = layouts.ucf101(tmp_path / "data"), tmp_path / "ucf101.vgc"
    lists = root / "ucfTrainTestlist"
    tested, trained = ((lists / f"{kind}list01.txt").read_text() for kind in ("test", "train"))
    (lists / "trainlist02.txt").write_text("".join(f"{name} 1\n" for name in tested.split()))
    (lists / "testlist02.txt").write_text("".join(f"{line.split()[0]}\n" for line in trained.splitlines()))
    assert main(["build", str(target), "--layout", "ucf101", "--root", str(root), "--size", "32", "32"]) == 0
    assert "split test1: 3 clips\nsplit test2: 6 clips\nsplit train1: 6 clips" in capsys.readouterr().out
    words = ["classifier", "--data", str(target), "--outdir", str(tmp_path / "run"), "--clips", "4", "--batch", "2"]
    assert train([*words, "--split", "train1", "--test-split", "test1"]) == 0
    assert "on whole videos" in capsys.readouterr().out
    small = tmp_path / "small.vgc"
    command = ["build", str(small), "--layout", "cache", "--root", str(target), "--size", "16", "16"]
    assert main([*command, "--split", "test2"]) == 0
    assert set(Cache(small).split.tolist()) == {"train1 test2"}


def test_a_cache_of_some_classes_counts_them_anew(tmp_path, capsys):
    root, target = layouts.ucf101(tmp_path / "data"), tmp_path / "two.vgc"
    command = ["build", str(target), "--layout", "ucf101", "--root", str(root), "--size", "32", "32"]
    assert main([*command, "--classes", "HandstandPushups,Billiards"]) == 0
    cache = Cache(target)
    assert cache.labels == {"class": ("HandstandPushups", "Billiards")}
    assert [("Billiards" in name, label) for name, label in zip(cache.column("id"), cache.label, strict=True)] == [
        (True, 1)
    ] * 3 + [(False, 0)] * 3
    one = ["build", str(tmp_path / "one.vgc"), "--layout", "cache", "--root", str(target), "--size", "32", "32"]
    assert main([*one, "--classes", "Billiards"]) == 0
    assert Cache(tmp_path / "one.vgc").label.tolist() == [0] * 3
    capsys.readouterr()
    for words, said in {
        "Billiard": "there is no class 'Billiard'; the nearest is 'Billiards'",
        "Billiards,Billiards": "Billiards,Billiards names one twice",
    }.items():
        assert main([*command, "--classes", words]) == 2
        assert said in capsys.readouterr().err


def test_frames_of_any_size_are_read_in_pieces_that_the_limits_allow(tmp_path):
    path = layouts.XVID.write(tmp_path)
    with Pool(1, Limits(all_pixels=7 * 60 * 80)) as pool:
        film = pool.probe(path)
        found = list(ingest.frames(pool, path, film, np.arange(len(film)), Fit(stretch=(8, 8))))
    assert [number(frame.repeat(6, 0).repeat(6, 1)) for frame in found] == list(range(40))


def test_resampling_keeps_the_frames_of_its_times(tmp_path):
    """40 frames at 25 fps make 13 at 8: the nearest to k * 3.125."""
    layouts.film(tmp_path / "data/a.avi")
    assert (
        main(
            [
                "build",
                str(tmp_path / "a.vgc"),
                "--root",
                str(tmp_path / "data"),
                "--size",
                "60",
                "60",
                "--fps",
                "8",
                "--resize",
                "none",
            ]
        )
        == 0
    )
    clip = Cache(tmp_path / "a.vgc").read(0)
    shown = [number(np.pad(frame, ((0, 0), (10, 10), (0, 0)), mode="edge")) for frame in clip]
    assert shown == [math.ceil(k * 3.125 - 0.5) for k in range(13)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "a.vgc"], "--root FOLDER says where"),
        (["build", "a.vgc", "--root", "absent"], "--root absent is no folder"),
        (["build", "a.vgc", "--root", ".", "--layout", "ucf"], "--layout"),
        (["build", "a.vgc", "--root", "empty"], "empty has neither films"),
        (["build", "a.vgc", "--root", "empty", "--take", "central"], "--take central needs --frames"),
        (["build", "a.vgc", "--root", "empty", "--layout", "ucf101"], "empty has no UCF-101"),
        (["build", "a.vgc", "--root", "empty", "--builder", "stabilised", "--frames", "16"], "does not read --frames"),
        (["build", "a.vgc", "--root", "empty", "--builder", "landscape", "--take", "central"], "does not read --take"),
        (["build", "a.vgc", "--root", "empty", "--still", "difference"], "--builder selection does not read --still"),
        (["build", "a.vgc", "--root", "pictures", "--fps", "8"], "--fps 8: pictures holds frames without times"),
        (["build", "a.vgc", "--root", "old.vgc", "--layout", "cache", "--fps", "8"], "--fps 8: old.vgc holds frames"),
        (["info", "empty"], "empty is no cache: it has no index.json"),
        (["info"], "data info NAME.vgc"),
        (["preview", "--help"], "NAME.vgc OUT.mp4"),
        (["look"], "there is no data verb 'look'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures/a").mkdir(parents=True)
    layouts.jpeg(tmp_path / "pictures/a/1.jpg", np.zeros((8, 8, 3), np.uint8))
    writer = Writer(tmp_path / "old.vgc", (8, 8), {})
    writer.add("a", [(Clip("a"), np.zeros((4, 8, 8, 3), np.uint8))])
    writer.finish({}, {})
    assert main(words) == 2
    err = capfd.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_help_is_there(capfd):
    for words in (["--help"], ["build", "--help"]):
        assert main(words) == 0
        assert "NAME.vgc" in capfd.readouterr().out


def test_a_cache_is_a_data_set_too(tmp_path, capsys):
    """Made smaller, in groups: what is known of a clip stays, and its place in the source follows."""
    folder = layouts.sky(tmp_path)
    whole, small = tmp_path / "whole.vgc", tmp_path / "small.vgc"
    command = ["build", str(whole), "--layout", "sky", "--root", str(folder), "--split", "train"]
    assert main([*command, "--size", "32", "48"]) == 0
    command = ["build", str(small), "--layout", "cache", "--root", str(whole), "--size", "16", "24"]
    assert main([*command, "--take", "groups", "--frames", "10"]) == 0
    old, new = Cache(whole), Cache(small)
    assert [(number(new.read(clip)[0]), int(new.frames[clip])) for clip in range(10)] == [
        (10 * i, 10) for count in (4, 4, 2) for i in range(count)
    ]
    assert new.column("id")[:2] == [f"{old.column('id')[0]}#0", f"{old.column('id')[0]}#1"]
    assert new.column("source")[0] == old.column("source")[0]
    assert set(new.split.tolist()) == {"train"}
    assert new.column("crop")[0] == old.column("crop")[0]
    assert within([2, 10, 64, 96], (32, 48), (4, 8, 16, 24)) == (10, 26, 32, 48)
    again = tmp_path / "again.vgc"
    assert main(["build", str(again), "--layout", "cache", "--root", str(whole)]) == 0
    assert again.joinpath("shard-00000.u8").read_bytes() == whole.joinpath("shard-00000.u8").read_bytes()
    assert Cache(again).column("crop") == old.column("crop")
