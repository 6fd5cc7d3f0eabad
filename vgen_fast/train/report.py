"""What a person sees of a run: the progress line, sample grids, and report.html, which opens from disk."""

import html
import json
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data import transforms, write
from ..data.journal import whole_lines, write_whole
from ..models.system import Draw, Inputs, Stage, System
from .seeding import derived

SAMPLES = 24
STRIP_FRAMES = 8
RECENT, LATELY = 64, 30.0  # updates, and seconds, that the speed is taken over


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


class Progress:
    """One line that is written over on a terminal; elsewhere a plain line a tick."""

    def __init__(self, clips: int, clips_seen: int, work: Callable[[int], float]):
        """`work`: how much of the whole is done at a number of clips seen, for the time that is left."""
        self.clips, self.work, self.live = clips, work, sys.stderr.isatty()
        self.recent: deque[tuple[float, int]] = deque([(time.monotonic(), clips_seen)], maxlen=RECENT)
        self.shown = 0.0

    def rate(self) -> float:
        """Clips a second, lately."""
        (t0, c0), (t1, c1) = self.recent[0], self.recent[-1]
        return (c1 - c0) / max(t1 - t0, 1e-9)

    def line(self, clips_seen: int, size: tuple[int, int, int], stage: Stage, losses: dict[str, float]) -> str:
        rate, (t0, c0), (t1, c1) = self.rate(), self.recent[0], self.recent[-1]
        speed = (self.work(c1) - self.work(c0)) / max(t1 - t0, 1e-9)
        left = duration((self.work(self.clips) - self.work(c1)) / speed) if speed else "?"
        fading = f" fading in {stage.fade:.0%}" if stage.fade < 1 else ""
        figures = "  ".join(f"{name} {value:.3g}" for name, value in losses.items() if name.endswith("loss"))
        return (
            f"{clips_seen / self.clips:4.0%}  {left} left  {clips_seen} of {self.clips} clips  {rate:.1f} clips/s  "
            f"{'x'.join(map(str, size))}{fading}  {figures}  {memory()}"
        )

    def update(self, clips_seen: int, size: tuple[int, int, int], stage: Stage, losses: dict[str, float], tick: bool):
        now = time.monotonic()
        if clips_seen < self.recent[-1][1]:  # the run has gone back
            self.recent.clear()
        self.recent.append((now, clips_seen))
        while len(self.recent) > 2 and self.recent[1][0] < now - LATELY:
            self.recent.popleft()
        if self.live and (now - self.shown > 0.5 or clips_seen >= self.clips):
            text = self.line(clips_seen, size, stage, losses)
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
            self.shown = now
            if clips_seen >= self.clips:
                print(file=sys.stderr, flush=True)
        elif tick and not self.live:
            print(self.line(clips_seen, size, stage, losses), flush=True)


