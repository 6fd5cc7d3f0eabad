"""The compiled extension: whether it is there, why not, and what every launch needs to know about a tensor."""

import torch  # before the extension, so that both share torch's OpenMP threads
from torch import Tensor

try:
    from vgen_fast import _C

    MISSING = None
    ISA = _C.isa()  # a constant: torch.compile cannot trace a call into the extension
except (ImportError, AttributeError) as error:  # not there, broken, or of another version
    _C, ISA = None, "none"
    MISSING = f"the compiled extension vgen_fast._C cannot be imported ({error}); reinstall with a C++ compiler"

# The order of Dtype in csrc/dtypes.h.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type a tensor is computed in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def where(x: Tensor):
    """Device and stream, or CPU thread count, and storage type of x, as every binding takes them first."""
    if x.is_cuda:
        return _C.Where(x.get_device(), torch.cuda.current_stream(x.device).cuda_stream, 0, DTYPES[x.dtype])
    return _C.Where(-1, 0, torch.get_num_threads(), DTYPES[x.dtype])


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
