"""Every case of cases.py on every implementation that runs here."""

import pytest

from vgen_fast.ops.choose import unavailable

from .cases import CASES, Case
from .check import check_op


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_satisfies_every_check(case: Case):
    check_op(case, "reference")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cpp_matches_the_reference_to_second_order(case: Case):
    if reason := unavailable("cpp", "cpu"):
        pytest.skip(reason)
    check_op(case, "cpp")


@pytest.mark.cuda
@pytest.mark.parametrize("impl", ["cpp", "triton"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gpu_matches_the_reference_to_second_order(case: Case, impl: str):
    if reason := unavailable(impl, "cuda"):
        pytest.skip(reason)
    if impl == "cpp" and case.op.startswith("sliced"):
        pytest.skip("the sliced ops have no CUDA C++ kernel")
    check_op(case, impl, device="cuda")
