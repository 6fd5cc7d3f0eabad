"""`make cuda-check`: on a machine with a GPU, build, test, then time every op; in under eight minutes, without network.

Writes benchmarks/results/<gpu>.json and .md. Exit code 0, 1 if a test or a check failed, 2 without a GPU. What does not
fit the time is left out, and the report says so. (Over 400 lines, as the parts and the tables share the records.)
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
TOTAL = 460  # seconds
LIMITS = {"build": 180, "ops": 140, "launchers": 80}  # at most; timing takes what is left
RESERVED = 120  # of TOTAL, for timing
PHASES = {"first": 0.4, "eager twice": 0.25, "compile": 0.05}  # each ends when this share of the timing is left
SHORT = {"forward": "fwd", "forward+backward": "fwd+bwd", "double backward": "double"}
IMPLS = ("cpp", "triton", "eager", "eager channels_last", "compile")
NOTES = (
    "Medians by device events over rotating inputs, one call at a time from Python, so small shapes show the cost of",
    "a call. All but eager run on channels-last video; fp32 is without TF32 for everybody. Roofline: inputs read once,",
    "outputs written once, at the ceilings above. Memory: the peak beyond the inputs, of our best and of eager's best.",
)
FALLBACK = '''"""Makes vgen_fast.kernels resolve in a tree built in place, as an installed package map would."""

import importlib.util
import sys


class Kernels:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "vgen_fast.kernels":
            folder = {folder!r}
            return importlib.util.spec_from_file_location(
                name, folder + "/__init__.py", submodule_search_locations=[folder]
            )
        return None


sys.meta_path.append(Kernels)
'''


class Budget:
    """Seconds shared by parts that follow each other."""

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic):
        self.clock, self.end = clock, clock() + total

    def left(self) -> float:
        return self.end - self.clock()

    def limit(self, most: float, reserved: float = 0.0) -> float:
        """What a part may take: at most `most`, leaving `reserved` for what comes after it."""
        return max(0.0, min(most, self.left() - reserved))


@dataclass
class Part:
    """A command that was run, and how it ended: "ok", "failed", "timed out" or "left out"."""

    name: str
    outcome: str
    seconds: float
    said: str = ""


@dataclass
class Cell:
    """One measurement: a time with the peak memory, or the reason for there being none."""

    op: str
    case: str
    dtype: str
    which: str  # pass
    impl: str
    floor: float  # seconds, from the ceilings of the same run
    seconds: float | None = None
    peak: int | None = None  # bytes beyond the inputs
    reason: str | None = None
    wrong: bool = False  # the reason is a failed check


@dataclass
class Report:
    device: dict[str, str]
    ceilings: dict[str, float] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def failed(self) -> bool:
        return any(part.outcome in ("failed", "timed out") for part in self.parts) or any(c.wrong for c in self.cells)


def to_json(report: Report) -> str:
    return json.dumps(asdict(report), indent=1)


def from_json(text: str) -> Report:
    raw = json.loads(text)
    parts, cells = [Part(**part) for part in raw.pop("parts")], [Cell(**cell) for cell in raw.pop("cells")]
    return Report(**raw, parts=parts, cells=cells)


def duration(seconds: float) -> str:
    """Three digits in the unit that fits."""
    unit, scale = ("us", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1)
    value = seconds * scale
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count >= 10 * 2**20 else f"{count / 2**20:.1f} MiB"


def table(rows: list[list[str]]) -> list[str]:
    """A Markdown table whose first row is the head; text columns to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    texts = 3

    def line(row: list[str]) -> str:
        cells = (c.ljust(w) if i < texts else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i < texts else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return [line(rows[0]), rule, *(line(row) for row in rows[1:])]


def op_table(cells: list[Cell]) -> list[str]:
    """The rows of one op: a line per case, type and pass; reasons as footnotes, each once."""
    present = {cell.impl for cell in cells}
    impls = [impl for impl in IMPLS if impl in present]
    ours = [impl for impl in ("cpp", "triton") if impl in impls]
    rows = [["case", "type", "pass", *impls, "best / eager", "of roofline", "memory", "eager's"]]
    reasons: dict[str, str] = {}
    groups: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.case, cell.dtype, cell.which), {})[cell.impl] = cell
    for (case, dtype, which), found in groups.items():
        texts = []
        for impl in impls:
            cell = found.get(impl)
            if cell is None:
                texts.append("")
            elif cell.seconds is not None:
                texts.append(duration(cell.seconds))
            else:
                texts.append(reasons.setdefault(cell.reason or "", f"({len(reasons) + 1})"))
        best = min((c for impl in ours if (c := found.get(impl)) and c.seconds), key=lambda c: c.seconds, default=None)
        plain = [c for name, c in found.items() if name.startswith("eager") and c.seconds]
        rival = min(plain, key=lambda c: c.seconds, default=None)
        ratio = f"{rival.seconds / best.seconds:.2f}x" if best and rival else ""
        share = f"{100 * best.floor / best.seconds:.0f}%" if best and best.floor else ""
        memory = [size(c.peak) if c and c.peak is not None else "" for c in (best, rival)]
        rows.append(
            [
                case,
                {"bfloat16": "bf16", "float32": "fp32"}.get(dtype, dtype),
                SHORT[which],
                *texts,
                ratio,
                share,
                *memory,
            ]
        )
    notes = [f"{mark} {reason}" for reason, mark in reasons.items()]
    return [*table(rows), *([""] if notes else []), *(line + "  " for line in notes)]


