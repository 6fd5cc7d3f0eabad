"""Builders that look into films: shots, faces, landscapes, and cameras made to stand still."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from scipy.optimize import minimize

from vgen_fast.data import write
from vgen_fast.data.__main__ import main
from vgen_fast.data.build import landscape
from vgen_fast.data.cache import Cache
from vgen_fast.data.resize import Fit

cv2 = pytest.importorskip("cv2", reason="the builders of shots, faces and still cameras need OpenCV")

from vgen_fast.data.build import faces, shots, stabilised  # noqa: E402
from vgen_fast.data.plugs import BadPlug  # noqa: E402

from . import trailers  # noqa: E402


def names(path):
    return Cache(path).column("id")


def reasons(path):
    """Of what was rejected, by name."""
    rows = [line.split(",", 2) for line in (path / "rejected.csv").read_text().splitlines()[1:]]
    return {name: reason for name, reason, _ in rows}


# -------------------------------------------------------------------------------------------------------------- shots


def test_every_cut_is_found_and_no_other():
    rng = np.random.default_rng(0)
    lengths = rng.integers(9, 30, 16).tolist()
    scenes = [trailers.scene(seed, length, speed=float(rng.uniform(0, 9))) for seed, length in enumerate(lengths)]
    small = shots.small_size(trailers.HEIGHT, trailers.WIDTH)
    assert small == (180, 320)
    edges = np.cumsum([0, *lengths]).tolist()
    found = shots.shots(frame for scene in scenes for frame in scene)
    assert found == list(pairwise(edges))


def test_a_shot_that_gets_darker_and_one_that_is_black_are_not_cut():
    frames = trailers.scene(1, 30)
    darker = (frames * np.linspace(1, 0.5, 30)[:, None, None, None]).astype(np.uint8)
    black = np.zeros_like(frames[:12])
    assert shots.shots([*darker, *black]) == [(0, 30), (30, 42)]


def test_what_matches_by_hand():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 100, (40, 2)).astype(np.float32)
    words = np.eye(128, dtype=np.float32)[:40] * 512
    a = shots.Points(places, words)
    b = shots.Points(places[::-1].copy(), words[::-1].copy())
    assert shots.matches(a, b).tolist() == [[i, 39 - i] for i in range(40)]
    assert shots.likeness(a, b) == 4.0  # 40 match, 10 must
    same = shots.Points(places, np.ones((40, 128), np.float32))  # the second nearest is as near
    assert len(shots.matches(same, same)) == 0
    assert shots.likeness(a, shots.Points(places[:0], words[:0])) == 0
    assert shots.likeness(shots.Points(places[:9], words[:9]), shots.Points(places[:0], words[:0])) == 1


# -------------------------------------------------------------------------------------------------------------- faces


def test_a_similarity_is_recovered_and_is_the_best_one():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(68, 2)) * 30
    for angle in rng.uniform(-np.pi, np.pi, 20):
        scale, shift = rng.uniform(0.1, 9), rng.normal(size=2) * 50
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        found = faces.similarity(points, points @ turn.T + shift)
        np.testing.assert_allclose(found, np.column_stack([turn, shift]), atol=1e-9)

    def error(matrix, target):
        return np.square(points @ matrix[:, :2].T + matrix[:, 2] - target).sum()

    mirrored = points * (-1, 1)  # the case in which the plain formula gives a mirror image
    for target in (points @ np.array([[0.3, 1.1], [-0.9, 0.2]]) + rng.normal(size=(68, 2)), mirrored):
        found = faces.similarity(points, target)
        assert np.linalg.det(found[:, :2]) > 0
        best = min(
            minimize(lambda v, t: error(np.array([[v[0], -v[1], v[2]], [v[1], v[0], v[3]]]), t), start, target).fun
            for start in ((1, 0, 0, 0), (0, 1, 0, 0), (-1, 0, 0, 0))
        )
        assert error(found, target) <= best * (1 + 1e-6)


def test_the_average_face_has_the_points_of_the_scheme():
    face = faces.average_face()
    assert face.shape == (68, 2)
    assert face.min() > 0
    assert face.max() < 1
    mirror = face * (-1, 1) + (1, 0)
    for left, right in ((0, 16), (17, 26), (36, 45), (48, 54), (31, 35)):  # jaw, brows, eyes, mouth, nostrils
        np.testing.assert_allclose(face[left], mirror[right], atol=1e-12)
    chin, nose, lip = face[8], face[30], face[57]
    assert face[:, 1].argmax() == 8
    assert nose[1] < lip[1] < chin[1]


def test_the_same_face_is_followed():
    boxes = np.array([[0, 0, 50, 50], [10, 200, 40, 40]], float)
    assert faces.follow(boxes, None).tolist() == [0, 0, 50, 50]
    assert faces.follow(boxes, np.array([12, 190, 40, 40])).tolist() == [10, 200, 40, 40]
    assert faces.follow(boxes, np.array([300, 300, 9, 9])) is None
    assert faces.follow(boxes[:0], None) is None


def test_runs_by_hand():
    found = [bool(int(digit)) for digit in "0111011110111"]
    assert faces.runs(found, 3) == [(1, 4), (5, 9), (10, 13)]
    assert faces.runs(found, 4) == [(5, 9)]
    assert faces.runs([], 1) == []


def test_a_face_in_a_large_picture_does_not_alias():
    frame = np.zeros((1200, 1200, 3), np.uint8)
    frame[:, ::2] = 255  # finer than the aligned picture can show
    points = faces.average_face() * 700 + 250
    small = faces.aligned(frame, points, 100)
    assert abs(small.astype(int) - 128).max() <= 3


@pytest.mark.slow
def test_a_trailer_becomes_faces(tmp_path, capsys):
    parts = [
        trailers.scene(1, 40),
        trailers.face_scene(2, 45, (7,)),
        trailers.face_scene(3, 20, (8,)),  # too short
        trailers.face_scene(4, 90, (9,), away=range(40, 44)),  # two runs, of 40 and 46 frames
        trailers.scene(5, 35),
        trailers.face_scene(6, 70, (10, 11)),  # another person from the middle on
    ]
    (tmp_path / "films").mkdir()
    write.mp4(tmp_path / "films/trailer.mp4", np.concatenate(parts), trailers.FPS)
    write.mp4(tmp_path / "films/nobody.mp4", trailers.scene(12, 50), trailers.FPS)
    out = tmp_path / "faces.vgc"
    command = ["build", str(out), "--root", str(tmp_path / "films"), "--builder", "trailers", "--size", "120", "120"]
    plugs = ["--detector", "tests.data.trailers:detect", "--landmarks", "tests.data.trailers:landmarks"]
    assert main([*command, *plugs, "--storage", "raw"]) == 0
    cache = Cache(out)
    assert names(out) == ["trailer.mp4#000040", "trailer.mp4#000105", "trailer.mp4#000149"]
    assert cache.frames.tolist() == [45, 40, 46]
    assert cache.column("start") == [pytest.approx(n / 24) for n in (40, 105, 149)]
    assert reasons(out) == {
        "trailer.mp4#000000": "no faces",
        "trailer.mp4#000195": "no faces",
        "trailer.mp4#000230": "no faces",
        "nobody.mp4#000000": "no faces",
    }
    goal = [(eye * faces.INSIDE + (1 - faces.INSIDE) / 2) * 120 for eye in trailers.EYES]
    for clip in range(3):
        for frame in cache.read(clip):
            middle = trailers.eyes(frame[36:72, 32:88]) + np.array((32, 36))  # there are all colours around the face
            assert np.hypot(*(middle - goal).T).max() < 1.5
    assert {name for mine in cache.column("scores") for name in mine} == {"face", "likeness"}


def test_haar_finds_no_face_where_there_is_none():
    assert faces.haar()(trailers.scene(3, 1)[0]).shape == (0, 4)


def test_a_backend_that_gives_something_else():
    assert faces.checked("a", [], None, 4).shape == (0, 4)
    assert faces.checked("a", [(1, 2, 3, 4)], None, 4).tolist() == [[1, 2, 3, 4]]
    for found in (np.zeros((67, 2)), np.full((68, 2), np.nan), np.zeros(136)):
        with pytest.raises(BadPlug, match=r"mine:points gave .* numbers, wanted 68x2, all of them finite"):
            faces.checked("mine:points", found, 68, 2)


def test_a_backend_that_is_not_there(tmp_path, capsys):
    command = ["build", str(tmp_path / "a.vgc"), "--root", str(tmp_path), "--builder", "trailers", "--size", "64", "64"]
    for name, text in (("yolo", "neither haar nor package.module:function"), ("no.such:thing", "cannot be imported")):
        assert main([*command, "--detector", name]) == 2
        assert text in capsys.readouterr().err
    assert main([*command[:-1], "96"]) == 2
    assert "square" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- landscape


def test_where_clips_start():
    assert landscape.starts(Fraction(49)) == []
    assert landscape.starts(Fraction(50)) == [20]
    assert landscape.starts(Fraction(110)) == [20, 35, 50, 65, 80]
    long = landscape.starts(Fraction(1040))
    assert len(long) == 20
    assert long[:3] == [20, Fraction(139, 2), 119]  # (1040 - 40) / 20 - 1/2 apart
    assert long[-1] + 10 <= 1020


def test_the_variance_is_numpys():
    frames = np.random.default_rng(0).integers(0, 256, (250, 12, 16, 3), dtype=np.uint8)
    found = landscape.Variance()
    for frame in frames:
        found.add(frame)
    assert found.score() == pytest.approx((frames / 255).var(0).mean(), rel=1e-12)
    bright = landscape.Variance()
    for _ in range(66_051):  # as many as there may be, of the largest squares
        bright.add(np.full(2, 255, np.uint8))
    assert bright.score() == 0


def test_the_difference_by_hand():
    frames = np.zeros((50, 10, 10, 3), np.uint8)
    frames[8:, 0] = 200  # a tenth of the pixels, once
    found = landscape.Difference(50)
    for frame in frames:
        found.add(frame)
    assert found.score() == pytest.approx(0.1)


def river(moving: list[tuple[int, int]], seconds: int, fps: int = 5) -> np.ndarray:
    """A picture that moves within these seconds and stands still otherwise, with a little noise."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.uniform(0, 255, (12, 16, 3)).astype(np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    frames, shift = [], 0
    for i in range(seconds * fps):
        shift += any(first <= i / fps < last for first, last in moving)
        noise = rng.integers(-2, 3, picture.shape)
        frames.append((np.roll(picture, shift, 1) + noise).clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def test_still_clips_are_dropped_and_moving_ones_kept(tmp_path, capsys):
    (tmp_path / "films").mkdir()
    write.mp4(tmp_path / "films/river.mp4", river([(35, 45), (65, 75)], 110), 5)
    write.mp4(tmp_path / "films/lake.mp4", river([(0, 110)], 75), 5)
    write.mp4(tmp_path / "films/short.mp4", river([(0, 110)], 40), 5)
    out = tmp_path / "rivers.vgc"
    command = ["build", str(out), "--root", str(tmp_path / "films"), "--builder", "landscape", "--fps", "5"]
    assert main([*command, "--size", "32", "32", "--bad", "0", "--storage", "raw"]) == 0
    assert names(out) == ["lake.mp4#000", "lake.mp4#001", "river.mp4#001", "river.mp4#003"]
    assert Cache(out).frames.tolist() == [50] * 4
    assert Cache(out).column("start") == [20, 35, 35, 65]
    still_ones = {f"river.mp4#{number:03}": "still" for number in (0, 2, 4)}
    assert reasons(out) == {**still_ones, "short.mp4": "too short"}


def anamorphic(path, frames):
    """A film whose pixels are twice as wide as high, of frames [T, H, W, 3] as they are shown, five a second."""
    half = frames[:, :, ::2] // 2 + frames[:, :, 1::2] // 2
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=5, options={"crf": "12", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *half.shape[1:3], "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for frame in half:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")))
        file.mux(stream.encode(None))


