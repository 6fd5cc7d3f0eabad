import numpy as np
import pytest

from vgen_fast.data import (
    bair,
    faceforensics,
    folder,
    kinetics,
    landscape,
    moving_mnist,
    sky,
    strips,
    tfrecord,
    tinyvideo,
    ucf101,
)
from vgen_fast.data.decode import Rejected, opened
from vgen_fast.data.sources import NoDataSet, natural

from . import layouts


@pytest.mark.parametrize(
    ("content", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_of_rfc_3720(content, crc):
    assert tfrecord.crc32c(content) == crc


@pytest.mark.parametrize("length", [255, 256, 257, 512, 767, 768, 5000, 12345])
def test_checksums_of_many_lanes(length):
    """Against one byte after the other."""
    content = np.random.default_rng(length).bytes(length)
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert tfrecord.crc32c(content) == register ^ 0xFFFFFFFF


def test_numbers_sort_as_numbers():
    names = ["f10.png", "f9.png", "f1/2.png", "f1/10.png", "é2", "10", "2"]
    assert sorted(names, key=natural) == ["2", "10", "f1/2.png", "f1/10.png", "f9.png", "f10.png", "é2"]


def test_ucf101(tmp_path):
    root = layouts.ucf101(tmp_path)
    everything, train, test = (ucf101.index(root, split) for split in (None, "train1", "test1"))
    assert everything.labels == {"class": ("ApplyEyeMakeup", "Billiards", "HandstandPushups")}
    assert [len(listing.sources) for listing in (everything, train, test)] == [9, 6, 3]
    assert [source.label for source in train.sources] == [0, 0, 1, 1, 2, 2]
    assert train.sources[-1].path == "UCF-101/HandstandPushups/v_HandStandPushups_g25_c01.avi"
    (root / test.sources[0].path).unlink()
    assert ucf101.index(root, "test1").absent == 1
    with pytest.raises(NoDataSet, match="train1 to train3"):
        ucf101.index(root, "train4")
    with pytest.raises(NoDataSet, match=r"has no ucfTrainTestlist/testlist02.txt"):
        ucf101.index(root, "test2")
    assert ucf101.index(root).absent == 1
    lists = root / "ucfTrainTestlist"
    (lists / "trainlist03.txt").write_text((lists / "testlist01.txt").read_text().split()[1])
    assert [source.split for source in ucf101.index(root).sources] == [
        *("train1", "train1"),  # the third one is not there any more
        *("test1 train3", "train1", "train1"),
        *("test1", "train1", "train1"),
    ]


def test_bair(tmp_path):
    root = layouts.bair(tmp_path)
    counts = {
        split: len(bair.index(root, split).sources) for split in (None, "train", "test", "validation", "train-savp")
    }
    assert counts == {None: 7, "train": 5, "test": 2, "validation": 2, "train-savp": 3}
    known = [source.split for source in bair.index(root).sources]
    assert known == ["train train-savp"] * 3 + ["train validation"] * 2 + ["test"] * 2
    source = bair.index(root, "validation").sources[1]
    assert (bair.frames(root / source.path, source.number) == layouts.push(11)).all()
    assert (bair.frames(root / source.path, source.number, "image_main") == 255 - layouts.push(11)).all()
    with opened(root / source.path) as file:
        features = tfrecord.example(file, *tfrecord.offsets(file)[0])
    assert features["29/action"].tolist() == [29, 30, 31, 32]
    with pytest.raises(NoDataSet, match="not 'val'"):
        bair.index(root, "val")


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (3, "damaged: the length of record 0"),
        (9, "damaged: the length"),
        (500, "damaged: the record at"),
        (-2, "damaged: the record at"),
    ],
)
def test_a_flipped_bit_of_a_record_is_noticed(tmp_path, at, reason):
    path = layouts.bair(tmp_path) / "softmotion30_44k/test/traj_0_to_255.tfrecords"
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    with pytest.raises(Rejected, match=reason):
        [bair.frames(path, n) for n in range(2)]


