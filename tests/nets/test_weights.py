"""Strangers' files of weights: what is good is read, what is not is one sentence and little memory."""

import hashlib
import os
import random
import struct
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from vgen_fast.nets.weights import BadWeights, Published, fill, find, read

FILE = Published("net.npz", "a network", "https://example.org/net")


def test_a_missing_file_is_answered_by_its_name_its_address_and_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VGEN_FAST_WEIGHTS", str(tmp_path))
    with pytest.raises(BadWeights, match=f"a network: put net.npz from https://example.org/net into {tmp_path}"):
        find(FILE)
    (tmp_path / "net.npz").write_bytes(b"content")
    assert find(FILE) == tmp_path / "net.npz"
    digest = hashlib.sha256(b"content").hexdigest()
    assert find(replace(FILE, sha256=digest)) == tmp_path / "net.npz"
    with pytest.raises(BadWeights, match=f"is not the published file: its SHA-256 is {digest}, not 00"):
        find(replace(FILE, sha256="00"))


def test_arrays_of_every_order_and_type_are_read(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays = {"c": x, "f": np.asfortranarray(x), "big": x.astype(">f8"), "i": x.astype(np.int64)}
    np.savez(tmp_path / "a.npz", **arrays, one=np.float32(3))
    found = read(tmp_path / "a.npz")
    for name in ("c", "f", "big", "i"):
        np.testing.assert_array_equal(found[name].numpy(), x)
    assert found["one"].item() == 3
    np.savez_compressed(tmp_path / "b.npz", x=np.random.default_rng(0).normal(size=9))
    assert read(tmp_path / "b.npz")["x"].shape == (9,)


class Canary:
    def __reduce__(self):
        return os.mkdir, (Canary.path,)


def test_nothing_in_a_file_is_run(tmp_path):
    Canary.path = str(tmp_path / "ran")
    torch.save({"a": Canary()}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", a=np.array([Canary()], dtype=object))
    for name in ("a.pt", "a.npz"):
        with pytest.raises(BadWeights):
            read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def lying(path, header: dict, content: bytes, method=zipfile.ZIP_STORED):
    text = repr(header).encode()
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)
    return path


def test_archives_that_grow_and_arrays_that_say_more_than_they_have(tmp_path):
    head = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    cases = {
        "and has 8 bytes": lying(tmp_path / "a.npz", head, bytes(8)),
        "would grow": lying(tmp_path / "b.npz", head | {"shape": (1 << 24,)}, bytes(1 << 26), zipfile.ZIP_DEFLATED),
        "says": lying(tmp_path / "c.npz", head | {"shape": (2,), "descr": "<U1"}, bytes(8)),
    }
    torch.save({"w": torch.zeros(1).expand(1 << 20)}, tmp_path / "d.pt")
    cases["larger than its bytes"] = tmp_path / "d.pt"
    torch.save([torch.zeros(1)], tmp_path / "e.pt")
    cases["it holds list and not tensors by name"] = tmp_path / "e.pt"
    (tmp_path / "f.npz").write_bytes(b"PK nothing")
    cases["zip"] = tmp_path / "f.npz"
    tracemalloc.start()
    for sentence, path in cases.items():
        with pytest.raises(BadWeights, match=sentence):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_mutants_of_archives_and_state_dicts_end_in_numbers_or_in_bad_weights(tmp_path):
    rng, wholes = random.Random(0), {}
    np.savez(tmp_path / "whole.npz", a=np.arange(60.0), b=np.ones((2, 3), np.float32))
    torch.save({"a": torch.arange(60.0), "b": torch.ones(2, 3)}, tmp_path / "whole.pt")
    for name in ("whole.npz", "whole.pt"):
        wholes[name.replace("whole", "mutant")] = (tmp_path / name).read_bytes()
    refused = 0
    for _ in range(1500):
        name, whole = rng.choice(list(wholes.items()))
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        (tmp_path / name).write_bytes(content)
        try:
            read(tmp_path / name)
        except BadWeights:
            refused += 1
    assert 300 < refused < 1500


def test_a_module_is_filled_to_the_last_number_or_not_at_all():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    state = {name: torch.rand_like(value, dtype=torch.float64) for name, value in module.state_dict().items()}
    state["0.weight"] = state["0.weight"][None]
    fill(module, state, "here")
    torch.testing.assert_close(module[0].weight.double(), state["0.weight"][0], rtol=1e-6, atol=0)
    before = module[0].weight.clone()
    bad = dict(state) | {"1.running_var": -state["1.running_var"], "0.weight": state["0.weight"] + 1j}
    with pytest.raises(BadWeights, match=r"here: .*0\.weight is complex; .*running_var is a negative variance"):
        fill(module, bad, "here")
    assert torch.equal(module[0].weight, before)


@pytest.mark.parametrize("name", ["absent.npz", "absent.pt", "absent.caffemodel"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(BadWeights, match=name):
        read(tmp_path / name)
