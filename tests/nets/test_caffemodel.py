"""Caffe's files of every kind, whole, strange, damaged and hostile."""

import random
import tracemalloc

import numpy as np
import pytest

from vgen_fast.nets.caffemodel import BadWeights, read_layers, read_mean

from .caffe_files import blob, chunk, forked_blob, new_net, number, old_blob, old_net, oldest_net

RNG = np.random.default_rng(0)
NET = {
    "conv1": [RNG.normal(size=(4, 3, 5, 5)).astype(np.float32), RNG.normal(size=4).astype(np.float32)],
    "fc6": [RNG.normal(size=(6, 20)).astype(np.float32), RNG.normal(size=6).astype(np.float32)],
}
SOLID = {"conv1a": [RNG.normal(size=(4, 3, 3, 5, 5)).astype(np.float32), RNG.normal(size=4).astype(np.float32)]}


def saved(folder, content: bytes):
    (folder / "net.caffemodel").write_bytes(content)
    return folder / "net.caffemodel"


@pytest.mark.parametrize(
    ("content", "net"),
    [
        (new_net(NET), NET),
        (new_net(NET, packed=False), NET),
        (old_net(NET), NET),
        (old_net(SOLID, forked_blob), SOLID),
        (old_net(SOLID, blob), SOLID),
        (oldest_net(NET), NET),
    ],
    ids=["second", "second, not packed", "first", "C3D 1.0", "C3D 1.1", "older still"],
)
def test_every_kind_of_net_gives_its_numbers(tmp_path, content, net):
    found = read_layers(saved(tmp_path, content))
    assert list(found) == list(net)
    for name, arrays in net.items():
        for ours, theirs in zip(found[name], arrays, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_array_equal(ours.squeeze(), theirs.squeeze())
            assert ours.shape[-theirs.ndim :] == theirs.shape


def test_a_mean_cube_as_c3d_publishes_it(tmp_path):
    """08 01 10 03 18 10 20 80 01 28 80 01 32: one blob of 1 x 3 x 16 x 128 x 128 in field 6."""
    cube = RNG.normal(size=(1, 3, 16, 128, 128)).astype(np.float32)
    content = forked_blob(cube)
    assert content[:13].hex(" ") == "08 01 10 03 18 10 20 80 01 28 80 01 32"
    np.testing.assert_array_equal(read_mean(saved(tmp_path, content)), cube)
    image = RNG.normal(size=(1, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(read_mean(saved(tmp_path, old_blob(image))), image)


def test_numbers_in_double_precision_and_fields_of_the_future_are_read(tmp_path):
    future = number(99, 7) + b"\xf9\x06" + bytes(8)
    content = chunk(7, chunk(1, b"\x03")) + chunk(8, np.array([1.0, 2.0, 0.5]).tobytes()) + future
    assert read_mean(saved(tmp_path, content)).tolist() == [1, 2, 0.5]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (chunk(1, b"a net"), "no layers with weights"),
        (chunk(100, b"\x0a\x7f"), "field 1 has 127 bytes, 0 are left"),
        (b"\x0b", "kind 3"),
        (b"\xff" * 30, "does not end"),
        (new_net(NET)[:-200], "bytes"),
        (new_net({"a": NET["fc6"]}) + new_net({"a": NET["fc6"]}), "two layers of the name 'a'"),
        (chunk(100, chunk(7, number(1, 1 << 60) + number(2, 1 << 60) + chunk(5, b"abcd"))), "has 4 bytes of float32"),
        (
            chunk(100, chunk(7, chunk(7, chunk(1, b"\x01" * 9)) + chunk(5, bytes(4)))),
            "more than 8 dimensions",
        ),
        (chunk(100, chunk(7, b"\x2d\x00\x00")), "cut off"),
        (chunk(100, b"\x3a\x00" * 17), "more than 16 blobs"),
        (chunk(100, b"") * 4097, "more than 4096 layers"),
    ],
)
def test_what_is_no_net_is_answered_by_one_sentence(tmp_path, content, sentence):
    with pytest.raises(BadWeights, match=sentence):
        read_layers(saved(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadWeights, match="No such file"):
        read_layers(tmp_path / "absent.caffemodel")


def test_five_thousand_mutants_end_in_numbers_or_in_bad_weights(tmp_path):
    """And none takes more memory than twice the file and a little."""
    wholes = [new_net(NET), old_net(SOLID, forked_blob), new_net(NET, packed=False), oldest_net(NET)]
    rng, refused = random.Random(0), 0
    tracemalloc.start()
    for _ in range(5000):
        content = bytearray(rng.choice(wholes))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(60)
            content[place] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        try:
            read_layers(saved(tmp_path, bytes(content)))
        except BadWeights:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1000 < refused < 5000
    assert peak < 10 * max(map(len, wholes)) + (4 << 20)
