"""What every op is tested and timed on. An op is in the suite by being in this list."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vgen_fast import ops
from vgen_fast.ops import reference

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """`call(tensors, impl)` runs the op; `shapes` names its tensors, all of which get gradients."""

    op: str
    name: str
    shapes: dict[str, tuple[int, ...]]
    call: Callable[[Tensors, str | None], Tensor]
    plain: Callable[[Tensors], Tensor]  # the same in plain PyTorch
    order: int = 2
    critic: bool = True  # whether to test a gradient penalty through it
    kinks: bool = False  # not smooth: numerical differences may straddle a kink
    half: bool = True  # False where the gradient is pure cancellation, below the resolution of 16 bits
    options: dict = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}:{self.name}"

    def tensors(self, dtype: torch.dtype, seed: int = 0, device: str = "cpu") -> Tensors:
        generator = torch.Generator().manual_seed(seed)
        draw = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in self.shapes.items()
        }
        return {name: tensor.to(device=device, dtype=dtype) for name, tensor in draw.items()}


def plain_conv(x, weight, style=None, bias=None, noise=None, *, up=1, down=1, padding="same", **options) -> Tensor:
    """The reference with the public op's shorthand for factors and padding."""
    image = x.ndim == 4
    if image:
        x, weight = x.unsqueeze(2), weight.unsqueeze(2)
        noise = None if noise is None else noise.unsqueeze(2)

    def triple(value):
        if not isinstance(value, int):
            return value
        return (1 if image else value, value, value)

    if padding in ("same", "valid"):
        sides = tuple((k - 1) // 2 if padding == "same" else 0 for k in weight.shape[2:])
    else:
        sides = (0, padding, padding) if image and isinstance(padding, int) else triple(padding)
    y = reference.modulated_conv3d.modulated_conv3d(
        x, weight, style, bias=bias, noise=noise, up=triple(up), down=triple(down), padding=sides, **options
    )
    return y.squeeze(2) if image else y


def conv(
    name: str, channels: tuple[int, int], size: tuple[int, ...], *, batch=2, taps=3, style=False, bias=True, noise=None,
    critic=True, **options,
) -> Case:  # fmt: skip
    num_in, num_out = channels
    taps = (taps,) * len(size) if isinstance(taps, int) else taps
    shapes = {"x": (batch, num_in, *size), "weight": (num_out, num_in, *taps)}
    shapes |= {"style": (batch, num_in)} if style else {}
    shapes |= {"bias": (num_out,)} if bias else {}
    shapes |= {"noise": noise} if noise else {}
    return Case(
        op="modulated_conv3d",
        name=name,
        shapes=shapes,
        call=lambda tensors, impl: ops.modulated_conv3d(**tensors, **options, impl=impl),
        plain=lambda tensors: plain_conv(**tensors, **options),
        critic=critic and not style,
        kinks=options.get("slope") is not None,
        options=options,
    )


# Outputs of 3 taps on h and w are computed in pairs where channels (2 I O / (I + O)) times taps along t are 40 or more,
# or 20 where a row of pairs fills a vector; with fewer, one by one.
CASES = [
    conv("plain", (3, 5), (3, 6, 7), bias=False),
    conv("bias_lrelu", (4, 5), (3, 6, 9), slope=0.2),
    conv("wide", (17, 20), (2, 9, 18), slope=0.1, gain=1.3),
    conv("one_voxel", (5, 4), (1, 1, 1), slope=0.2),
    conv("one_channel", (1, 1), (4, 5, 6), slope=0.3),
    conv("two_wide_tiles", (8, 7), (2, 3, 141), batch=1, slope=0.2),
    conv("many_samples", (6, 4), (2, 4, 4), batch=7, slope=0.2),
    conv("many_samples_paired", (14, 14), (2, 4, 4), batch=7, slope=0.2),
    conv("frames", (3, 5), (4, 6, 7), batch=3, taps=(1, 3, 3), slope=0.2, noise=(3, 1, 4, 1, 7)),
    conv("frames_paired", (24, 20), (3, 4, 18), taps=(1, 3, 3), slope=0.2),
    conv("frames_padded", (4, 5), (3, 4, 5), taps=(1, 3, 3), padding=1, slope=0.2),
    conv("frames_down", (4, 5), (5, 6, 8), batch=3, taps=(1, 3, 3), down=(1, 2, 2), slope=0.2),
    conv("frames_style", (4, 5), (5, 5, 6), batch=3, taps=(1, 3, 3), style=True, slope=0.2, noise=(1, 5, 5, 6)),
    conv("frames_style_up", (6, 4), (4, 5, 3), batch=1, taps=(1, 3, 3), style=True, up=(1, 2, 2), slope=0.2),
    conv("rgb", (9, 3), (2, 5, 8), taps=1),
    conv("taps_5_3_1", (4, 6), (5, 6, 5), taps=(5, 3, 1), slope=0.2),
    conv("valid", (4, 6), (4, 6, 7), padding="valid", slope=0.2),
    conv("padding_2_0_1", (4, 6), (4, 6, 7), padding=(2, 0, 1), slope=0.2),
    conv("up", (14, 13), (2, 5, 6), up=2, slope=0.2),
    conv("up_space", (4, 6), (3, 4, 5), up=(1, 2, 2), slope=0.2),
    conv("up_time", (4, 6), (3, 4, 5), up=(2, 1, 1), slope=0.2),
    conv("up_one_axis", (4, 6), (3, 4, 5), up=(1, 1, 2), slope=0.2),
    conv("up_narrow", (3, 3), (2, 4, 5), up=2, slope=0.2),
    conv("up_taps_5", (4, 4), (3, 4, 5), up=2, taps=5, slope=0.2),
    conv("up_valid", (14, 14), (3, 4, 5), up=2, padding="valid", slope=0.2),
    conv("down", (14, 13), (4, 6, 8), down=2, slope=0.2),
    conv("down_odd", (14, 14), (5, 7, 9), down=2, slope=0.2),
    conv("down_space", (4, 6), (3, 8, 6), down=(1, 2, 2), slope=0.2),
    conv("down_one_axis", (4, 6), (3, 5, 6), down=(1, 2, 1), slope=0.2),
    conv("down_narrow", (3, 2), (4, 5, 6), down=2, slope=0.2),
    conv("noise", (4, 5), (3, 5, 6), noise=(2, 1, 3, 5, 6), slope=0.2, gain=0.7),
    conv("noise_broadcast", (4, 5), (3, 5, 6), noise=(1, 6), slope=0.2),
    conv("style", (14, 14), (3, 5, 6), style=True, slope=0.2, gain=2**0.5, noise=(2, 1, 3, 5, 6)),
    conv("style_no_demodulation", (4, 3), (2, 5, 6), style=True, demodulate=False),
    conv("style_up", (13, 14), (2, 4, 5), style=True, up=2, slope=0.2),
    conv("style_down", (14, 13), (4, 6, 5), style=True, down=2, slope=0.2, eps=1e-3),
    conv("pixel_norm", (4, 5), (3, 5, 6), slope=0.2, pixel_norm=True, gain=1.4, critic=False),
    conv("style_up_pixel_norm", (4, 5), (2, 4, 5), style=True, up=(1, 2, 2), slope=0.2, pixel_norm=True, eps=1e-4),
    conv("relu", (4, 5), (3, 5, 6), slope=0.0),
    conv("image", (5, 4), (9, 11), slope=0.2),
    conv("image_paired", (24, 20), (5, 18), slope=0.2),
    conv("image_up", (5, 4), (5, 6), up=2, slope=0.2, style=True, noise=(2, 1, 10, 12)),
    conv("image_down", (5, 4), (6, 8), down=2, slope=0.2, padding=1),
]


def add(op: str, name: str, shapes: dict, call: Callable, plain: Callable, **options) -> None:
    CASES.append(Case(op, name, shapes, call, plain, **options))


for name, shape in {
    "video": (2, 5, 3, 4, 7),
    "image": (2, 8, 5, 9),
    "one": (1, 1, 1, 1, 1),
    "chunks": (1, 3, 3, 13, 17),
}.items():
    add(
        "pixel_norm", name, {"x": shape},
        lambda tensors, impl: ops.pixel_norm(**tensors, impl=impl),
        lambda tensors: reference.pixel_norm.pixel_norm(**tensors),
        critic=False,
    )  # fmt: skip
    add(
        "pixel_norm", f"{name}_lrelu", {"x": shape},
        lambda tensors, impl: ops.pixel_norm(**tensors, slope=0.3, eps=1e-3, impl=impl),
        lambda tensors: reference.pixel_norm.pixel_norm(**tensors, slope=0.3, eps=1e-3),
        critic=False, kinks=True, half=shape[1] > 1,
    )  # fmt: skip

for name, shape, group in [
    ("video", (8, 3, 2, 5, 7), 4), ("image", (4, 6, 4, 5), 2), ("whole_batch", (3, 5, 2, 3, 3), 4),
    ("one", (1, 1, 1, 1, 1), 4), ("blocks", (4, 7, 3, 5, 11), 4),
]:  # fmt: skip
    add(
        "minibatch_stddev", name, {"x": shape},
        lambda tensors, impl, group=group: ops.minibatch_stddev(**tensors, group_size=group, eps=1e-3, impl=impl),
        lambda tensors, group=group: reference.minibatch_stddev.minibatch_stddev(**tensors, group_size=group, eps=1e-3),
    )  # fmt: skip

for name, batch, width in [("square", 5, 7), ("large", 9, 33), ("one", 1, 1)]:
    add(
        "sliced_head", name, {"y": (batch, width), "theta": (width, width), "scale": (width,), "offset": (width,)},
        lambda tensors, impl: ops.sliced_head(**tensors, slope=0.3, impl=impl),
        lambda tensors: reference.sliced_wasserstein.sliced_head(**tensors, slope=0.3),
        kinks=True,
    )  # fmt: skip

for name, n, m, p in [("equal", 13, 13, 2), ("unequal", 6, 9, 2), ("p1", 5, 7, 1), ("one", 1, 1, 2)]:
    add(
        "sliced_wasserstein", name, {"x": (n, 4), "y": (m, 4), "projections": (4, 11)},
        lambda tensors, impl, p=p: ops.sliced_wasserstein(**tensors, p=p, impl=impl),
        lambda tensors, p=p: reference.sliced_wasserstein.sliced_wasserstein(**tensors, p=p),
        critic=False, kinks=True,
    )  # fmt: skip
