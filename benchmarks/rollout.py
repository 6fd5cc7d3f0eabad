"""The style-based generator's rollout against the same network in plain eager PyTorch, frame by frame:
`python benchmarks/rollout.py --table`.

Eager is the released form written down: a step of all cells for each frame, convolutions of [x; h], styled convolutions
as grouped ones with a weight for each clip, then transposed ones and a blur, each a torch function. A training step is
that of the generator alone: forward, backward of the mean square, Adam. The sides take turns in one process; a figure
is the median; memory is the growth of the process over a forward and backward pass, each in a process of its own.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen_fast.layers.dual_critics import Critics
from vgen_fast.layers.segment import recomputing
from vgen_fast.models.style_prediction import Config, Generator
from vgen_fast.models.system import Inputs, Stage
from vgen_fast.train.memory import give_back, peak_megabytes

RESULTS = Path(__file__).parent / "results"
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
SAME = 1e-4  # of pixels in [-1, 1]
BLUR = torch.tensor([1.0, 3.0, 3.0, 1.0])


def conv(layer: torch.nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, padding="same")


def joint(layer, x: Tensor, h: Tensor) -> Tensor:
    weight = torch.cat([layer.of_input.weight, layer.of_state.weight], dim=1)
    return F.conv2d(torch.cat([x, h], dim=1), weight, layer.of_input.bias, padding="same")


def down(block, x: Tensor) -> Tensor:
    y = conv(block.two, conv(block.one, x if block.first else x.relu()).relu())
    return F.avg_pool2d(y, 2) + conv(block.shortcut, F.avg_pool2d(x, 2))


def styled(layer, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
    clips, s = len(x), F.linear(style, layer.style.weight * layer.style.scale, layer.style.bias)
    weight = layer.weight[:, :, 0] * layer.scale * s[:, None, :, None, None]  # [B, O, I, 3, 3]
    weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    outputs, x = weight.shape[1], x.reshape(1, -1, *x.shape[2:])
    if layer.up:
        weight = weight.transpose(1, 2).flip(3, 4).reshape(-1, outputs, 3, 3)
        y = F.conv_transpose2d(x, weight, stride=2, groups=clips)
        blur = (BLUR[:, None] * BLUR / BLUR.sum() ** 2 * 4).expand(y.shape[1], 1, 4, 4)
        y = F.conv2d(y, blur, padding=1, groups=y.shape[1])
    else:
        y = F.conv2d(x, weight.reshape(-1, *weight.shape[2:]), padding=1, groups=clips)
    y = y.reshape(clips, outputs, *y.shape[2:]) + layer.strength * noise + layer.bias[:, None, None]
    return F.leaky_relu(y, 0.2) * math.sqrt(2)


def to_rgb(layer, x: Tensor, style: Tensor) -> Tensor:
    s = F.linear(style, layer.style.weight * layer.style.scale, layer.style.bias)
    weight = layer.weight[:, :, 0] * layer.scale * s[:, None, :, None, None]
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight.reshape(-1, *weight.shape[2:]), groups=len(x))
    return y.reshape(len(x), 3, *y.shape[2:]) + layer.bias[:, None, None]


def eager(generator: Generator, inputs: Inputs) -> Tensor:
    cfg, encoder = generator.cfg, generator.encoder
    x, states = conv(encoder.rgb, inputs.condition), []
    for block in encoder.blocks:
        x = down(block[0], x)
        states.insert(0, x)
    for block in encoder.style:
        x = down(block[0], x)
    style = F.linear(x.flatten(1), encoder.last.weight, encoder.last.bias).sigmoid()
    noise = inputs.latents.unflatten(1, (cfg.steps, -1))
    noises = [n.unflatten(2, (math.isqrt(n.shape[2]), -1))[:, None] for n in noise.split(cfg.noises, dim=2)]
    frames = [inputs.condition]
    for t in range(cfg.steps):
        x = generator.constant.expand(len(style), -1, -1, -1)
        for d, level in enumerate(generator.levels):
            cell, h = level.rollout.cell, states[d]
            u, r = joint(cell.gates, x, h).sigmoid().chunk(2, dim=1)
            states[d] = (1 - u) * h + u * joint(cell.new, x, r * h).tanh()
            x = styled(level.up, states[d], style, noises[2 * d][:, :, t])
            x = styled(level.same, x, style, noises[2 * d + 1][:, :, t])
        frames.append(to_rgb(generator.rgb, x, style).tanh())
    return torch.stack(frames, dim=2)


def parts(batch: int, size: int, width: int) -> tuple[Generator, Inputs]:
    torch.manual_seed(0)
    cfg = Config(size=size, width=width, critics=Critics(spatial=(8, 32), temporal=(8, 32)))  # not part of it
    generator = Generator(cfg)
    with torch.no_grad():
        for level in generator.levels:
            level.up.strength.fill_(0.1)
            level.same.strength.fill_(0.1)
    return generator, Inputs(torch.randn(batch, sum(cfg.latents)), torch.rand(batch, 3, size, size) * 2 - 1)


def sides(generator: Generator, inputs: Inputs) -> dict[str, Callable[[], Tensor]]:
    def remade() -> Tensor:
        with recomputing(generator):
            return generator(inputs, Stage())

    return {
        "ours": lambda: generator(inputs, Stage()),
        "ours, recomputing": remade,
        "eager": lambda: eager(generator, inputs),
    }


def times(batch: int, size: int, width: int, seconds: float) -> dict[str, dict[str, float]]:
    generator, inputs = parts(batch, size, width)
    adam = torch.optim.Adam(generator.parameters(), 1e-5, fused=True)
    videos = sides(generator, inputs)

    def forward(side: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            side()

    def step(side: Callable[[], Tensor]) -> None:
        side().square().mean().backward()
        adam.step()
        adam.zero_grad()

    with torch.no_grad():
        off = float((videos["ours"]() - videos["eager"]()).abs().max())
    if not off <= SAME:
        raise SystemExit(f"the sides do not compute the same: pixels are off by {off}")
    found = {}
    for name, run in (("forward", forward), ("training step", step)):
        taken = {side: [] for side in videos if name == "training step" or side != "ours, recomputing"}
        for side in taken:
            run(videos[side])
        began = time.perf_counter()
        while time.perf_counter() - began < seconds or len(taken["ours"]) < 3:
            for side, each in taken.items():
                before = time.perf_counter()
                run(videos[side])
                each.append(time.perf_counter() - before)
        found[name] = {side: statistics.median(each) for side, each in taken.items()}
    return found


def megabytes(side: str, batch: int, size: int, width: int) -> float:
    generator, inputs = parts(batch, size, width)
    run = sides(generator, inputs)[side]
    run().square().mean().backward()  # libraries and gradients are there
    give_back()
    return peak_megabytes(lambda: run().square().mean().backward())


def measured_elsewhere(side: str, words: list[str]) -> float:
    done = subprocess.run([sys.executable, __file__, *words, "--memory", side], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write benchmarks/results/rollout.{json,md} as well")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30, help="timing budget of each part")
    parser.add_argument("--memory", help="print the megabytes of this side alone")
    args = parser.parse_args()
    if os.environ.get(HUGE_PAGES) != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, HUGE_PAGES: "1"})
    shape = (args.batch, args.size, args.width)
    if args.memory:
        print(megabytes(args.memory, *shape))
        return
    words = [word for name in ("batch", "size", "width") for word in (f"--{name}", str(getattr(args, name)))]
    found = times(*shape, args.seconds)
    found["peak MB"] = {side: measured_elsewhere(side, words) for side in found["training step"]}
    lines = ["| | " + " | ".join(found["training step"]) + " | eager / ours | recomputing / eager |", "|---" * 6 + "|"]
    for name, each in found.items():
        unit = (lambda value: f"{value:.0f}") if name == "peak MB" else (lambda value: f"{value:.3g} s")
        cells = [unit(each[side]) if side in each else "" for side in found["training step"]]
        remade = f"{each['ours, recomputing'] / each['eager']:.2f}x" if "ours, recomputing" in each else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {each['eager'] / each['ours']:.2f}x | {remade} |")
    frames = Config().frames
    lines += ["", f"Of {args.batch} clips of {frames}x{args.size}x{args.size}, width {args.width}, on "
              f"torch {torch.__version__}, {torch.get_num_threads()} threads."]  # fmt: skip
    text = "\n".join(lines)
    print(text)
    if args.table:
        (RESULTS / "rollout.json").write_text(json.dumps({"arguments": vars(args), **found}, indent=1) + "\n")
        (RESULTS / "rollout.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
