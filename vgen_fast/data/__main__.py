"""`python -m vgen_fast data build | info | check | preview | split | merge`: caches of clips from data sets."""

import hashlib
import sys
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from shutil import disk_usage
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import Field

from .. import __version__
from ..config import Settings
from ..options import Refused, changed, help_text, nearest, options_of, parse, refuse
from ..review.decisions import rejected
from ..review.mosaic import seen
from ..train import report
from ..train.run import BAD_DATA
from . import write
from .build import ingest
from .build.landscape import Landscape
from .build.masked import Masked
from .build.selection import Selection
from .build.whole import join, split_by_source
from .cache import BadCache, Cache, Writer, begun_storage
from .decode import Rejected, TooMuchBadData
from .layouts import LAYOUTS
from .plugs import BadPlug
from .pool import Holes, Pool
from .resize import Fit
from .sources import Listing, NoDataSet

PROGRAM = "python -m vgen_fast data"
INTERRUPTED = 130  # as a shell has it: 128 and the number of the signal
READ = {  # options that some builders read and others do not
    "selection": {"resize", "stretch", "fps", "take", "frames", "short"},
    "masked": {"fps", "take", "frames", "short"},
    "landscape": {"resize", "stretch", "fps", "still"},
    "trailers": {"detector", "landmarks"},
    "stabilised": {"resize", "stretch", "motion"},
}
BUILD_EXAMPLES = """examples:
  python -m vgen_fast data build my.vgc --root my_films --dry-run
  python -m vgen_fast data build my.vgc --root my_films --size 64 64 --fps 8
  python -m vgen_fast data build ucf.vgc --layout ucf101 --root /data --split train1 --size 128 128 --fps 25 \\
      --take central --frames 32 --short repeat
  python -m vgen_fast data build tgan.vgc --layout ucf101 --root /data --split train1 --stretch 64 85 --size 64 64
  python -m vgen_fast data build bair.vgc --layout bair --root /data/bair --split train
  python -m vgen_fast.train --data my.vgc"""


class Build(Settings):
    root: str
    """The folder of the data set, as it is published."""
    layout: Literal[tuple(LAYOUTS)] = "folder"
    """How it is laid out; a folder is films, or folders of pictures, in folders that are classes, if there are any."""
    split: str | None = None
    """The part of it, by the name that its documentation gives it; without it all parts, and each clip's are kept; see
    docs/data.md."""
    size: tuple[int, int] | None = None
    """Height and width of what is kept; without it 64 64, or those of the cache that is read."""
    builder: Literal["selection", "masked", "landscape", "trailers", "stabilised"] = "selection"
    """What makes clips of a video: chosen frames; or, of films, chosen frames of the square around what their masks
    show; ten seconds at a time without those in which nothing moves; faces that are found in shots and aligned; short
    clips whose camera is made to stand still."""
    detector: str = "haar"
    """Of trailers: finds faces, haar or package.module:function; see docs/data.md."""
    landmarks: str = "box"
    """Of trailers: finds the 68 points of a face, box or package.module:function."""
    motion: Literal["homography", "similarity"] = "homography"
    """Of stabilised: what a camera may do from one frame to the next."""
    still: Literal["variance", "difference"] = "variance"
    """Of landscape: how it is told that nothing moves; by the thesis's rule or by its code's."""
    resize: Literal["shorter", "none"] = "shorter"
    """What happens before the middle is cut out: the shorter side is made to fit, or nothing."""
    stretch: tuple[int, int] | None = None
    """Height and width that pictures are stretched to instead, before the middle is cut out."""
    fps: float | None = Field(None, gt=0)
    """Frames a second, each the nearest in time, of what has times; without it all frames are kept."""
    take: Literal["all", "central", "groups"] = "all"
    """Which frames: all, the central --frames, or groups of --frames one after the other."""
    frames: int | None = Field(None, gt=0)
    """Of a clip; with all, the fewest that a clip must have."""
    short: Literal["reject", "repeat"] = "reject"
    """What becomes of videos of fewer frames: rejected, or their last frame repeated."""
    storage: Literal["auto", "raw", "jpeg"] = "auto"
    """Bytes as they are, or JPEGs of the best quality, smaller and slower; auto is bytes if they fit."""
    workers: int = Field(2, gt=0)
    """Processes that read."""
    classes: str | None = None
    """Only videos of these classes, joined by commas, which are counted in that order; without it all."""
    decisions: str | None = None
    """A file of the review screen: the clips that somebody rejected are left out."""
    limit: int | None = Field(None, gt=0)
    """Only so many videos, evenly spread."""
    part: str | None = Field(None, pattern=r"\d+/\d+")
    """i/n: the i-th of n parts, counted from 1, for n machines; `merge` joins them."""
    bad: float = Field(0.05, ge=0, le=1)
    """The share of videos that may be bad; more, and the build ends with code 65."""
    trusted: bool = False
    """These films are known to be harmless: an FFmpeg with known holes may read them."""
    dry_run: bool = False
    """Read a few videos and tell what a build would take."""


