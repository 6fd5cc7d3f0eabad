"""Everything of a step is where the networks are. Without a GPU: on the meta device, which holds shapes alone."""

from dataclasses import replace

import pytest
import torch

from vgen_fast.models import progressive
from vgen_fast.models.system import Inputs
from vgen_fast.train import __main__ as command
from vgen_fast.train.loop import State, Training, begin, networks, only
from vgen_fast.train.objectives import OBJECTIVES

from .test_run import run
from .tiny import ROWS, phase
from .tiny_recipe import tiny


def one_step(objective="wgan_gp", minibatch="stddev", spoil=lambda system: system):
    cfg = progressive.Config(rows=ROWS, latents=8, features=8, classes=(8, 3, 4), minibatch=minibatch)
    system = progressive.build(cfg, objective.startswith("swgan"), 1.0)
    for module in networks(system).values():
        module.to("meta")
    system = spoil(system)
    training = Training((replace(phase(), fade_clips=32),), {"video": OBJECTIVES[objective]})
    state = State(system, system.generator, {}, steps=dict.fromkeys(networks(system), 0))
    batches = lambda rows, size: (torch.zeros(8, 3, *size, dtype=torch.uint8), torch.zeros(8, 3, dtype=torch.long))  # noqa: E731
    step = begin(state, training, batches, lambda gradients: None)
    step.load()
    (critic,) = system.critics
    with only(system, critic.module):
        step.critics(0)
    with only(system, system.generator):
        step.generator()
    return {p.grad.device.type for m in networks(system).values() for p in m.parameters() if p.grad is not None}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("minibatch", ["stddev", "discrimination"])
def test_a_step_stays_on_its_device(objective, minibatch):
    assert one_step(objective, minibatch) == {"meta"}


def test_a_tensor_left_on_the_cpu_is_noticed():
    def spoil(system):
        draw = system.draw_inputs
        return replace(system, draw_inputs=lambda *args: Inputs(torch.zeros(8, 8), draw(*args).condition))

    with pytest.raises(RuntimeError, match="device"):
        one_step(spoil=spoil)


def test_a_run_gets_its_networks_on_the_device(tmp_path, monkeypatch):
    built = []

    class Seen:
        def __init__(self, build, *_):
            built.append(build())

        def go(self):
            return 0

    monkeypatch.setattr(command, "Run", Seen)
    options = command.Command(outdir=str(tmp_path / "run"))
    assert command.launch(tiny(), options, torch.device("meta"), []) == 0
    ((system, _),) = built
    assert {p.device.type for m in networks(system).values() for p in m.parameters()} == {"meta"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path):
    done = run(tmp_path / "run", "--device", "cuda")
    assert (done.returncode, done.stderr) == (2, "vgen_fast: --device cuda: torch sees no GPU here\n")
