"""What a data set's file tells the builders: its videos in a fixed order, without opening one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# A film; a folder of pictures in the order of their numbers; a picture with frames one below or beside the other; a
# record of a TFRecord file; a video of a NumPy array [frames, videos, height, width]; a single picture; a cache's clip.
Kind = Literal["film", "pictures", "strip", "record", "array", "picture", "clip"]
FILMS = (".avi", ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".ts")
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Source:
    """A video: `name` is unique in its data set, `path` is below the data set's folder."""

    name: str
    path: str
    kind: Kind = "film"
    number: int = 0  # of the record, the array's video or the cache's clip
    label: int | None = None
    split: str | None = None  # or several, with spaces between them
    mask: str | None = None  # a film as long and as large, white where this one shows what matters


@dataclass(frozen=True)
class Listing:
    sources: tuple[Source, ...]
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the names of each label's values
    absent: int = 0  # videos that the data set's own lists name, and that are not there
    fps: float | None = None  # of pictures and arrays, which have no times


class NoDataSet(ValueError):
    """A folder that does not hold the data set in its published layout; the text says what is missing."""


def natural(path: str) -> list[tuple[int, int, str]]:
    """Sorts 2 before 10."""
    parts, digits = [], ""
    for letter in path + "\0":
        if letter.isascii() and letter.isdigit():
            digits += letter
        else:
            parts += [(0, int(digits), "")] if digits else []
            parts.append((1, 0, letter))
            digits = ""
    return parts


def below(root: Path, folder: Path, endings: Iterable[str]) -> list[str]:
    """Files of these endings in a folder and below it, as paths from `root`, in natural order."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in tuple(endings) and path.is_file())
    return sorted((str(path.relative_to(root)) for path in found), key=natural)


def wanted(root: Path, *names: str) -> Path:
    """The first of these files or folders that is there."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise NoDataSet(f"{root} has no {' or '.join(names)}")


Index = Callable[[Path, str | None], Listing]  # (folder, split)