def markdown(report: Report) -> str:
    lines = [f"# {report.device.get('gpu', 'GPU')}", ""]
    lines += [", ".join(f"{name} {value}" for name, value in report.device.items() if name != "gpu" and value), ""]
    if report.ceilings:
        rates = report.ceilings
        lines += [
            f"Ceilings measured in this run: copy {rates['copy'] / 1e12:.2f} TB/s (read plus written), matrix products "
            f"{rates['bfloat16'] / 1e12:.0f} TFLOP/s in bf16 and {rates['float32'] / 1e12:.0f} in fp32 without TF32.",
            "",
        ]
    lines += ["| part | outcome | seconds |", "|---|---|---:|"]
    lines += [f"| {part.name} | {part.outcome} | {part.seconds:.0f} |" for part in report.parts]
    for part in report.parts:
        if part.outcome in ("failed", "timed out") and part.said:
            lines += ["", f"{part.name}, the end of its output:", "", "```", *part.said.splitlines()[-25:], "```"]
    lines += ["", *NOTES]
    for op in dict.fromkeys(cell.op for cell in report.cells):
        lines += ["", f"## {op}", "", *op_table([cell for cell in report.cells if cell.op == op])]
    if report.left_out:
        lines += ["", "## Left out, as the time was up", "", *(f"- {text}" for text in summarised(report.left_out))]
    return "\n".join(lines) + "\n"


def summarised(left_out: list[str]) -> list[str]:
    """'op | case ...' lines counted per op."""
    counts: dict[str, int] = {}
    for text in left_out:
        counts[text.split(" | ")[0]] = counts.get(text.split(" | ")[0], 0) + 1
    return [f"{op}: {count} measurements" for op, count in counts.items()]


