"""`python tiny_recipe.py --outdir F`: `python -m vgen_fast.train` with a recipe whose steps take milliseconds."""

import atexit
import sys
from pathlib import Path

from vgen_fast import recipes
from vgen_fast.cli import end_quickly
from vgen_fast.config import Config, Every, Grow, Optim
from vgen_fast.models.progressive import Config as System
from vgen_fast.models.progressive import Row
from vgen_fast.train.__main__ import main


def tiny() -> Config:
    rows = (Row(8, 4, 4), Row(8, 2, 2), Row(4, 1, 2))
    return Config(
        recipe="tiny",
        system=System(rows=rows, latents=8, features=8, classes=(8, 3, 4)),
        clips=160,
        phases=(Grow(0, 32, 8), Grow(36, 12, 8), Grow(16, 16, 8)),  # a fade that ends inside a step
        optim=Optim(generator_lr=1e-3, critic_lr=1e-3),
        every=Every(tick=8, samples=80, checkpoint=24, keep=3, judged=4),
    )


def command() -> int:
    recipes.RECIPES["tiny"] = tiny
    atexit.register(end_quickly)  # as the command itself
    code = main(["tiny", *sys.argv[1:]])
    # A thread of Gloo that lets go of a tensor while the interpreter ends aborts the process, now and then.
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert "pt_gloo_runloop" not in threads, threads
    assert "torch._dynamo" not in sys.modules  # the compiler, 3 s of a start
    return code


if __name__ == "__main__":
    sys.exit(command())
