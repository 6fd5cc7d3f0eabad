"""What nvcc made of the CUDA sources, warnings being errors: nothing spills, the convolutions use tensor cores."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NINJA = ROOT / "build/build.ninja"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
ARCHS = ("80", "90")
SOURCES = sorted(path.stem for path in (ROOT / "csrc/cuda").glob("*.cu"))

pytestmark = [
    pytest.mark.skipif(NVCC is None, reason="nvcc is neither in PATH nor in /usr/local/cuda/bin"),
    pytest.mark.skipif(not NINJA.exists() or "rule nvcc" not in NINJA.read_text(), reason="built without nvcc"),
]


@pytest.fixture(scope="module")
def built():
    """source -> the object that the extension is linked of, made anew where a source is newer."""
    objects = {source: f"build/{source}.cuda.o" for source in SOURCES}
    command = [sys.executable, "-m", "ninja", "-f", str(NINJA), *objects.values()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:4000]
    return {source: ROOT / name for source, name in objects.items()}


def dump(what: str, path: Path) -> list[str]:
    """What cuobjdump says of each function."""
    places = [str(Path(NVCC).resolve().parent), os.environ.get("PATH", "")]
    triton = importlib.util.find_spec("triton")  # brings one of its own
    folders = triton.submodule_search_locations if triton else ()
    places += [str(Path(folder) / "backends/nvidia/bin") for folder in folders]
    cuobjdump = shutil.which("cuobjdump", path=os.pathsep.join(places))
    if cuobjdump is None:
        pytest.skip("cuobjdump is neither in PATH, nor beside nvcc, nor in an installed triton")
    said = subprocess.run([cuobjdump, f"--dump-{what}", str(path)], check=True, capture_output=True, text=True).stdout
    assert {f"sm_{arch}" for arch in ARCHS} <= set(re.findall(r"\bsm_\d+", said))
    return re.split(r"Function\s*:? ", said)[1:]


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_spills(built, source):
    usage = dump("resource-usage", built[source])
    assert usage
    for text in usage:
        assert re.findall(r"(?:STACK|LOCAL):(\d+)", text) == ["0", "0"], text


def test_convolution_uses_tensor_cores(built):
    kernels = dump("sass", built["modulated_conv3d"])
    for name in ("tensor_forward_kernel", "tensor_gradient_kernel"):
        found = [text for text in kernels if name in text.split("\n", 1)[0]]
        assert found, f"no {name} in the object file"
        for text in found:
            assert "HMMA.16816.F32" in text
            assert "LDSM" in text
