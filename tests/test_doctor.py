"""`python -m vgen_fast doctor`, its pieces and the command line around it."""

import os
import subprocess
import sys

import pytest

from vgen_fast import cli, doctor
from vgen_fast.data import pool
from vgen_fast.doctor import Stack
from vgen_fast.ops import backends
from vgen_fast.ops.backends import Backend

ROWS = [
    Backend("fast", "cpu", "cpp", None),
    Backend("fast", "cpu", "reference", None),
    Backend("fast", "cuda", "cpp", "no GPU"),
    Backend("fast", "cuda", "reference", "no GPU"),
    Backend("a_longer_name", "cpu", "cpp", "not written yet"),
    Backend("a_longer_name", "cpu", "reference", None),
    Backend("a_longer_name", "cuda", "cpp", "no GPU"),
    Backend("a_longer_name", "cuda", "reference", "no GPU"),
]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("verb", [[], ["evaluate"]])
def test_nobody_reading_on_ends_a_command_without_a_traceback(verb, monkeypatch):
    """As after `| head -1`, whether the bytes are written at once or as Python ends."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    words = [sys.executable, "-m", "vgen_fast", *verb, "--help"]
    nobody, out = os.pipe()
    os.close(nobody)  # before the command starts: on a busy machine it may have written all before a later close
    with open(out, "wb") as pipe:
        done = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"")


def test_importing_the_package_imports_no_torch():
    done = run("-c", "import sys, vgen_fast, vgen_fast.cli, vgen_fast.doctor; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_doctor_tells_what_holds_the_readers_of_videos(monkeypatch):
    assert "are held by limits" in doctor.reading()
    monkeypatch.setattr(
        pool.Reader, "__init__", lambda self: self.__dict__.update(rungs={"limits": True, "seccomp": False})
    )
    monkeypatch.setattr(pool.Reader, "close", lambda self: None)
    assert doctor.reading().endswith("are held by limits, NOT by seccomp, which this kernel lacks")


def test_doctor_fits_a_screen_and_exits_by_what_runs():
    done = run("-m", "vgen_fast", "doctor")
    assert done.returncode == (1 if doctor.without_fast(backends()) else 0), done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    for row in backends():
        assert row.op in done.stdout
        assert row.reason is None or " ".join(done.stdout.split()).count(row.reason) == 1


def test_table_gives_each_reason_once_and_aligns_columns():
    lines = doctor.table(ROWS)
    assert lines == [
        "               cpu              cuda",
        "               cpp   reference  cpp   reference",
        "fast           ok    ok         (1)   (1)",
        "a_longer_name  (2)   ok         (1)   (1)",
        "",
        "  (1) no GPU",
        "  (2) not written yet",
    ]


def test_only_a_fast_implementation_counts():
    assert doctor.without_fast(ROWS) == ["a_longer_name"]


@pytest.mark.parametrize(
    ("stack", "word"),
    [
        (Stack((2, 13, 0)), "float16 conv3d"),
        (Stack((2, 14, 1)), "torch 2.14 on CPU"),
        (Stack((2, 9, 0), (9, 8, 0)), "slow path"),
        (Stack((2, 9, 1), (9, 14, 9)), "slow path"),
        (Stack((2, 11, 0), (9, 10, 2)), "TF32"),
    ],
)
def test_known_bad_stack_is_named(stack, word):
    assert any(word in sentence for sentence in doctor.known_bad(stack))


@pytest.mark.parametrize("stack", [Stack((2, 12, 0)), Stack((2, 9, 0), (9, 15, 1)), Stack((2, 10, 0), (9, 8, 0))])
def test_good_stack_is_left_in_peace(stack):
    assert doctor.known_bad(stack) == []


def test_versions_are_read():
    assert doctor.numbers("2.13.0+cpu") == (2, 13, 0)
    assert doctor.numbers("2.14.0a0+git12ab") == (2, 14, 0)
    assert doctor.cudnn_numbers(91002) == (9, 10, 2)


@pytest.mark.parametrize(
    ("capability", "built", "word"),
    [
        ((9, 0), "80,90", "machine code"),
        ((8, 6), "80,90", "machine code"),  # code for 8.0 runs on all of 8.x
        ((10, 0), "80,90", "PTX"),
        ((7, 5), "80,90", "VGEN_FAST_CUDA_ARCHS=75"),
        ((9, 0), "", "no CUDA part"),
    ],
)
def test_architecture_says_whether_the_gpu_is_served(capability, built, word):
    assert word in doctor.architecture(capability, built)


def test_unknown_verb_names_the_nearest_and_exits_with_2(capsys):
    assert cli.main(["docter"]) == 2
    assert "'doctor'" in capsys.readouterr().err


def test_help_lists_every_verb_and_ends_with_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in cli.VERBS)
    assert said.rstrip().splitlines()[-1].strip().startswith("python -m vgen_fast")


@pytest.mark.parametrize("arguments", [["--frobnicate"], ["doctor", "--frobnicate"]])
def test_unknown_option_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "--frobnicate" in capsys.readouterr().err
