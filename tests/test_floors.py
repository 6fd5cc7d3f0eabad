"""The architecture (floors of folders) and the local rules, read from the syntax trees; nothing is imported."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STANDARD = sys.stdlib_module_names
OUTSIDE = {  # folder -> packages of others it may import; a folder that is not here may import any
    "kernels": {"torch", "triton"},
    "ops/reference": {"torch"},
    "ops": {"torch"},
    "nets": {"torch", "numpy", "av"},
    "data": {"torch", "numpy", "av"},
    "data/build": {"numpy", "cv2"},
}
OURS = {  # folder -> folders of ours it may import, its own aside
    "kernels": set(),
    "ops/reference": set(),
    "ops": {"kernels", "ops/reference", "_C"},
    "layers": {"ops"},
    "wire": set(),
    "nets": {"wire"},
    "data": {"ops", "wire"},
    "data/build": {"ops", "data"},
    "models": {"ops", "layers", "nets", "data"},
    "metrics": {"ops", "layers", "nets", "data"},
    "train": {"ops", "layers", "nets", "data", "models/system"},
    "review": {"ops", "layers", "nets", "data", "models/system"},
    "recipes": {"layers", "nets", "data", "models", "metrics", "train", "review", "config"},
    "config": {"layers", "nets", "data", "models", "metrics", "train", "review", "recipes"},
}


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    parts = ("vgen_fast", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(module: str) -> str:
    """vgen_fast.ops.reference.pixel_norm -> ops/reference; a model is its own folder, so that none imports another.

    The files on the top floor, every __main__ among them, are in the folder "".
    """
    parts = module.split(".")[1:]
    if parts and parts[-1] == "__main__":
        return ""
    if parts[:2] in (["ops", "reference"], ["data", "build"]) or (parts[:1] == ["models"] and len(parts) > 1):
        return "/".join(parts[:2])
    return parts[0] if parts else ""


def imports(path: Path, root: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, module and whether it runs when the file is imported, for every import of a file."""
    tree = ast.parse(path.read_text())
    package = module_of(path, root).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                (package[: len(package) - node.level + 1] if node.level else [])
                + ([node.module] if node.module else [])
            )
            ours = base.startswith("vgen_fast")
            names = [f"{base}.{alias.name}" if ours else base for alias in node.names]
        else:
            continue
        for name in names:
            yield node.lineno, name, id(node) not in inner


def allowed(folder: str, name: str) -> bool:
    floor = "models" if folder.startswith("models/") else folder
    if not name.startswith("vgen_fast"):
        package = name.split(".")[0]
        return floor not in OUTSIDE or package in STANDARD | OUTSIDE[floor]
    target = folder_of(name)
    if floor not in OURS or target == folder:
        return True
    if floor == "ops" and target == "":
        return False
    parents = {target, target.split("/")[0]} if not target.startswith("ops/") else {target}
    if floor == "models":
        return target == "models/system" or bool(parents & OURS[floor])
    return bool(parents & OURS[floor])


def sources(root: Path) -> list[Path]:
    return [path for top in ("vgen_fast", "kernels") for path in sorted((root / top).rglob("*.py"))]


def offending_edges(root: Path) -> list[str]:
    found = []
    for path in sources(root):
        module = module_of(path, root)
        for line, name, at_import in imports(path, root):
            heavy = module == "vgen_fast" and at_import and name.split(".")[0] not in STANDARD
            if heavy or not allowed(folder_of(module), name):
                found.append(f"{path.relative_to(root)}:{line}: {folder_of(module) or 'vgen_fast'} imports {name}")
    return found


RULES = {
    "bare except": r"^\s*except\s*:",
    "print": r"(^|[^\w.\"'])print\(",
    "import *": r"^\s*from\s+\S+\s+import\s+\*",
    "nan_to_num": r"nan_to_num",
    "a file that is run": r"pickle\.loads?|weights_only=False|jit\.load|allow_pickle=True|yaml\.(unsafe_|full_)?load\(|"
    r"(^|[^\w.])(eval|exec)\(|shell=True|extractall|joblib|\bdill\b",
    "commented-out parametrize": r"^\s*#.*\bparametrize\(",
    "xfail or flaky without an issue number": r"(xfail|flaky)(?!.*#\d+)",
}
MAY_PRINT = {"cli.py", "report.py", "doctor.py"}


