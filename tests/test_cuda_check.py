"""The parts of `make cuda-check` that need no GPU: budget, tables, JSON, and that a row's sides agree."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import cuda_check  # noqa: E402
import gpu_ops  # noqa: E402
from cuda_check import Budget, Cell, Part, Report  # noqa: E402

from vgen_fast.ops.choose import unavailable  # noqa: E402

SMALL = [gpu_ops.small(case) for case in gpu_ops.cases()]
ONCE = list({(case.op, *sorted(case.shapes.items()), case.name.split()[0][:4]): case for case in SMALL}.values())


def cell(impl, seconds=None, **options) -> Cell:
    return Cell("norm", "256 C8", "bfloat16", "forward", impl, floor=5e-5, seconds=seconds, **options)


def report() -> Report:
    cells = [
        cell("cpp", 1e-4, peak=2**20),
        cell("triton", reason="off by 1", wrong=True),
        cell("eager", 4e-4, peak=30 * 2**20),
        cell("eager channels_last", 3e-4, peak=20 * 2**20),
        cell("compile", reason="off by 1"),
    ]
    rates = {"copy": 4.3e12, "bfloat16": 7.9e14, "float32": 5e13}
    return Report(
        {"gpu": "NVIDIA H200", "torch": "2.11"}, rates, [Part("build", "ok", 61.2)], cells, ["conv | 8", "conv | 4"]
    )


def test_budget_leaves_what_is_reserved():
    now = [100.0]
    budget = Budget(60, clock=lambda: now[0])
    assert budget.limit(50, reserved=20) == 40
    now[0] += 45
    assert budget.left() == 15
    assert budget.limit(50, reserved=20) == 0
    assert budget.limit(10) == 10


def test_report_survives_json():
    assert cuda_check.from_json(cuda_check.to_json(report())) == report()


def test_a_row_that_fails_its_check_prints_no_time():
    lines = cuda_check.op_table(report().cells)
    row = [text.strip() for text in lines[2].strip("|").split("|")]
    assert row == [
        "256 C8",
        "bf16",
        "fwd",
        "100 us",
        "(1)",
        "400 us",
        "300 us",
        "(1)",
        "3.00x",
        "50%",
        "1.0 MiB",
        "20 MiB",
    ]
    assert lines[4:] == ["(1) off by 1  "]
    assert len({len(line) for line in lines[:3]}) == 1


def test_markdown_names_device_parts_and_what_was_left_out():
    text = cuda_check.markdown(report())
    assert text.startswith("# NVIDIA H200\n")
    assert "| build | ok | 61 |" in text
    assert "copy 4.30 TB/s" in text
    assert "- conv: 2 measurements" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.14159e-6, "3.14 us"), (2.5e-4, "250 us"), (0.0123, "12.3 ms"), (0.4567, "457 ms"), (2, "2 s")],
)
def test_duration_has_three_digits(seconds, text):
    assert cuda_check.duration(seconds) == text


def test_failures_are_told_from_what_does_not_exist():
    good = Report({}, cells=[cell("compile", reason="no double backward")], parts=[Part("build", "pip refused", 1)])
    assert not good.failed()
    assert Report({}, parts=[Part("tests", "timed out", 9)]).failed()
    assert report().failed()


def test_result_file_is_named_after_the_gpu():
    assert cuda_check.file_name("NVIDIA H200") == "h200"
    assert cuda_check.file_name("NVIDIA GeForce RTX 4090") == "geforce-rtx-4090"


def test_command_ends_in_time_and_keeps_the_end_of_what_was_said():
    slow = [sys.executable, "-uc", "import time; print('begun'); time.sleep(60)"]
    part = cuda_check.command("slow", slow, 5, {})
    assert (part.outcome, part.said) == ("timed out", "begun\n")
    assert cuda_check.command("none", slow, 1, {}).outcome == "left out"
    assert cuda_check.command("bad", [sys.executable, "-c", "raise SystemExit(3)"], 30, {}).outcome == "failed"


def test_files_with_gpu_tests_are_found():
    assert "tests/ops/test_ops.py" in cuda_check.gpu_tests()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_sentence():
    done = subprocess.run([sys.executable, str(BENCHMARKS / "cuda_check.py")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_floor_is_the_larger_of_bytes_and_operations():
    case = gpu_ops.conv("c", 4, (32, 256, 256), 8, 8)
    numel = 4 * 8 * 32 * 256 * 256
    assert case.floor("forward", 2, 4.3e12, 1e30) == pytest.approx(2 * 2 * numel / 4.3e12)
    assert case.floor("forward+backward", 2, 1e30, 7.9e14) == pytest.approx(3 * 2 * 27 * 8 * numel / 7.9e14)


def test_rotated_inputs_exceed_the_cache():
    for case in gpu_ops.cases():
        one = 2 * sum(torch.Size(shape).numel() for shape in case.shapes.values())
        count = gpu_ops.input_sets(case, 2)
        assert count >= 2
        assert count == 64 or (count - 1) * one >= 60 << 20


@pytest.mark.skipif(unavailable("cpp", "cpu") is not None, reason="the extension is missing")
@pytest.mark.parametrize("case", ONCE, ids=str)
def test_both_sides_of_a_row_compute_the_same(case):
    for which in case.passes:
        assert gpu_ops.wrong(case, "cpp", which, torch.float32, "cpu", seed=3) is None, which
        assert gpu_ops.wrong(case, "eager", which, torch.float32, "cpu", seed=3) is None, which


def test_check_catches_an_op_that_is_wrong():
    case = next(case for case in SMALL if case.op == "pixel_norm")
    planted = gpu_ops.replace(case, ours=lambda tensors, impl: case.ours(tensors, "reference") * 1.01)
    assert "the output is off by" in gpu_ops.wrong(planted, "cpp", "forward", torch.float32, "cpu", seed=3)


def test_forward_over_reverse_equals_the_double_backward():
    for case in ONCE:
        if gpu_ops.PASSES[2] in case.passes:
            tensors = case.draw(torch.float64, "cpu", 5)
            expected = gpu_ops.run(case.eager, tensors, gpu_ops.PASSES[2])
            for a, b in zip(gpu_ops.penalty_gradients(case.eager, tensors, torch.float64), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_every_measurement_belongs_to_a_phase():
    found = {cuda_check.phase_of(i, which) for case in SMALL for i in case.impls for which in case.passes}
    assert found == set(cuda_check.PHASES)
