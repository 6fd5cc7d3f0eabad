"""NAME.vgc: clips as they are trained on, in a folder that anybody can read with numpy and zipfile.

    shard-00000.u8    frames of clip after clip, uint8 [frames, height, width, 3]
    shard-00000.zip   or: 000000001/00016.jpg, frame 16 of clip 1 counted from 0, JPEG at 4:4:4, stored
    index.json        the clips, a list for each of their properties, and the names of labels
    build.json        how it was built: the whole recipe, versions, the digest of all clips
    rejected.csv      sources that gave no clips, and why
    journal.jsonl     only while it is being built: a line for each source that is done

A clip's digest is that of its frames as they are kept. A source is in the journal once its frames are on the disk; what
was written after that is cut off when the build goes on.
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import struct
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np

from . import journal
from .decode import rows

FORMAT = 1
Storage = Literal["raw", "jpeg"]
SUFFIX = {"raw": "u8", "jpeg": "zip"}
COMMIT_BYTES = 64 << 20  # between two writings of the journal, and a source more
SHARD_BYTES = {"raw": 1 << 30, "jpeg": 0}  # a shard is full with these; a zip is closed, and so full, at each commit


class BadCache(ValueError):
    """A folder that is no cache, or not a whole one; the text says what is wrong."""


@dataclass(frozen=True)
class Clip:
    """What the index tells of one, beside its place and digest."""

    id: str
    fps: float | None = None
    label: int | None = None
    split: str | None = None  # or several, with spaces between them
    source: str | None = None  # the file below the data set's folder
    crop: tuple[int, int, int, int] | None = None  # top, left, height, width in the upright source
    start: float | None = None  # seconds into the source
    scores: dict[str, float] = field(default_factory=dict)  # what a builder measured of it


PROPERTIES = [*(name for name in Clip.__dataclass_fields__), "shard", "first", "frames", "sha256"]


# ------------------------------------------------------------------------------------------------------------- writing


def begun_storage(folder: Path) -> Storage | None:
    """That of a build which was interrupted there."""
    lines = journal.whole_lines(folder / "journal.jsonl")
    return lines[0].get("storage") if lines else None


class Writer:
    """Builds a cache, or goes on with one that was interrupted: `done` tells the sources that need no second look."""

    def __init__(self, folder: Path, size: tuple[int, int], recipe: dict, storage: Storage = "raw", quality: int = 2):
        self.folder, self.size, self.storage, self.quality = folder, size, storage, quality
        self.head = json.loads(json.dumps({"format": FORMAT, "size": size, "storage": storage, "recipe": recipe}))
        self.pending, self.pending_bytes, self.file, self.zip, self.lines = [], 0, None, None, None
        if (folder / "index.json").exists():
            raise BadCache(f"{folder} is complete; build another one, or remove it first")
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._begin()
        except BlockingIOError as error:
            self.close()
            raise BadCache(f"another process is building {folder}") from error
        except BadCache:
            self.close()
            raise

    def _begin(self) -> None:
        self.journal = self.folder / "journal.jsonl"
        journal.cut_torn_line(self.journal)
        lines = journal.whole_lines(self.journal)
        if lines and lines[0] != self.head:
            raise BadCache(f"{self.folder} was begun with another recipe: remove it, or build it as it was begun")
        self.records = lines[1:]
        self.done = {line["source"] for line in self.records}
        self.num_clips = sum(len(line["clips"]) for line in self.records)
        self.shard, self.written = (self.records[-1]["shard"], self.records[-1]["written"]) if self.records else (0, 0)
        self._cut_off(self.folder / name_of(self.shard, self.storage))
        self.lines = open(self.journal, "ab", buffering=0)  # noqa: SIM115
        if not lines:
            self.lines.write(json.dumps(self.head).encode() + b"\n")

    def _cut_off(self, current: Path) -> None:
        """What no line of the journal knows."""
        for path in self.folder.glob("shard-*"):
            if path.name > current.name or (path == current and not self.written):
                path.unlink()
        if self.written:
            length = current.stat().st_size if current.exists() else 0
            if length < self.written:
                raise BadCache(f"{current} has {length} of the {self.written} bytes that the journal knows")
            os.truncate(current, self.written)

    def close(self) -> None:
        """Stops; what was added since the last commit is forgotten."""
        for file in (self.zip, self.file, self.lines):
            if file:
                file.close()
        if self.lock is not None:
            os.close(self.lock)
        self.zip = self.file = self.lines = self.lock = None

    def add(
        self, source: str, clips: Sequence[tuple[Clip, np.ndarray]], rejected: Sequence[tuple[str, str, str]] = ()
    ) -> None:
        """All clips of a source, uint8 [T, H, W, 3] each; name, reason and text of those that are rejected."""
        entries = []
        for clip, frames in clips:
            if frames.dtype != np.uint8 or frames.shape[1:] != (*self.size, 3):
                raise ValueError(f"{clip.id}: {frames.dtype} {frames.shape}, wanted uint8 [T, {self.size}, 3]")
            if self.file is None:
                raw = self.storage == "raw"
                self.file = open(self.folder / name_of(self.shard, self.storage), "ab" if raw else "wb")  # noqa: SIM115
                self.zip = None if raw else zipfile.ZipFile(self.file, "w")
            place = self._append_jpeg(frames) if self.zip else self._append_raw(frames)
            entries.append({**asdict(clip), "shard": self.shard, "frames": len(frames), **place})
            self.num_clips += 1
        self.pending.append({"source": source, "clips": entries, "rejected": rejected})
        if self.pending_bytes >= COMMIT_BYTES:
            self.commit()

    def _append_raw(self, frames: np.ndarray) -> dict:
        content = np.ascontiguousarray(frames).data
        first = (self.written + self.pending_bytes) // frames[0].nbytes
        self.file.write(content)
        self.pending_bytes += content.nbytes
        return {"first": first, "sha256": hashlib.sha256(content).hexdigest()}

    def _append_jpeg(self, frames: np.ndarray) -> dict:
        digest = hashlib.sha256()
        for i, content in enumerate(to_jpegs(frames, self.quality)):
            self.zip.writestr(zipfile.ZipInfo(jpeg_name(self.num_clips, i)), content)  # with no time: the same bytes
            self.pending_bytes += len(content)
            digest.update(content)
        return {"first": self.num_clips, "sha256": digest.hexdigest()}

    def commit(self) -> None:
        """Everything so far goes to the disk, and then into the journal."""
        if self.file:
            if self.zip:
                self.zip.close()  # writes its directory
            self.file.flush()
            os.fsync(self.file.fileno())
            self.written = self.file.tell()
            if self.written >= SHARD_BYTES[self.storage]:
                self.file.close()
                self.file, self.shard, self.written = None, self.shard + 1, 0
        after = {"shard": self.shard, "written": self.written}
        self.lines.write(b"".join(json.dumps(record | after).encode() + b"\n" for record in self.pending))
        os.fsync(self.lines.fileno())
        self.records += self.pending
        self.pending, self.pending_bytes = [], 0

    def finish(self, labels: dict[str, Sequence[str]], facts: dict) -> None:
        """Writes the index and the rest; from then on the folder is a cache. `labels`: the values of each label."""
        self.commit()
        entries = [entry for record in self.records for entry in record["clips"]]
        clips = {name: [entry[name] for entry in entries] for name in PROPERTIES}
        rejected = [row for record in self.records for row in record["rejected"]]
        write_tables(self.folder, self.storage, self.size, labels, clips, rejected, self.head["recipe"], facts)
        self.journal.unlink()
        self.close()


def write_tables(
    folder: Path,
    storage: Storage,
    size: tuple[int, int],
    labels: dict[str, Sequence[str]],
    clips: dict[str, list],
    rejected: Sequence[Sequence[str]],
    recipe: dict,
    facts: dict,
) -> None:
    """Everything but the shards, and last the index, which makes the folder a cache."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("source", "reason", "text"))
    rows.writerows(rejected)
    (folder / "rejected.csv").write_text(text.getvalue(), "utf-8", "surrogateescape")  # names are bytes
    digest = hashlib.sha256("".join(clips["sha256"]).encode()).hexdigest()
    build = {"format": FORMAT, "recipe": recipe, **facts, "sha256": digest}
    (folder / "build.json").write_text(json.dumps(build, indent=1) + "\n")
    names = {name: list(values) for name, values in labels.items()}
    index = {"format": FORMAT, "storage": storage, "height": size[0], "width": size[1], "labels": names, "clips": clips}
    journal.replace_durably(folder / "index.json", json.dumps(index).encode())


