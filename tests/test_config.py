"""Recipes, their record in YAML, and rules that cross fields."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from vgen_fast.config import from_yaml
from vgen_fast.layers.dual_critics import Critics
from vgen_fast.layers.recurrent import Conventions
from vgen_fast.options import Refused, changed, options_of, parse
from vgen_fast.recipes import RECIPES
from vgen_fast.train.schedule import rates_at


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_survives_its_record(name):
    config = RECIPES[name]()
    assert config.recipe == name
    again = from_yaml(config.yaml())
    assert again == config
    assert again.digest() == config.digest()
    assert RECIPES[name].__doc__


def test_the_released_schedule_has_600_thousand_clips_a_phase_and_the_published_batches():
    config = RECIPES["progressive-trailerfaces-256"]()
    assert [phase.batch for phase in config.schedule()] == [32, 32, 16, 16, 8, 8, 4]
    assert [phase.critic_rate for phase in config.schedule()] == [1e-3] * 5 + [1.5e-3, 1e-3]
    # 256 pixels are stable from 7,800 thousand clips on; the run has 12,000 thousand.
    assert [config.stage(clips).level for clips in (7_199_999, 7_200_000)] == [5, 6]
    assert config.stage(7_799_000).fade < 1
    assert config.stage(7_800_000).fade == 1
    assert config.clips == 12_000_000


def test_an_unknown_key_in_a_record_is_refused():
    text = RECIPES["shapes"]().yaml()
    with pytest.raises(ValidationError, match="clisp"):
        from_yaml(text + "clisp: 3\n")
    with pytest.raises(ValidationError, match="latenst"):
        from_yaml(text.replace("  latents:", "  latenst: 1\n  latents:"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({("batch",): 8, ("micro_batch",): 3}, "micro_batch 3 does not divide the batch of 8 clips at level 0"),
        ({("batch",): 16, ("micro_batch",): 2}, "micro_batch 2 is no multiple of the 4 clips that minibatch stddev"),
        ({("feature_matching",): 1.0, ("micro_batch",): 4}, "feature_matching looks at the whole batch of 8 clips"),
        ({("clips",): 0}, "--clips should be greater than 0"),
        ({("system", "group"): 0}, "system.group must be 1 or more, got 0"),
    ],
)
def test_rules_that_cross_fields_are_sentences(values, sentence):
    with pytest.raises(Refused, match=sentence):
        changed(RECIPES["shapes"](), values)


def test_length_and_intervals_do_not_change_the_digest_and_all_else_does():
    config = RECIPES["shapes"]()
    same = changed(config, {("clips",): 99, ("every", "tick"): 7})
    assert same.digest() == config.digest()
    others = (
        (("seed",), 4),
        (("objective",), "hinge"),
        (("optim", "ema"), 0.5),
        (("batch",), 16),
        (("system", "group"), 2),
    )
    for path, value in others:
        assert changed(config, {path: value}).digest() != config.digest()


@pytest.mark.parametrize(
    ("name", "steps", "batch", "rates", "more"),
    [
        ("vgan-golf", 65_000, 64, 2e-4, {"rule": "adam", "betas": (0.5, 0.999)}),
        ("vgan-golf-prediction", 65_000, 32, 2e-4, {"rule": "adam", "betas": (0.5, 0.999)}),
        ("tgan-ucf101", 100_000, 32, 5e-5, {"rule": "rmsprop", "eps": 1e-8}),
        ("tgan2-ucf101", 100_000, 128, 1e-4, {"rule": "adam", "betas": (0.0, 0.9), "eps": 8e-8}),
        ("mocogan-ucf101", 100_000, 32, 2e-4, {"rule": "adam", "betas": (0.5, 0.999), "weight_decay": 1e-5}),
    ],
)
def test_published_recipes_have_their_steps_batches_and_optimizers(name, steps, batch, rates, more):
    config = RECIPES[name]()
    (phase,) = config.schedule()
    assert (config.clips // phase.batch, phase.batch) == (steps, batch)
    assert (phase.critic_rate, phase.generator_rate) == (rates, rates)
    assert {key: getattr(config.optim, key) for key in more} == more


@pytest.mark.parametrize("name", ["dvdgan-kinetics-128", "trivdgan-bair-64"])
def test_dvdgans_steps_batches_and_rates(name):
    config = RECIPES[name]()
    (phase,) = config.schedule()
    assert (config.clips // phase.batch, phase.batch, config.critic_steps) == (300_000, 512, 2)
    assert (phase.critic_rate, phase.generator_rate, config.objective) == (5e-4, 1e-4, "hinge")


def test_tgan2s_penalty_is_that_of_the_clips_of_a_gpu_whatever_the_batch():
    names = ("tgan2-ucf101", "tgan2-ucf101-64", "tgan2-faceforensics")
    assert [RECIPES[name]().penalty for name in names] == [32, 32, 16]


def test_tgan2s_rates_fall_to_nothing_at_the_end():
    config = RECIPES["tgan2-ucf101"]()
    rates = [rates_at(config.schedule(), clips)[0] for clips in (0, config.clips // 2, config.clips)]
    assert rates == pytest.approx([1e-4, 5e-5, 0])


def test_images_of_actions_have_the_table_of_the_thesis():
    config = RECIPES["pgan-billiard-512"]()
    per_level = [phase.fade_clips + phase.stable_clips for phase in config.schedule()]
    assert per_level == [300_000, *[600_000] * 6, 4_000_000]
    assert config.clips == 7_900_000
    assert [phase.fade_clips for phase in config.schedule()] == [0, *[300_000] * 7]
    assert [phase.batch for phase in config.schedule()] == [512, 256, 128, 64, 32, 16, 16, 16]
    assert config.mirror


@pytest.mark.parametrize(
    ("recipe", "words", "wanted"),
    [
        ("tgan-ucf101", ["--objective", "lsgan", "--no-system.clip-singular-values"], {"clip_singular_values": False}),
        ("style-bair-64", ["--system.cell", "trajgru", "--system.conventions.flows", "3"],
         {"cell": "trajgru", "conventions": Conventions(flows=3)}),
        ("dvdgan-s-bair-64", ["--system.cell", "tsru_p", "--system.conventions.warp", "flow"],
         {"cell": "tsru_p", "conventions": Conventions(candidate="relu", warp="flow")}),
        ("dvdgan-s-bair-64", ["--system.critics.frames", "4"], {"critics": Critics(frames=4)}),
    ],
)  # fmt: skip
def test_a_systems_own_settings_are_options(recipe, words, wanted):
    before = RECIPES[recipe]()
    after = changed(before, parse(words, list(options_of(before))))
    assert after.system == replace(before.system, **wanted)
    assert from_yaml(after.yaml()) == after
    assert after.digest() != before.digest()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--system.conventions.warp", "flow"], "conventions.warp is of tsru_c, tsru_p, tsru_s, not of convgru"),
        (["--system.critics.shrink", "0"], "critics.shrink must be 1 or more, got 0"),
        (["--system.frames", "0"], "frames must be 4 and more, got 0"),
        (["--system.cells", "tsru_p"], "there is no option --system.cells; the nearest is --system.cell"),
        (["--system.cell", "gru"], "--system.cell should be 'convrnn', "),
    ],
)
def test_what_a_system_cannot_be_is_one_sentence(words, sentence):
    config = RECIPES["dvdgan-s-bair-64"]()
    with pytest.raises(Refused) as refused:
        changed(config, parse(words, list(options_of(config))))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_objective_of_the_sliced_head_is_of_the_progressive_system_alone():
    with pytest.raises(Refused, match="objective swgan is of the progressive system's critic, this one is vgan"):
        changed(RECIPES["vgan-golf"](), {("objective",): "swgan"})


def test_a_record_of_another_system_is_read_as_that_system():
    config = RECIPES["mocogan-mug"]()
    assert from_yaml(config.yaml()).system == config.system
    with pytest.raises(ValidationError, match="moco-gan"):
        from_yaml(config.yaml().replace("name: mocogan", "name: moco-gan"))
