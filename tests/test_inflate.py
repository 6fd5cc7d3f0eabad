"""`train --inflate`: a run of videos that begins as one of images, or as the released generator; refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.small import SYSTEMS, config_of
from tests.models.test_stgan import caffe_layers
from tests.nets.caffe_files import new_net
from vgen_fast import recipes
from vgen_fast.models.stgan import Generator, inflate, load
from vgen_fast.sample import restored
from vgen_fast.train.__main__ import main

VIDEOS = replace(SYSTEMS["stgan"], dropout=0.5)
IMAGES = replace(VIDEOS, depth=1, frames=1)


def trained(name, system, folder, *words, rate=1e-9, ema=0.0):
    """A run of no more than a step."""
    optim = {"ema": ema, "generator_lr": rate}
    recipes.RECIPES[name] = lambda: config_of("stgan", system=system, clips=8, optim=optim)
    try:
        return main([name, "--outdir", str(folder / name), *words])
    finally:
        del recipes.RECIPES[name]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    assert trained("images", IMAGES, folder, rate=1e-2, ema=0.9) == 0
    return folder / "images"


def weights_after(run):
    return dict(restored(run)[0].generator.state_dict())


def close(found, wanted):
    """But for one step of a rate of 1e-9."""
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-7)


def test_a_run_begins_as_the_inflation_of_the_average_of_one_of_images(images, tmp_path):
    assert trained("videos", VIDEOS, tmp_path, "--inflate", str(images)) == 0
    deep = Generator(VIDEOS)
    assert inflate(restored(images)[0].generator, deep) == []
    close(weights_after(tmp_path / "videos"), dict(deep.state_dict()))


def test_a_run_begins_as_the_inflation_of_the_released_generator(tmp_path):
    path = tmp_path / "generator.caffemodel"
    path.write_bytes(new_net(caffe_layers(IMAGES, np.random.default_rng(0))))
    assert trained("videos", VIDEOS, tmp_path, "--inflate", str(path)) == 0
    deep = Generator(VIDEOS)
    assert inflate(load(path, IMAGES), deep) == []
    close(weights_after(tmp_path / "videos"), dict(deep.state_dict()))


@pytest.mark.parametrize(
    ("system", "source", "sentence"),
    [
        (IMAGES, "IMAGES", "--inflate is of stgan with depth 3, not of stgan"),
        (SYSTEMS["tgan"], "IMAGES", "--inflate is of stgan with depth 3"),
        (VIDEOS, "none.caffemodel", "--inflate: none.caffemodel"),
        (VIDEOS, "tests", "tests is no run folder"),
        (replace(VIDEOS, codes=16, first=(8, 4)), "IMAGES", "are others, dense.2.weight"),
    ],
)
def test_what_cannot_be_inflated_is_refused_in_one_sentence(system, source, sentence, images, tmp_path, capsys):
    source = str(images) if source == "IMAGES" else source
    assert trained("videos", system, tmp_path, "--inflate", source) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_an_encoder_that_is_not_there_ends_the_run_in_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VGEN_FAST_WEIGHTS", str(tmp_path))
    assert trained("videos", replace(VIDEOS, encoder="other.caffemodel"), tmp_path) == 2
    assert "the encoder: put other.caffemodel" in capsys.readouterr().err