def main(argv: list[str]) -> int:
    verbs = {"build": build, "info": info, "check": check, "preview": preview, "split": split, "merge": merge}
    if not argv or argv[0] in ("--help", "-h"):
        report.show(HELP)
        return 0 if argv else 2
    verb, *words = argv
    try:
        if verb not in verbs:
            refuse(f"there is no data verb {verb!r}: {', '.join(verbs)}")
        return verbs[verb](words)
    except Holes as error:
        report.complain(f"{error}; --trusted reads films that you know all the same")
        return 2
    except (Refused, BadCache, NoDataSet, BadPlug, Rejected, BadZipFile) as error:
        report.complain(str(error))
        return 2
    except TooMuchBadData as error:
        report.complain(str(error))
        return BAD_DATA
    except OSError as error:
        report.complain(f"{verb}: {error.filename or words[0]}: {error.strerror or error}")
        return 2
    except KeyboardInterrupt:
        report.complain("interrupted" + ("; the same command goes on" if verb == "build" else ""))
        return INTERRUPTED


HELP = """usage: python -m vgen_fast data <verb> ...

Caches of clips, NAME.vgc, for training.

verbs:
  build    NAME.vgc --root FOLDER    a cache from a data set as it is published; again, it goes on where it stopped
  info     NAME.vgc                  what is in it
  check    NAME.vgc                  whether every byte of it is what was built
  preview  NAME.vgc [OUT.mp4]        25 of its clips, side by side
  split    NAME.vgc CLIPS [SEED]     as many clips or more become the split val, the rest train; no source is in both
  merge    OUT.vgc PART.vgc ...      parts that were built on several machines

`build --help` lists its options."""


def build(words: list[str]) -> int:
    options = list(options_of(Build(root=".")))
    if "--help" in words or not words or words[0].startswith("-"):
        intro = "A cache of clips, NAME.vgc, from a data set as it is published."
        report.show(help_text(f"{PROGRAM} build NAME.vgc --root FOLDER [options]", intro, options, BUILD_EXAMPLES))
        return 0 if "--help" in words else 2
    target, values = Path(words[0]), parse(words[1:], options)
    if ("root",) not in values:
        refuse("build: --root FOLDER says where the data set is")
    command = changed(Build(root="."), values)
    unread = [name for (name,) in values if name in set().union(*READ.values()) - READ[command.builder]]
    if unread:
        refuse(f"--builder {command.builder} does not read --{unread[0]}")
    root = Path(command.root)
    if not root.is_dir():
        refuse(f"--root {root} is no folder")
    if command.size is None:
        command = command.model_copy(update={"size": Cache(root).size if command.layout == "cache" else (64, 64)})
    builder = builder_of(command)
    listing = chosen(LAYOUTS[command.layout](root, command.split), command)
    if command.builder != "selection" and any(source.kind != "film" for source in listing.sources):
        refuse(f"--builder {command.builder} makes clips of films, and {command.layout} has none")
    if command.fps is not None and without_times(listing, command):
        refuse(f"--fps {command.fps:g}: {root} holds frames without times, of which all are kept")
    with Pool(command.workers, trusted=command.trusted) as pool:
        storage = command.storage
        if storage == "auto" and not command.dry_run:
            storage = begun_storage(target) or storage
        if command.dry_run or storage == "auto":
            expected = ingest.estimate(root, listing, builder, pool)
            tell(expected, listing, command.workers)
            if command.dry_run:
                return 0
            free = disk_usage(next(folder for folder in target.absolute().parents if folder.exists())).free
            storage = "raw" if expected.bytes["raw"] < 0.8 * free else "jpeg"
            report.show(f"storage: {storage} ({free / 1e9:.1f} GB are free)")
        facts = {name: getattr(command, name) for name in ("layout", "split", "limit", "part")}
        facts |= {"classes": command.classes} if command.classes else {}
        writer = Writer(target, command.size, {**facts, **builder.to_json()}, storage)
        try:
            if writer.done:
                report.show(f"going on: {len(writer.done)} of {len(listing.sources)} videos are done")
            reasons = ingest.build(
                writer, root, listing, builder, pool, command.workers, command.bad, Progress(listing)
            )
            versions = {"vgen_fast": __version__, "numpy": np.__version__, "av": version("av")}
            writer.finish(listing.labels, {"versions": versions, "absent": listing.absent, "rejected": dict(reasons)})
        finally:
            writer.close()
    if isinstance(builder, ingest.Without):
        met, asked = len(builder.met), len(builder.rejected)
        report.show(f"left out: {met} of the {asked} clips that {command.decisions} rejects")
    return info([str(target)])


