"""`python -m vgen_fast review NAME.vgc`: 25 clips at once in a browser, to throw out the bad ones."""

import os
import secrets
import socket
import sys
from pathlib import Path

from pydantic import Field

from ..config import Settings
from ..data.cache import BadCache, Cache
from ..options import Refused, changed, help_text, options_of, parse, refuse
from ..train import report

PROGRAM = "python -m vgen_fast review"
EXAMPLES = f"""examples:
  {PROGRAM} my.vgc
  {PROGRAM} my.vgc --reviewer ann --out ann.jsonl
  ssh -L 8197:127.0.0.1:8197 cluster            # then the address that the cluster's review shows opens here
  python -m vgen_fast data build good.vgc --layout cache --root my.vgc --decisions my.decisions.jsonl"""


class Review(Settings):
    out: str | None = None
    """The file of the decisions; without it NAME.decisions.jsonl beside the cache. It only grows."""
    reviewer: str = Field("me", min_length=1, max_length=100)
    """Whose decisions these are; the page shows how often several agree."""
    port: int = Field(8197, ge=0, lt=65536)
    """Of the address on this machine, 127.0.0.1, and on no other; 0 takes a free one."""
    seed: int = 0
    """Of the order by chance."""


def main(argv: list[str]) -> int:
    try:
        return review(argv)
    except (Refused, BadCache) as error:
        report.complain(str(error))
        return 2


def review(words: list[str]) -> int:
    options = list(options_of(Review()))
    if "--help" in words or not words or words[0].startswith("-"):
        intro = "25 clips at once in a browser: click those that are bad, Enter for the next. Ctrl-C ends it."
        report.show(help_text(f"{PROGRAM} NAME.vgc [options]", intro, options, EXAMPLES))
        return 0 if "--help" in words else 2
    folder, command = Path(words[0]), changed(Review(), parse(words[1:], options))
    try:
        import uvicorn

        from .server import Screen
    except ImportError as error:
        refuse(f"the review screen needs {error.name}: pip install 'vgen_fast[review]'")
    from .decisions import Busy, Decisions

    cache = Cache(folder)
    if not len(cache):
        refuse(f"{folder} has no clips")
    out = Path(command.out) if command.out else folder.with_name(folder.stem + ".decisions.jsonl")
    try:
        listening = socket.create_server(("127.0.0.1", command.port))
        decisions = Decisions(out, cache.column("id"), cache.column("sha256"), command.reviewer)
    except OSError as error:
        what = out if error.filename else f"port {command.port}"
        hint = "" if error.filename else "; --port 0 takes a free one"
        refuse(f"{what}: {os.strerror(error.errno)}{hint}")
    except Busy as error:
        refuse(str(error))
    if decisions.others:
        report.complain(f"{decisions.others} decisions in {out} are about other clips than those of {folder}")
    token, port = secrets.token_urlsafe(24), listening.getsockname()[1]
    app = Screen(cache, decisions, command.seed).app(token, port)
    config = uvicorn.Config(app, log_level="error", access_log=False, http="h11", ws="none", server_header=False)
    report.show(f"{len(cache)} clips, decisions in {out}; open\n\n  http://127.0.0.1:{port}/?token={token}\n")
    uvicorn.Server(config).run(sockets=[listening])
    counts = decisions.counts()
    report.show(f"{counts['kept']} kept, {counts['rejected']} rejected, of {len(cache)}; without these:")
    target = folder.with_name(folder.stem + "-kept.vgc")
    report.show(f"  python -m vgen_fast data build {target} --layout cache --root {folder} --decisions {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
