"""Anybody's folder: films, folders of pictures, or pictures; below folders that are classes, if there are any.

    <class>/<film>.mp4    or  <film>.mp4
    <class>/<video>/<frame>.jpg  or  <video>/<frame>.jpg

Where there are films, pictures are not looked for. A folder of pictures that has no folder above it within the data set
is not a video but so many pictures: `single`.
"""

from pathlib import Path

from .sources import FILMS, PICTURES, Listing, NoDataSet, Source, below, natural


def index(root: Path, split: str | None = None) -> Listing:
    if split is not None:
        raise NoDataSet(f"a folder has no splits: give the folder of {split!r} itself")
    films = below(root, root, FILMS)
    sources = tuple(Source(path, path) for path in films) if films else pictures(root, root, None)
    if not sources:
        raise NoDataSet(f"{root} has neither films ({' '.join(FILMS)}) nor folders of pictures ({' '.join(PICTURES)})")
    return labelled(sources)


def single(root: Path, split: str | None = None) -> Listing:
    """Each picture is a video of one frame."""
    found = below(root, root, PICTURES)
    if split is not None or not found:
        raise NoDataSet(f"{root} has no pictures" if split is None else f"a folder has no split {split!r}")
    return labelled(tuple(Source(path, path, "picture") for path in found))


def pictures(root: Path, folder: Path, split: str | None) -> tuple[Source, ...]:
    """A source for each folder that holds pictures."""
    names = sorted({str(Path(path).parent) for path in below(root, folder, PICTURES)}, key=natural)
    return tuple(Source(name, name, "pictures", split=split) for name in names if name != ".")


def labelled(sources: tuple[Source, ...]) -> Listing:
    """The first folder is the class, if every source is in one and there is more than one source to a class."""
    first = [Path(source.path).parts[0] if len(Path(source.path).parts) > 1 else None for source in sources]
    classes = tuple(sorted({name for name in first if name}))
    if None in first or not classes:
        return Listing(sources)
    found = tuple(
        Source(source.name, source.path, source.kind, label=classes.index(name))
        for source, name in zip(sources, first, strict=True)
    )
    return Listing(found, {"class": classes})
