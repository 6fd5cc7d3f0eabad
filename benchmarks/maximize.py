"""A step of activation maximisation, STGAN's generator led by LRCN, against the same networks in plain eager PyTorch:
`python benchmarks/maximize.py --table`.

Eager is the step as one writes it down: the class's logit goes back through all networks with the gradients of their
weights on, as modules have them; beside it the same with weights frozen. The sides take turns in one process and must
give the same codes; a figure is the median; memory is the growth of the process over a step, each in a process of its
own. The prior's way back through the encoder is part of a step, on all sides without a graph.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen_fast.ascent import Rule, maximised
from vgen_fast.conditions import by_frames, of_lrcn
from vgen_fast.layers.segment import recomputing
from vgen_fast.models import stgan
from vgen_fast.nets import caffenet, lrcn
from vgen_fast.train.memory import give_back, peak_megabytes

RESULTS = Path(__file__).parent / "results"
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
SIDES = ("ours", "ours, recomputing", "eager", "eager, weights frozen")
SAME = 1e-3  # of codes, whose numbers change by 1 on average
CLASS, CODES = 7, 4096


def networks(frames: int) -> tuple[stgan.Generator, caffenet.Encoder, lrcn.LRCN]:
    """With drawn weights, which cost as much as the published ones."""
    torch.manual_seed(0)
    cfg = stgan.Config(frames=frames)
    generator, encoder = stgan.Generator(cfg), caffenet.Encoder(caffenet.CaffeNet())
    stgan.start(generator, stgan.VideoCritic(cfg))
    return generator.eval(), encoder.eval(), lrcn.LRCN().eval()


def frames_of(video: Tensor) -> Tensor:
    return video.transpose(1, 2).reshape(-1, 3, *video.shape[3:])


def eager_step(parts: tuple, codes: Tensor, rule: Rule) -> Tensor:
    """The first step, in torch functions."""
    generator, encoder, network = parts
    h = codes.clone().requires_grad_()
    x = h
    for layer in generator.dense:
        x = F.leaky_relu(F.linear(x, layer.weight, layer.bias), 0.3)
    x = x.reshape(*x.shape[:2], 256, 4, 4).transpose(1, 2)
    for row, block in zip(stgan.ROWS, generator.blocks, strict=True):
        x = F.conv_transpose3d(x, block[1].weight, block[1].bias, stride=(1, row.up, row.up), padding=1)
        x = x if row is stgan.ROWS[-1] else F.leaky_relu(x, 0.3)
    video = x[..., 14:241, 14:241]
    offset = (torch.tensor(caffenet.MEAN) - torch.tensor(lrcn.MEAN))[:, None, None, None]
    codes_of_frames = F.relu(network.fc6(network.convolutions(frames_of(video + offset)).flatten(1)))
    hidden, _ = network.lstm1(codes_of_frames.reshape(*codes.shape[:2], -1))
    logits = network.fc8(hidden)
    p = logits.softmax(dim=2)[..., CLASS]
    ((1 - p).detach() * logits[..., CLASS]).mean(dim=1).sum().backward()
    with torch.no_grad():
        back = F.relu(encoder.fc6(encoder.convolutions(frames_of(video)).flatten(1))).reshape(codes.shape)
        d = h.grad + rule.back * (back - codes) + rule.noise * torch.randn(codes.shape)
        found = (codes + rule.length(0) / d.abs().mean(dim=(1, 2), keepdim=True) * d).clamp(0, 30)
    for part in parts:
        part.zero_grad()
    return found


def side(name: str, parts: tuple, codes: Tensor, rule: Rule) -> tuple[Tensor, float]:
    """Codes after the first step, and the seconds of one: of ours, from where it has seen the first video to where it has the second."""
    for part in parts:
        part.requires_grad_(name == "eager")
    parts[2].lstm1.bias_hh_l0.requires_grad_(False)
    if name.startswith("eager"):
        before = time.perf_counter()
        return eager_step(parts, codes, rule), time.perf_counter() - before
    generator, encoder, network = parts
    again, steps, clock = name == "ours, recomputing", [], []
    with recomputing(generator) if again else nullcontext():
        maximised(
            lambda h: stgan.cropped(generator.whole(h), 227),
            lambda clip: by_frames(lambda pictures: encoder(pictures).fc6, clip, again),
            lambda clip: of_lrcn(network)(clip, again),
            codes,
            torch.full((len(codes),), CLASS),
            replace(rule, iterations=2),
            [torch.Generator() for _ in codes],
            lambda i, seen: (steps.append(seen.codes), clock.append(time.perf_counter())),
        )
    return steps[1], clock[1] - clock[0]


def times(frames: int, seconds: float) -> dict[str, float]:
    parts, rule, rows = networks(frames), Rule(), torch.randn(1, frames, CODES)
    found = {name: side(name, parts, rows, rule) for name in SIDES}
    for name, (codes, _) in found.items():
        off = float((codes - found["eager"][0]).abs().mean())
        if not off <= SAME:
            raise SystemExit(f"the sides do not compute the same: codes of {name} are off by {off}")
    taken = {name: [] for name in SIDES}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(taken["ours"]) < 3:
        for name, each in taken.items():
            each.append(side(name, parts, rows, rule)[1])
    return {name: statistics.median(each) for name, each in taken.items()}


def megabytes(name: str, frames: int) -> float:
    parts, rows = networks(frames), torch.randn(1, frames, CODES)
    run: Callable[[], object] = lambda: side(name, parts, rows, Rule())
    run()
    give_back()
    return peak_megabytes(run)


def measured_elsewhere(name: str, frames: int) -> float:
    words = [sys.executable, __file__, "--frames", str(frames), "--memory", name]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def told(found: dict) -> str:
    lines = ["| frames | | " + " | ".join(SIDES) + " |", "|---" * (2 + len(SIDES)) + "|"]
    for frames, rows in found.items():
        for what, each in rows.items():
            digits = ".0f" if what == "peak MB" else ".3g"
            lines.append(f"| {frames} | {what} | " + " | ".join(f"{each[name]:{digits}}" for name in SIDES) + " |")
    lines += ["", f"One video of 227x227, torch {torch.__version__}, {torch.get_num_threads()} threads."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write benchmarks/results/maximize.{json,md} as well")
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 48])
    parser.add_argument("--seconds", type=float, default=60, help="timing budget of each length")
    parser.add_argument("--memory", help="print the megabytes of this side alone")
    args = parser.parse_args()
    if os.environ.get(HUGE_PAGES) != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, HUGE_PAGES: "1"})
    if args.memory:
        print(megabytes(args.memory, *args.frames))
        return
    found = {}
    for frames in args.frames:
        found[frames] = {"seconds a step": times(frames, args.seconds)}
        found[frames]["peak MB"] = {name: measured_elsewhere(name, frames) for name in SIDES}
    text = told(found)
    print(text)
    if args.table:
        (RESULTS / "maximize.json").write_text(json.dumps({"arguments": vars(args), "lengths": found}, indent=1) + "\n")
        (RESULTS / "maximize.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
