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
OPT = "-fsanitize=address,undefined -fno-sanitize-recover -g -O1" if os.environ.get("VGEN_FAST_SANITIZE") else "-O3"
CXX = os.environ.get("CXX", "g++")
# Products that might trap would keep `z > 0 ? z : slope * z` a branch, and its loop scalar, below AVX-512.
MATH = "-fno-math-errno -fno-trapping-math"
CXXFLAGS = f"-std=c++17 {OPT} -fPIC -fopenmp {MATH} -fvisibility=hidden -Wall -Wextra -Icsrc"
NVCCFLAGS = "-std=c++17 -O1 -Icsrc -Xcompiler -fPIC,-fvisibility=hidden -Werror all-warnings"


def find_nvcc() -> str | None:
    wanted = os.environ.get("VGEN_FAST_CUDA", "auto")
    home = os.environ.get("CUDA_HOME")
    places = f"{home}/bin" if home else os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"
    nvcc = None if wanted == "0" else shutil.which("nvcc", path=os.pathsep.join(places))
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
        f"rule cxx\n  command = {CXX} {CXXFLAGS} $flags {depends}",
        f"rule link\n  command = {CXX} -shared {OPT} -fopenmp $in -o $out $libs",
    ]
    if nvcc:
        lines.append(f"rule nvcc\n  command = {nvcc} {NVCCFLAGS} {codes} {depends}")
    # Rule, source, object, flags; the longest first, so that nothing waits for them at the end.
    units = [("nvcc", cu, f"{cu.stem}.cuda", "") for cu in sorted(ROOT.glob("csrc/cuda/*.cu")) if nvcc]
    for cpp in sorted(ROOT.glob("csrc/*.cpp")):
        units.append(("cxx", cpp, f"{cpp.stem}{'_cuda' if nvcc else ''}", f"-O1 {include} {cuda}"))
    for cpp in sorted(ROOT.glob("csrc/cpu/*.cpp")):
        units += [("cxx", cpp, f"{cpp.stem}.{isa}", f"{flags} -DVGEN_ISA={isa}") for isa, flags in ISAS.items()]
    lines += [f"build build/{o}.o: {rule} {src.relative_to(ROOT)}\n  flags = {flags}" for rule, src, o, flags in units]
    objects = " ".join(f"build/{o}.o" for _, _, o, _ in units)
    libs = f"{library_paths(nvcc)} -lcudart_static -lrt -ldl -lpthread" if nvcc else ""
    return "\n".join([*lines, f"build {target}: link {objects}\n  libs = {libs}\n"])


def run_ninja(target: Path, nvcc: str | None) -> None:
    script = ROOT / "build/build.ninja"
    script.parent.mkdir(exist_ok=True)
    script.write_text(ninja_file(target, nvcc))
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
    subprocess.run([sys.executable, "-m", "ninja", "-C", str(ROOT), "-f", str(script), "-j", jobs], check=True)


class NinjaBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        nvcc = find_nvcc()
        if not shutil.which(CXX.split()[0]):
            print(f"vgen_fast: NO C++ COMPILER ({CXX}), SO NO EXTENSION; plain PyTorch runs in its place")
            return
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            run_ninja(target, nvcc)
        except subprocess.CalledProcessError:
            if nvcc is None or os.environ.get("VGEN_FAST_CUDA") == "1":
                raise
            print("vgen_fast: THE CUDA PART DID NOT COMPILE; building for CPU only (VGEN_FAST_CUDA=1 forbids it)")
            run_ninja(target, None)


setup(ext_modules=[Extension("vgen_fast._C", sources=[], optional=True)], cmdclass={"build_ext": NinjaBuild})