def test_no_prefix_of_a_record_file_passes_for_a_whole_one(tmp_path):
    path = tmp_path / "a.tfrecords"
    whole = layouts.record(layouts.example({"a": b"xyz"})) + layouts.record(layouts.example({"b": np.arange(3)}))
    second = len(layouts.record(layouts.example({"a": b"xyz"})))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with opened(path) as file:
            if length in (0, second):  # whole records, fewer of them: nothing in the file tells
                assert len(tfrecord.offsets(file)) == (length == second)
                continue
            with pytest.raises(Rejected, match="truncated"):
                tfrecord.offsets(file)
    path.write_bytes(whole)
    with opened(path) as file:
        first, last = (tfrecord.example(file, *place) for place in tfrecord.offsets(file))
    assert first == {"a": [b"xyz"]}
    assert last["b"].tolist() == [0, 1, 2]


def test_mutated_examples_are_parsed_or_refused():
    whole = layouts.example({"a": b"xyz" * 5, "b": np.arange(300), "c": np.ones(3, np.float32)})
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(5000):
        content = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            content[rng.integers(len(content))] = rng.integers(256)
        try:
            tfrecord.parse(memoryview(bytes(content)))
        except Rejected:
            refused += 1
    assert 500 < refused < 5000


def test_sky(tmp_path):
    root = layouts.sky(tmp_path)
    assert [source.path.split("/")[-1] for source in sky.index(root, "train").sources] == ["1", "2", "10"]
    assert [source.split for source in sky.index(root).sources] == ["train"] * 3 + ["test"]
    assert len(sky.index(root, "test").sources) == 1
    with pytest.raises(NoDataSet, match="not 'val'"):
        sky.index(root, "val")


def test_tinyvideo(tmp_path):
    listing = tinyvideo.index(layouts.golf(tmp_path))
    assert len(listing.sources) == 3
    assert listing.absent == 1
    assert {source.split for source in listing.sources} == {"golf"}
    (tmp_path / "labelled.txt").write_text("frames-stable-many/g0/0000.jpg 3\n")
    assert tinyvideo.index(tmp_path, "labelled").sources[0].label == 2
    both = {source.path: (source.split, source.label) for source in tinyvideo.index(tmp_path).sources}
    assert both.pop("frames-stable-many/g0/0000.jpg") == ("golf labelled", 2)
    assert list(both.values()) == [("golf", None)] * 2
    (tmp_path / "other.txt").write_text("frames-stable-many/g0/0000.jpg 1\n")
    with pytest.raises(NoDataSet, match=r"other.txt gives 'frames-stable-many/g0/0000.jpg' another class than"):
        tinyvideo.index(tmp_path)
    with pytest.raises(NoDataSet, match=r"has no list of clips, beach\.txt"):
        tinyvideo.index(tmp_path, "beach")
    (tmp_path / "bad.txt").write_text("../../etc/passwd.jpg\n")
    with pytest.raises(NoDataSet, match="no picture below the list"):
        tinyvideo.index(tmp_path, "bad")


def test_kinetics(tmp_path):
    listing = kinetics.index(layouts.kinetics(tmp_path))
    assert listing.labels == {"class": ("air drumming", "riding a bike, fast")}
    assert [(source.name, source.label) for source in listing.sources] == [
        ("---v8pgm1eQ_000003_000013", 1),
        ("-0abcdefghi_000100_000110", 0),
    ]
    assert listing.absent == 1
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/test.csv").write_text("youtube_id,time_start,time_end,split\nabcdefghijk,7,17,test\n")
    layouts.film(tmp_path / "test/abcdefghijk_000007_000017.mp4", codec="libx264", options={})
    both = kinetics.index(tmp_path).sources
    assert [(source.split, source.label) for source in both] == [("train", 1), ("train", 0), ("test", None)]
    assert len(kinetics.index(tmp_path, "test").sources) == 1
    with pytest.raises(NoDataSet, match=r"has no val.csv"):
        kinetics.index(tmp_path, "val")


