"""Compiling ahead of time what launchers launch: kernels are recorded on meta tensors, then built for a target."""

import inspect
import re
import subprocess
import tempfile
from contextlib import contextmanager

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTERS = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int32: "*i32"
}  # fmt: skip


class Recorder:
    def __init__(self, kernel, calls):
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid):
        return lambda *args, **options: self.calls.append((self.kernel, args, options))


@contextmanager
def recorded(module):
    """The launches that the module's launchers make inside the block, instead of making them."""
    calls = []
    kernels = {name: value for name, value in inspect.getmembers(module) if name.endswith("_kernel")}
    for name, value in kernels.items():
        setattr(module, name, Recorder(value, calls))
    try:
        yield calls
    finally:
        for name, value in kernels.items():
            setattr(module, name, value)


def build(kernel, args, options, capability):
    """The compiled kernel, specialised on its arguments as a launch specialises it (1, multiples of 16, None)."""
    values = dict(zip(kernel.arg_names, args, strict=False)) | options
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = values.pop(parameter.name)
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
        elif isinstance(value, float):
            signature[parameter.name] = parameter.annotation_type or "fp32"
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        if isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=values)


def spilled(compiled) -> dict[str, int]:
    """Loads and stores of spilled registers in the machine code, and bytes of local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        dump, disassemble = triton.knobs.nvidia.cuobjdump.path, triton.knobs.nvidia.nvdisasm.path
        usage = subprocess.run(
            [dump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
        code = subprocess.run([disassemble, file.name], capture_output=True, text=True, check=True).stdout
    assert "EXIT" in code, "the disassembly is empty"
    moves = {name: len(re.findall(rf"\b{name}\b", code)) for name in ("STL", "LDL")}
    return moves | {"LOCAL": int(re.search(r"LOCAL:(\d+)", usage)[1])}
