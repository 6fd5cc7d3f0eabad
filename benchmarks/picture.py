"""Draws docs/speed.svg, the README's picture, from the newest table of a CPU: `python benchmarks/picture.py`."""

import json
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent
WIDTH, LEFT, BAR, ROW = 960, 400, 440, 34  # pixels: picture, start of bars, longest bar, height of a case
MOST = 8.0  # ratios above this are cut, and say so
COLOURS = {"eager": "#2f6fab", "compiled": "#e08a2e", "POT": "#8a8a8a", "torchmetrics": "#4a9a6a"}
NAMES = {"eager": "eager PyTorch (better layout)", "compiled": "torch.compile (better layout)", "POT": "POT", "torchmetrics": "torchmetrics"}  # fmt: skip


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Speed-up over the best rival of each group."""
    groups = {group: [ms for side, ms in times.items() if group in side] for group in COLOURS}
    return {group: min(found) / times["ours"] for group, found in groups.items() if found}


def text(x: float, y: float, words: str, size: int = 12, anchor: str = "start", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def draw(result: dict) -> str:
    rows = [row for row in result["rows"] if row["times"]]
    height = 92 + ROW * len(rows) + 24
    about = result["machine"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="DejaVu Sans, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        text(16, 28, "How many times faster than the alternatives, float32 on CPU", 17),
        text(16, 48, f"{about['cpu']}, {about['threads']} threads, {about['isa']}, torch {about['torch']}; 1x is equal speed", 11, colour="#666"),
    ]  # fmt: skip
    x = 16.0
    for group, name in NAMES.items():
        parts += [
            f'<rect x="{x}" y="60" width="12" height="12" fill="{COLOURS[group]}"/>',
            text(x + 17, 71, f"over {name}", 11),
        ]
        x += 45 + 6.6 * len(name) + 10
    bottom = 92 + ROW * len(rows)
    for tick in range(0, int(MOST) + 1):
        at = LEFT + BAR * tick / MOST
        colour = "#999" if tick == 1 else "#e4e4e4"
        parts += [
            f'<line x1="{at}" y1="84" x2="{at}" y2="{bottom}" stroke="{colour}"/>',
            text(at, bottom + 16, f"{tick}x", 11, "middle", "#666"),
        ]
    for index, row in enumerate(rows):
        top = 90 + ROW * index
        parts.append(text(LEFT - 10, top + 18, row["name"], 11, "end"))
        for line, (group, ratio) in enumerate(ratios(row["times"]).items()):
            y, length = top + 2 + 13 * line, BAR * min(ratio, MOST) / MOST
            label = f"{ratio:.1f}x" if ratio <= MOST else f"{ratio:.0f}x »"
            parts += [
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="11" fill="{COLOURS[group]}"/>',
                text(LEFT + length + 5, y + 10, label, 11),
            ]
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    tables = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks/results").glob("cpu-*.json"))]
    (ROOT / "docs/speed.svg").write_text(draw(max(tables, key=lambda table: table["machine"]["date"])))