def printable(text: str) -> str:
    """Names of files may hold what a terminal obeys; it is escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def show(text: str) -> None:
    print(printable(text), flush=True)


def complain(text: str) -> None:
    """One line."""
    print("vgen_fast:", printable(text.replace("\n", "\\n")), file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------ samples


def fixed_inputs(system: System, classes: tuple[int, ...], seed: int, video: Tensor | None = None) -> Inputs:
    """The latents and labels of every sample grid of a run; labels are spread evenly over all combinations.

    `video`: real clips, uint8, for a system that sees them.
    """
    like = next(system.generator.parameters()).detach()
    draw = Draw(derived(seed, "samples"), SAMPLES, torch.arange(SAMPLES), like)
    total = math.prod(classes)
    stride = next(s for s in range(round(0.618 * total) or 1, total + 2) if math.gcd(s, total) == 1)
    count = torch.arange(SAMPLES, device=like.device) * stride % total
    columns = [count // math.prod(classes[:i]) % number for i, number in enumerate(classes)]
    labels = torch.stack(columns, dim=1) if columns else None
    video = like.new_zeros(SAMPLES, 3, 1, 1, 1) if video is None else video.to(like) / 127.5 - 1
    return system.draw_inputs(video, labels, draw)


@torch.no_grad()
def videos(generator: nn.Module, system: System, inputs: Inputs, stage: Stage) -> np.ndarray:
    """uint8 [N, T, H, W, 3]."""
    video = system.video(generator(inputs, stage))
    return transforms.to_frames(transforms.to_bytes(video)).cpu().numpy()


def write_grid(folder: Path, name: str, frames: np.ndarray) -> None:
    """`name`.mp4, all samples side by side, and `name`.png, a film strip of each."""
    factor = max(1, 96 // frames.shape[3])
    large = write.enlarge(frames, factor)
    write.mp4(folder / f"{name}.mp4", write.grid(large, columns=6))
    chosen = np.linspace(0, frames.shape[1] - 1, min(STRIP_FRAMES, frames.shape[1])).round().astype(int)
    half = len(large) // 2
    columns = [write.strip(part[:, chosen]) for part in (large[:half], large[half:]) if len(part)]
    write.png(folder / f"{name}.png", np.concatenate(columns, axis=1))


# ------------------------------------------------------------------------------------------------------------- report

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }}
video {{ width: 100%; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
svg {{ background: #fafafa; border: 1px solid #ddd; max-width: 100%; height: auto; }}
svg text {{ font-size: 11px; fill: #555; }}
pre {{ background: #fafafa; border: 1px solid #ddd; padding: 1rem; overflow: auto; font-size: 13px; }}
video, img {{ max-width: 100%; image-rendering: pixelated; }} input[type=range] {{ width: 100%; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .15rem .8rem .15rem 0; text-align: left; }}
@media (prefers-color-scheme: dark) {{
body {{ background: #181818; color: #ddd; }} svg, pre {{ background: #222; border-color: #444; }}
}}
</style>
<h1>{title}</h1><p>{summary}</p>
<input type="range" id="when" min="0" max="{last}" value="{last}" aria-label="which grid">
<div class="pair">
<div><h2>Samples <span id="label"></span></h2><video id="grid" autoplay loop muted playsinline controls></video></div>
<div><h2>Real clips</h2><video src="samples/reals.mp4" autoplay loop muted playsinline controls></video></div>
</div>
{scores}<h2>Curves</h2><div class="plots">{plots}</div>
<h2>Events</h2>{events}
<h2>Configuration</h2><pre>{config}</pre>
<script>
const grids = {grids}, when = document.getElementById("when"), grid = document.getElementById("grid");
function show() {{
  const name = grids[when.value];
  document.getElementById("label").textContent = name ? "after " + Number(name.slice(6)) + " clips" : "(none yet)";
  if (name) grid.src = "samples/" + name + ".mp4";
}}
when.addEventListener("input", show); show();
</script></html>
"""


COLUMNS, WIDE, HIGH = 3, 330, 170  # of the plots of scores
RED, GREEN = "#c3423f", "#3a7d44"
Point = tuple[float, float, float, float]  # clips seen, a number, and the interval it lies in


def curve(
    name: str, points: list[Point], level: float | None = None, at: tuple[int, int] = (0, 0), unit: str = "clips"
) -> str:
    """One curve over clips seen as inline SVG. `level` is a line to compare with, such as that of real clips."""
    points = [point for point in points if np.isfinite(point).all()]
    if not points:
        return ""
    left, top, bottom = 52, 22, 18
    heights = [y for point in points for y in point[1:]] + ([] if level is None else [level])
    low, high = min(heights), max(heights)
    start, end = points[0][0], points[-1][0]

    def line(places: list[tuple[float, float]]) -> str:
        right, down = (WIDE - left - 8) / ((end - start) or 1), (HIGH - top - bottom) / ((high - low) or 1)
        return " ".join(f"{left + (x - start) * right:.1f},{top + (high - y) * down:.1f}" for x, y in places)

    under = ""
    if any(least < most for _, _, least, most in points):
        around = [(x, least) for x, _, least, _ in points] + [(x, most) for x, _, _, most in reversed(points)]
        under += f'<polygon points="{line(around)}" fill="{RED}" opacity=".2"/>'
    if level is not None:
        ends = line([(start, level), (end, level)])
        under += f'<polyline points="{ends}" stroke="{GREEN}" stroke-width="1.5" stroke-dasharray="5 4"/>'
    path = line([(x, y) for x, y, *_ in points])
    return (
        f'<svg x="{at[0]}" y="{at[1]}" width="{WIDE}" height="{HIGH}" role="img"><title>{html.escape(name)}</title>'
        f'<text x="8" y="14">{html.escape(name)}</text>'
        f'<text x="4" y="{top + 8}">{high:.3g}</text><text x="4" y="{HIGH - bottom}">{low:.3g}</text>'
        f'<text x="{left}" y="{HIGH - 4}">{start:g}</text>'
        f'<text x="{WIDE - 8}" y="{HIGH - 4}" text-anchor="end">{end:g} {unit}</text>'
        f'{under}<polyline points="{path}" fill="none" stroke="{RED}" stroke-width="1.5"/></svg>'
    )