@pytest.mark.parametrize("builder", ["landscape", "stabilised"])
def test_a_circle_of_wide_pixels_stays_one(tmp_path, capsys, builder):
    """A magenta disc of 80 pixels, of 180 lines that become 64."""
    picture = trailers.world(3, fine=35)
    cv2.circle(picture, (450, 450), 40, (255, 0, 255), -1)
    count, around = (255, 20) if builder == "landscape" else (24, 60)
    shifts = [around * np.sin(i / 12) for i in range(count)]
    frames = np.stack([trailers.view(picture, 450 + shift, 450) for shift in shifts])
    (tmp_path / "films").mkdir()
    anamorphic(tmp_path / "films/wide.mp4", frames)
    out = tmp_path / "wide.vgc"
    command = ["build", str(out), "--root", str(tmp_path / "films"), "--builder", builder, "--size", "64", "64"]
    assert main([*command, "--storage", "raw"]) == 0
    sides = [trailers.spots(frame, (255, 0, 255), 90)[0][0, 2:4] for frame in Cache(out).read(0)[:10]]
    assert np.abs(np.array(sides) - 80 * 64 / 180).max() <= 3


# --------------------------------------------------------------------------------------------------- still cameras


def pan(num_frames: int, dx: float, dy: float) -> np.ndarray:
    picture = trailers.world(3, fine=35)
    return np.stack([trailers.view(picture, 450 + dx * i, 450 + dy * i) for i in range(num_frames)])


