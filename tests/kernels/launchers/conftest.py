"""Launchers run compiled on a GPU, or on CPU tensors under TRITON_INTERPRET=1: test_triton_numerics.py starts that."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")


@pytest.fixture
def device():
    if triton.knobs.runtime.interpret:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1")


@pytest.fixture(autouse=True)
def _settings():
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    torch.manual_seed(0)
    yield
    torch.backends.cudnn.allow_tf32 = before
