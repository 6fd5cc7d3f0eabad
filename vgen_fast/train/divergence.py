"""Whether a run has left the road though all of its numbers are finite.

Watched are the critics' losses, the lengths of all gradients and the diversity of the fakes, each as x = log |v|: a
collapse to zero and an explosion are as far. A fast mean of x over some 15 steps is held against a slow one over some
500, which single steps move little, and their usual distance d. The noise of training stays within a few d; the run has
diverged when one signal was farther than 0.7 + 3 d off (a factor of two and more) for 20 steps on end.

The numbers are the ones that see the most of 20 recorded failures with one false alarm in 10,000 healthy steps
(tests/train/test_divergence.py); they were chosen on those, which are of Adam. A critic's loss that is a distance and
no more (wgan, wgan_clip) is not watched by a run: it falls by far where the generator gets nearer. The means are
part of the state, and start anew with every structure: where a level starts to fade in, and where it is stable.
"""

import math

FAST, SLOW, USUAL = 15, 500, 250  # steps of the means, and of that of their distance
WARM = 200  # steps of a structure before the first verdict; the slow mean is a plain one until then
LEAST, TIMES = 0.7, 3.0
HOLD = 20
SUFFIXES = ("/gradient", "/diversity", "/loss")

Signals = dict[str, list[float]]  # name -> steps, fast mean, slow mean, distance, steps on end that it was too far


def watched(name: str) -> bool:
    """The generator's loss is not: it is a score, which a Wasserstein critic may shift as it likes."""
    return name.endswith(SUFFIXES) and name != "generator/loss"


def see(signals: Signals, values: dict[str, float]) -> list[str]:
    """Follows one step; the names of the signals that have diverged."""
    for name in filter(watched, values):
        steps, fast, slow, distance, away = signals.get(name, (0, 0.0, 0.0, 0.0, 0))
        x = math.log(max(abs(values[name]), 1e-12))
        steps += 1
        fast += (x - fast) * max(1 / steps, 1 / FAST)
        off = abs(fast - slow)
        if steps <= WARM:
            slow += (x - slow) / steps
        else:
            away = away + 1 if off > LEAST + TIMES * distance else 0
            slow += min(max(x - slow, -1.0), 1.0) / SLOW
        if steps > FAST:
            distance += (min(off, LEAST) - distance) * max(1 / (steps - FAST), 1 / USUAL)
        signals[name] = [steps, fast, slow, distance, away]
    return [name for name, (*_, away) in signals.items() if away >= HOLD]
