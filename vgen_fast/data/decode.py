"""The frames of a video by their place in time, or the reason why not. In this process; strangers' files: `pool.py`.

FFmpeg gives what it can of a broken file and says nothing. Here a film's table of times is read first, from its
packets; frames are then named by their index in it, and a request is met with exactly those frames or not at all.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from . import clips, containers

FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi", "matroska,webm", "mpegts")
CODECS = (
    *("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3"),
    *("vp8", "vp9", "av1", "mjpeg", "ffv1"),
)
REASONS = {  # why a file or a part of it is not used
    "not a file": "a folder, link, pipe, socket or device, or nothing at all",
    "not allowed": "this user may not read it",
    "format": "no MP4, MOV, AVI, Matroska, WebM or MPEG-TS, or one that cannot be read",
    "no video": "no stream of moving pictures",
    "codec": "coded by a codec that is unknown or not on the list",
    "too large": "more pixels than the limits allow",
    "too long": "more frames, streams or hours than the limits allow",
    "truncated": "ends before it says that it does",
    "too small": "smaller than the picture that is to be cut from it",
    "too short": "fewer frames than a clip takes",
    "damaged": "cannot be decoded as a whole",
    "times": "the times of its frames are missing, repeated, or run backwards",
    "turned": "shown at an angle that is not a multiple of 90 degrees",
    "changes size": "frames of several sizes",
    "unforeseen": "an error in reading that is ours to mend",
    "still": "nothing moves in it",
    "no shots": "not one shot of the wanted length",
    "no mask": "no film beside it that shows where to look",
    "no faces": "not one face for the wanted number of frames",
    "unsteady": "the movement of the camera cannot be found",
    "reviewed": "thrown out by a person",
    "slow": "not read within the seconds it may take",
    "kills": "ended the process that read it, twice",
}


PICTURES = {b"\xff\xd8\xff": "mjpeg", b"\x89PNG\r\n\x1a\n": "png"}  # codec by the first bytes
DISPLAY_MATRIX = av.sidedata.sidedata.Type.DISPLAYMATRIX
TRIED_KEYS = 3


class Rejected(ValueError):
    """A file that is not used; `reason` is one of REASONS."""

    def __init__(self, reason: str, text: str):
        super().__init__(f"{reason}: {text}")
        self.reason, self.text = reason, text


class TooMuchBadData(RuntimeError):
    """More files are bad than a data set may have."""


@dataclass(frozen=True)
class Limits:
    pixels: int = 4096**2  # of one frame
    frames: int = 8096  # of one request
    all_pixels: int = 10**9  # of one request
    seconds: int = 4 * 3600  # of a film
    packets: int = 4 * 3600 * 120
    streams: int = 64


LIMITS = Limits()


@dataclass(frozen=True)
class Film:
    """A video's frames in the order of their times."""

    codec: str
    height: int  # when upright, in pixels
    width: int
    aspect: Fraction  # width of a pixel over its height, when upright
    matrix: tuple[int, int, int, int]  # (x, y) is shown at (a x + c y, b x + d y)
    time_base: Fraction  # seconds
    times: np.ndarray  # int64 [N], in units of time_base
    end: int  # when the last frame leaves the screen
    keys: np.ndarray  # indices of the frames at which decoding can start
    counted: bool  # frames have no times of their own: decoded from the start, and counted

    def __len__(self) -> int:
        return len(self.times)

    @property
    def seconds(self) -> float:
        return float((self.end - int(self.times[0])) * self.time_base)

    @property
    def fps(self) -> float:
        return len(self.times) / self.seconds

    def at(self, fps: Fraction | int) -> np.ndarray:
        """Indices of the frames nearest to k / fps, k = 0, 1, ... to the end."""
        return clips.resample(self.times, self.time_base, self.end, fps)


