"""Caches on real disks: read back without the package, killed and gone on with, damaged, joined."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from vgen_fast.data import cache, journal
from vgen_fast.data.build.whole import join, split_by_source
from vgen_fast.data.cache import BadCache, Cache, Clip, Writer

RECIPE = {"filter": "none", "part": None}
LABELS = {"class": ("odd", "even")}


def frames(number, count=None, size=(8, 12)):
    """Smooth pictures, so that JPEG comes near them."""
    y, x = np.mgrid[: size[0], : size[1]]
    t = np.arange(5 + number % 4 if count is None else count)[:, None, None]
    one = number * 3 + t * 5 + y * 4 + x * 3
    return np.stack([one, one // 2, 255 - one], -1).astype(np.uint8)


def fill(writer, numbers):
    for n in numbers:
        if f"s{n}" not in writer.done:
            bad = [(f"s{n}", "truncated", f"truncated: source {n}, at once")] if n % 5 == 4 else []
            writer.add(f"s{n}", [] if bad else [(Clip(f"s{n}", 25.0, n % 2, "train", f"s{n}.avi"), frames(n))], bad)


def built(folder, numbers=range(20), storage="raw", recipe=RECIPE):
    writer = Writer(folder, (8, 12), recipe, storage)
    fill(writer, numbers)
    writer.finish(LABELS, {"versions": {}, "absent": 0})
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


KEPT = [n for n in range(20) if n % 5 != 4]


def test_numpy_alone_reads_a_raw_cache(tmp_path):
    folder = built(tmp_path / "a.vgc")
    index = json.loads((folder / "index.json").read_bytes())
    clips, shape = index["clips"], (-1, index["height"], index["width"], 3)
    assert clips["id"] == [f"s{n}" for n in KEPT]
    for clip, n in enumerate(KEPT):
        shard = np.memmap(folder / f"shard-{clips['shard'][clip]:05}.u8", np.uint8, "r").reshape(shape)
        found = shard[clips["first"][clip] :][: clips["frames"][clip]]
        assert (found == frames(n)).all()
        assert hashlib.sha256(found.tobytes()).hexdigest() == clips["sha256"][clip]
    assert (folder / "rejected.csv").read_text().splitlines()[:2] == [
        "source,reason,text",
        's4,truncated,"truncated: source 4, at once"',
    ]
    assert not (folder / "journal.jsonl").exists()


def test_zipfile_alone_finds_the_pictures_of_a_jpeg_cache(tmp_path):
    folder = built(tmp_path / "a.vgc", storage="jpeg")
    clips = json.loads((folder / "index.json").read_bytes())["clips"]
    with zipfile.ZipFile(folder / "shard-00000.zip") as shard:
        entries = shard.infolist()
        assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
        assert len(entries) == sum(clips["frames"])
        first = shard.read(f"{clips['first'][3]:09}/00000.jpg")
    assert first[:3] == b"\xff\xd8\xff"
    start = first.index(b"\xff\xc0") + 10  # components of the frame header: id, sampling, table
    assert [first[start + 3 * i + 1] for i in range(3)] == [0x11] * 3 or len({*first[start + 1 :: 3][:3]}) == 1


def test_pictures_that_were_packed_anew_are_read_and_damaged_ones_refused(tmp_path):
    """Another program's headers may hold more than a name; zipfile writes a longer one where it knows no length."""
    folder = built(tmp_path / "a.vgc", storage="jpeg")
    whole, shard = Cache(folder).read(3), folder / "shard-00000.zip"
    with zipfile.ZipFile(shard) as file:
        pictures = {entry.filename: file.read(entry) for entry in file.infolist()}
    with zipfile.ZipFile(shard, "w") as file:
        for name, content in pictures.items():
            with file.open(name, "w", force_zip64=True) as one:
                one.write(content)
    again = Cache(folder)
    assert (again.read(3) == whole).all()
    assert again.digest(3) == again.column("sha256")[3]
    name = cache.jpeg_name(int(again.first[3]), 2)
    with open(shard, "r+b") as file:
        file.seek(shard.read_bytes().index(pictures[name]) + 200)
        file.write(b"damage")
    with pytest.raises(zipfile.BadZipFile, match=f"{name} is damaged"):
        again.read(3)
    assert again.digest(3) is None
    assert (again.read(3, slice(0, 2)) == whole[:2]).all()


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_clips_come_back(tmp_path, storage):
    found = Cache(built(tmp_path / "a.vgc", storage=storage))
    assert len(found) == len(KEPT)
    assert found.labels == LABELS
    for clip, n in enumerate(KEPT):
        whole = frames(n)
        near = np.abs(found.read(clip).astype(int) - whole).max()
        assert near == 0 if storage == "raw" else near <= 6
        assert (found.read(clip, slice(1, 5, 2)) == found.read(clip)[1:5:2]).all()
        assert (found.read(clip, np.array([4, 0, 4])) == found.read(clip)[[4, 0, 4]]).all()
        assert found.label[clip] == n % 2
        assert found.digest(clip) == found.column("sha256")[clip]


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_a_build_goes_on_to_the_same_bytes(tmp_path, monkeypatch, storage):
    """Stopped after any source, with a torn line in the journal and bytes after its last one."""
    monkeypatch.setattr(cache, "COMMIT_BYTES", 3000)
    monkeypatch.setitem(cache.SHARD_BYTES, "raw", 5000)
    whole = contents(built(tmp_path / "whole.vgc", storage=storage))
    assert len([name for name in whole if name.startswith("shard")]) > 2
    for stop in range(1, 20):
        folder = tmp_path / f"{stop}.vgc"
        writer = Writer(folder, (8, 12), RECIPE, storage)
        fill(writer, range(stop))
        writer.close()
        with open(folder / "journal.jsonl", "ab") as file:
            file.write(b'{"source": "s')
        assert contents(built(folder, storage=storage)) == whole