@pytest.mark.parametrize("kind", ["homography", "similarity"])
@pytest.mark.parametrize(("dx", "dy"), [(3.0, 0.0), (-2.3, 1.7), (0.4, -4.6)])
def test_a_pan_is_recovered(kind, dx, dy):
    frames, whole = pan(20, dx, dy), np.eye(3)
    points = [shots.points(frame, most=0) for frame in frames]
    corners = np.array([[0, 0, 1], [319, 0, 1], [0, 179, 1], [319, 179, 1]], float).T
    for i in range(1, 20):
        step = stabilised.motion(points[i], points[i - 1], kind)
        whole = stabilised.nearer(stabilised.motion(points[i], points[0], kind), whole @ step, (320, 180))
        moved = whole @ corners
        error = moved[:2] / moved[2] - corners[:2] - np.array([[dx * i], [dy * i]])
        assert np.hypot(*error).max() < 0.2


def test_the_camera_stands_still_afterwards():
    frames = pan(20, 2.5, -1.5)
    found = list(stabilised.stabilised(frames))
    assert len(found) == 20
    moved, still = abs(frames[-1].astype(int) - frames[0]).mean(), abs(found[-1].astype(int) - found[0]).mean()
    assert still < 0.05 * moved
    planted = list(stabilised.stabilised([*frames[:8], trailers.scene(9, 1)[0], *frames[8:]]))
    assert len(planted) == 9
    assert planted[-1] is None


def test_a_film_becomes_clips_of_at_most_34_frames(tmp_path, capsys):
    (tmp_path / "films").mkdir()
    frames = np.concatenate([pan(2 + 34 + 20, 1.5, 0.5), trailers.scene(9, 20, speed=2)])
    write.mp4(tmp_path / "films/walk.mp4", frames, 25)
    out = tmp_path / "walk.vgc"
    command = ["build", str(out), "--root", str(tmp_path / "films"), "--builder", "stabilised", "--size", "64", "64"]
    assert main([*command, "--storage", "raw"]) == 0
    cache = Cache(out)
    assert names(out) == ["walk.mp4#000", "walk.mp4#002"]
    assert cache.frames.tolist() == [34, 19]
    assert reasons(out) == {"walk.mp4#001": "unsteady"}  # the cut is in it
    clip = cache.read(0).astype(int)
    fit = Fit(shorter=64, crop=(64, 64))
    moved = abs(fit(frames[2 + 33]).astype(int) - fit(frames[2])).mean()
    assert abs(clip[-1] - clip[0]).mean() < 0.1 * moved
