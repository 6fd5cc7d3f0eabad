"""Photographs: orientations against Pillow's, colours against LittleCMS; damaged notes are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from vgen_fast.data.decode import Rejected
from vgen_fast.data.photograph import SRGB, notes, photograph, to_srgb

# Red, green and blue in XYZ (D50): Adobe RGB (1998), Display P3.
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
GAMMA = b"curv" + struct.pack(">III", 0, 1, 0)[:8] + struct.pack(">H", round(2.2 * 256))
TABLE = b"curv" + struct.pack(">II", 0, 512) + np.round(65535 * np.linspace(0, 1, 512) ** 1.8).astype(">u2").tobytes()


def parametric(kind, *numbers):
    return (
        b"para"
        + struct.pack(">IHH", 0, kind, 0)
        + struct.pack(f">{len(numbers)}i", *(round(65536 * n) for n in numbers))
    )


CURVES = {
    "gamma": GAMMA,
    "table": TABLE,
    "line": b"curv" + struct.pack(">II", 0, 0),
    "para 0": parametric(0, 2.4),
    "para 1": parametric(1, 2.2, 0.9, 0.1),
    "para 2": parametric(2, 2.2, 0.9, 0.05, 0.02),
    "para 3": parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "para 4": parametric(4, 2.4, 0.9, 0.055, 1 / 12.92, 0.04045, 0.01, 0.0),
}


def profile(matrix, curve, space=b"RGB "):
    """The smallest version 4 profile of a screen."""
    column = lambda i: b"XYZ " + struct.pack(">I3i", 0, *(round(65536 * n) for n in matrix[:, i]))  # noqa: E731
    name = "x".encode("utf-16-be")
    text = b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(name), 28) + name
    white = b"XYZ " + struct.pack(">I3i", 0, 63190, 65536, 54061)
    tags = {b"desc": text, b"cprt": text, b"wtpt": white}
    tags |= {c + b"XYZ": column(i) for i, c in enumerate((b"r", b"g", b"b"))}
    tags |= {c + b"TRC": curve for c in (b"r", b"g", b"b")}
    place, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += struct.pack(">4sII", tag, place + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"lcms", 0x04300000, b"mntr", space, b"XYZ ") + b"\0" * 12
    head += b"acsp" + b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return head + b"\0" * (128 - len(head)) + body


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def colours():
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright(kind, orientation):
    smooth = np.asarray(Image.fromarray(colours()).resize((48, 32), Image.BICUBIC))
    exif = Image.Exif()
    exif[0x112] = orientation
    options = dict(quality=98, subsampling=0) if kind == "JPEG" else {}
    content = encoded(smooth, kind, exif=exif, **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    found = photograph(content)
    assert found.shape == wanted.shape
    assert abs(found.astype(int) - wanted).max() <= (2 if kind == "JPEG" else 0)  # of two decoders


@pytest.mark.parametrize("matrix", [ADOBE, P3, SRGB], ids=["adobe", "p3", "srgb"])
@pytest.mark.parametrize("curve", list(CURVES))
def test_its_colours_are_those_of_littlecms(matrix, curve):
    own = profile(matrix, CURVES[curve])
    pixels = colours()
    there, here = ImageCms.ImageCmsProfile(io.BytesIO(own)), ImageCms.createProfile("sRGB")
    wanted = np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), there, here, renderingIntent=1))
    assert abs(to_srgb(pixels, own).astype(int) - wanted).max() <= 2  # it rounds on its way


def test_srgbs_own_profile_changes_next_to_nothing():
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert abs(to_srgb(colours(), own).astype(int) - colours()).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_profile_is_found_in_the_file(kind):
    own = profile(P3, GAMMA)
    content = encoded(colours(), kind, icc_profile=own)
    assert notes(content) == (1, own)
    changed = photograph(content).astype(int) - photograph(encoded(colours(), kind))
    assert abs(changed).max() > 20


def test_a_long_profile_comes_in_pieces():
    own = profile(P3, b"curv" + struct.pack(">II", 0, 60_000) + b"\0\1" * 60_000)
    assert len(own) > 65_536
    assert notes(encoded(colours(), "JPEG", icc_profile=own))[1] == own


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (profile(P3, GAMMA, b"CMYK"), "its colour profile .CMYK. is no matrix of red, green and blue"),
        (profile(P3, b"xyzw" * 4), "its colour profile has a curve of the kind b'xyzw'"),
        (profile(P3, parametric(7, 1.0)), "its colour profile has a parametric curve of the kind 7"),
        (profile(P3, GAMMA)[:140], "its colour profile"),
        (b"", "its colour profile ends early"),
    ],
)
def test_another_kind_of_profile_is_refused_by_name(broken, sentence):
    with pytest.raises(Rejected, match=sentence):
        to_srgb(colours(), broken)


def test_notes_that_end_early_are_refused():
    packed = zlib.compress(profile(P3, GAMMA))[:40]
    data = b"x\0\0" + packed
    png = encoded(colours(), "PNG")
    chunk = struct.pack(">I4s", len(data), b"iCCP") + data + struct.pack(">I", zlib.crc32(b"iCCP" + data))
    with pytest.raises(Rejected):
        photograph(png[:33] + chunk + png[33:])
    with pytest.raises(Rejected, match="its notes end early"):
        notes(b"\xff\xd8\xff\xe1\x00")
