"""Files as the world has them: each is read, or gets its own reason, by a reader that stays as it was."""

import os
import random
import struct
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vgen_fast.data import decode
from vgen_fast.data.decode import Limits, Rejected
from vgen_fast.data.pool import Pool

from . import films
from .films import Film, number, numbered
from .layouts import jpeg

GOOD = None
MP4 = Film("f.mp4", "libx264", num_frames=24, options={"bf": "2"})
AVI = Film("f.avi", "mpeg4", num_frames=24)
MKV = Film("f.mkv", "libx264", num_frames=24)
TS = Film("f.ts", "mpeg2video", num_frames=24)
CASES = {}


def case(name, reason):
    """A function (folder) -> bytes of the file, or its path."""

    def keep(make):
        CASES[name] = make, reason
        return make

    return keep


def of(film, change=lambda content: content):
    return lambda folder: change(bytearray(film.write(folder).read_bytes()))


def patched(film, where, offset, *values, kind="<I"):
    """Numbers written after the first place of a tag."""

    def change(content):
        at = content.index(where) + len(where) + offset
        for i, value in enumerate(values):
            struct.pack_into(kind, content, at + i * struct.calcsize(kind), value)
        return content

    return of(film, change)


def boxes(content):
    """(type, first byte, length) of the outermost boxes."""
    at, found = 0, []
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        found.append((bytes(content[at + 4 : at + 8]), at, length))
        at += length
    return found


def without(tag):
    def change(content):
        (place,) = (slice(at, at + length) for name, at, length in boxes(content) if name == tag)
        del content[place]
        return content

    return change


for name, content in {
    "no bytes": b"",
    "one byte": b"\0",
    "text": b"This is no film.\n" * 50,
    "a page": b"<!DOCTYPE html><html><title>404 Not Found</title></html>" * 20,
    "a list of films": b"ffconcat version 1.0\nfile other.mp4\n",
    "a playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n",
    "a session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a large GIF": b"GIF89a\x80\x3e\x80\x3e\x80"
    + bytes(5)
    + b"\xff\xff\xff,"
    + bytes(4)
    + b"\x80\x3e\x80\x3e\0\2\2D\1\0;",
    "a sound": b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x08\0\0\0"
    + bytes(8),
    "noise": random.Random(0).randbytes(20_000),
    "zeros": bytes(20_000),
    "only a header": b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2",
}.items():
    case(name, "format")(lambda folder, content=content: content)