KILLED = """
import sys, time
from pathlib import Path
from tests.data import test_cache as here
from vgen_fast.data import cache
cache.COMMIT_BYTES = 3000
writer = cache.Writer(Path(sys.argv[1]), (8, 12), here.RECIPE)
for n in range(20):
    here.fill(writer, [n])
    print(n, flush=True)
    time.sleep(0.01)
time.sleep(60)
"""


def test_kill_9_in_a_build_loses_nothing_that_the_journal_knows(tmp_path, monkeypatch):
    whole = contents(built(tmp_path / "whole.vgc"))
    for after in (3, 11, 19):
        folder = tmp_path / f"{after}.vgc"
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE)
        for line in process.stdout:
            if int(line) == after:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        filled = after + 1 + len(process.stdout.readlines())  # it may have gone on before the signal
        process.stdout.close()
        with pytest.raises(BadCache, match="is no cache yet, its build has not ended"):
            Cache(folder)
        known = journal.whole_lines(folder / "journal.jsonl")
        assert 1 < len(known) <= 1 + filled + 1  # the head, and one that was not told yet
        assert contents(built(folder)) == whole


def test_a_second_builder_is_refused(tmp_path):
    writer = Writer(tmp_path / "a.vgc", (8, 12), RECIPE)
    with pytest.raises(BadCache, match="another process is building"):
        Writer(tmp_path / "a.vgc", (8, 12), RECIPE)
    writer.close()
    with pytest.raises(BadCache, match="begun with another recipe"):
        Writer(tmp_path / "a.vgc", (8, 16), RECIPE)
    built(tmp_path / "a.vgc")
    with pytest.raises(BadCache, match="is complete"):
        Writer(tmp_path / "a.vgc", (8, 12), RECIPE)


