"""Builds vgen_fast._C, the torch-free extension, with ninja; everything else is in pyproject.toml.

VGEN_FAST_CUDA = auto (nvcc found; default), 1 (nvcc required) or 0; VGEN_FAST_CUDA_ARCHS = "80;90";
VGEN_FAST_SANITIZE = 1 builds with ASAN and UBSAN. CUDA_HOME, CXX and MAX_JOBS are honoured.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
ISAS = {  # one object per CPU source and instruction set, chosen at import; CPUs before 2013 have neither
    "avx2": "-mavx2 -mfma -mf16c",
    "avx512": "-mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma -mf16c",
}
SANITIZE = (
    "-fsanitize=address,undefined -fno-sanitize-recover=all -g -O1" if os.environ.get("VGEN_FAST_SANITIZE") else "-O3"
)
CXX = os.environ.get("CXX", "g++")
# Products that might trap would keep `z > 0 ? z : slope * z` a branch, and its loop scalar, below AVX-512.
MATH = "-fno-math-errno -fno-trapping-math"
CXXFLAGS = f"-std=c++17 {SANITIZE} -fPIC -fopenmp {MATH} -fvisibility=hidden -Wall -Wextra -Icsrc"
NVCCFLAGS = "-std=c++17 -O1 -Icsrc -Xcompiler -fPIC,-fvisibility=hidden -Werror all-warnings"


def find_nvcc() -> str | None:
    wanted = os.environ.get("VGEN_FAST_CUDA", "auto")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    places = (f"{home}/bin" if home else None, "/usr/local/cuda/bin")
    nvcc = next((found for place in places if (found := shutil.which("nvcc", path=place))), None)
    if nvcc is None and wanted == "1":
        sys.exit(f"VGEN_FAST_CUDA=1, but nvcc is neither in {home or 'PATH'} nor in /usr/local/cuda/bin")
    return nvcc


def library_paths(nvcc: str) -> str:
    """Where nvcc (often a wrapper script) says its libraries are."""
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull, "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return " ".join(path for path in re.findall(r'-L[^\s"]+', said) if "stubs" not in path)


def ninja_file(target: Path, nvcc: str | None) -> str:
    archs = os.environ.get("VGEN_FAST_CUDA_ARCHS", "80;90").split(";")
    cuda = f'-DVGEN_CUDA=\\"{",".join(archs)}\\"' if nvcc else ""
    oldest = min(archs, key=int)  # one PTX: no kernel asks for more, and GPUs newer than all of these compile it
    codes = f"-gencode=arch=compute_{oldest},code=[{','.join(f'sm_{a}' for a in archs)},compute_{oldest}]"
    include = f"-I{pybind11.get_include()} -I{__import__('sysconfig').get_paths()['include']}"
    depends = "-MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc"
    lines = [
        "builddir = build",
        f"cxx = {CXX}",
        f"rule cxx\n  command = $cxx {CXXFLAGS} $flags {depends}",
        f"rule link\n  command = $cxx -shared {SANITIZE} -fopenmp $in -o $out $libs",
    ]
    if nvcc:
        lines.append(f"rule nvcc\n  command = {nvcc} {NVCCFLAGS} {codes} {depends}")
    objects = []

    def compile(rule: str, source: Path, name: str, flags: str = "") -> None:
        objects.append(f"{name}.o")
        lines.append(f"build {name}.o: {rule} {source.relative_to(ROOT)}\n  flags = {flags}")

    # The longest first, so that nothing waits for them at the end.
    for source in sorted((ROOT / "csrc/cuda").glob("*.cu")) if nvcc else []:
        compile("nvcc", source, f"build/{source.stem}.cuda")
    for source in sorted((ROOT / "csrc").glob("*.cpp")):
        compile("cxx", source, f"build/{source.stem}{'_cuda' if nvcc else ''}", f"-O1 {include} {cuda}")
    for source in sorted((ROOT / "csrc/cpu").glob("*.cpp")):
        for isa, flags in ISAS.items():
            compile("cxx", source, f"build/{source.stem}.{isa}", f"{flags} -DVGEN_ISA={isa}")
    libs = f"{library_paths(nvcc)} -lcudart_static -lrt -ldl -lpthread" if nvcc else ""
    lines.append(f"build {target}: link {' '.join(objects)}\n  libs = {libs}")
    return "\n".join(lines) + "\n"


class NinjaBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        nvcc = find_nvcc()
        if not shutil.which(CXX.split()[0]):
            print(f"vgen_fast: NO C++ COMPILER ({CXX}), SO NO EXTENSION; plain PyTorch runs in its place")
            return
        try:
            self.run_ninja(target, nvcc)
        except subprocess.CalledProcessError:
            if nvcc is None or os.environ.get("VGEN_FAST_CUDA") == "1":
                raise
            print("vgen_fast: THE CUDA PART DID NOT COMPILE; building for CPU only (VGEN_FAST_CUDA=1 forbids it)")
            self.run_ninja(target, None)

    def run_ninja(self, target: Path, nvcc: str | None) -> None:
        (ROOT / "build").mkdir(exist_ok=True)
        script = ROOT / "build/build.ninja"
        script.write_text(ninja_file(target, nvcc))
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
        subprocess.run([sys.executable, "-m", "ninja", "-C", str(ROOT), "-f", str(script), "-j", jobs], check=True)


setup(ext_modules=[Extension("vgen_fast._C", sources=[], optional=True)], cmdclass={"build_ext": NinjaBuild})
