"""Small data sets in the layouts in which the real ones are published."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from vgen_fast.data.cache import to_jpegs
from vgen_fast.data.tfrecord import crc32c

from .films import Film, numbered

XVID = Film("f.avi", "mpeg4", options={"g": "12"}, num_frames=40, height=60, width=80)


def film(path: Path, **changes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(XVID, name=path.name, **changes).write(path.parent)


def jpeg(path: Path, picture: np.ndarray) -> None:
    path.write_bytes(next(to_jpegs(picture[None], quality=2)))


def ucf101(root: Path) -> Path:
    """Three classes, of which one has the odd capital; lists of split 1, one of them with CRLF."""
    classes = {"ApplyEyeMakeup": "ApplyEyeMakeup", "Billiards": "Billiards", "HandstandPushups": "HandStandPushups"}
    names = {part: [] for part in ("train", "test")}
    for label, (folder, spelled) in enumerate(classes.items(), 1):
        for group in (1, 8, 25):
            name = f"{folder}/v_{spelled}_g{group:02}_c01.avi"
            film(root / "UCF-101" / name, num_frames=29 if group == 25 else 40)
            part = "test" if group == 1 else "train"
            names[part].append(f"{name} {label}" if part == "train" else name)
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(classes, 1)))
    (lists / "trainlist01.txt").write_bytes("".join(f"{name}\r\n" for name in names["train"]).encode())
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in names["test"]))
    return root


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: dict[str, bytes | np.ndarray]) -> bytes:
    entries = b""
    for key, value in features.items():
        kind = 1 if isinstance(value, bytes) else 2 if value.dtype == np.float32 else 3
        packed = value if kind == 1 else value.tobytes() if kind == 2 else b"".join(map(varint, value.tolist()))
        entries += field(1, field(1, key.encode()) + field(2, field(kind, field(1, packed))))
    return field(1, entries)


def record(content: bytes) -> bytes:
    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def push(number: int) -> np.ndarray:
    """uint8 [30, 64, 64, 3]: the frames of record `number` carry 100 * number + their own number."""
    return np.stack([numbered(100 * number + i, 64, 64) for i in range(30)])


def bair(root: Path) -> Path:
    for part, files in {"train": ((0, 255, 3), (256, 511, 2)), "test": ((0, 255, 2),)}.items():
        for first, last, count in files:
            path = root / "softmotion30_44k" / part / f"traj_{first}_to_{last}.tfrecords"
            path.parent.mkdir(parents=True, exist_ok=True)
            records = []
            for n in range(count):
                frames, features = push(first // 256 * 10 + n), {}
                for i in range(30):
                    features[f"{i}/image_aux1/encoded"] = frames[i].tobytes()
                    features[f"{i}/image_main/encoded"] = (255 - frames[i]).tobytes()
                    features[f"{i}/action"] = np.arange(4, dtype=np.float32) + i
                records.append(record(example(features)))
            path.write_bytes(b"".join(records))
    return root


def sky(root: Path) -> Path:
    """Clips whose numbers sort wrongly as text, the last of them shorter."""
    for part, clips in {"train": ("1", "2", "10"), "test": ("1",)}.items():
        for clip in clips:
            folder = root / f"sky_{part}" / "NRP0fGXyvDU" / clip
            folder.mkdir(parents=True)
            for i in range(20 if clip == "10" else 40):
                jpeg(folder / f"NRP0fGXyvDU_frames_{95 + i:08}.jpg", numbered(i, 36, 64))
    return root


def golf(root: Path) -> Path:
    """Tall pictures of 16 to 34 frames."""
    paths = []
    for n, count in enumerate((34, 32, 16)):
        path = root / "frames-stable-many" / f"g{n}" / f"{n:04}.jpg"
        path.parent.mkdir(parents=True)
        jpeg(path, np.concatenate([numbered(i, 128, 128) for i in range(count)]))
        paths.append(str(path.relative_to(root)))
    (root / "golf.txt").write_text("\n".join([*paths, "frames-stable-many/g9/absent.jpg"]) + "\n")
    return root


def kinetics(root: Path) -> Path:
    rows = ["label,youtube_id,time_start,time_end,split,is_cc"]
    rows += ['"riding a bike, fast",---v8pgm1eQ,3,13,train,0', "air drumming,-0abcdefghi,100,110,train,0"]
    rows += ["air drumming,goneforever,1,11,train,0"]
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    film(root / "train" / "riding a bike, fast" / "---v8pgm1eQ_000003_000013.mp4", codec="libx264", options={})
    film(root / "train" / "air drumming" / "-0abcdefghi_000100_000110.mp4", codec="libx264", options={})
    return root


def landscape(root: Path) -> Path:
    """Two clips of a film and one of another, whose other one is listed and gone."""
    head, row = "video_id,file_name,resolution,fps,start,end", "{0},{0}_clip{1:03}.mp4,640x360,25,{2},{3}"
    rows = [row.format(film, n, 20 + 15 * n, 30 + 15 * n) for film in ("-aB_3", "x9") for n in range(2)]
    root.mkdir(parents=True, exist_ok=True)
    for name, part in {"info": rows, "train_info": rows[:2], "val_info": rows[2:]}.items():
        (root / f"{name}.csv").write_text("\n".join([head, *part]) + "\n")
    for name in ("-aB_3_clip000", "-aB_3_clip001", "x9_clip001"):
        film(root / "clips" / f"{name}.mp4", codec="libx264", options={}, num_frames=40)
    return root


def faceforensics(root: Path) -> Path:
    for name in ("000", "003", "071"):
        film(root / f"original_sequences/youtube/c23/videos/{name}.mp4", codec="libx264", options={})
    film(root / "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4", codec="libx264", options={})
    (root / "train.json").write_text(json.dumps([["003", "000"]]))
    (root / "val.json").write_text(json.dumps([["071", "999"]]))
    return root


def moving_mnist(root: Path) -> Path:
    videos = np.random.default_rng(0).integers(0, 256, (20, 7, 64, 64), dtype=np.uint8)
    np.save(root / "mnist_test_seq.npy", videos)
    return root
