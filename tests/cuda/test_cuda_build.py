"""nvcc compiles every CUDA source without warnings or spilled registers, and the tensor-core kernels use tensor cores."""

import ast
import re
import shutil
import subprocess
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
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]

    def collect():
        for source, target, process in running:
            said = process.communicate()[0]
            assert process.returncode == 0, f"{source}:\n{said[:4000]}"
            results[source] = (target, said)
        running.clear()

    for source in sorted(SOURCES, key=lambda name: -(ROOT / "csrc/cuda" / name).stat().st_size):
        target = folder / f"{source}.o"
        command = [NVCC, *flags(), *codes, "-Xptxas", "-v", "-c", f"csrc/cuda/{source}", "-o", str(target)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        running.append((source, target, process))
        if len(running) == 2 and source != SOURCES[-1]:
            running[1][2].wait() if running[1][2].poll() is None else None
    collect()
    return results


@pytest.mark.parametrize("source", SOURCES)
def test_source_compiles_without_spills(compiled, source):
    said = compiled[source][1]
    for arch in ARCHS:
        assert f"'sm_{arch}'" in said
    spilled = [line for line in re.findall(r"\d+ bytes spill stores, \d+ bytes spill loads", said) if not line.startswith("0 bytes spill stores, 0")]
    assert not spilled, f"{source} spills: {spilled}"


def test_convolution_uses_tensor_cores(compiled):
    cuobjdump = shutil.which("cuobjdump", path=str(Path(NVCC).resolve().parent)) or shutil.which("cuobjdump")
    if cuobjdump is None:
        pytest.skip("cuobjdump is not installed")
    sass = subprocess.run([cuobjdump, "--dump-sass", str(compiled["modulated_conv3d.cu"][0])], check=True, capture_output=True, text=True).stdout
    kernels = re.split(r"Function : ", sass)[1:]
    for name in ("tensor_forward_kernel", "tensor_gradient_kernel"):
        found = [text for text in kernels if name in text.split("\n", 1)[0]]
        assert found, f"no {name} in the object file"
        for text in found:
            assert "HMMA.16816.F32" in text
            assert "LDSM" in text
