"""Stages at the borders of every phase; intervals; seeds."""

from dataclasses import replace

import pytest
import torch

from vgen_fast.models.system import Draw, Stage
from vgen_fast.train.schedule import Phase, due, phase_at, rates_at, stage_at, work
from vgen_fast.train.seeding import derived

PHASES = tuple(
    Phase(level, fade, stable, 10, 10, 1.0, 1.0) for level, fade, stable in ((0, 0, 50), (1, 40, 60), (2, 30, 5))
)


@pytest.mark.parametrize(
    ("clips", "stage"),
    [
        (0, Stage(0, 1.0)), (40, Stage(0, 1.0)), (49, Stage(0, 1.0)),
        (50, Stage(1, 0.25)), (60, Stage(1, 0.5)), (79, Stage(1, 39 / 40)), (80, Stage(1, 1.0)), (149, Stage(1, 1.0)),
        (150, Stage(2, 1 / 3)), (170, Stage(2, 1.0)), (185, Stage(2, 1.0)), (10**9, Stage(2, 1.0)),
    ],
)  # fmt: skip
def test_stage_at_the_borders_of_every_phase(clips, stage):
    assert stage_at(PHASES, clips) == stage


def test_phase_begins_where_those_before_end():
    assert [phase_at(PHASES, clips)[1] for clips in (0, 49, 50, 149, 150, 10**9)] == [0, 0, 50, 50, 150, 150]


def test_rates_halve_over_stable_clips_of_a_phase_that_says_so():
    falling = (PHASES[0], replace(PHASES[1], halving=20, critic_rate=4.0))
    found = [rates_at(falling, clips) for clips in (49, 50, 90, 100, 110, 150)]
    assert found == [(1, 1), (4, 1), (4, 1), (4 * 0.5**0.5, 0.5**0.5), (2, 0.5), (0.5, 0.125)]


@pytest.mark.parametrize(
    ("every", "before", "after", "wanted"),
    [
        (10, 0, 8, False),
        (10, 8, 16, True),
        (10, 10, 18, False),
        (10, 2, 10, True),
        (10, 16, 48, True),
        (0, 0, 99, False),
    ],
)
def test_due_once_for_every_multiple_passed(every, before, after, wanted):
    assert due(every, before, after) == wanted


def test_work_grows_by_the_voxels_of_each_level():
    sizes = ((1, 2, 5), (1, 10, 50), (10, 10, 70))
    wanted = 50 * 3_010 + 100 * 3_500 + 7 * 10_000
    assert work(PHASES, sizes, 157) == wanted
    assert work(PHASES, sizes, 10) == 10 * 3_010
    assert work(PHASES, sizes, 0) == 0


def test_seeds_differ_by_every_part_of_their_key_and_are_the_same_everywhere():
    assert derived(0, 8, "video", 0) == 1_159_058_648_651_289_998
    keys = [(seed, clips, name) for seed in range(3) for clips in range(50) for name in ("video", "generator")]
    assert len({derived(*key) for key in keys}) == len(keys)


def test_rows_of_a_draw_are_those_of_the_whole_batch():
    whole = Draw(5, 8, torch.arange(8), torch.zeros(()))
    part = Draw(5, 8, torch.tensor([6, 1]), torch.zeros(()))
    for make in (lambda d: d.normal(3), lambda d: d.uniform(), lambda d: d.signs(4)):
        everything, some = make(whole), make(part)
        assert torch.equal(some, everything[[6, 1]])
    assert set(Draw(1, 4, torch.arange(4), torch.zeros(())).signs(100).unique().tolist()) == {-1.0, 1.0}
