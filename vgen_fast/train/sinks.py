"""Where statistics go besides the run folder: TensorBoard or Weights & Biases, if they are installed.

A sink takes the rows of stats.jsonl and scores.jsonl as they are written. A resumed run does some steps again; their
rows replace those that were there.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

Sink = Callable[[dict], None]


class Missing(RuntimeError):
    """A package that is not installed."""


def _imported(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{extra} is not installed: pip install 'vgen_fast[{extra}]'") from error


def _scalars(row: dict) -> dict[str, float]:
    """Of a row of stats.jsonl or of scores.jsonl."""
    if "scores" in row:
        told = {f"scores/{name}": score["value"] for name, score in row["scores"].items()}
        return {name: value for name, value in told.items() if value is not None}
    return {**row["losses"], "clips_per_second": row["clips_per_second"]}


def tensorboard(folder: Path, run: str) -> Sink:
    """Event files in `folder`/tensorboard."""
    module, writers = _imported("torch.utils.tensorboard", "tensorboard"), []

    def log(row: dict) -> None:
        if not writers:
            writers.append(module.SummaryWriter(folder / "tensorboard", purge_step=row["clips_seen"]))
        for name, value in _scalars(row).items():
            writers[0].add_scalar(name, value, row["clips_seen"])
        writers[0].flush()

    return log


def wandb(folder: Path, run: str) -> Sink:
    """A run of that name in the project vgen_fast; WANDB_MODE=offline keeps it in `folder`/wandb."""
    module, runs = _imported("wandb", "wandb"), []

    def log(row: dict) -> None:
        if not runs:
            runs.append(
                module.init(project="vgen_fast", id=run, name=folder.resolve().name, dir=folder, resume="allow")
            )
            runs[0].define_metric("*", step_metric="clips_seen")  # its own step may not go back, as a resumed run does
        runs[0].log({"clips_seen": row["clips_seen"], **_scalars(row)})

    return log


SINKS = {"tensorboard": tensorboard, "wandb": wandb}