def name_of(shard: int, storage: Storage) -> str:
    return f"shard-{shard:05}.{SUFFIX[storage]}"


def jpeg_name(clip: int, frame: int) -> str:
    return f"{clip:09}/{frame:05}.jpg"


def to_jpegs(frames: np.ndarray, quality: int) -> Iterator[bytes]:
    """`quality` is FFmpeg's scale: 2 is the best, 31 the worst. No colour is subsampled."""
    coder = av.CodecContext.create("mjpeg", "w")
    coder.height, coder.width, coder.pix_fmt = *frames.shape[1:3], "yuvj444p"
    coder.time_base, coder.options = Fraction(1, 25), {"qmin": str(quality), "qmax": str(quality)}
    for frame in frames:
        (packet,) = coder.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuvj444p"))
        yield bytes(packet)


# ------------------------------------------------------------------------------------------------------------- reading


def read_index(folder: Path) -> dict:
    try:
        index = json.loads((folder / "index.json").read_bytes())
    except FileNotFoundError as error:
        begun = " yet, its build has not ended" if (folder / "journal.jsonl").exists() else ""
        raise BadCache(f"{folder} is no cache{begun}: it has no index.json") from error
    except ValueError as error:
        raise BadCache(f"{folder}: index.json is damaged: {error}") from error
    if index.get("format") != FORMAT:
        raise BadCache(f"{folder} has the format {index.get('format')}, this version reads {FORMAT}")
    return index


