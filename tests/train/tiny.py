"""A progressive GAN of three levels that takes a step in milliseconds, and what tests do with it."""

import torch

from vgen_fast.data.synthetic import MovingShapes
from vgen_fast.models import progressive
from vgen_fast.models.progressive import Config, Row
from vgen_fast.train import loop
from vgen_fast.train.loop import Training
from vgen_fast.train.objectives import OBJECTIVES
from vgen_fast.train.schedule import Phase

ROWS = (Row(8, 4, 4), Row(8, 2, 2), Row(4, 1, 2))


def phase(level=1, batch=8, micro=8, rate=1e-2, fade=0):
    return Phase(level, fade, 1, batch, micro, rate, rate)


def make(objective="wgan_gp", dtype=torch.float32, minibatch="stddev", matching=0.0, **training):
    torch.manual_seed(0)
    cfg = Config(rows=ROWS, latents=8, features=8, classes=(8, 3, 4), minibatch=minibatch)
    system = progressive.build(cfg, objective.startswith("swgan"), matching)
    for module in loop.networks(system).values():
        module.to(dtype)
    training = Training((phase(),), {"video": OBJECTIVES[objective]}, **training)
    return loop.start(system, training), training


def take(state, training, count=1, ranks=(0, 1), total=lambda gradients: None, batches=None):
    batches = batches or MovingShapes((8, 16, 16), 3)
    return [loop.step(state, training, batches, total, ranks) for _ in range(count)]


def weights(state):
    return {
        f"{name}/{key}": value.clone()
        for name, module in {**loop.networks(state.system), "average": state.average}.items()
        for key, value in module.state_dict().items()
    }


def bits(state):
    """Everything of a state that is a tensor."""
    moments = {
        f"{name}/{index}/{key}": value
        for name, optimizer in state.optimizers.items()
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }
    return {**weights(state), **moments}


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(value, b[name]) for name, value in a.items())


def hexes(rows):
    return [{name: float(value).hex() for name, value in row.items()} for row in rows]