def file_name(gpu: str) -> str:
    """'NVIDIA H200' -> 'h200'."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().replace("nvidia", "")).strip("-") or "gpu"


# ------------------------------------------------------------------------------------------------------ the parts


def command(name: str, arguments: list[str], limit: float, environment: dict[str, str]) -> Part:
    """Runs one command, its output shown as it comes; it and what it started end when its time is up."""
    if limit < 5:
        return Part(name, "left out", 0.0)
    print(f"== {name}: {' '.join(arguments)} (at most {limit:.0f} s)", flush=True)
    start, said = time.monotonic(), []
    options = dict(cwd=ROOT, env=environment, text=True, start_new_session=True)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    previous = signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        for line in process.stdout:
            said.append(line)
            print(line, end="", flush=True)
        code = process.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    seconds = time.monotonic() - start
    outcome = "ok" if code == 0 else "timed out" if code == -signal.SIGKILL and seconds >= limit else "failed"
    return Part(name, outcome, seconds, "".join(said[-40:]))


def build(budget: Budget, environment: dict[str, str]) -> list[Part]:
    """Editable install without network; where pip refuses, in place with a finder for vgen_fast.kernels."""
    environment["VGEN_FAST_CUDA"] = "1"
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", "."]
    parts = [command("build", pip, budget.limit(LIMITS["build"], RESERVED), environment)]
    if parts[0].outcome == "failed":
        parts[0].outcome = "pip refused"
        place = [sys.executable, "setup.py", "build_ext", "--inplace"]
        parts.append(command("build in place", place, budget.limit(LIMITS["build"], RESERVED), environment))
        folder = ROOT / "build/finder"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(FALLBACK.replace("{folder!r}", repr(str(ROOT / "kernels"))))
        paths = [str(folder), str(ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return parts


def gpu_tests() -> list[str]:
    """Files of tests/ops with GPU tests; the others may need packages that such a machine has not."""
    files = sorted((ROOT / "tests/ops").glob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if "mark.cuda" in path.read_text()]


def describe() -> dict[str, str]:
    import torch
    import triton

    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.splitlines()[:1]
    except (OSError, subprocess.TimeoutExpired):
        asked = []
    driver, _, clock = (asked[0] if asked else "").partition(", ")
    return {
        "gpu": torch.cuda.get_device_name(),
        "commit": git.stdout.strip() or "unknown",
        "torch": torch.__version__,
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
        "triton": triton.__version__,
        "Python": sys.version.split()[0],
        "driver": driver,
        "highest SM clock": clock,
    }


def measure(path: Path, seconds: float) -> None:
    """Every op on the GPU, written to `path` after each case; runs in a process of its own."""
    import gpu_ops
    import torch

    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, for everybody
    budget = Budget(seconds)
    report = Report(describe(), gpu_ops.ceilings())
    cases, seen, turns = gpu_ops.cases(), {}, []
    for case in cases:  # the first case of every op, then the second: what is left out is the end of each
        turns.append((seen.get(case.op, 0), case))
        seen[case.op] = seen.get(case.op, 0) + 1
    turns = [case for _, case in sorted(turns, key=lambda turn: turn[0])]
    for phase, share in PHASES.items():
        for dtype, case in ((dtype, case) for dtype in (torch.bfloat16, torch.float32) for case in turns):
            if phase == "compile":
                torch.compiler.reset()
            for impl in case.impls:
                for which in case.passes:
                    if phase_of(impl, which) != phase:
                        continue
                    if budget.left() < share * seconds:
                        report.left_out.append(f"{case.op} | {case.name} {dtype} {which} {impl}")
                        continue
                    report.cells.append(one(gpu_ops, report, case, dtype, which, impl))
            path.write_text(to_json(report))
    order = {str(case): i for i, case in enumerate(cases)}
    report.cells.sort(key=lambda c: (order[f"{c.op} {c.case}"], c.dtype, gpu_ops.PASSES.index(c.which)))
    path.write_text(to_json(report))


def phase_of(impl: str, which: str) -> str:
    """What may be slow comes later."""
    if impl == "compile":
        return "compile"
    return "eager twice" if impl.startswith("eager") and which == "double backward" else "first"


def one(gpu_ops, report: Report, case, dtype, which: str, impl: str) -> Cell:
    import torch

    short = str(dtype).removeprefix("torch.")
    floor = case.floor(which, dtype.itemsize, report.ceilings["copy"], report.ceilings[short])
    cell = Cell(case.op, case.name, short, which, impl, floor)
    if impl == "compile" and which == gpu_ops.PASSES[2]:
        cell.reason = "PyTorch has no double backward through compiled code"
        return cell
    try:
        cell.reason = gpu_ops.wrong(case, impl, which, dtype, "cuda", seed=1000)
        cell.wrong = cell.reason is not None
        if not cell.wrong:
            cell.seconds, cell.peak = gpu_ops.measure(case, impl, which, dtype)
    except (RuntimeError, ValueError, NotImplementedError) as error:  # out of memory, no kernel, refused by compile
        cell.reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        cell.wrong = impl in ("cpp", "triton")
    torch.cuda.empty_cache()
    print(
        f"{case} {short} {SHORT[which]} {impl}: {duration(cell.seconds) if cell.seconds else cell.reason}", flush=True
    )
    return cell


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total", type=float, default=TOTAL, help=f"seconds for everything (default {TOTAL})")
    parser.add_argument("--no-tests", action="store_true", help="build and time only")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        import torch

        found = torch.cuda.is_available()
    except ImportError:
        found = False
    if not found:
        print("cuda-check needs a GPU that torch sees, and there is none here; nothing was run.", file=sys.stderr)
        return 2
    if options.measure:
        measure(Path(options.measure[0]), float(options.measure[1]))
        return 0
    budget, environment = Budget(options.total), dict(os.environ, PYTHONUNBUFFERED="1")
    capability = torch.cuda.get_device_capability()
    environment.setdefault("VGEN_FAST_CUDA_ARCHS", f"{capability[0]}{capability[1]}")
    parts = build(budget, environment)
    built = parts[-1].outcome == "ok"
    if built and not options.no_tests:
        test = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
        if importlib.util.find_spec("xdist"):  # Triton compiles for most of the time, on one core a process
            test += ["-n", str(min(12, os.cpu_count() or 1))]
        paths = {"ops": ["-m", "cuda", *gpu_tests()], "launchers": ["tests/kernels/launchers"]}
        for name, arguments in paths.items():
            limit = budget.limit(LIMITS[name], RESERVED)
            parts.append(command(f"tests of {name}", [*test, *arguments], limit, environment))
    (ROOT / "build").mkdir(exist_ok=True)
    path = ROOT / "build/cuda_check.json"
    path.unlink(missing_ok=True)
    if built:
        seconds = budget.limit(options.total, 15)
        timing = [sys.executable, __file__, "--measure", str(path), str(seconds)]
        parts.append(command("timing", timing, seconds + 10, environment))
    report = from_json(path.read_text()) if path.exists() else Report(describe())
    report.parts = parts
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.out / file_name(report.device["gpu"])
    name.with_suffix(".json").write_text(to_json(report) + "\n")
    name.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))
    print(f"written to {name}.json and {name}.md")
    return 1 if report.failed() or not built else 0


if __name__ == "__main__":
    sys.exit(main())