def test_landscape(tmp_path):
    root = layouts.landscape(tmp_path)
    listing = landscape.index(root)
    assert [(source.name, source.split) for source in listing.sources] == [
        ("-aB_3_clip000", "train"),
        ("-aB_3_clip001", "train"),
        ("x9_clip001", "val"),
    ]
    assert listing.absent == 1
    assert [source.path for source in landscape.index(root, "val").sources] == ["clips/x9_clip001.mp4"]
    (root / "info.csv").unlink()
    assert landscape.index(root) == listing
    layouts.film(root / "again" / "x9_clip001.mp4", codec="libx264", options={})
    with pytest.raises(NoDataSet, match=r"has x9_clip001.mp4 twice: again/x9_clip001.mp4 and clips/"):
        landscape.index(root)
    (root / "val_info.csv").write_text("video_id,file_name\nx9,gone.mp4\nx9\n")
    with pytest.raises(NoDataSet, match=r"has none of the 2 clips that val_info.csv name"):
        landscape.index(root, "val")
    (root / "val_info.csv").write_text("video_id,path\nx9,gone.mp4\n")
    with pytest.raises(NoDataSet, match=r"val_info.csv has no column file_name"):
        landscape.index(root)
    with pytest.raises(NoDataSet, match=r"has no info.csv or train_info.csv or val_info.csv"):
        landscape.index(root / "clips")
    with pytest.raises(NoDataSet, match=r"not 'test'"):
        landscape.index(root, "test")


def test_faceforensics(tmp_path):
    root = layouts.faceforensics(tmp_path)
    assert [source.name for source in faceforensics.index(root).sources] == ["000", "003", "071"]
    assert [source.name for source in faceforensics.index(root, "train").sources] == ["000", "003"]
    assert [source.split for source in faceforensics.index(root).sources] == ["train", "train", "val"]
    assert faceforensics.index(root, "val").absent == 1
    layouts.film(tmp_path / "v1/test/original/abc.avi")
    layouts.film(tmp_path / "v1/test/altered/abc.avi")
    (source,) = faceforensics.index(tmp_path / "v1").sources
    assert (source.path, source.split, source.mask) == ("test/original/abc.avi", "test", None)
    layouts.film(tmp_path / "v1/test/mask/abc.avi")
    (source,) = faceforensics.index(tmp_path / "v1").sources
    assert source.mask == "test/mask/abc.avi"


def test_moving_mnist(tmp_path):
    root = layouts.moving_mnist(tmp_path)
    videos = np.load(root / "mnist_test_seq.npy")
    sources = moving_mnist.index(root).sources
    assert len(sources) == 7
    assert (moving_mnist.frames(root / sources[3].path, 3) == videos[:, 3, :, :, None]).all()
    np.save(root / "mnist_test_seq.npy", np.array([{}], dtype=object))
    with pytest.raises(Rejected, match="format"):
        moving_mnist.index(root)


def test_folders(tmp_path):
    layouts.film(tmp_path / "films/cat/2.mp4", codec="libx264", options={})
    layouts.film(tmp_path / "films/cat/10.avi")
    layouts.film(tmp_path / "films/dog/1.avi")
    listing = folder.index(tmp_path / "films")
    assert [(source.path, source.label) for source in listing.sources] == [
        ("cat/2.mp4", 0),
        ("cat/10.avi", 0),
        ("dog/1.avi", 1),
    ]
    root = layouts.sky(tmp_path / "sky")
    assert len(folder.index(root / "sky_train").sources) == 3
    assert len(folder.single(root / "sky_test").sources) == 40
    with pytest.raises(NoDataSet, match="neither films"):
        folder.index(tmp_path / "sky/sky_test/NRP0fGXyvDU/1")
    assert strips.index(layouts.golf(tmp_path / "golf")).labels == {"class": ("frames-stable-many",)}
