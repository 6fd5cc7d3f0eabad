"""Convolutional recurrent cells, and their rollout over time (spec/conditional.md B3).

What a cell takes from its inputs depends on nothing that it remembers: `given` computes it for all steps at once, and
`step` is left with the convolutions of the state. A convolution of [x; h] is the sum of one of x and one of h, whose
weights are drawn together.

Deviations: K-TrajGRU's and TSRU's kernels are not printed anywhere; here two 3x3 convolutions give softmax weights for
the 3x3 neighbours of a place, the same for all channels. TSRU's public equation mixes the old state with the candidate,
which in TSRU_p leaves the warp without effect: the warped one is mixed, `mix="raw"` has it as printed.

`remember` sets the bias of the gate that keeps the state: a step keeps sigmoid(b) of it, to begin with. At 0, where
cells begin, a first state is gone after a few frames.

Legend: B clips, I / C channels of inputs / state, T steps, H x W places, L flows, k taps of a warp.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .orthogonal import orthogonal_
from .segment import Recomputed

Given = tuple[Tensor, ...]  # of all steps [B, ., T, H, W], or of one [B, ., H, W]


def convolved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The layer on images [B, I, H, W] or on each frame of [B, I, T, H, W], in x's type. A step's images are few, and
    nothing is there to be fused: PyTorch's convolution takes a third of the time at 8x8, as much at 32x32.
    """
    if x.ndim == 4:
        return layer(x).to(x)
    return ops.modulated_conv3d(x, layer.weight[:, :, None], bias=layer.bias, padding=(0, *layer.padding)).to(x)


