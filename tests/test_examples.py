"""The scripts of examples/ that a test has time for, and the parts of the long ones that files pass through."""

import importlib
import re
import runpy
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from vgen_fast import ops
from vgen_fast.data import write
from vgen_fast.data.strips import Strips

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_two_ops_train_inside_another_gan_as_their_definitions_do(capsys):
    said = []
    for implementation in ("reference", None):
        with ops.using(implementation) if implementation else nullcontext():
            runpy.run_path(str(EXAMPLES / "embed_two_ops.py"))
        said.append([float(number) for number in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)])
    assert len(said[0]) == 2
    assert said[0] == pytest.approx(said[1], abs=2e-4)


@pytest.fixture
def animate_shapes(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("animate_shapes")


def shades(folder: Path) -> list[int]:
    strips = Strips(folder, (16, 8, 8), seed=0)
    return sorted(int(strips.clip(i)[0].max()) for i in range(strips.count))


def test_every_tenth_strip_is_held_out_and_the_reader_takes_all(tmp_path, animate_shapes):
    for label in "01":
        (tmp_path / "shapes" / label).mkdir(parents=True)
        for i in range(10):
            write.png(tmp_path / "shapes" / label / f"{i}.png", np.full((8, 16 * 8, 3), 10 * i, np.uint8))
    train, held_out = animate_shapes.parted(tmp_path / "shapes", tmp_path / "out")
    assert shades(train) == sorted(2 * list(range(0, 90, 10)))
    assert shades(held_out) == [90, 90]


def test_colours_are_compared_with_those_of_the_given_frame_and_of_the_next_clip(animate_shapes):
    clips = np.zeros((3, 4, 8, 8, 3), np.uint8)
    clips[0, :, 2:6, 2:6] = 240, 40, 40  # stays as it is
    clips[1, :, 2:6, 2:6] = 40, 240, 40
    clips[1, 2:, 2:6, 2:6] = 40, 240, 140  # 100 away in two of three predicted frames
    clips[2, 1:, 2:6, 2:6] = 40, 40, 240  # nothing is given: neither its own distance nor one from it
    mine, others = animate_shapes.off_colour(clips)
    assert mine == 0.0
    assert others == pytest.approx(200 * 2**0.5)
    clips[2] = clips[0]
    mine, others = animate_shapes.off_colour(clips)
    assert mine == pytest.approx((0 + 200 / 3 + 0) / 3)
    far = np.linalg.norm([200, 200, 100])
    assert others == pytest.approx((200 * 2**0.5 + (200 * 2**0.5 + 2 * far) / 3 + 0) / 3)
