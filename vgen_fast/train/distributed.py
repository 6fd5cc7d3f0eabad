"""Several processes on one run: torch.distributed as torchrun sets it up, NCCL on GPUs, Gloo on CPUs.

One flat all-reduce of gradients for each phase of a step. It carries the number of the step along, so that a rank that
left one out is noticed at once: Gloo itself would go on and pair the wrong steps for ever.
"""

import os
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group: its default arguments keep one, and its threads
from torch import Tensor


class PeerLost(RuntimeError):
    """Another rank is gone, hangs, or is at another step."""


def group_name(store: dist.Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name that the processes alive now agree on, and no earlier group had.

    torchrun keeps one store over its restarts. In it are the addresses of processes long dead, and a rank that starts
    before the others would wait for one of those. So the first rank draws a name, each other rank signs it, and the
    name counts for a rank once the first has returned that rank's own signature.
    """
    own = secrets.token_hex(8)
    if rank == 0:
        store.set("group", own)
        store.set(f"{own}/signed", b" ".join(store.get(f"{own}/{other}") for other in range(1, size)))
        return own
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        group = store.get("group").decode()
        store.set(f"{group}/{rank}", own)
        if store.check([f"{group}/signed"]) and own.encode() in store.get(f"{group}/signed").split():
            return group
        time.sleep(0.01)
    raise PeerLost(f"rank {rank} waited {timeout} for rank 0")


def bits(tensor: Tensor) -> Tensor:
    """Their sum, each element read as an integer."""
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(-1).view(kinds[tensor.element_size()]).sum(dtype=torch.int64)


class Ranks:
    """This process among those that train together; alone, everything here costs nothing."""

    def __init__(self, device: torch.device | None = None, timeout: timedelta = timedelta(minutes=10)):
        self.timeout = timeout  # a rank that does not answer for so long counts as lost
        self.backend = "cpu:gloo,cuda:nccl" if device and device.type == "cuda" else "gloo"
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        self.reductions = 0
        self.calls: deque[str] = deque(maxlen=10)  # the newest collectives, for whoever looks for the rank that hangs
        if self.size > 1:
            self._run(self._join)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def total(self, gradients: Sequence[Tensor]) -> None:
        """Adds these tensors up over all ranks, in place; PeerLost if another rank is at another reduction."""
        if self.size == 1:
            return
        self.reductions += 1
        number = float(self.reductions % 64)  # sums of its square over 4,000 ranks are exact in float32, in any order
        mark = gradients[0].new_tensor([number, number * number])
        flat = torch.cat([*(g.flatten() for g in gradients), mark])
        self._run(dist.all_reduce, flat)
        if flat[-2:].tolist() != [number * self.size, number * number * self.size]:
            raise PeerLost(f"rank {self.rank} is at reduction {self.reductions}, another is not: a step was left out")
        position = 0
        for gradient in gradients:
            gradient.copy_(flat[position : position + gradient.numel()].view_as(gradient))
            position += gradient.numel()

    def agree(self, tensors: Mapping[str, Tensor]) -> None:
        """PeerLost if these tensors have other bits on another rank, told by the sum of each one's as integers."""
        if self.size == 1:
            return
        least = torch.stack([bits(tensor) for tensor in tensors.values()]).cpu()
        most = least.clone()
        self._run(dist.all_reduce, least, op=dist.ReduceOp.MIN)
        self._run(dist.all_reduce, most, op=dist.ReduceOp.MAX)
        if wrong := [name for name, low, high in zip(tensors, least, most, strict=True) if low != high]:
            raise PeerLost(f"{len(wrong)} tensors are not those of another rank, the first is {wrong[0]}")

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor([number])
        self._run(dist.all_reduce, value, op=dist.ReduceOp.MAX)
        return int(value)

    def from_first(self, value: Any) -> Any:
        """What the first rank has, on all of them."""
        if self.size == 1:
            return value
        box = [value]
        self._run(dist.broadcast_object_list, box)
        return box[0]

    def close(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()

    def _join(self) -> None:
        store, rank, size = next(dist.rendezvous("env://", timeout=self.timeout))
        store = dist.PrefixStore(group_name(store, rank, size, self.timeout), store)
        dist.init_process_group(self.backend, store=store, rank=rank, world_size=size, timeout=self.timeout)

    def _run(self, collective, *arguments, **options) -> None:
        shapes = "".join(f" of {list(a.shape)}" for a in arguments if isinstance(a, Tensor))
        call = f"{datetime.now():%H:%M:%S.%f} {collective.__name__.strip('_')}{shapes}"
        began = time.monotonic()
        self.calls.append(f"{call}: not done")
        try:
            collective(*arguments, **options)
            self.calls[-1] = f"{call}: {time.monotonic() - began:.3f} s"
        except PeerLost:
            raise
        except RuntimeError as error:
            raise PeerLost(f"rank {self.rank} lost another rank after {self.reductions} reductions: {error}") from error
