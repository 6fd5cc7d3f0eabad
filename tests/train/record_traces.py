"""Records what test_divergence.py replays: healthy training under every objective, and training that goes wrong.

    python -m tests.train.record_traces        # some minutes; writes tests/train/traces.npz

A trace is float16 log |v|, [steps, signals], of one structure. Bad ones are healthy up to step `ONSET`.
"""

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
RATE = {"swgan_thesis": 2e-4}  # 1e-3 for the others; this one would not stay on the road


def trace(objective: str, steps: int, state=None) -> tuple[np.ndarray, loop.State, loop.Training]:
    if state is None:
        state, training = make(objective)
        state = (state, replace(training, phases=(phase(rate=RATE.get(objective, 1e-3)),)))
    rows = [[float(row[name]) for name in SIGNALS] for row in take(*state, steps)]
    return logs(np.array(rows)), *state


def logs(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.abs(values), 1e-12)).astype(np.float16)


def high_rates(state: loop.State, training: loop.Training) -> loop.Training:
    return replace(training, phases=(phase(rate=0.1),))


def without_penalty(state: loop.State, training: loop.Training) -> loop.Training:
    objective = replace(training.objectives["video"], penalty=None)
    return replace(training, objectives={"video": objective}, phases=(phase(rate=0.01),))


def critic_alone(state: loop.State, training: loop.Training) -> loop.Training:
    """The critic learns fast, without a penalty, against a generator that stands."""
    slow = replace(phase(rate=0.01), generator_rate=0.0)
    return replace(training, objectives={"video": VANILLA}, phases=(slow,))


def one_video(state: loop.State, training: loop.Training) -> loop.Training:
    """The generator forgets its latents, faster than it can learn them again."""
    weight = state.system.generator.dense.weight
    state.optimizers["generator"].register_step_post_hook(lambda *_: weight.data.mul_(0.8))
    return training


BAD = {
    **{f"high rates, {name}": (name, high_rates) for name in ("wgan_gp", "vanilla_r1", "swgan", "hinge")},
    **{f"no penalty, {name}": (name, without_penalty) for name in ("wgan_gp", "swgan")},
    **{f"critic alone, {name}": (name, critic_alone) for name in ("vanilla_r1", "hinge")},
    **{f"one video, {name}": (name, one_video) for name in ("wgan_gp", "vanilla_r1", "lsgan")},
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
