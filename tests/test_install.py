"""The package with no extension, a broken one, no compiler, an older processor; and as a wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from vgen_fast import ops
from vgen_fast.ops import native
from vgen_fast.ops.choose import unavailable

from .ops.cases import CASES
from .ops.check import check_layouts, check_second_order, check_value_and_gradient

ROOT = Path(__file__).resolve().parent.parent
REASON = unavailable("cpp", "cpu")
needs_cpp = pytest.mark.skipif(REASON is not None, reason=str(REASON))

USE = """
import torch
from vgen_fast import ops
x, w = torch.randn(2, 3, 4, 5, 12, requires_grad=True), torch.randn(4, 3, 3, 3, 3)
for call in (lambda **o: ops.modulated_conv3d(x, w, slope=0.2, **o), lambda **o: ops.pixel_norm(x, **o),
             lambda **o: ops.minibatch_stddev(x, **o)):
    y, plain = call(), call(impl="reference")
    assert torch.allclose(y, plain, rtol=1e-4, atol=1e-5)
    for a, b in zip(torch.autograd.grad(y.sum(), x), torch.autograd.grad(plain.sum(), x)):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)
reasons = {b.reason for b in ops.backends() if b.impl == "cpp" and b.device == "cpu"}
print("reasons:", reasons)
"""

NO_EXTENSION = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "vgen_fast._C":
            raise ImportError(REASON)
sys.meta_path.insert(0, Blocked())
"""

EXPLICIT = """
try:
    ops.pixel_norm(x, impl="cpp")
except ValueError as error:
    print("said:", error)
"""


def run(script: str, cwd: Path | None = None, **environment: str) -> str:
    """What the script printed; it must print nothing else and warn of nothing."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", script]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("reason", ["No module named 'vgen_fast._C'", "_C.so: undefined symbol: PyFloat_Something"])
def test_without_the_extension_ops_run_the_reference_for_one_clear_reason(reason: str):
    said = run(NO_EXTENSION.replace("REASON", repr(reason)) + USE + EXPLICIT)
    sentence = f"the compiled extension vgen_fast._C cannot be imported ({reason}); reinstall with a C++ compiler"
    assert said.splitlines() == [
        f"reasons: { ({sentence})!r}",
        f"said: pixel_norm: impl='cpp' cannot run: {sentence}",
    ]


def test_a_file_that_is_no_library_is_a_reason_and_not_a_crash(tmp_path):
    shutil.copytree(ROOT / "vgen_fast", tmp_path / "vgen_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    suffix = ".so" if os.name == "posix" else ".pyd"
    (tmp_path / f"vgen_fast/_C{suffix}").write_bytes(b"\x7fELF, but not for long")
    said = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USE}import vgen_fast\nprint(vgen_fast.__file__)")
    first, file = said.splitlines()
    assert file.startswith(str(tmp_path))
    assert first.count("cannot be imported") == 1
    assert "_C.so" in first


def test_neither_compiler_nor_home_is_needed(tmp_path):
    assert "reasons:" in run(USE, PATH=str(tmp_path), HOME=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert list(tmp_path.iterdir()) == []  # nothing was compiled or cached


def test_importing_the_package_imports_neither_torch_nor_the_extension():
    loaded = run(
        "import sys, vgen_fast; print([m for m in ('torch', 'numpy', 'triton', 'vgen_fast._C') if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


@needs_cpp
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_every_instruction_set_is_within_tolerance(isa: str):
    before = native._C.isa()
    try:
        native._C.set_isa(isa)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        for case in CASES:
            for dtype in (torch.float32, torch.float64, *((torch.bfloat16, torch.float16) if case.half else ())):
                check_value_and_gradient(case, "cpp", case.call, dtype, "cpu")
            check_layouts(case, "cpp", case.call, "cpu")
            check_second_order(case, "cpp", case.call, "cpu")
    finally:
        native._C.set_isa(before)


@needs_cpp
def test_an_old_processor_gets_the_reference_and_is_told_why(monkeypatch):
    before, x = native._C.isa(), torch.randn(2, 4, 3, 8, 16)
    native._C.set_isa("none")
    monkeypatch.setattr(native, "ISA", native._C.isa())
    try:
        reasons = {b.reason for b in ops.backends() if b.impl == "cpp" and b.device == "cpu"}
        assert reasons == {"the compiled kernels need a CPU with AVX2, FMA and F16C"}
        assert torch.equal(ops.pixel_norm(x), ops.pixel_norm(x, impl="reference"))
        with pytest.raises(ValueError, match="impl='cpp' cannot run: the compiled kernels need a CPU with AVX2"):
            ops.pixel_norm(x, impl="cpp")
        with pytest.raises(RuntimeError, match="pixel_norm_forward: needs a CPU with AVX2"):
            native._C.pixel_norm_forward(native.where(x), 0, 0, 0, [1] * 5, [1] * 5, 0.2, 1e-8)
    finally:
        native._C.set_isa(before)


@needs_cpp
def test_an_unknown_instruction_set_is_refused():
    before = native._C.isa()
    with pytest.raises(ValueError, match="this processor has no sse9"):
        native._C.set_isa("sse9")
    assert native._C.isa() == before


def copied(source: Path) -> list[str]:
    """The tracked files, which are there then, by name."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    return tracked


def test_a_source_distribution_holds_all_that_it_is_built_from(tmp_path):
    tracked = copied(tmp_path / "source")
    words = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(words, cwd=tmp_path / "source", check=True, timeout=120, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {name for name in tracked if name.startswith(("csrc/", "kernels/", "vgen_fast/"))}
    assert wanted | {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names


def test_without_a_compiler_the_build_ends_in_a_sentence_and_no_extension(tmp_path):
    copied(tmp_path)
    words = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = {**os.environ, "CXX": "no-such-compiler"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "NO C++ COMPILER (no-such-compiler), SO NO EXTENSION; plain PyTorch runs" in done.stdout
    assert not list(tmp_path.rglob("_C*.so"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_wheel_works_from_anywhere(tmp_path):
    source, wheels, site, away = (tmp_path / name for name in ("source", "wheels", "site", "away"))
    away.mkdir()
    tracked = copied(source)
    if (ROOT / "build").is_dir():  # objects that are not older than their sources are not compiled again
        shutil.copytree(ROOT / "build", source / "build", ignore=shutil.ignore_patterns("lib.*", "bdist.*", "sanitize"))
    pip = [sys.executable, "-m", "pip", "-q"]
    environment = {**os.environ, "VGEN_FAST_CUDA": "0"}
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), "."]
    subprocess.run(build, cwd=source, env=environment, check=True, timeout=280)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, timeout=60)
    found = run(
        f"{USE}import vgen_fast, vgen_fast._C, importlib.util\n"
        "print(vgen_fast.__file__)\nprint(importlib.util.find_spec('vgen_fast.kernels').origin)\n"
        "print(importlib.util.find_spec('kernels'))",
        cwd=away,
        PYTHONPATH=str(site),
    ).splitlines()
    assert found == [
        "reasons: {None}",
        f"{site}/vgen_fast/__init__.py",
        f"{site}/vgen_fast/kernels/__init__.py",
        "None",
    ]
    files = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert not {Path(name).suffix for name in files} & {".cpp", ".cu", ".h", ".o"}
    ours = {name for name in tracked if name.startswith("vgen_fast/")}
    ours |= {f"vgen_fast/{name}" for name in tracked if name.startswith("kernels/")}
    assert ours <= files
    assert "shape-motion-mocogan" in run(
        "import vgen_fast.cli as c; c.main(['train', '--list'])", away, PYTHONPATH=site
    )
