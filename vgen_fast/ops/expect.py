"""Argument checks: one sentence naming the op, the tensor, what was wanted and what came."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .native import DTYPES


def fail(op: str, name: str, wanted: str, got: object) -> None:
    raise ValueError(f"{op}: {name} must be {wanted}, got {got}")


def shape(x: Tensor) -> str:
    return f"shape {tuple(x.shape)}"


def tensor(op: str, name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        fail(op, name, "a tensor", type(x).__name__)
    if x.layout != torch.strided or x.is_quantized:
        fail(op, name, "a dense tensor", f"layout {x.layout}")
    if x.dtype not in DTYPES:
        fail(op, name, "float32, float64, bfloat16 or float16", x.dtype)


def video_or_image(op: str, name: str, x: object) -> None:
    tensor(op, name, x)
    if x.ndim not in (4, 5):
        fail(op, name, "[B, C, T, H, W] or [B, C, H, W]", shape(x))


def same_device(op: str, name: str, x: Tensor, other: Tensor, other_name: str = "x") -> None:
    if x.device != other.device:
        fail(op, name, f"on {other.device} like {other_name}", x.device)


def has_shape(op: str, name: str, x: Tensor, wanted: Sequence[int], legend: str) -> None:
    if tuple(x.shape) != tuple(wanted):
        fail(op, name, f"{legend} = {tuple(wanted)}", shape(x))


def finite_number(op: str, name: str, value: object, minimum: float = -float("inf")) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not minimum <= value < float("inf"):
        bound = f" of at least {minimum:g}" if minimum > -float("inf") else ""
        fail(op, name, f"a finite number{bound}", repr(value))


def flag(op: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        fail(op, name, "True or False", shape(value) if isinstance(value, Tensor) else repr(value))


def positive_integer(op: str, name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        fail(op, name, "a positive integer", repr(value))
