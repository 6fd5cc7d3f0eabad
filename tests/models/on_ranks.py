"""`torchrun on_ranks.py FOLDER NAMES...`: two steps of every system in float64; the first rank writes its weights."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.models.small import config_of
from tests.train.tiny import weights
from vgen_fast.data.synthetic import MovingShapes
from vgen_fast.train import loop
from vgen_fast.train.__main__ import build, phases_of
from vgen_fast.train.distributed import Ranks


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    ranks = Ranks()
    for name in names:
        config = config_of(name, precision="fp32")
        system, training = build(config, phases_of(config))
        for module in loop.networks(system).values():
            module.double()
        state = loop.start(system, training)
        batches = MovingShapes(config.system.sizes[-1], 3)
        for _ in range(2):
            loop.step(state, training, batches, ranks.total, (ranks.rank, ranks.size))
        if ranks.first:
            save_file(
                {key: value.contiguous() for key, value in weights(state).items()}, folder / f"{name}.safetensors"
            )
    ranks.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
