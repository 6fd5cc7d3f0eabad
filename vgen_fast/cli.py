"""The command line: one verb per line of VERBS. Verbs import what they need when they run."""

import argparse
import difflib
import gc
import os
import select
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from . import __version__


def _doctor(arguments: list[str]) -> int:
    from . import doctor

    _plain("doctor").parse_args(arguments)
    return doctor.main()


def _train(arguments: list[str]) -> int:
    from .train.__main__ import main

    return main(arguments)


def _data(arguments: list[str]) -> int:
    from .data.__main__ import main

    return main(arguments)


def _review(arguments: list[str]) -> int:
    from .review.__main__ import main

    return main(arguments)


def _of(module: str, verb: str) -> Callable[[list[str]], int]:
    """The function of that name in a module of this package; what it refuses is one sentence and 2."""

    def run(arguments: list[str]) -> int:
        from .options import Refused

        try:
            return getattr(import_module(f".{module}", __package__), verb)(arguments)
        except Refused as error:
            print(f"vgen_fast: {error}", file=sys.stderr)
            return 2

    return run


VERBS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "train": ("trains a recipe; the same command in the same folder goes on where it stopped", _train),
    "verify": ("checkpoints of a run: every byte, and where it would go on", _of("verify", "verify")),
    "generate": ("videos from a trained generator: a grid, a film strip or the bytes", _of("sample", "generate")),
    "interpolate": ("videos along lines or arcs between latents", _of("interpolate", "interpolate")),
    "animate": ("a photograph goes on as a video, by a generator that predicts", _of("animate", "animate")),
    "maximize": ("videos of a class from STGAN's generator, through a classifier", _of("maximize", "maximize")),
    "sets": ("what `maximize` made: scored by classifiers, the best of it, and as training data", _of("sets", "sets")),
    "evaluate": (
        "scores of a run's clips and, beside them, of real ones",
        _of("evaluate", "evaluate"),
    ),
    "finetune": ("how well a VGAN's critic learns the classes of labelled clips", _of("finetune", "finetune")),
    "compare": ("two files of scores, if they were measured in the same way", _of("evaluate", "compare")),
    "data": ("caches of clips: built from data sets as they are published, told about, checked and shown", _data),
    "review": ("25 clips at once in a browser, to throw out the bad ones", _review),
    "doctor": ("what works here and why the rest does not: ops x implementations, versions, known-bad stacks", _doctor),
}
EXAMPLES = """examples:
  python -m vgen_fast train                   # moving shapes, on this CPU in minutes
  python -m vgen_fast train --list
  python -m vgen_fast doctor
  python -m vgen_fast doctor > doctor.txt     # to attach to a report"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; its exit code, 2 for a command that does not exist, 1 where nobody reads on what it says."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it once: huge pages, or faults take half the time
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # here, as nothing is caught where Python ends
    except BrokenPipeError:
        stdout, ends = sys.stdout.fileno(), select.poll()
        ends.register(stdout, 0)
        if not ends.poll(0):  # it is another pipe that broke
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
        return 1


def end_quickly() -> None:
    """Spares Python, as it ends, a last look for what nothing refers to: a second where torch is. Triton, though, tells
    of everything that is left."""
    if "triton" not in sys.modules:
        gc.freeze()


def _run(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    verbs = "\n".join(f"  {name:<12}{text}" for name, (text, _) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="python -m vgen_fast",
        usage="python -m vgen_fast <verb>",
        description=f"verbs:\n{verbs}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vgen_fast {__version__}")
    if not argv:
        parser.print_help()
        return 2
    verb, *rest = argv
    if verb.startswith("-"):
        parser.parse_args(argv)  # --help and --version end here; anything else is an error, with exit code 2
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0)
        print(f"vgen_fast: there is no verb {verb!r}; the nearest is {near[0]!r} (--help lists all)", file=sys.stderr)
        return 2
    return VERBS[verb][1](rest)


def _plain(verb: str) -> argparse.ArgumentParser:
    """The parser of a verb without options of its own."""
    return argparse.ArgumentParser(
        prog=f"python -m vgen_fast {verb}",
        description=VERBS[verb][0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
