"""The command line: one verb per line of VERBS. Verbs import what they need when they run."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence

from . import __version__


def _doctor() -> int:
    from . import doctor

    return doctor.main()


VERBS: dict[str, tuple[str, Callable[[], int]]] = {
    "doctor": ("what works here and why the rest does not: ops x implementations, versions, known-bad stacks", _doctor),
}
EXAMPLES = """examples:
  python -m vgen_fast doctor
  python -m vgen_fast doctor > doctor.txt     # to attach to a report"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; its exit code, 2 for a command that does not exist."""
    argv = sys.argv[1:] if argv is None else list(argv)
    verbs = "\n".join(f"  {name:<10}{text}" for name, (text, _) in VERBS.items())
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
    text, run = VERBS[verb]
    own = argparse.ArgumentParser(
        prog=f"python -m vgen_fast {verb}",
        description=text,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.parse_args(rest)
    return run()