@contextmanager
def opened(path: Path | str | bytes) -> Iterator[int]:
    """A descriptor of a regular file, and of nothing else; never waits for one."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise Rejected("not allowed", error.strerror) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise Rejected("not a file", getattr(error, "strerror", None) or str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise Rejected("not a file", "a folder, pipe, socket or device")
        yield file
    finally:
        os.close(file)


@contextmanager
def streaming(file: int, limits: Limits) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    os.lseek(file, 0, os.SEEK_SET)
    options = {"fd": str(file), "protocol_whitelist": "fd", "format_whitelist": ",".join(FORMATS)}
    try:
        container = av.open("fd:", options=options)
    except av.FFmpegError as error:
        raise Rejected("format", error.strerror) from error
    with container:
        try:
            yield container, moving_pictures(container, limits)
        except av.FFmpegError as error:
            raise Rejected("damaged", error.strerror) from error


def moving_pictures(container: av.container.InputContainer, limits: Limits) -> av.VideoStream:
    """The first stream of video that is no cover picture."""
    if len(container.streams) > limits.streams:
        raise Rejected("too long", f"{len(container.streams)} streams; at most {limits.streams}")
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise Rejected("no video", f"{len(container.streams)} streams, none of moving pictures")
    stream = streams[0]
    codec = stream.codec_context
    name = codec.codec.canonical_name if codec else "an unknown codec"
    if name not in CODECS:
        raise Rejected("codec", f"{name} is not one of {' '.join(CODECS)}")
    if codec.height * codec.width > limits.pixels:
        raise Rejected("too large", f"frames of {codec.height}x{codec.width} pixels; at most {limits.pixels}")
    codec.options = {"max_pixels": str(limits.pixels)}  # frames may still grow
    codec.thread_count = 1
    return stream


def probe(file: int, limits: Limits = LIMITS) -> Film:
    """Reads the packets of an open file; decodes none."""
    missing = containers.missing_bytes(file)
    if missing > 0:
        raise Rejected("truncated", f"{missing} bytes are missing at its end")
    with streaming(file, limits) as (container, stream):
        packets, is_avi = [], container.format.name == "avi"
        for packet in container.demux(stream):
            if packet.size:
                packets.append(packet_times(packet))
            if len(packets) > limits.packets:
                raise Rejected("too long", f"more than {limits.packets} frames")
        declared, declared_end, time_base = stream.frames, stream.duration or 0, stream.time_base
    shown = [packet for packet in packets if packet.shown]
    if not shown:
        raise Rejected("truncated" if declared else "no video", f"0 of {declared} frames")
    # AVI has no times, only a rate: those of frames that are stored in another order are made up.
    counted = is_avi and any(packet.pts != packet.dts for packet in shown)
    times, end, keys = table(shown, counted)
    # AVI counts pictures that are no more than "as before"; they are not among the packets.
    if (end < declared_end) if is_avi else (len(packets) < declared):
        raise Rejected("truncated", f"{len(packets)} of {declared} frames")
    film = Film(*first_picture(file, limits), time_base, times, end, keys, counted)
    if film.seconds > limits.seconds:
        raise Rejected("too long", f"{film.seconds:.0f} seconds; at most {limits.seconds}")
    return film


def first_picture(file: int, limits: Limits) -> tuple[str, int, int, Fraction, tuple[int, int, int, int]]:
    """What Film tells of its pictures."""
    with streaming(file, limits) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise Rejected("damaged", "not one frame can be decoded")
        matrix = display_matrix(frame)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        codec = stream.codec_context.codec.canonical_name
    if matrix[0] == 0:
        return codec, frame.width, frame.height, 1 / aspect, matrix
    return codec, frame.height, frame.width, aspect, matrix


class Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    key: bool
    shown: bool  # not before the start that an edit list sets


def packet_times(packet: av.Packet) -> Packet:
    return Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, not packet.is_discard)


def table(packets: list[Packet], counted: bool) -> tuple[np.ndarray, int, np.ndarray]:
    """Times, end and key frames."""
    given = [packet.dts if counted else packet.pts for packet in packets]
    if None in given:
        raise Rejected("times", "some frames have none")
    if max(map(abs, given)) >= 1 << 53:
        raise Rejected("times", "beyond 2^53")
    order = sorted(range(len(packets)), key=given.__getitem__)
    times = np.array(given, dtype=np.int64)[order]
    if (np.diff(times) <= 0).any():
        raise Rejected("times", "several frames have the same")
    last = packets[order[-1]].duration or (int(np.median(np.diff(times))) if len(times) > 1 else 1)
    keys = np.zeros(1, dtype=np.int64) if counted else np.flatnonzero([packets[i].key for i in order])
    return times, int(times[-1]) + last, keys


def read(
    file: int,
    film: Film,
    indices: np.ndarray,
    limits: Limits = LIMITS,
    out: np.ndarray | None = None,
    fit: Callable[[np.ndarray, Fraction], np.ndarray] = lambda frame, aspect: frame,
) -> np.ndarray:
    """uint8 [N, H, W, 3]: the frames of these indices, in any order and as often as they are named.

    `out` is filled where it is given: fresh memory of this size costs more than decoding. Frames are made to `fit` it.
    """
    places: dict[int, list[int]] = {}
    for place, index in enumerate(np.asarray(indices).tolist()):
        places.setdefault(index, []).append(place)
    out = np.empty((len(indices), film.height, film.width, 3), np.uint8) if out is None else out
    wanted = sorted(places)
    for index, frame in zip(wanted, frames(file, film, wanted, limits), strict=True):
        fitted = fit(frame, film.aspect)
        for place in places[index]:
            out[place] = fitted
    return out


def frames(file: int, film: Film, wanted: list[int], limits: Limits = LIMITS) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] for each index of `wanted`, which must rise; upright, with pixels as wide as they are stored."""
    if len(wanted) > limits.frames:
        raise Rejected("too long", f"{len(wanted)} frames at once; at most {limits.frames}")
    if len(wanted) * film.height * film.width > limits.all_pixels:
        raise Rejected("too large", f"{len(wanted)} frames of {film.height}x{film.width} pixels at once")
    reformatter = av.video.reformatter.VideoReformatter()
    missing = iter(wanted)
    index = next(missing, None)
    if index is None:
        return
    for at, frame in numbered(file, film, index, limits):
        if at == index:
            yield upright(pixels(reformatter.reformat(frame, format="rgb24", threads=1)), film.matrix)
            index = next(missing, None)
            if index is None:
                return
    raise Rejected("truncated", f"frame {index} of {len(film)} is missing")


