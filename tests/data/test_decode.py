"""Real encoded films whose frames carry their numbers."""

import itertools
import os
import socket
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from vgen_fast.data import decode
from vgen_fast.data.decode import Limits, Rejected

from . import films
from .films import FILMS, Film, number


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Paths of all films by name, with two that start late by an edit list: path and first number."""
    folder = tmp_path_factory.mktemp("films")
    paths = {film.name: (film.write(folder), 0) for film in FILMS}
    for name in ("h264.mp4", "mpeg4.mp4"):
        paths[f"late_{name}"] = films.later_start(paths[name][0], folder / f"late_{name}", 7), 7
    return paths


NAMES = [film.name for film in FILMS] + ["late_h264.mp4", "late_mpeg4.mp4"]


def numbers(path, indices=None, limits=decode.LIMITS):
    with decode.opened(path) as file:
        film = decode.probe(file, limits)
        frames = decode.read(file, film, np.arange(len(film)) if indices is None else indices, limits)
    return [number(np.rot90(frame, -1) if film.height > film.width else frame) for frame in frames]


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_is_the_right_one(written, name):
    """All frames, and windows at random places and strides: more than 5,000 frames over all films."""
    path, first = written[name]
    count = 100 - first
    assert numbers(path) == list(range(first, 100))
    rng = np.random.default_rng(len(name))
    with decode.opened(path) as file:
        film = decode.probe(file)
        for _ in range(12):
            stride = int(rng.integers(1, 6))
            wanted = int(rng.integers(count - 15 * stride)) + stride * np.arange(16)
            frames = decode.read(file, film, wanted)
            found = [number(np.rot90(frame, -1) if name == "quarter.mp4" else frame) for frame in frames]
            assert found == (wanted + first).tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fps", [8, 16, 25])
def test_resampled_frames_are_the_nearest_in_time(written, name, fps):
    """Against a search over the times in floating point; the two may differ where two frames are equally near."""
    path, first = written[name]
    with decode.opened(path) as file:
        film = decode.probe(file)
        chosen = film.at(fps)
        times = (film.times - film.times[0]) * float(film.time_base)
        distance = np.abs(times - np.arange(len(chosen))[:, None] / fps)
        assert (distance[np.arange(len(chosen)), chosen] <= distance.min(1) + 1e-9).all()
        assert len(chosen) == pytest.approx(film.seconds * fps, abs=1)
        frames = decode.read(file, film, chosen[:16])
    found = [number(np.rot90(frame, -1) if name == "quarter.mp4" else frame) for frame in frames]
    assert found == (chosen[:16] + first).tolist()


def test_a_reader_that_counts_is_found_out(written, monkeypatch):
    """The planted bug: after a seek, frames are numbered from the key frame that was asked for, whatever its time."""
    path, _ = written["h264_short.mp4"]
    monkeypatch.setattr(decode, "agree", lambda film, index, frame: None)
    monkeypatch.setattr(decode.np, "searchsorted", lambda times, time: 50)
    with decode.opened(path) as file:
        film = decode.probe(file)
        assert [number(frame) for frame in decode.read(file, film, np.arange(60, 70))] != list(range(60, 70))


def test_times_of_a_film(written):
    with decode.opened(written["uneven.mkv"][0]) as file:
        film = decode.probe(file)
    assert [round(time * 1000) for time in film.times * film.time_base] == list(films.UNEVEN)
    with decode.opened(written["h264_fast.mov"][0]) as file:
        assert decode.probe(file).fps == pytest.approx(60)


TURNS = [  # (a, b, c, d) for which (x, y) is shown at (a x + c y, b x + d y)
    (a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)
] + [(0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)]


@pytest.mark.parametrize("matrix", TURNS)
def test_pictures_are_upright_under_all_eight_matrices(tmp_path, matrix):
    a, b, c, d = matrix
    one = 65536
    path = Film("t.mp4", "libx264", num_frames=3, matrix=(a * one, b * one, 0, c * one, d * one, 0, 0, 0, one << 14))
    with decode.opened(path.write(tmp_path)) as file:
        film = decode.probe(file)
        (frame,) = decode.read(file, film, [1])
    plain, shown = films.numbered(1), {}
    height, width, _ = plain.shape
    for y, x in itertools.product(range(height), range(width)):
        shown[b * x + d * y, a * x + c * y] = plain[y, x, 0]
    rows, columns = (sorted({place[axis] for place in shown}) for axis in (0, 1))
    wanted = np.array([[shown[row, column] for column in columns] for row in rows])
    assert frame.shape[:2] == wanted.shape == (film.height, film.width)
    assert np.abs(frame[:, :, 0].astype(int) - wanted).mean() < 4  # blurred by the codec


def test_another_angle_is_refused(tmp_path):
    path = Film("t.mp4", "libx264", num_frames=3, matrix=(52339, -39440, 0, 39440, 52339, 0, 0, 0, 1 << 30))
    with pytest.raises(Rejected, match=r"turned: by the matrix 0\.799 -0\.602 0\.602 0\.799"):
        numbers(path.write(tmp_path))


def test_wide_pixels_are_told_and_turned(tmp_path):
    wide = Film("wide.mp4", "libx264", num_frames=3, aspect=Fraction(4, 3))
    for film, aspect in ((wide, Fraction(4, 3)), (replace(wide, matrix=films.QUARTER), Fraction(3, 4))):
        with decode.opened(film.write(tmp_path)) as file:
            assert decode.probe(file).aspect == aspect


@pytest.mark.parametrize("name", ["xvid.avi", "h264.mp4", "mpeg4.mp4", "vp9.webm"])
def test_no_film_that_was_cut_off_is_taken_for_a_whole_one(tmp_path, name):
    """Every fifth prefix, at either of two bytes of the five. PyAV alone reads up to 66% of them in silence."""
    (film,) = (replace(film, num_frames=24) for film in FILMS if film.name == name)
    whole = film.write(tmp_path).read_bytes()
    part = tmp_path / "part"
    reasons = set()
    for length in range(0, len(whole), 5):
        part.write_bytes(whole[: length + length // 5 % 2])
        if length + length // 5 % 2 == len(whole):
            continue
        with pytest.raises(Rejected) as caught:
            numbers(part)
        reasons.add(caught.value.reason)
    assert reasons == {"truncated", "format"}


def test_a_film_cut_off_between_probing_and_reading_is_noticed(written, tmp_path):
    whole = written["h264.mp4"][0].read_bytes()
    path = tmp_path / "film.mp4"
    path.write_bytes(whole)
    with decode.opened(path) as file:
        film = decode.probe(file)
        os.truncate(path, len(whole) // 3)
        with pytest.raises(Rejected):
            decode.read(file, film, [90])


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Limits(pixels=48 * 64 - 1), "too large: frames of 48x64 pixels; at most 3071"),
        (Limits(frames=99), "too long: 100 frames at once; at most 99"),
        (Limits(all_pixels=100 * 48 * 64 - 1), "too large: 100 frames of 48x64 pixels at once"),
        (Limits(seconds=3), "too long: 4 seconds; at most 3"),
        (Limits(packets=99), "too long: more than 99 frames"),
        (Limits(streams=0), "too long: 2 streams; at most 0"),
    ],
)
def test_limits(written, limits, text):
    with pytest.raises(Rejected, match=text):
        numbers(written["h264.mp4"][0], limits=limits)


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"")
    (tmp_path / "link").symlink_to("film.mp4")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
        for name in ("link", "loop", "pipe", "socket", ".", "absent", "null\0byte", "x" * 256):
            with pytest.raises(Rejected, match="not a file"), decode.opened(f"{tmp_path}/{name}"):
                pass
    with pytest.raises(Rejected, match="not a file"), decode.opened("/dev/zero"):
        pass
    with decode.opened(tmp_path / "film.mp4") as file:
        assert os.fstat(file).st_size == 0


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.mp4", b"a\nb.mp4", b"\x1b[2J.mp4", b"-i.mp4", "\u202egpj.mp4".encode(), b"x" * 255]
)
def test_any_name_will_do(written, tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.link(written["mpeg4.mp4"][0], path)
    assert numbers(path, [3]) == [3]


def test_no_frames_are_none(written):
    assert numbers(written["h264.mp4"][0], np.arange(0)) == []