class Cache:
    """Clips by number. The index is a few arrays, whatever the number of clips; shards are mapped, not read."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        index = read_index(self.folder)
        self.storage, self.size = index["storage"], (index["height"], index["width"])
        self._open: dict[int, np.ndarray | Stored] = {}
        self.labels = {name: tuple(values) for name, values in index["labels"].items()}
        clips = index["clips"]
        self.shard, self.first, self.frames = (np.array(clips[n], dtype=np.int64) for n in ("shard", "first", "frames"))
        self.label = np.array([-1 if label is None else label for label in clips["label"]], dtype=np.int64)
        self.split = np.array([split or "" for split in clips["split"]])
        self.fps = np.array([fps or np.nan for fps in clips["fps"]], dtype=np.float64)
        self._check_shards()

    def _check_shards(self) -> None:
        """A mapped file that is shorter than its index says would end the process where it is read."""
        for shard in np.unique(self.shard).tolist():
            path = self.folder / name_of(shard, self.storage)
            length = path.stat().st_size if path.exists() else -1
            mine = self.shard == shard
            wanted = (
                int((self.first[mine] + self.frames[mine]).max()) * self.frame_bytes if self.storage == "raw" else 0
            )
            if length < wanted:
                raise BadCache(f"{path} is missing" if length < 0 else f"{path} has {length} of {wanted} bytes")

    @property
    def frame_bytes(self) -> int:
        return self.size[0] * self.size[1] * 3

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def splits(self) -> dict[str, int]:
        """How many clips each split has; a clip may be in several, and then names them all: train1 test2 train3."""
        return dict(sorted(Counter(word for split in self.split.tolist() for word in split.split()).items()))

    def of(self, split: str | None) -> np.ndarray:
        """Numbers of the clips of a split, of which there are some; of None, of all clips."""
        names, which = np.unique(self.split, return_inverse=True)
        within = np.array([split is None or split in (name, *name.split()) for name in names.tolist()], dtype=bool)
        found = np.flatnonzero(within[which])
        if not len(found):
            have = f", it has {', '.join(self.splits) or 'none'}"
            raise BadCache(f"{self.folder} has no clips" + ("" if split is None else f" of the split {split!r}{have}"))
        return found

    def read(self, clip: int, frames: slice | np.ndarray = slice(None)) -> np.ndarray:
        """uint8 [T, H, W, 3] of these frames of a clip; of a raw cache and a slice, a view of the mapped file."""
        shard = self._shard(int(self.shard[clip]))
        if self.storage == "raw":
            first = self.first[clip]
            return shard[first : first + self.frames[clip]][frames]
        chosen = np.arange(self.frames[clip])[frames].tolist()
        return from_jpegs([shard[jpeg_name(self.first[clip], i)] for i in chosen], self.size)

    def column(self, name: str) -> list:
        """A property of every clip, read anew: loaders need few of them."""
        return read_index(self.folder)["clips"][name]

    def digest(self, clip: int) -> str | None:
        """Of the clip's bytes as they are now; None where they cannot be read."""
        if self.storage == "raw":
            return hashlib.sha256(self.read(clip).data).hexdigest()
        found = hashlib.sha256()
        try:
            shard = self._shard(int(self.shard[clip]))
            for i in range(self.frames[clip]):
                found.update(shard[jpeg_name(self.first[clip], i)])
        except zipfile.BadZipFile:
            return None
        return found.hexdigest()

    def _shard(self, number: int) -> "np.ndarray | Stored":
        if number not in self._open:
            path = self.folder / name_of(number, self.storage)
            self._open[number] = (
                np.memmap(path, np.uint8, "r").reshape(-1, *self.size, 3) if self.storage == "raw" else Stored(path)
            )
        return self._open[number]