def pixels(frame: av.VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3] of a frame of rgb24, in the frame's own memory."""
    (plane,) = frame.planes
    return rows(plane, 3 * frame.width).reshape(frame.height, frame.width, 3)


def rows(plane: av.video.plane.VideoPlane, length: int) -> np.ndarray:
    """uint8 [H, length] in the frame's own memory."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, :length]


def numbered(file: int, film: Film, first: int, limits: Limits) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames and their indices, from the last key frame at or before `first` on.

    A seek may land after its goal, as containers seek by the order of storage: then the key frame before is tried, and
    in the end the whole file is decoded. Every time on the way must be the next one of the table.
    """
    keys = film.keys[(film.keys > 0) & (film.keys <= first)][-TRIED_KEYS:]
    for key in [*keys[::-1].tolist(), 0]:
        with streaming(file, limits) as (container, stream):
            if key:
                container.seek(int(film.times[key]), stream=stream)
            index = None if key else -1
            for frame in container.decode(stream):
                if index is None:
                    if not frame.key_frame or frame.pts is None:
                        continue  # leans on frames before the key frame
                    index = int(np.searchsorted(film.times, frame.pts)) - 1
                    if index >= first:
                        index = None
                        break
                index += 1
                agree(film, index, frame)
                yield index, frame
            if index is not None and index >= first:
                return


def agree(film: Film, index: int, frame: av.VideoFrame) -> None:
    if frame.is_corrupt:
        raise Rejected("damaged", f"frame {index} of {len(film)} is decoded with errors")
    size = (frame.height, frame.width) if film.matrix[0] else (frame.width, frame.height)
    if size != (film.height, film.width):
        raise Rejected("changes size", f"from {film.height}x{film.width} to {size[0]}x{size[1]} at frame {index}")
    if index >= len(film):
        raise Rejected("damaged", f"more frames than the {len(film)} of its table")
    if not film.counted and frame.pts != film.times[index]:
        lost = frame.pts is not None and frame.pts > film.times[index]
        raise Rejected("damaged" if lost else "times", f"frame {index} of {len(film)} is not the next to be decoded")


def picture(content: bytes, limits: Limits = LIMITS) -> np.ndarray:
    """uint8 [H, W, 3] of a JPEG or PNG. The turn that a camera notes in a JPEG is left alone."""
    name = next((name for start, name in PICTURES.items() if content.startswith(start)), None)
    if name is None:
        raise Rejected("format", "neither a JPEG nor a PNG")
    coder = av.CodecContext.create(name, "r")
    coder.options = {"max_pixels": str(limits.pixels)}
    coder.thread_count = 1
    try:
        frames = [*coder.decode(av.Packet(content)), *coder.decode(None)]
        if len(frames) != 1 or frames[0].is_corrupt:
            raise Rejected("damaged", f"{len(frames)} pictures can be decoded")
        return frames[0].to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise Rejected("damaged", error.strerror) from error


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the film's matrix, if it turns by quarters and mirrors."""
    side = next((side for side in frame.side_data if side.type == DISPLAY_MATRIX), None)
    if side is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = (value / 65536 for value in np.frombuffer(bytes(side), dtype=np.int32))
    if {abs(a), abs(d)} | {abs(b), abs(c)} != {0, 1} or abs(a) != abs(d):
        raise Rejected("turned", f"by the matrix {a:.3g} {b:.3g} {c:.3g} {d:.3g}")
    return int(a), int(b), int(c), int(d)


def upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    a, b, c, d = matrix
    if a == 0:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[::d, ::a]
