"""Pictures and videos on disk, with PyAV. Every file appears whole or not at all.

Legend: N videos, T frames, H x W pixels; all uint8, [..., H, W, 3].
"""

import math
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

H264 = {"crf": "16", "preset": "veryfast"}  # half the time of "medium", a tenth more bytes
SECONDS = 2.0  # short clips are looped to that length, so that a player has something to show


def png(path: Path, picture: np.ndarray) -> None:
    """[H, W, 3]."""
    _encode(path, [picture], "png", "image2pipe", "rgb24", 1, {})


def mp4(path: Path, frames: np.ndarray, fps: float = 8) -> None:
    """[T, H, W, 3] as H.264; an odd side gets one more line or column, as the format wants even ones."""
    frames = np.concatenate([frames] * max(1, math.ceil(SECONDS * fps / len(frames))))
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    _encode(path, frames, "libx264", "mp4", "yuv420p", fps, H264, {"movflags": "faststart"})


def gif(path: Path, frames: np.ndarray, fps: float = 8) -> None:
    """[T, H, W, 3], 216 fixed colours, looping for ever."""
    _encode(path, frames, "gif", "gif", "rgb8", fps, {}, {"loop": "0"})


def _encode(path, frames, codec, container, pixels, fps, options, container_options=None) -> None:
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with av.open(str(partial), "w", format=container, options=container_options or {}) as file:
        stream = file.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            file.mux(stream.encode(picture.reformat(format=pixels)))
        file.mux(stream.encode(None))
    os.replace(partial, path)


def grid(videos: np.ndarray, columns: int, margin: int = 1) -> np.ndarray:
    """[N, T, H, W, 3] -> [T, rows * (H + margin), columns * (W + margin), 3], black where there is no video."""
    count, num_frames, height, width, _ = videos.shape
    rows = -(-count // columns)
    canvas = np.zeros((num_frames, rows * (height + margin), columns * (width + margin), 3), np.uint8)
    for i, video in enumerate(videos):
        y, x = i // columns * (height + margin), i % columns * (width + margin)
        canvas[:, y : y + height, x : x + width] = video
    return canvas


def strip(videos: np.ndarray, margin: int = 1) -> np.ndarray:
    """[N, T, H, W, 3] -> a picture with a row for each video and its frames side by side."""
    count, num_frames = videos.shape[:2]
    return grid(videos.reshape(count * num_frames, 1, *videos.shape[2:]), num_frames, margin)[0]


def enlarge(pictures: np.ndarray, factor: int) -> np.ndarray:
    """[..., H, W, 3], every pixel `factor` times in both directions."""
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)
