"""How long a file says that it is: what FFmpeg does not compare when it reads a file that was cut off.

MP4 and MOV are a row of boxes, AVI a row of RIFF chunks, Matroska and WebM two EBML elements, all with their sizes;
MPEG-TS is packets of 188 bytes and says no more than that.
"""

import os
import struct

MOST_BOXES = 10_000
EBML = b"\x1a\x45\xdf\xa3"


def missing_bytes(file: int) -> int:
    """How many bytes the open file lacks by what its outermost boxes say; 0 where they say nothing."""
    length = os.fstat(file).st_size
    head = os.pread(file, 16, 0)
    if head[:4] == b"RIFF":
        return end_of_riff(file, length) - length
    if head[:4] == EBML:
        return max(0, end_of_segment(file, length) - length)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return end_of_boxes(file, length) - length
    if all(os.pread(file, 1, at) == b"\x47" for at in (0, 188, 376)):
        return -length % 188
    return 0


def end_of_boxes(file: int, length: int) -> int:
    at = 0
    for _ in range(MOST_BOXES):
        if at >= length:
            return at
        head = os.pread(file, 16, at)
        if len(head) < 8:
            return at + 8
        size = int.from_bytes(head[:4], "big")
        if size == 0:  # to the end of the file
            return length
        if size == 1:
            size = int.from_bytes(head[8:], "big") if len(head) == 16 else 16
        at += max(8, size)
    return length


def end_of_riff(file: int, length: int) -> int:
    """Files of more than 1 GiB are several RIFF chunks."""
    at = 0
    while at < length:
        head = os.pread(file, 8, at)
        if at and head[:4] != b"RIFF":  # bytes after the chunks are no loss
            return length
        if len(head) < 8:
            return at + 8
        size = struct.unpack("<I", head[4:])[0]
        if size in (0, 0xFFFFFFFF):  # never filled in
            return length
        at += 8 + size + size % 2
    return at


def end_of_segment(file: int, length: int) -> int:
    at = 0
    for name in (EBML, b"\x18\x53\x80\x67"):
        head = os.pread(file, 12, at)
        if head[:4] != name or len(head) < 5 or head[4] == 0:
            return max(length, at + 5)
        size_length = 9 - head[4].bit_length()
        size = int.from_bytes(head[4 : 4 + size_length], "big") - (1 << 7 * size_length)
        if size == (1 << 7 * size_length) - 1:  # unknown, as in a live stream
            return length
        at += 4 + size_length + size
    return at
