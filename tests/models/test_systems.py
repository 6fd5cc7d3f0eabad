"""What holds for every system: steps, recomputing, micro-batches, mixed precision, ranks, checkpoints, samples."""

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.tiny import bits, same, take, weights
from vgen_fast.config import from_yaml
from vgen_fast.data.synthetic import MovingShapes
from vgen_fast.models.system import Stage
from vgen_fast.sample import inputs_of, videos
from vgen_fast.systems import build
from vgen_fast.train import checkpoint, loop
from vgen_fast.train.__main__ import build as with_training
from vgen_fast.train.__main__ import phases_of
from vgen_fast.train.memory import foretold

from .small import SYSTEMS, begun, config_of, inputs_for

ROOT = Path(__file__).resolve().parents[2]
every_system = pytest.mark.parametrize("name", list(SYSTEMS))
# One of each file.
FAMILIES = ("progressive", "vgan", "tgan", "tgan2", "mocogan", "style-prediction", "dvdgan", "stgan")


def steps(config, count=2, dtype=torch.float32, **how):
    state, training = begun(config, dtype)
    losses = take(state, training, count, batches=MovingShapes(config.system.sizes[-1], 3), **how)
    return state, losses


@every_system
def test_every_network_moves_and_every_loss_is_finite(name):
    config = config_of(name)
    state, training = begun(config)
    before = weights(state)
    losses = take(state, training, 3, batches=MovingShapes(config.system.sizes[-1], 3))
    assert all(value.isfinite() for row in losses for value in row.values())
    assert set(state.events) == set()
    still = {key for key, old in before.items() if torch.equal(weights(state)[key], old)}
    unused = {key for key in still if "/rgb.0." in key or (key.endswith(".0.u") and len(before[key]) == 1)}
    # toRGB of the level below; the singular vector of a weight of one row, which is 1
    shift = {"video/last.bias"} if config.objective == "wgan" else set()  # of all scores, which moves no loss
    assert still - unused == shift


@every_system
def test_its_configuration_survives_its_record(name):
    config = config_of(name)
    assert from_yaml(config.yaml()) == config
    assert type(from_yaml(config.yaml()).system) is type(config.system)


@every_system
def test_recomputing_changes_no_gradient_and_no_running_statistic(name):
    kept, recomputed = (steps(config_of(name, recompute=how), 2, torch.float64)[0] for how in ("nothing", "all"))
    for key, value in weights(kept).items():
        torch.testing.assert_close(weights(recomputed)[key], value, rtol=1e-7, atol=1e-9, msg=key)


@every_system
@pytest.mark.parametrize("how", [{"micro_batch": 4}, {"precision": "bf16"}])
def test_it_trains_in_parts_and_in_mixed_precision(name, how):
    state, losses = steps(config_of(name, **how), 2)
    assert all(value.isfinite() for row in losses for value in row.values())
    assert state.steps == dict.fromkeys(state.steps, 2)
    if "precision" in how:  # finite is not yet right
        wide = steps(config_of(name), 1)[1][0]
        for key in (key for key in wide if key.endswith("/gradient")):
            assert losses[0][key].item() == pytest.approx(wide[key].item(), rel=0.1), key


@every_system
def test_it_goes_on_from_a_checkpoint_bit_by_bit(name, tmp_path):
    config = config_of(name)
    straight, _ = steps(config, 4)
    half, _ = steps(config, 2)
    saved = checkpoint.save(tmp_path, half, {"run": "r", "config": "c", "threads": 2})
    again, training = begun(config)
    checkpoint.load(saved, again)
    take(again, training, 2, batches=MovingShapes(config.system.sizes[-1], 3))
    assert same(bits(again), bits(straight))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_step_holds_is_foretold_and_recomputing_holds_no_more(name):
    config = config_of(name)
    phases = phases_of(config)
    needs = [
        foretold(lambda: with_training(config, phases), replace(phases[-1], recompute=how), len(config.system.classes))
        for how in ("nothing", "all")
    ]
    weights_alone = sum(4 * p.numel() for module in loop.networks(build(config)).values() for p in module.parameters())
    assert 2 * weights_alone < needs[0]
    assert needs[1] <= 1.2 * needs[0]  # of networks as small as these weights and moments are the most