def builder_of(command: Build) -> ingest.Builder:
    shorter = min(command.size) if command.resize == "shorter" and not command.stretch else None
    fit = Fit(shorter=shorter, stretch=command.stretch, crop=command.size)
    fps = None if command.fps is None else Fraction(command.fps).limit_denominator(1001)
    if command.builder == "selection":
        builder = selection(Selection, command, fit, fps)
    elif command.builder == "masked":
        builder = selection(Masked, command, Fit(stretch=command.size), fps)
    elif command.builder == "landscape":
        builder = Landscape(fit, fps or Landscape.fps, command.still)
    else:
        builder = by_opencv(command, fit)
    if command.decisions:
        path = Path(command.decisions)
        if not path.is_file():
            refuse(f"--decisions {path} is no file")
        builder = ingest.Without(builder, rejected(path), hashlib.sha256(path.read_bytes()).hexdigest())
    return builder


def by_opencv(command: Build, fit: Fit) -> ingest.Builder:
    try:
        from .build import stabilised, trailers
    except ImportError as error:
        refuse(f"--builder {command.builder} needs OpenCV: pip install 'vgen_fast[opencv]' ({error})")
    if command.builder == "stabilised":
        return stabilised.Stabilised(fit, command.motion)
    if command.size[0] != command.size[1]:
        refuse(f"--builder trailers makes square pictures, and --size is {command.size[0]} {command.size[1]}")
    return trailers.Trailers(command.size[0], command.detector, command.landmarks)


def selection(kind: type[Selection], command: Build, fit: Fit, fps: Fraction | None) -> Selection:
    if command.take != "all" and command.frames is None:
        refuse(f"--take {command.take} needs --frames")
    return kind(fit, fps, command.take, command.frames, command.short)


