"""Records what test_divergence.py replays: healthy training under every objective, and training that goes wrong.

    python -m tests.train.record_traces        # some minutes; writes tests/train/traces.npz

A trace is float16 log |v|, [steps, signals], of one structure. Bad ones are healthy up to step `ONSET`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vgen_fast.train import loop
from vgen_fast.train.objectives import VANILLA

from .tiny import make, phase, take

SIGNALS = ("video/loss", "video/gradient", "generator/gradient", "generator/diversity")
HEALTHY = {"wgan_gp": 2500, "vanilla_r1": 2500, "swgan": 1500, "swgan_thesis": 1500, "hinge": 1000, "lsgan": 1000}
ONSET, AFTER = 400, 250
PATH = Path(__file__).with_name("traces.npz")
RATE = 1e-3


def trace(objective: str, steps: int, state=None) -> tuple[np.ndarray, loop.State, loop.Training]:
    if state is None:
        state, training = make(objective)
        state = (state, replace(training, phases=(phase(rate=RATE),)))
    rows = [[float(row[name]) for name in SIGNALS] for row in take(*state, steps)]
    return logs(np.array(rows)), *state


def logs(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.abs(values), 1e-12)).astype(np.float16)


def rates(factor: float) -> Callable:
    return lambda state, training: replace(training, phases=(phase(rate=RATE * factor),))


def without_penalty(state: loop.State, training: loop.Training) -> loop.Training:
    objective = replace(training.objectives["video"], penalty=None)
    return replace(training, objectives={"video": objective}, phases=(phase(rate=RATE * 10),))


def critic_alone(state: loop.State, training: loop.Training) -> loop.Training:
    """The critic learns fast, without a penalty, against a generator that stands."""
    slow = replace(phase(rate=RATE * 10), generator_rate=0.0)
    return replace(training, objectives={"video": VANILLA}, phases=(slow,))


def one_video(state: loop.State, training: loop.Training) -> loop.Training:
    """The generator's first layer forgets its latents little by little."""
    weight = state.system.generator.dense.weight
    state.optimizers["generator"].register_step_post_hook(lambda *_: weight.data.mul_(0.95))
    return training


BAD = {
    "rates x100, wgan_gp": ("wgan_gp", rates(100)),
    "rates x100, vanilla_r1": ("vanilla_r1", rates(100)),
    "rates x100, swgan": ("swgan", rates(100)),
    "rates x100, hinge": ("hinge", rates(100)),
    "no penalty, wgan_gp": ("wgan_gp", without_penalty),
    "no penalty, vanilla_r1": ("vanilla_r1", without_penalty),
    "no penalty, swgan": ("swgan", without_penalty),
    "critic alone, vanilla_r1": ("vanilla_r1", critic_alone),
    "one video, wgan_gp": ("wgan_gp", one_video),
    "one video, vanilla_r1": ("vanilla_r1", one_video),
    "one video, swgan_thesis": ("swgan_thesis", one_video),
}


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for objective, steps in HEALTHY.items():
        found[f"healthy {objective}"], *_ = trace(objective, steps)
        print(f"healthy {objective}", flush=True)  # noqa: T201
    for name, (objective, spoil) in BAD.items():
        before, state, training = trace(objective, ONSET)
        after, *_ = trace(objective, AFTER, (state, spoil(state, training)))
        found[f"bad {name}"] = np.concatenate([before, after])
        print(f"bad {name}", np.round(after[::50].astype(float), 1).tolist(), flush=True)  # noqa: T201
    np.savez_compressed(PATH, **found)


if __name__ == "__main__":
    main()
