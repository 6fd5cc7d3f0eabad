"""nvcc compiles every CUDA source without warnings or spills, and the tensor-core kernels use tensor cores."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
ARCHS = ("80", "90")
SOURCES = sorted(path.name for path in (ROOT / "csrc/cuda").glob("*.cu"))

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is neither in PATH nor in /usr/local/cuda/bin")


def flags() -> list[str]:
    """NVCCFLAGS of setup.py, which cannot be imported."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "NVCCFLAGS":
            return ast.literal_eval(node.value).split()
    raise AssertionError("setup.py has no NVCCFLAGS")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """source -> (object file, what ptxas says), two compilers at a time."""
    folder, running, results = tmp_path_factory.mktemp("nvcc"), [], {}
    codes = f"-gencode=arch=compute_{ARCHS[0]},code=[{','.join(f'sm_{a}' for a in ARCHS)}]"

    def collect():
        for source, target, process in running:
            process.wait()
            said = target.with_suffix(".log").read_text()
            assert process.returncode == 0, f"{source}:\n{said[:4000]}"
            results[source] = (target, said)
        running.clear()

    sources = sorted(SOURCES, key=lambda name: -(ROOT / "csrc/cuda" / name).stat().st_size)  # slowest first
    for source in sources:
        target = folder / f"{source}.o"
        command = [NVCC, *flags(), codes, "-Xptxas", "-v", "-c", f"csrc/cuda/{source}", "-o", str(target)]
        log = target.with_suffix(".log").open("w")  # not a pipe, which would fill up
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        running.append((source, target, process))
        while sum(entry[2].poll() is None for entry in running) >= 2 and source != sources[-1]:
            time.sleep(0.05)
    collect()
    return results


@pytest.mark.parametrize("source", SOURCES)
def test_source_compiles_without_spills(compiled, source):
    said = compiled[source][1]
    for arch in ARCHS:
        assert f"'sm_{arch}'" in said
    spilled = [
        line
        for line in re.findall(r"\d+ bytes spill stores, \d+ bytes spill loads", said)
        if not line.startswith("0 bytes spill stores, 0")
    ]
    assert not spilled, f"{source} spills: {spilled}"


def test_convolution_uses_tensor_cores(compiled):
    places = [str(Path(NVCC).resolve().parent), os.environ.get("PATH", "")]
    triton = importlib.util.find_spec("triton")  # brings one of its own
    places += [
        str(Path(place) / "backends/nvidia/bin") for place in (triton.submodule_search_locations if triton else ())
    ]
    cuobjdump = shutil.which("cuobjdump", path=os.pathsep.join(places))
    if cuobjdump is None:
        pytest.skip("cuobjdump is neither in PATH, nor beside nvcc, nor in an installed triton")
    sass = subprocess.run(
        [cuobjdump, "--dump-sass", str(compiled["modulated_conv3d.cu"][0])], check=True, capture_output=True, text=True
    ).stdout
    kernels = re.split(r"Function : ", sass)[1:]
    for name in ("tensor_forward_kernel", "tensor_gradient_kernel"):
        found = [text for text in kernels if name in text.split("\n", 1)[0]]
        assert found, f"no {name} in the object file"
        for text in found:
            assert "HMMA.16816.F32" in text
            assert "LDSM" in text
