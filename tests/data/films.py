"""Encoded videos whose frames carry their number: a picture of 4x4 black and white fields is its 16 bits."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def numbered(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    bits = (index >> np.arange(16) & 1).reshape(4, 4)
    down, across = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return np.where(bits[down][:, across, None], np.uint8(235), np.uint8(16)).repeat(3, axis=2)


def number(frame: np.ndarray) -> int:
    """The number of a frame, whatever its size; only the middle of each field is looked at."""
    height, width, _ = frame.shape
    y, x = ((2 * np.arange(4) + 1) * n // 8 for n in (height, width))
    reach = max(1, min(height, width) // 24)
    means = [[frame[j - reach : j + reach, i - reach : i + reach].mean() for i in x] for j in y]
    return int(((np.array(means) > 128).ravel() << np.arange(16)).sum())


@dataclass(frozen=True)
class Film:
    """How to write one."""

    name: str
    codec: str
    fps: Fraction | int = 25
    num_frames: int = 100
    pixels: str = "yuv420p"
    height: int = 48
    width: int = 64
    options: dict = field(default_factory=dict)
    container: dict = field(default_factory=dict)
    milliseconds: tuple[int, ...] | None = None  # the time of each frame, where they are not evenly apart
    matrix: tuple[int, ...] | None = None
    aspect: Fraction | None = None
    sound: bool = False

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        with av.open(str(path), "w", options=self.container) as file:
            stream = file.add_stream(self.codec, rate=Fraction(self.fps), options=self.options)
            stream.height, stream.width, stream.pix_fmt = self.height, self.width, self.pixels
            stream.codec_context.thread_count = 1
            if self.matrix:
                stream.set_display_matrix(self.matrix)
            if self.aspect:
                stream.codec_context.sample_aspect_ratio = self.aspect
            if self.milliseconds:
                stream.codec_context.time_base = Fraction(1, 1000)
            if self.sound:
                silence = file.add_stream("mp3" if path.suffix == ".avi" else "aac", rate=44100)
            for i in range(self.num_frames):
                frame = av.VideoFrame.from_ndarray(numbered(i, self.height, self.width), format="rgb24")
                frame = frame.reformat(format=self.pixels)
                if self.milliseconds:
                    frame.pts, frame.time_base = self.milliseconds[i], Fraction(1, 1000)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
            if self.sound:
                for i in range(round(44100 * (self.num_frames / self.fps + 1) / 1152)):  # one second longer
                    frame = av.AudioFrame.from_ndarray(np.zeros((2, 1152), np.float32), "fltp", "stereo")
                    frame.sample_rate, frame.pts, frame.time_base = 44100, i * 1152, Fraction(1, 44100)
                    file.mux(silence.encode(frame))
                file.mux(silence.encode(None))
        return path


def later_start(path: Path, to: Path, first: int) -> Path:
    """A copy whose edit list skips the first frames, as cutting without decoding makes it."""
    with av.open(str(path)) as source, av.open(str(to), "w", options={"avoid_negative_ts": "disabled"}) as file:
        stream = source.streams.video[0]
        copy = file.add_stream_from_template(stream)
        skipped = int(Fraction(first) / stream.average_rate / stream.time_base)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - skipped, packet.dts - skipped, copy
                file.mux(packet)
    return to


UNEVEN = tuple(int(1000 * t) for t in np.cumsum(np.resize([0.04, 0.02, 0.1, 0.033, 0.5, 0.04, 0.017], 100)))
QUARTER = (0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30)
FILMS = (
    Film("xvid.avi", "mpeg4", options={"g": "12"}),
    Film("xvid_29.avi", "mpeg4", Fraction(30000, 1001), options={"g": "12"}, sound=True),
    Film("mpeg4_b.avi", "mpeg4", options={"g": "12", "bf": "2"}),
    Film("h264_b.avi", "libx264", options={"g": "25", "bf": "2"}),
    Film("msmpeg4.avi", "msmpeg4"),
    Film("mjpeg.avi", "mjpeg", pixels="yuvj420p"),
    Film("h264.mp4", "libx264", options={"g": "250", "bf": "3"}, sound=True),
    Film("h264_short.mp4", "libx264", options={"g": "3", "bf": "2"}),
    Film("h264_open.mp4", "libx264", options={"g": "10", "x264-params": "open-gop=1:bframes=3"}),
    Film("h264_one.mp4", "libx264", options={"g": "1"}),
    Film("h264_fragments.mp4", "libx264", options={"g": "20"}, container={"movflags": "frag_keyframe+empty_moov"}),
    Film("h264_fast.mov", "libx264", 60, container={"movflags": "faststart"}),
    Film("mpeg4.mp4", "mpeg4", 15),
    Film("hevc.mp4", "libx265", 24, options={"x265-params": "log-level=none:keyint=30:pools=1:frame-threads=1"}),
    Film("ten_bits.mp4", "libx264", Fraction(24000, 1001), pixels="yuv420p10le"),
    Film("odd.mp4", "libx264", pixels="yuv444p", height=49, width=65),
    Film("wide.mp4", "libx264", aspect=Fraction(4, 3)),
    Film("uneven.mp4", "libx264", milliseconds=UNEVEN),
    Film("uneven.mkv", "libx264", milliseconds=UNEVEN, options={"g": "20"}),
    Film("quarter.mp4", "libx264", matrix=QUARTER, options={"g": "20"}),
    Film("vp8.webm", "libvpx", options={"g": "30"}),
    Film("vp9.webm", "libvpx-vp9", 30, options={"g": "40", "row-mt": "0"}),
    Film("ffv1.mkv", "ffv1"),
    Film("av1.mp4", "libsvtav1", options={"g": "50", "svtav1-params": "lp=1"}),
    Film("mpeg2.ts", "mpeg2video", options={"g": "15", "bf": "2"}),
    Film("h264.ts", "libx264", options={"g": "30"}),
)
