"""`python -m vgen_fast doctor`: what works on this machine, and why the rest does not."""

import os
import platform
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    from .ops.backends import Backend

WIDTH = 96


@dataclass(frozen=True)
class Stack:
    """What known_bad looks at: versions as tuples, (0,) or None where there is nothing."""

    torch: tuple[int, ...]
    cudnn: tuple[int, ...] | None = None  # of the CUDA build; None without a GPU


def known_bad(stack: Stack) -> list[str]:
    """A sentence for each known fault of this combination of versions: what is wrong, and what happens here."""
    found = []
    if stack.torch[:2] in ((2, 13), (2, 14)):
        found.append(
            f"torch {dotted(stack.torch[:2])} on CPU: the weight gradient of a bfloat16 or float16 "
            "conv3d, transposed or not, is wrong in eager PyTorch. The reference and the systems here compute them in "
            "float32; your own nn.Conv3d does not."
        )
    if stack.cudnn is not None and stack.torch[:2] == (2, 9) and (9, 8) <= stack.cudnn[:2] <= (9, 14):
        found.append(
            f"torch 2.9 with cuDNN {dotted(stack.cudnn)}: bfloat16 conv3d falls back to a slow path that needs several "
            "times the memory (pytorch#166122, #166643). Install cuDNN 9.15 or newer, or another torch; the C++ and "
            "Triton convolutions here do not use cuDNN."
        )
    if stack.cudnn is not None and (9, 10, 2) <= stack.cudnn < (9, 15):
        found.append(
            f"cuDNN {dotted(stack.cudnn)}: a float32 conv3d with TF32 allowed may be wrong (pytorch#167024). Set "
            "torch.backends.cudnn.allow_tf32 = False, or install cuDNN 9.15 or newer."
        )
    return found


def dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def numbers(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def cudnn_numbers(version: int) -> tuple[int, int, int]:
    """91002 -> (9, 10, 2), as torch.backends.cudnn.version() packs it from cuDNN 9 on."""
    return version // 10000, version // 100 % 100, version % 100


def architecture(capability: tuple[int, int], built: str) -> str:
    """How the extension's machine code (`built` = "80,90") fits a GPU."""
    archs = sorted(int(re.match(r"\d+", arch)[0]) for arch in built.split(",") if re.match(r"\d+", arch))
    own = 10 * capability[0] + capability[1]
    if not archs:
        return "the extension has no CUDA part"
    if any(arch // 10 == own // 10 and arch <= own for arch in archs):
        return "machine code in the extension"
    if own > archs[-1]:
        return f"newer than sm_{archs[-1]}: the driver compiles the extension's PTX at first use"
    return f"NOT in the extension; rebuild with VGEN_FAST_CUDA_ARCHS={own}"


def table(rows: Iterable["Backend"]) -> list[str]:
    """Op x implementation per device, `ok` or the number of a reason; each reason once, below."""
    rows = list(rows)
    columns = list(dict.fromkeys((row.device, row.impl) for row in rows))
    reasons: dict[str, str] = {}
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        mark = "ok" if row.reason is None else reasons.setdefault(row.reason, f"({len(reasons) + 1})")
        cells.setdefault(row.op, {})[row.device, row.impl] = mark
    first = max(len(op) for op in cells) + 2
    widths = [max(len(impl), 4) + 2 for _, impl in columns]
    devices = "".join(
        device.ljust(sum(width for width, column in zip(widths, columns, strict=True) if column[0] == device))
        for device in dict.fromkeys(device for device, _ in columns)
    )
    lines = [" " * first + devices, "".ljust(first) + join((impl for _, impl in columns), widths)]
    lines += [op.ljust(first) + join((marks[column] for column in columns), widths) for op, marks in cells.items()]
    lines += [""] if reasons else []
    for reason, mark in reasons.items():
        options = dict(initial_indent=f"  {mark} ", subsequent_indent=" " * 6)
        lines += textwrap.wrap(reason, WIDTH - 6, break_on_hyphens=False, break_long_words=False, **options)
    return [line.rstrip() for line in lines]


def join(texts: Iterable[str], widths: Sequence[int]) -> str:
    return "".join(text.ljust(width) for text, width in zip(texts, widths, strict=True))


def without_fast(rows: Iterable["Backend"]) -> list[str]:
    """Ops for which only the reference runs, on every device."""
    fast: dict[str, bool] = {}
    for row in rows:
        fast[row.op] = fast.get(row.op, False) or (row.impl != "reference" and row.reason is None)
    return [op for op, found in fast.items() if not found]


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def first_line(*command: str, matching: str = ".") -> str | None:
    """The first line of a program's output with a match; None if it is not there or fails."""
    path = shutil.which(command[0])
    if path is None:
        return None
    try:
        done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (line.strip() for line in done.stdout.splitlines())
    return next((line for line in lines if re.search(matching, line)), None) if done.returncode == 0 else None


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def facts() -> list[tuple[str, str]]:
    """(name, what is here), of everything but the table."""
    import torch

    from .ops import native

    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    nvcc = os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")
    release = first_line("nvcc", "--version", matching="release") or first_line(nvcc, "--version", matching="release")
    found = [
        ("vgen_fast", f"{__version__} in {Path(__file__).parent}"),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, {cuda}"),
        ("triton", version_of("triton") or "not installed"),
        ("compiler", first_line(os.environ.get("CXX", "g++"), "--version") or "no C++ compiler found (g++, or CXX)"),
        ("nvcc", release or "not found"),
    ]
    isa = f", instruction set {native._C.isa()}" if native._C else ""
    found.append(("CPU", f"{processor()}, {torch.get_num_threads()} threads{isa}"))
    built = native._C.cuda_archs if native._C else ""
    for index in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(index)
        fit = architecture((one.major, one.minor), built)
        memory = f"{one.total_memory / 2**30:.0f} GiB"
        found.append((f"GPU {index}", f"{one.name}, {memory}, sm_{one.major}{one.minor}: {fit}"))
    if not torch.cuda.is_available():
        found.append(("GPU", "torch sees none"))
    found.append(("videos", reading()))
    if native._C is None:
        found.append(("extension", "missing, see below"))
    else:
        path = Path(native._C.__file__)
        archs = f"CUDA for sm_{built.replace(',', ', sm_')}" if built else "no CUDA part"
        found.append(("extension", f"{path.name if path.parent == Path(__file__).parent else path}, {archs}"))
    return found


def reading() -> str:
    """What holds the processes that read videos."""
    from .data.pool import Reader, check_ffmpeg, ffmpeg

    try:
        check_ffmpeg(ffmpeg)
        reader = Reader()
    except RuntimeError as error:
        return str(error)
    reader.close()
    rungs = {True: [], False: []}
    for name, held in reader.rungs.items():
        rungs[held].append(name)
    off = f", NOT by {' and '.join(rungs[False])}, which this kernel lacks" if rungs[False] else ""
    held = f"processes that read files are held by {', '.join(rungs[True])}{off}"
    return f"PyAV {version_of('av')}, FFmpeg {ffmpeg}; {held}"


def here() -> Stack:
    import torch

    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return Stack(numbers(torch.__version__), None if cudnn is None else cudnn_numbers(cudnn))


def report() -> tuple[str, int]:
    """The whole text, and the exit code."""
    from .ops import backends

    known = facts()
    width = max(len(name) for name, _ in known) + 2
    lines = []
    for name, text in known:
        indent = " " * width
        options = dict(subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += textwrap.wrap(text, WIDTH, initial_indent=name.ljust(width), **options)
    rows = backends()
    lines += ["", *table(rows), ""]
    for sentence in known_bad(here()):
        lines += textwrap.wrap(sentence, WIDTH, initial_indent="known bad: ", subsequent_indent=" " * 11)
    slow = without_fast(rows)
    if slow:
        names = ", ".join(slow)
        lines += textwrap.wrap(
            f"Only the plain PyTorch reference runs here for: {names}. See the reasons above.", WIDTH
        )
    else:
        lines.append("Every op has a fast implementation here.")
    return "\n".join(lines), 1 if slow else 0


def main() -> int:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        print(f"vgen_fast {__version__}: torch cannot be imported ({error}); nothing works without it")
        return 1
    text, code = report()
    print(text)
    return code