class Stored:
    """The files of a ZIP that keeps them as they are, by name: zipfile takes three times as long for each."""

    def __init__(self, path: Path):
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise zipfile.BadZipFile(f"{path} is cut off or damaged: {error}") from error

    def __getitem__(self, name: str) -> bytes:
        try:
            entry, file = self.zip.getinfo(name), self.zip.fp.fileno()
        except KeyError as error:
            raise zipfile.BadZipFile(f"{self.zip.filename} has no {name}") from error
        lengths = os.pread(file, 4, entry.header_offset + 26)  # of the name and the extra field before the content
        start = entry.header_offset + 30 + sum(struct.unpack("<2H", lengths))
        content = os.pread(file, entry.file_size, start)
        if zlib.crc32(content) != entry.CRC:
            raise zipfile.BadZipFile(f"{self.zip.filename}: {name} is damaged")
        return content


class Decoder(threading.local):
    """Of JPEGs, kept in each thread: to open one takes as long as to decode five pictures of 64x64."""

    def __init__(self):
        self.process = None

    def __call__(self, content: bytes) -> av.VideoFrame:
        """In planes of green, blue and red."""
        if self.process != os.getpid():
            self.process, self.coder = os.getpid(), av.CodecContext.create("mjpeg", "r")
            self.coder.thread_count = 1
            self.reformatter = av.video.reformatter.VideoReformatter()
        (picture,) = self.coder.decode(av.Packet(content))
        return self.reformatter.reformat(picture, format="gbrp", threads=1)


decoder = Decoder()


def from_jpegs(contents: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """[T, H, W, 3], a view of [3, T, H, W]: decoders and training both have colours in planes."""
    video = np.empty((3, len(contents), *size), np.uint8)
    for t, content in enumerate(contents):
        picture = decoder(content)
        for colour, plane in zip((1, 2, 0), picture.planes, strict=True):
            video[colour, t] = rows(plane, picture.width)
    return video.transpose(1, 2, 3, 0)
