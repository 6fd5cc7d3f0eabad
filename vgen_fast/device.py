"""Where networks run."""

import os
from typing import Literal

import torch

from .config import Settings
from .options import refuse

CPU = torch.device("cpu")


class Placed(Settings):
    """What all verbs have that run networks."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run: auto is the GPU if there is one."""


def device_of(name: str) -> torch.device:
    """The GPU of this rank, or the CPU."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        refuse("--device cuda: torch sees no GPU here")
    if name == "cpu" or not there:
        return CPU
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