def broken_rules(root: Path) -> list[str]:
    found = []
    paths = [p for p in [*sources(root), *sorted((root / "tests").rglob("*.py"))] if p != Path(__file__).resolve()]
    for path in paths:
        test = path.relative_to(root).parts[0] == "tests"
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for rule, pattern in RULES.items():
                printing = rule == "print" and (test or path.name in MAY_PRINT)
                own_file = rule == "a file that is run" and test
                if re.search(pattern, line) and not printing and not own_file:
                    found.append(f"{path.relative_to(root)}:{number}: {rule}: {line.strip()}")
    return found


def test_a_file_imports_only_from_lower_floors():
    assert len(sources(ROOT)) > 20
    edges = offending_edges(ROOT)
    assert not edges, "\n".join(edges)


def test_local_rules():
    broken = broken_rules(ROOT)
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "text", "edge"),
    [
        ("kernels/a.py", "import numpy", "kernels imports numpy"),
        ("kernels/a.py", "from vgen_fast.ops import layout", "kernels imports vgen_fast.ops.layout"),
        (
            "vgen_fast/ops/reference/a.py",
            "from ..layout import dense_like",
            "ops/reference imports vgen_fast.ops.layout.dense_like",
        ),
        ("vgen_fast/ops/reference/a.py", "import numpy as np", "ops/reference imports numpy"),
        ("vgen_fast/ops/a.py", "def f():\n    from ..train import loop", "ops imports vgen_fast.train.loop"),
        ("vgen_fast/ops/a.py", "from .. import layers", "ops imports vgen_fast.layers"),
        ("vgen_fast/ops/compat/a.py", "from vgen_fast.models import stylegan", "ops imports vgen_fast.models.stylegan"),
        ("vgen_fast/layers/a.py", "from vgen_fast.data import clips", "layers imports vgen_fast.data.clips"),
        ("vgen_fast/models/a.py", "from . import b", "models/a imports vgen_fast.models.b"),
        ("vgen_fast/train/a.py", "import vgen_fast.models.mocogan", "train imports vgen_fast.models.mocogan"),
        ("vgen_fast/__init__.py", "import torch", "vgen_fast imports torch"),
        ("vgen_fast/__init__.py", "from . import ops", "vgen_fast imports vgen_fast.ops"),
    ],
)
def test_a_planted_edge_is_found(tmp_path, path, text, edge):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    assert [e.split(": ", 1)[1] for e in offending_edges(tmp_path)] == [edge]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("kernels/a.py", "import math, torch, triton.language as tl"),
        (
            "vgen_fast/ops/a.py",
            "from vgen_fast import _C\nfrom .reference import a\ndef f():\n    from vgen_fast.kernels import a",
        ),
        ("vgen_fast/models/a.py", "from vgen_fast import ops\nfrom .system import System\nfrom ..layers import b"),
        ("vgen_fast/train/a.py", "from vgen_fast.models.system import System\nfrom . import b"),
        ("vgen_fast/__init__.py", "def f():\n    from vgen_fast.ops import compat"),
    ],
)
def test_an_allowed_edge_is_not(tmp_path, path, text):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    assert offending_edges(tmp_path) == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("bare except", "try:\n    a\nexcept:\n    b"),
        ("print", "print(1)"),
        ("import *", "from a import *"),
        ("nan_to_num", "x.nan_to_num()"),
        ("a file that is run", "torch.load(path, weights_only=False)"),
        ("a file that is run", "x = eval(text)"),
        ("commented-out parametrize", "# @pytest.mark.parametrize('a')"),
        ("xfail or flaky without an issue number", "@pytest.mark.xfail"),
    ],
)
def test_a_planted_breach_is_found(tmp_path, rule, text):
    (tmp_path / "vgen_fast").mkdir()
    (tmp_path / "vgen_fast/a.py").write_text(text)
    assert [b.split(": ")[1] for b in broken_rules(tmp_path)] == [rule]
    (tmp_path / "vgen_fast/a.py").write_text("@pytest.mark.xfail(reason='upstream #12')")
    assert broken_rules(tmp_path) == []