def chosen(listing: Listing, command: Build) -> Listing:
    """The part and the number that are asked for."""
    if command.classes:
        listing = of_classes(listing, command.classes.split(","))
    sources = listing.sources
    if command.part:
        part, parts = map(int, command.part.split("/"))
        if not 1 <= part <= parts:
            refuse(f"--part {command.part}: parts are 1/{parts} to {parts}/{parts}")
        sources = sources[len(sources) * (part - 1) // parts : len(sources) * part // parts]
    if command.limit and command.limit < len(sources):
        sources = tuple(sources[i * len(sources) // command.limit] for i in range(command.limit))
    return replace(listing, sources=sources)


def of_classes(listing: Listing, names: list[str]) -> Listing:
    """Its videos of these classes, which get the numbers of this order."""
    if len(listing.labels) != 1:
        refuse("--classes: these videos have none")
    ((label, values),) = listing.labels.items()
    for name in names:
        if name not in values:
            refuse(f"--classes: there is no {label} {name!r}; the nearest is {nearest(name, values)!r}")
    if len(set(names)) < len(names):
        refuse(f"--classes: {','.join(names)} names one twice")
    sources = (
        replace(source, label=names.index(values[source.label]))
        for source in listing.sources
        if source.label is not None and values[source.label] in names
    )
    return replace(listing, sources=tuple(sources), labels={label: tuple(names)})


def without_times(listing: Listing, command: Build) -> bool:
    if command.layout == "cache":
        return bool(np.isnan(Cache(Path(command.root)).fps[[source.number for source in listing.sources]]).any())
    return listing.fps is None and any(source.kind != "film" for source in listing.sources)


def tell(expected: ingest.Estimate, listing: Listing, workers: int) -> None:
    absent = f", {listing.absent} more are listed and absent" if listing.absent else ""
    time_it_takes = report.duration(expected.seconds / workers)
    report.show(
        f"{len(listing.sources)} videos{absent}; of {expected.tried} tried, {expected.rejected} were rejected\n"
        f"about {expected.clips:.0f} clips, {expected.frames:.0f} frames in all, in {time_it_takes}: "
        f"{gigabytes(expected.bytes['raw'])} raw, {gigabytes(expected.bytes['jpeg'])} as JPEGs"
    )


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


class Progress:
    """A line every second on a terminal, every ten elsewhere."""

    def __init__(self, listing: Listing):
        self.count, self.first, self.began = len(listing.sources), None, time.monotonic()
        self.every, self.last = (1 if sys.stderr.isatty() else 10), time.monotonic()

    def __call__(self, done: int, bad: int) -> None:
        now = time.monotonic()
        self.first = done - 1 if self.first is None else self.first
        if now - self.last < self.every and done < self.count:
            return
        self.last = now
        left = (now - self.began) / (done - self.first) * (self.count - done)
        report.show(
            f"{100 * done // self.count:3}%  {report.duration(left)} left  {done} of {self.count} videos  {bad} bad"
        )


def info(words: list[str]) -> int:
    (path,) = arguments("info", words, "NAME.vgc")
    cache = Cache(Path(path))
    size = sum(file.stat().st_size for file in cache.folder.iterdir())
    lines = [
        f"{path}: {len(cache)} clips, {cache.frames.sum()} frames of {cache.size[0]}x{cache.size[1]}, "
        f"{cache.storage}, {size / 1e6:.1f} MB"
    ]
    if len(cache):
        lines += ["frames of a clip:"]
        counts, edges = np.histogram(cache.frames, bins=min(8, len(np.unique(cache.frames))))
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            lines.append(
                f"  {np.ceil(low):6.0f} to {np.floor(high):6.0f}  {count:8}  {'#' * (40 * count // counts.max())}"
            )
    lines += [f"split {name}: {count} clips" for name, count in cache.splits.items()]
    for label, values in cache.labels.items():
        lines.append(f"{label}:")
        numbers = Counter(cache.label.tolist())
        lines += [f"  {value:24} {numbers[i]:8}" for i, value in enumerate(values)]
    report.show("\n".join(lines))
    return 0


def check(words: list[str]) -> int:
    (path,) = arguments("check", words, "NAME.vgc")
    cache = Cache(Path(path))
    names, digests = cache.column("id"), cache.column("sha256")
    wrong = [clip for clip, digest in enumerate(digests) if cache.digest(clip) != digest]
    for clip in wrong[:20]:
        report.complain(f"{path}: clip {clip}, {names[clip]}, is not what was built")
    report.show(f"{len(cache) - len(wrong)} of {len(cache)} clips are whole")
    return 1 if wrong else 0


def preview(words: list[str]) -> int:
    path, *rest = arguments("preview", words, "NAME.vgc", "OUT.mp4", least=1)
    cache, out = Cache(Path(path)), Path(rest[0] if rest else Path(path).stem + ".mp4")
    if not len(cache):
        refuse(f"{path} has no clips")
    shown = np.linspace(0, len(cache) - 1, min(25, len(cache))).astype(int)
    length = min(64, int(cache.frames[shown].max()))
    videos = np.stack([cache.read(clip, seen(int(cache.frames[clip]), length)) for clip in shown])
    write.mp4(out, write.grid(videos, 5), fps=25)
    report.show(f"{out}: {len(shown)} of {len(cache)} clips")
    return 0


def split(words: list[str]) -> int:
    path, *numbers = arguments("split", words, "NAME.vgc", "CLIPS", "[SEED]", least=2)
    if not all(number.isdigit() for number in numbers):
        refuse(f"{PROGRAM} split: CLIPS and SEED are whole numbers")
    split_by_source(Path(path), *map(int, numbers))
    return info([path])


def merge(words: list[str]) -> int:
    target, *parts = arguments("merge", words, "OUT.vgc", "PART.vgc ...", least=2, most=10_000)
    join(Path(target), [Path(part) for part in parts])
    return info([target])


def arguments(verb: str, words: list[str], *names: str, least: int | None = None, most: int | None = None) -> list[str]:
    if not (least or len(names)) <= len(words) <= (most or len(names)) or any(word.startswith("-") for word in words):
        refuse(f"{PROGRAM} {verb} {' '.join(names)}: these and nothing else")
    return words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