class Joint(nn.Module):
    """W [x; h] + b."""

    def __init__(self, inputs: int, state: int, outputs: int, taps: int = 3):
        super().__init__()
        self.of_input = nn.Conv2d(inputs, outputs, taps, padding=taps // 2)
        self.of_state = nn.Conv2d(state, outputs, taps, padding=taps // 2, bias=False)
        with torch.no_grad():
            both = orthogonal_(torch.empty(outputs, inputs + state, taps, taps))
            self.of_input.weight.copy_(both[:, :inputs])
            self.of_state.weight.copy_(both[:, inputs:])
            self.of_input.bias.zero_()

    def given(self, x: Tensor) -> Tensor:
        return convolved(self.of_input, x)

    def forward(self, given: Tensor, h: Tensor) -> Tensor:
        return convolved(self.of_state, h).add_(given)


class ConvRNN(nn.Module):
    """h <- tanh(W h + U x + b) (eq. 3.12)."""

    parts = 1  # of the state

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.joint = Joint(inputs, channels, channels)

    def given(self, x: Tensor) -> Given:
        return (self.joint.given(x),)

    def step(self, h: Tensor, given: Tensor) -> Tensor:
        return self.joint(given, h).tanh()


class ConvLSTM(nn.Module):
    """c <- f c + i g, h <- o tanh(c); i, f, o = sigmoid, g = tanh of W [x; h] + b. The state is [h; c].

    `peepholes`: i and f see the old c, o the new one, by a number for each channel.
    """

    parts = 2

    def __init__(self, inputs: int, channels: int, *, peepholes: bool = False):
        super().__init__()
        self.joint = Joint(inputs, channels, 4 * channels)
        with torch.no_grad():
            self.joint.of_input.bias[channels : 2 * channels] = 1  # remembers, to begin with
        self.peepholes = nn.Parameter(torch.zeros(3, channels, 1, 1)) if peepholes else None

    def remember(self, b: float) -> None:
        nn.init.constant_(self.joint.of_input.bias.chunk(4)[1], b)

    def given(self, x: Tensor) -> Given:
        return (self.joint.given(x),)

    def step(self, state: Tensor, given: Tensor) -> Tensor:
        h, c = state.chunk(2, dim=1)
        i, f, o, new = self.joint(given, h).chunk(4, dim=1)
        if self.peepholes is not None:
            i, f = i + self.peepholes[0] * c, f + self.peepholes[1] * c
        c = f.sigmoid() * c + i.sigmoid() * new.tanh()
        if self.peepholes is not None:
            o = o + self.peepholes[2] * c
        return torch.cat([o.sigmoid() * c.tanh(), c], dim=1)


class ConvGRU(nn.Module):
    """u, r = sigmoid(W [x; h] + b), c = act(W [x; r h] + b).

    candidate="tanh": h <- (1 - u) h + u c, of style-based prediction; "relu": h <- u h + (1 - u) c, of DVD-GAN.
    """

    parts = 1

    def __init__(self, inputs: int, channels: int, *, candidate: Literal["tanh", "relu"] = "tanh"):
        super().__init__()
        self.candidate = candidate
        self.gates, self.new = Joint(inputs, channels, 2 * channels), Joint(inputs, channels, channels)

    def remember(self, b: float) -> None:
        nn.init.constant_(self.gates.of_input.bias.chunk(2)[0], -b if self.candidate == "tanh" else b)

    def given(self, x: Tensor) -> Given:
        return self.gates.given(x), self.new.given(x)

    def step(self, h: Tensor, gates: Tensor, new: Tensor) -> Tensor:
        u, r = self.gates(gates, h).sigmoid().chunk(2, dim=1)
        c = self.new(new, r * h)
        return torch.lerp(h, c.tanh(), u) if self.candidate == "tanh" else torch.lerp(c.relu(), h, u)


def flowed(h: Tensor, flow: Tensor) -> Tensor:
    """h [B, C, H, W] read at p - flow [B, 2, H, W], in pixels, x first; zeros outside. Flow 0 leaves it as it is."""
    height, width = h.shape[2:]
    y = torch.arange(height, device=h.device, dtype=flow.dtype)[:, None] - flow[:, 1]
    x = torch.arange(width, device=h.device, dtype=flow.dtype) - flow[:, 0]
    # align_corners: -1 and 1 are the centres of the first and last pixel
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return F.grid_sample(h, grid.to(h), align_corners=True)


def filtered(h: Tensor, weights: Tensor) -> Tensor:
    """h [B, C, H, W] filtered at each place by its own kernel [B, k k, H, W]; zeros outside."""
    side = round(weights.shape[1] ** 0.5)
    height, width = h.shape[2:]
    around = F.pad(h, [side // 2] * 4)
    total = torch.zeros_like(h)
    for tap in range(side * side):
        dy, dx = divmod(tap, side)
        total = total + weights[:, tap : tap + 1] * around[:, :, dy : dy + height, dx : dx + width]
    return total


class Warp(nn.Module):
    """What moves h, predicted from [x; h]: a kernel for each place (of two factors if `separable`), or a flow."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        kind: Literal["kernel", "flow"] = "kernel",
        taps: int = 3,
        separable: bool = False,
    ):
        super().__init__()
        self.kind, self.taps, self.separable = kind, taps, separable
        numbers = 2 if kind == "flow" else 2 * taps if separable else taps * taps
        self.hidden = Joint(inputs, channels, max(channels // 2, 1))
        self.last = nn.Conv2d(max(channels // 2, 1), numbers, 3, padding=1)
        if kind == "flow":
            nn.init.zeros_(self.last.weight)  # stands still, to begin with
            nn.init.zeros_(self.last.bias)

    def forward(self, given: Tensor, h: Tensor) -> Tensor:
        numbers = convolved(self.last, self.hidden(given, h).relu())
        if self.kind == "flow":
            return flowed(h, numbers)
        if not self.separable:
            return filtered(h, numbers.softmax(dim=1))
        rows, columns = (part.softmax(dim=1) for part in numbers.chunk(2, dim=1))
        return filtered(h, (rows[:, :, None] * columns[:, None]).flatten(1, 2))


class TrajGRU(nn.Module):
    """A GRU whose state is read where L flows point, predicted from [x; h] (Shi et al. 2017).

    r, z = sigmoid(x part + h part), n = act(x part + r h part), h <- z h + (1 - z) n. act="tanh" is that of style-based
    prediction's code, "lrelu" Shi's, of slope 0.2.
    """

    parts = 1

    def __init__(self, inputs: int, channels: int, *, flows: int = 5, act: Literal["tanh", "lrelu"] = "tanh"):
        super().__init__()
        self.act = torch.tanh if act == "tanh" else partial(F.leaky_relu, negative_slope=0.2)
        self.of_input = nn.Conv2d(inputs, 3 * channels, 3, padding=1)
        self.warp_of_input = nn.Conv2d(inputs, 32, 5, padding=2)
        self.warp_of_state = nn.Conv2d(channels, 32, 5, padding=2)
        self.flows = nn.Conv2d(32, 2 * flows, 5, padding=2)
        self.of_state = nn.Conv2d(flows * channels, 3 * channels, 1)

    def remember(self, b: float) -> None:
        nn.init.constant_(self.of_input.bias.chunk(3)[1], b)

    def given(self, x: Tensor) -> Given:
        return convolved(self.of_input, x), convolved(self.warp_of_input, x)

    def warped(self, warp: Tensor, h: Tensor) -> Tensor:
        """[B, L C, H, W]."""
        flows = convolved(self.flows, self.act(convolved(self.warp_of_state, h) + warp))
        return torch.cat([flowed(h, flow) for flow in flows.split(2, dim=1)], dim=1)

    def step(self, h: Tensor, of_input: Tensor, warp: Tensor) -> Tensor:
        of_state = convolved(self.of_state, self.warped(warp, h))
        r, z, n = of_input.chunk(3, dim=1)
        r_h, z_h, n_h = of_state.chunk(3, dim=1)
        n = self.act(n + (r + r_h).sigmoid() * n_h)
        return torch.lerp(n, h, (z + z_h).sigmoid())


class KTrajGRU(TrajGRU):
    """TrajGRU that filters its state with predicted kernels instead of L flows (TrIVD-GAN)."""

    def __init__(self, inputs: int, channels: int, *, act: Literal["tanh", "lrelu"] = "tanh", separable: bool = False):
        nn.Module.__init__(self)
        self.act = torch.tanh if act == "tanh" else partial(F.leaky_relu, negative_slope=0.2)
        self.of_input = nn.Conv2d(inputs, 3 * channels, 3, padding=1)
        self.of_state = nn.Conv2d(channels, 3 * channels, 1)
        self.warp = Warp(inputs, channels, separable=separable)

    def given(self, x: Tensor) -> Given:
        return convolved(self.of_input, x), self.warp.hidden.given(x)

    def warped(self, warp: Tensor, h: Tensor) -> Tensor:
        return self.warp(warp, h)


class TSRU(nn.Module):
    """h^ = warp of h; c = relu(W [x; .] + b), u = sigmoid(W [.] + b); h <- u h^ + (1 - u) c (TrIVD-GAN).

    form "c": c sees h^, u sees h; "p": both see h; "s": c sees h^, then u sees [c; h^] and not x.
    """

    parts = 1

    def __init__(
        self,
        inputs: int,
        channels: int,
        *,
        form: Literal["c", "p", "s"] = "p",
        warp: Literal["kernel", "flow"] = "kernel",
        mix: Literal["warped", "raw"] = "warped",
        separable: bool = False,
    ):
        super().__init__()
        self.form, self.mix = form, mix
        self.warp = Warp(inputs, channels, warp, separable=separable)
        self.new = Joint(inputs, channels, channels)
        self.update = Joint(channels if form == "s" else inputs, channels, channels)

    def remember(self, b: float) -> None:
        nn.init.constant_(self.update.of_input.bias, b)

    def given(self, x: Tensor) -> Given:
        seen = self.warp.hidden.given(x), self.new.given(x)
        return seen if self.form == "s" else (*seen, self.update.given(x))

    def step(self, h: Tensor, warp: Tensor, new: Tensor, update: Tensor | None = None) -> Tensor:
        warped = self.warp(warp, h)
        c = self.new(new, h if self.form == "p" else warped).relu()
        u = self.update(self.update.given(c), warped) if self.form == "s" else self.update(update, h)
        return torch.lerp(c, warped if self.mix == "warped" else h, u.sigmoid())


Name = Literal["convrnn", "convlstm", "convgru", "trajgru", "ktrajgru", "tsru_c", "tsru_p", "tsru_s"]
CELLS: dict[str, Callable[..., nn.Module]] = {
    "convrnn": ConvRNN,
    "convlstm": ConvLSTM,
    "convgru": ConvGRU,
    "trajgru": TrajGRU,
    "ktrajgru": KTrajGRU,
    "tsru_c": partial(TSRU, form="c"),
    "tsru_p": partial(TSRU, form="p"),
    "tsru_s": partial(TSRU, form="s"),
}


@dataclass(frozen=True)
class Conventions:
    """What a cell does one way or another, each of the cells beside it alone."""

    candidate: Literal["tanh", "relu"] = "tanh"  # convgru
    peepholes: bool = False  # convlstm
    flows: int = 5  # trajgru
    act: Literal["tanh", "lrelu"] = "tanh"  # trajgru, ktrajgru
    separable: bool = False  # ktrajgru, tsru: kernels
    warp: Literal["kernel", "flow"] = "kernel"  # tsru
    mix: Literal["warped", "raw"] = "warped"  # tsru

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012


CONVENTIONS = Conventions()
TSRUS = ("separable", "warp", "mix")
OWN: dict[str, tuple[str, ...]] = {  # which of them a cell has
    "convrnn": (),
    "convlstm": ("peepholes",),
    "convgru": ("candidate",),
    "trajgru": ("flows", "act"),
    "ktrajgru": ("act", "separable"),
    "tsru_c": TSRUS,
    "tsru_p": TSRUS,
    "tsru_s": TSRUS,
}


def made(name: Name, inputs: int, channels: int, conventions: Conventions = CONVENTIONS) -> nn.Module:
    return CELLS[name](inputs, channels, **{own: getattr(conventions, own) for own in OWN[name]})


def check(name: Name, remembers: float | None, conventions: Conventions, usual: Conventions = CONVENTIONS) -> None:
    """Refuses what the cell does not have; `usual` is what the system has where nothing is said."""
    if remembers is not None and name == "convrnn":
        raise ValueError("remembers: a convrnn has no gate that keeps its state")
    if conventions.flows < 1:
        raise ValueError(f"conventions.flows must be 1 or more, got {conventions.flows}")
    for key, value in vars(conventions).items():
        if value != vars(usual)[key] and key not in OWN[name]:
            cells = ", ".join(cell for cell, own in OWN.items() if key in own)
            raise ValueError(f"conventions.{key} is of {cells}, not of {name}")


class Rollout(Recomputed):
    """A cell over time: inputs [B, I, T, H, W], of one frame if all steps are given the same, and a first state
    [B, C, H, W] to what all steps show [B, C, T, H, W], and the last state to go on from.

    Recomputing, it keeps what the steps are given and the states between them.
    """

    def __init__(self, cell: nn.Module, level: int = 0, *, remembers: float | None = None):
        super().__init__()
        self.cell, self.level = cell, level
        if remembers is not None:
            cell.remember(remembers)

    def first(self, h: Tensor) -> Tensor:
        """The state that shows h and remembers nothing else."""
        return torch.cat([h, *[torch.zeros_like(h)] * (self.cell.parts - 1)], dim=1)

    def forward(self, x: Tensor, state: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        channels, states = state.shape[1] // self.cell.parts, []
        given = [part.unbind(dim=2) if part.shape[2] > 1 else [part[:, :, 0]] * steps for part in self.cell.given(x)]
        for now in zip(*given, strict=True):
            state = self.remade(self.cell.step, state, *now)
            states.append(state[:, :channels])
        return torch.stack(states, dim=2), state
