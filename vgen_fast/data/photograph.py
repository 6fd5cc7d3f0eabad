"""A photograph as a person sees it: upright, as its camera noted, and in the colours of sRGB, as its profile says.

Both notes are read from the bytes: EXIF's orientation, and the ICC profile of a JPEG or PNG. Profiles are matrices with
a curve for each channel (ICC.1:2022, F.3), as those of cameras and screens are; another kind is refused by name.

Legend: H x W pixels.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from . import decode
from .decode import LIMITS, Limits, Rejected

MOST = 4 << 20  # bytes of a profile
# What sRGB's linear red, green and blue are in XYZ, adapted to the profiles' white (D50).
SRGB = np.array([
    [0.4360747, 0.3850649, 0.1430804],
    [0.2225045, 0.7168786, 0.0606169],
    [0.0139322, 0.0971045, 0.7141733],
])  # fmt: skip
TURNS = {  # EXIF's orientation: swap the axes, then turn them round
    1: (False, 1, 1), 2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1),
    5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1),
}  # fmt: skip


def photograph(content: bytes, limits: Limits = LIMITS) -> np.ndarray:
    """uint8 [H, W, 3] of a JPEG or PNG."""
    pixels = decode.picture(content, limits)
    orientation, profile = notes(content)
    swapped, down, across = TURNS.get(orientation, TURNS[1])
    pixels = (pixels.swapaxes(0, 1) if swapped else pixels)[::down, ::across]
    return np.ascontiguousarray(to_srgb(pixels, profile) if profile else pixels)


def notes(content: bytes) -> tuple[int, bytes]:
    """EXIF's orientation, 1 without one, and the profile, empty without one."""
    orientation, profile = 1, []
    try:
        for name, data in blocks(content):
            if name == "exif":
                orientation = orientation_of(data)
            elif name == "profile":
                profile.append(data)
    except (struct.error, IndexError, zlib.error) as error:
        raise Rejected("damaged", f"its notes end early: {error}") from error
    return orientation, b"".join(data for _, data in sorted(profile))


def blocks(content: bytes) -> Iterator[tuple[str, object]]:
    """("exif", TIFF bytes) and ("profile", (place, bytes)) before the pixels."""
    if content.startswith(b"\x89PNG"):
        place = 8
        while place < len(content):
            length, kind = struct.unpack_from(">I4s", content, place)
            data = content[place + 8 : place + 8 + length]
            if kind == b"eXIf":
                yield "exif", data
            elif kind == b"iCCP":
                packed = data.partition(b"\0")[2][1:]  # name, 0, method
                yield "profile", (0, zlib.decompressobj().decompress(packed, MOST))
            elif kind in (b"IDAT", b"IEND"):
                return
            place += 12 + length
        return
    place = 2
    while content[place] == 0xFF and content[place + 1] != 0xDA:  # up to the scan
        kind, length = struct.unpack_from(">xBH", content, place)
        data = content[place + 4 : place + 2 + length]
        if kind == 0xE1 and data.startswith(b"Exif\0\0"):
            yield "exif", data[6:]
        elif kind == 0xE2 and data.startswith(b"ICC_PROFILE\0"):
            yield "profile", (data[12], data[14:])
        place += 2 + length


def orientation_of(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    (first,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, first)
    for entry in range(count):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, first + 2 + 12 * entry)
        if (tag, kind) == (0x112, 3):
            return value
    return 1


def to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    try:
        matrix, curves = matrix_profile(profile)
    except (struct.error, IndexError) as error:
        raise Rejected("damaged", f"its colour profile ends early: {error}") from error
    linear = [curve[pixels[..., i]] for i, curve in enumerate(curves)]
    red, green, blue = (sum(row[i] * linear[i] for i in range(3)) for row in np.linalg.inv(SRGB) @ matrix)
    light = np.stack([red, green, blue], axis=-1).clip(0, 1)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * shown + 0.5).astype(np.uint8)


def matrix_profile(profile: bytes) -> tuple[np.ndarray, list[np.ndarray]]:
    """XYZ of red, green and blue as columns, and each channel's light at 0 to 255."""
    space = profile[16:20]
    (count,) = struct.unpack_from(">I", profile, 128)
    tags = {}
    for entry in range(min(count, 100)):
        name, start, length = struct.unpack_from(">4sII", profile, 132 + 12 * entry)
        tags[name] = profile[start : start + length]
    if space != b"RGB " or not all(c + part in tags for c in (b"r", b"g", b"b") for part in (b"XYZ", b"TRC")):
        told = space.decode("latin1").strip()
        raise Rejected("colours", f"its colour profile ({told or 'nameless'}) is no matrix of red, green and blue")
    columns = [np.array(struct.unpack_from(">3i", tags[c + b"XYZ"], 8)) / 65536 for c in (b"r", b"g", b"b")]
    return np.stack(columns, axis=1), [curve(tags[c + b"TRC"]).astype(np.float32) for c in (b"r", b"g", b"b")]


def curve(tag: bytes) -> np.ndarray:
    """Light at 0 to 255 of a curveType or parametricCurveType."""
    x = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return x
        numbers = np.array(struct.unpack_from(f">{count}H", tag, 12))
        return x ** (numbers[0] / 256) if count == 1 else np.interp(x, np.linspace(0, 1, count), numbers / 65535)
    if tag[:4] != b"para":
        raise Rejected("colours", f"its colour profile has a curve of the kind {tag[:4]!r}")
    (kind,) = struct.unpack_from(">H", tag, 8)
    if kind > 4:
        raise Rejected("colours", f"its colour profile has a parametric curve of the kind {kind}")
    numbers = np.array(struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12)) / 65536
    g, a, b, c, d, e, f = [*numbers, *[0.0] * (7 - len(numbers))] if kind > 0 else [numbers[0], 1, 0, 0, 0, 0, 0]
    if kind == 1:  # (a x + b)^g from -b / a on, 0 below
        c, d = 0.0, -b / a
    elif kind == 2:  # the same + c, c below
        c, d, e, f = 0.0, -b / a, c, c
    return np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f).clip(0, 1)