@every_system
def test_a_step_stays_on_its_device(name, monkeypatch):
    """On the meta device, which holds shapes alone and mixes with no other."""
    monkeypatch.setattr(torch, "autocast", lambda *given, **more: nullcontext())  # there is none for it
    config = config_of(name)
    system, training = with_training(config, phases_of(config))
    networks = loop.networks(system)
    for module in networks.values():
        module.to("meta")
    state = loop.State(system, system.generator, {}, steps=dict.fromkeys(networks, 0))
    labels = len(config.system.classes)

    def batches(rows, size):
        video = torch.zeros(len(rows), 3, *size, dtype=torch.uint8)
        return video, torch.zeros(len(rows), labels, dtype=torch.long) if labels else None

    step = loop.begin(state, training, batches, lambda gradients: None)
    step.load()
    with loop.only(system, *(critic.module for critic in system.critics)):
        step.critics(0)
    with loop.only(system, system.generator):
        step.generator()
    parameters = [p for module in networks.values() for p in module.parameters() if p.grad is not None]
    assert parameters
    assert {p.grad.device.type for p in parameters} == {"meta"}


@every_system
def test_a_seed_gives_its_video(name):
    config = config_of(name)
    torch.manual_seed(0)
    system = build(config)
    system.generator.eval()
    labels = torch.zeros(4, len(config.system.classes), dtype=torch.long) if config.system.classes else None
    inputs = inputs_of(system, config, [3, 1, 4, 1], labels)
    frames = videos(system, config, inputs, config.clips)
    assert frames.shape == (4, *config.system.sizes[-1], 3)
    assert (frames[1] == frames[3]).all()
    assert (frames[0] != frames[1]).any()
    alone = videos(system, config, inputs_of(system, config, [4], None if labels is None else labels[:1]), config.clips)
    assert abs(alone[0].astype(int) - frames[2]).max() <= 1


@every_system
def test_what_is_judged_does_not_depend_on_who_else_is_in_a_trained_batch(name):
    """In evaluation a clip is its own latents' alone: no statistics of the batch."""
    config = config_of(name)
    system = build(config)
    system.generator.eval()
    inputs = inputs_for(system, 4, config.system.classes)
    stage = Stage(len(system.sizes) - 1)
    with torch.no_grad():
        whole = system.video(system.generator(inputs, stage))
        part = system.video(system.generator(inputs.each(lambda t: t[1:3]), stage))
    torch.testing.assert_close(part, whole[1:3], rtol=1e-4, atol=1e-5)


@every_system
def test_a_level_of_the_generator_is_what_the_critics_take(name):
    config = config_of(name)
    system = build(config)
    inputs, stage = inputs_for(system, 4, config.system.classes), Stage(len(system.sizes) - 1)
    real = torch.rand(4, 3, *system.sizes[-1]) * 2 - 1
    for critic in system.critics:
        fake = critic.view(system.generator(inputs, stage), inputs, stage)
        shown = critic.view(system.real(real, inputs, stage), inputs, stage)
        for a, b in zip(fake if isinstance(fake, tuple) else (fake,), shown if isinstance(shown, tuple) else (shown,),
                        strict=True):  # fmt: skip
            assert a is b or a.shape == b.shape


def without_noise(name):
    """Noise inside a critic differs from rank to rank, as it must."""
    return not any("noise" in vars(config) and config.noise for config in [SYSTEMS[name]])


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("on_ranks.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
         str(folder), *filter(without_noise, SYSTEMS)],
        capture_output=True, text=True, timeout=300, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", list(filter(without_noise, SYSTEMS)))
def test_two_ranks_give_the_weights_and_running_statistics_of_one(name, on_two_ranks):
    one, _ = steps(config_of(name), 2, torch.float64)
    two = load_file(on_two_ranks / f"{name}.safetensors")
    for key, value in weights(one).items():
        torch.testing.assert_close(two[key], value, rtol=1e-6, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}")