def scores_plot(rows: list[dict]) -> str:
    """The scores of a run over clips seen, with their intervals; dashed those of real clips. "" if there are none."""
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    number = lambda score, key: math.nan if score[key] is None else score[key]  # noqa: E731
    plots = []
    for name in names:
        having = [(row["clips_seen"], row["scores"][name]) for row in rows if name in row["scores"]]
        points = [(clips, *(number(score, key) for key in ("value", "low", "high"))) for clips, score in having]
        real, better = having[-1][1]["real"], having[-1][1]["better"]
        plots.append((f"{name} ({better} is better)", points, real))
    return plotted(plots) if plots else ""


def frames_plot(scores: dict[str, tuple[Sequence[float], float]]) -> str:
    """Scores of each frame of a rollout, and that of real ones, by name."""
    points = lambda values: [(t, value, value, value) for t, value in enumerate(values)]  # noqa: E731
    return plotted([(name, points(values), real) for name, (values, real) in scores.items()], "frames")


def plotted(plots: list[tuple[str, list[Point], float | None]], unit: str = "clips") -> str:
    """Curves in rows as an SVG of their own."""
    columns = min(COLUMNS, len(plots))
    wide, high = WIDE * columns, HIGH * -(-len(plots) // columns)
    places = [(WIDE * (i % columns), HIGH * (i // columns)) for i in range(len(plots))]
    drawn = "".join(curve(*plot, at, unit) for plot, at in zip(plots, places, strict=True))
    return drawing(wide, high, drawn)


def histogram(names: Sequence[str], counts: dict[str, Sequence[int]]) -> str:
    """Bars for each name, one for each of the counts, as an SVG of its own."""
    high, bar, most = 150, 9, max(1, *(max(found) for found in counts.values()))
    step = bar * len(counts) + 8
    wide, deep = max(60 + step * len(names), 200), 6 * max(map(len, names))
    parts = []
    for i, (series, found) in enumerate(counts.items()):
        colour = (GREEN, RED)[i % 2]
        parts.append(f'<text x="{52 + 90 * i}" y="12" style="fill:{colour}">{html.escape(series)}</text>')
        for n, (name, count) in enumerate(zip(names, found, strict=True)):
            tall = high * count / most
            x, y = 52 + n * step + i * bar, 22 + high - tall
            title = f"<title>{html.escape(name)}: {count} {html.escape(series)}</title>"
            parts.append(
                f'<rect x="{x}" y="{y:.1f}" width="{bar - 1}" height="{tall:.1f}" fill="{colour}">{title}</rect>'
            )
    for n, name in enumerate(names):
        x, y = 52 + n * step + bar * len(counts) / 2, 34 + high
        parts.append(f'<text transform="translate({x:.1f},{y}) rotate(60)">{html.escape(name)}</text>')
    parts.append(f'<text x="8" y="30">{most}</text><text x="8" y="{22 + high}">0</text>')
    return drawing(wide, 40 + high + deep, "".join(parts))


def drawing(wide: int, high: int, inside: str) -> str:
    style = "<style>text{font:11px system-ui,sans-serif;fill:#555}</style>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">{style}'
        f'<rect width="{wide}" height="{high}" fill="#fafafa"/>{inside}</svg>'
    )


def write_page(folder: Path) -> None:
    """report.html, from the files of the run folder alone."""
    rows, events = whole_lines(folder / "stats.jsonl"), whole_lines(folder / "events.jsonl")
    names = list(dict.fromkeys(name for row in rows for name in row.get("losses", {})))
    columns = {name: [row["losses"].get(name, math.nan) for row in rows] for name in names}
    columns["clips/s"] = [row["clips_per_second"] for row in rows]
    plots = [
        curve(name, [(row["clips_seen"], y, y, y) for row, y in zip(rows, column, strict=True)])
        for name, column in columns.items()
    ]
    scores = scores_plot(whole_lines(folder / "scores.jsonl"))
    if scores:
        write_whole(folder / "scores.svg", scores)
    grids = sorted(path.stem for path in (folder / "samples").glob("fakes-*.mp4"))
    counts: dict[str, int] = {}
    for event in events:
        counts[event["event"]] = counts.get(event["event"], 0) + 1
    table = "".join(f"<tr><td>{html.escape(name)}</td><td>{count}</td></tr>" for name, count in counts.items())
    config = (folder / "config.yaml").read_text() if (folder / "config.yaml").exists() else ""
    seen = rows[-1]["clips_seen"] if rows else 0
    page = PAGE.format(
        title=html.escape(folder.resolve().name),
        summary=f"{seen} clips seen in {len({e['segment'] for e in events}) or 1} start(s)",
        last=max(len(grids) - 1, 0),
        scores=f"<h2>Scores (dashed: of real clips)</h2>{scores}" if scores else "",
        plots="".join(plots),
        events=f"<table>{table}</table>",
        config=html.escape(config),
        grids=json.dumps(grids),
    )
    write_whole(folder / "report.html", page)