def test_damage_is_noticed(tmp_path):
    folder = built(tmp_path / "a.vgc")
    shard = folder / "shard-00000.u8"
    whole = bytearray(shard.read_bytes())
    whole[8 * 12 * 3 * 5 + 1] ^= 1  # the second clip
    shard.write_bytes(whole)
    found = Cache(folder)
    assert [found.digest(clip) == digest for clip, digest in enumerate(found.column("sha256"))][:3] == [
        True,
        False,
        True,
    ]
    shard.write_bytes(whole[:-1])
    with pytest.raises(BadCache, match=rf"shard-00000.u8 has {len(whole) - 1} of {len(whole)} bytes"):
        Cache(folder)
    shard.unlink()
    with pytest.raises(BadCache, match=r"shard-00000.u8 is missing"):
        Cache(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(BadCache, match=r"index.json is damaged"):
        Cache(folder)


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_parts_join_to_the_whole(tmp_path, storage):
    whole = Cache(built(tmp_path / "whole.vgc", storage=storage))
    parts = []
    for i in range(3):
        numbers = range(20 * i // 3, 20 * (i + 1) // 3)
        parts.append(built(tmp_path / f"{i}.vgc", numbers, storage, RECIPE | {"part": f"{i + 1}/3"}))
    join(tmp_path / "joined.vgc", [parts[2], parts[0], parts[1]])
    joined = Cache(tmp_path / "joined.vgc")
    assert joined.column("id") == whole.column("id")
    for clip in range(len(whole)):
        assert (joined.read(clip) == whole.read(clip)).all()
    digests = [
        json.loads((tmp_path / name / "build.json").read_bytes())["sha256"] for name in ("whole.vgc", "joined.vgc")
    ]
    assert digests[0] == digests[1]
    rejected = [(tmp_path / name / "rejected.csv").read_bytes() for name in ("whole.vgc", "joined.vgc")]
    assert rejected[0] == rejected[1]
    with pytest.raises(BadCache, match="these are the parts 1/3, 2/3, wanted all of 1/2"):
        join(tmp_path / "two.vgc", parts[:2])
    with pytest.raises(BadCache, match="is there already"):
        join(tmp_path / "joined.vgc", parts)
    other = built(tmp_path / "other.vgc", range(3), storage, {"filter": "other", "part": "3/3"})
    with pytest.raises(BadCache, match="by another recipe"):
        join(tmp_path / "mixed.vgc", [parts[0], parts[1], other])


def test_a_split_by_source_leaves_no_source_in_both(tmp_path):
    writer = Writer(tmp_path / "a.vgc", (8, 12), RECIPE)
    for n in range(12):
        clips = [(Clip(f"s{n}#{i}", 25.0, source=f"s{n}.mp4"), frames(10 * n + i, 1)) for i in range(1 + n % 4)]
        writer.add(f"s{n}", clips)
    writer.finish({}, {"versions": {}})
    whole = contents(tmp_path / "a.vgc")
    split_by_source(tmp_path / "a.vgc", 7, seed=1)
    cache = Cache(tmp_path / "a.vgc")
    sources = np.array(cache.column("source"))
    assert 7 <= (cache.split == "val").sum() <= 10  # the last source that was drawn has at most 4
    assert not set(sources[cache.split == "val"]) & set(sources[cache.split == "train"])
    assert set(cache.split.tolist()) == {"val", "train"}
    first = cache.split.tolist()
    split_by_source(tmp_path / "a.vgc", 7, seed=1)
    assert Cache(tmp_path / "a.vgc").split.tolist() == first
    split_by_source(tmp_path / "a.vgc", 7, seed=2)
    assert Cache(tmp_path / "a.vgc").split.tolist() != first
    after = contents(tmp_path / "a.vgc")
    assert {name for name in whole if whole[name] != after[name]} == {"index.json"}
    with pytest.raises(BadCache, match="30 leave no others"):
        split_by_source(tmp_path / "a.vgc", 30)


def test_a_split_by_source_leaves_the_published_splits_alone(tmp_path):
    for name, splits in (("a.vgc", ("train savp", "test")), ("b.vgc", ("train1 test2", "test1"))):
        writer = Writer(tmp_path / name, (8, 12), RECIPE)
        for n in range(8):
            writer.add(f"s{n}", [(Clip(f"s{n}", split=splits[n % 2], source=f"s{n}.mp4"), frames(n))])
        writer.finish({}, {"versions": {}})
        split_by_source(tmp_path / name, 2)
    first, second = Cache(tmp_path / "a.vgc"), Cache(tmp_path / "b.vgc")
    assert first.splits == {"savp": 4, "test": 4, "train": 2, "val": 2}
    assert not set(first.of("val")) & set(first.of("test"))
    assert second.splits == {"test1": 4, "test2": 4, "train": 6, "train1": 4, "val": 2}
    with pytest.raises(BadCache, match="no clips of the split 'test', it has test1, test2, train, train1, val"):
        second.of("test")