for name, film in {
    "mp4": MP4,
    "avi": AVI,
    "mkv": MKV,
    "mov": replace(MP4, name="f.mov"),
    "webm": Film("f.webm", "libvpx"),
}.items():
    case(f"half of {name}", "truncated")(of(film, lambda content: content[: len(content) // 2]))
    case(f"all but a byte of {name}", "truncated")(of(film, lambda content: content[:-1]))

case("half a packet of ts", "truncated")(of(TS, lambda content: content[:-100]))
case("no moov", "format")(of(MP4, without(b"moov")))
case("moov alone", "truncated")(of(MP4, without(b"mdat")))
case("a box beyond the end", "truncated")(of(MP4, lambda content: content + b"\0\0\xff\xffmdatxx"))
case("a box of 2^62 bytes", "truncated")(of(MP4, lambda content: content + b"\0\0\0\1mdat\x40" + bytes(7)))
case("header of 10^9 frames", "truncated")(patched(AVI, b"vids", 28, 10**9))
case("an unknown codec", "codec")(of(AVI, lambda content: content.replace(b"FMP4", b"ZZZZ")))
case("Sorenson's codec", "codec")(of(Film("f.avi", "flv", num_frames=5)))
case("raw pictures", "codec")(of(Film("f.avi", "rawvideo", num_frames=5)))
case("Huffman's codec", "codec")(of(Film("f.avi", "huffyuv", num_frames=5, pixels="yuv422p")))
case("another container", "format")(of(Film("f.flv", "flv", num_frames=5)))
case("an animation", "format")(of(Film("f.gif", "gif", num_frames=5, pixels="rgb8")))
case("one frame", GOOD)(of(replace(MP4, num_frames=1)))
case("one pixel", GOOD)(of(Film("f.mkv", "ffv1", num_frames=5, height=1, width=1, pixels="gray")))
case("one column", GOOD)(of(Film("f.avi", "mjpeg", num_frames=5, height=49, width=1, pixels="yuvj444p")))
case("odd sides", GOOD)(of(Film("f.mp4", "libx264", num_frames=5, height=49, width=65, pixels="yuv444p")))
case("ten bits", GOOD)(of(replace(MP4, pixels="yuv420p10le")))
case("gray", GOOD)(of(Film("f.mkv", "ffv1", num_frames=5, pixels="gray")))
case("alpha", GOOD)(of(Film("f.webm", "libvpx-vp9", num_frames=5, pixels="yuva420p", options={"row-mt": "0"})))
case("interlaced", GOOD)(of(Film("f.ts", "mpeg2video", num_frames=24, options={"flags": "+ildct+ilme"})))
case("wide pixels", GOOD)(of(replace(MP4, aspect=Fraction(64, 45))))
case("a mirror", GOOD)(of(replace(MP4, matrix=(-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))))
case("37 degrees", "turned")(of(replace(MP4, matrix=(52339, -39440, 0, 39440, 52339, 0, 0, 0, 1 << 30))))
case("uneven times", GOOD)(of(replace(MP4, milliseconds=films.UNEVEN[:24])))
case("stored out of order, no times", GOOD)(of(replace(AVI, options={"bf": "2"})))
case("a million frames a second", GOOD)(patched(AVI, b"vids", 16, 1, 10**6))
case("a frame in a thousand seconds", "too long")(patched(AVI, b"vids", 16, 1000, 1))
case("16,000 x 16,000 by its header", "too large")(
    patched(Film("f.avi", "msmpeg4", num_frames=5), b"strf", 8, 16_000, 16_000)
)


@case("a JPEG", "format")
def _(folder):
    jpeg(folder / "f.jpg", numbered(5))
    return (folder / "f.jpg").read_bytes()


@case("an archive", "format")
def _(folder):
    with zipfile.ZipFile(folder / "f.zip", "w") as file:
        file.writestr("f.txt", "text" * 100)
    return (folder / "f.zip").read_bytes()


def muxed(folder, name, write, codec="mjpeg", options=None):
    """What `write(file, stream, packets)` does with 10 packets of a codec without references."""
    source = Film("source.avi", codec, num_frames=10, pixels="yuvj420p").write(folder)
    with av.open(str(source)) as film, av.open(str(folder / name), "w", options=options or {}) as file:
        stream = film.streams.video[0]
        packets = [packet for packet in film.demux(stream) if packet.size]
        write(file, lambda: file.add_stream_from_template(stream), packets)
    return (folder / name).read_bytes()


def timed(*times):
    def write(file, add, packets):
        stream = add()
        for packet, (pts, dts) in zip(packets, times, strict=False):
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, pts, dts, Fraction(1, 1000)
            file.mux_one(packet)

    return lambda folder: muxed(folder, "f.mkv", write)


case("equal times", "times")(timed(*[(40 * (i // 2), 40 * (i // 2)) for i in range(10)]))
case("times that run backwards", "damaged")(timed(*[(40 * (9 - i), 40 * (i - 20)) for i in range(10)]))
case("a late start", GOOD)(timed(*[(10**7 + 40 * i, 10**7 + 40 * i) for i in range(10)]))
case("an hour between two frames", GOOD)(timed(*[(3_600_000 * (i // 5) + 40 * i,) * 2 for i in range(10)]))
case("five hours between two frames", "too long")(timed(*[(18_000_000 * (i // 5) + 40 * i,) * 2 for i in range(10)]))


@case("two films in one", GOOD)
def _(folder):
    def write(file, add, packets):
        streams = [add(), add()]
        for packet in packets:
            for stream in streams:
                packet.stream = stream
                file.mux_one(packet)

    return muxed(folder, "f.mkv", write)


@case("seventy streams", "too long")
def _(folder):
    def write(file, add, packets):
        streams = [add() for _ in range(70)]
        for stream in streams:
            packets[0].stream = stream
            file.mux_one(packets[0])

    return muxed(folder, "f.mkv", write)


@case("no frames", "no video")
def _(folder):
    return muxed(folder, "f.mp4", lambda file, add, packets: (add(), file.start_encoding()))


@case("a cover picture alone", "no video")
def _(folder):
    def write(file, add, packets):
        stream = add()
        stream.disposition = av.stream.Disposition.attached_pic
        packets[0].stream = stream
        file.mux_one(packets[0])

    return muxed(folder, "f.mp4", write)


@case("sound alone", "no video")
def _(folder):
    with av.open(str(folder / "f.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), "fltp", "stereo")
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return (folder / "f.mp4").read_bytes()


@case("a later part of another size", "changes size")
def _(folder):
    first = TS.write(folder).read_bytes()
    return first + replace(TS, height=32, width=32, container={"output_ts_offset": "10"}).write(folder).read_bytes()


@case("a skipped start", GOOD)
def _(folder):
    return films.later_start(MP4.write(folder), folder / "late.mp4", 5).read_bytes()


@case("encrypted", "damaged")
def _(folder):
    secret = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    return replace(MP4, container=secret).write(folder).read_bytes()


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """One process, which has begun before the first file is timed; one that waits over a file would be replaced."""
    with Pool(seconds=4) as pool:
        pool.probe(MP4.write(tmp_path_factory.mktemp("good")))
        yield pool
        assert pool.replaced == 0
        (one,) = pool.readers
        with open(f"/proc/{one.process.pid}/status") as status:
            (peak,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert peak < 300_000  # kB


def processor_seconds(process: int) -> float:
    """What it has used, however busy the machine is; a file over which it only waits is rejected as slow."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", CASES)
def test_each_gets_its_reason(readers, tmp_path, name):
    make, reason = CASES[name]
    path = tmp_path / "strange.mp4"
    path.write_bytes(make(tmp_path))
    (one,) = readers.readers
    began = processor_seconds(one.process.pid)
    try:
        film = readers.probe(path)
        frames = readers.read(path, film, np.arange(len(film)))
        assert len(frames) == len(film) > 0
        found = GOOD
    except Rejected as error:
        found = error.reason
    assert found == reason
    assert processor_seconds(one.process.pid) - began < 1
    assert len(CASES) >= 60


def test_good_neighbours_are_the_same_after_all_that(readers, tmp_path):
    path = MP4.write(tmp_path)
    film = readers.probe(path)
    assert [number(frame) for frame in readers.read(path, film, np.arange(24))] == list(range(24))


def test_a_film_that_grows_beyond_the_limit_is_refused(tmp_path):
    """The first part is small; the limit holds for what follows: the decoder is told it, not only the container."""
    first = replace(TS, codec="libx264")
    small = first.write(tmp_path).read_bytes()
    large = replace(first, height=512, width=512, container={"output_ts_offset": "10"}).write(tmp_path).read_bytes()
    (tmp_path / "grows.ts").write_bytes(small + large)
    limits = Limits(pixels=256 * 256)
    with decode.opened(tmp_path / "grows.ts") as file:
        table = decode.probe(file, limits)
        with pytest.raises(Rejected, match=r"damaged|changes size|truncated"):
            decode.read(file, table, np.arange(len(table)), limits)
