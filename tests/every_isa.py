"""pytest with these arguments, once per instruction set this processor has: `python tests/every_isa.py tests/ops`."""

import subprocess
import sys

START = (
    "import sys, pytest; from vgen_fast.ops import native; native._C.set_isa(sys.argv[1]); "
    "sys.exit(pytest.main(sys.argv[2:]))"
)

names = ("avx2", "avx512")
probe = "from vgen_fast.ops import native; print(native._C.isa())"
best = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.strip()
for isa in names[: names.index(best) + 1]:
    sys.stdout.write(f"instruction set {isa}\n")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-c", START, isa, *sys.argv[1:]]).returncode
    if code:
        sys.exit(code)
