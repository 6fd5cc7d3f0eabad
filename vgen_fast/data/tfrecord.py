"""TFRecord files of tf.train.Example, without TensorFlow: framing, checksums and the few fields of protobuf they use.

    record    uint64 length, uint32 masked CRC-32C of the length, the example, uint32 masked CRC-32C of the example
    example   {1: {1: repeated {1: key, 2: {1: bytes list | 2: float list | 3: int list}}}}, values in field 1 of a list

Lengths are checked against what is left before anything is copied.
"""

import os
import struct
from functools import lru_cache

import numpy as np

from ..wire import Malformed, fields, messages, varints
from .decode import Rejected

MOST_BYTES = 1 << 30  # of one record
LANE = 256  # bytes of which each lane of the checksum takes one at a time
POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected


@lru_cache(maxsize=1)
def table() -> np.ndarray:
    """uint32 [256]: the register after a byte."""
    register = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        register = (register >> 1) ^ np.where(register & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return register


@lru_cache(maxsize=64)
def after_zeros(count: int) -> np.ndarray:
    """uint32 [4, 256]: what each byte of the register becomes after `count` zero bytes; the register is their XOR."""
    if count == 1:
        values = np.arange(256, dtype=np.uint32)
        return np.stack([table()[values]] + [values << (8 * (byte - 1)) for byte in range(1, 4)]).astype(np.uint32)
    half = after_zeros(count // 2)
    once = shifted(half, half)
    return shifted(once, after_zeros(1)) if count % 2 else once


def shifted(register: np.ndarray, operator: np.ndarray) -> np.ndarray:
    bytes_of = (register >> 8 * byte & 255 for byte in range(4))
    found = np.zeros_like(register)
    for values, row in zip(bytes_of, operator, strict=True):
        found ^= row[values]
    return found


def crc32c(content: bytes) -> int:
    """Many lanes at once: registers of pieces of the content, joined in pairs as if zeros followed the first."""
    start = len(content) % LANE
    register = 0xFFFFFFFF
    for byte in content[:start]:
        register = (register >> 8) ^ int(table()[(register ^ byte) & 255])
    lanes = np.frombuffer(content, np.uint8, offset=start).reshape(-1, LANE)
    registers = np.zeros(len(lanes), np.uint32)
    for column in lanes.T:
        registers = (registers >> 8) ^ table()[(registers ^ column) & 255]
    length = LANE
    total, total_length = None, 0  # of what is joined already, from the end
    while len(registers):
        if len(registers) % 2:
            last = registers[-1]
            total = last if total is None else shifted(np.array([last]), after_zeros(total_length))[0] ^ total
            total_length += length
            registers = registers[:-1]
        registers = shifted(registers[::2], after_zeros(length)) ^ registers[1::2]
        length *= 2
    if total is not None:
        register = int(shifted(np.array([register], np.uint32), after_zeros(total_length))[0] ^ total)
    return register ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def offsets(file: int) -> list[tuple[int, int]]:
    """(offset, length) of each example of an open file, from the framing alone."""
    size, at, found = os.fstat(file).st_size, 0, []
    while at < size:
        head = os.pread(file, 12, at)
        if len(head) < 12:
            raise Rejected("truncated", f"record {len(found)} has no length")
        length, checksum = struct.unpack("<QI", head)
        if masked(crc32c(head[:8])) != checksum:
            raise Rejected("damaged", f"the length of record {len(found)} has another checksum")
        if length > MOST_BYTES:
            raise Rejected("too large", f"record {len(found)} has {length} bytes")
        if at + 16 + length > size:
            raise Rejected("truncated", f"record {len(found)} lacks {at + 16 + length - size} bytes")
        found.append((at + 12, length))
        at += 16 + length
    return found


def example(file: int, offset: int, length: int) -> dict[str, list[bytes] | np.ndarray]:
    """One example, its checksum compared: lists of bytes, or arrays of float32 or int64, by key."""
    content = os.pread(file, length + 4, offset)
    if len(content) < length + 4:
        raise Rejected("truncated", f"the record at {offset} lacks {length + 4 - len(content)} bytes")
    if masked(crc32c(content[:-4])) != struct.unpack("<I", content[-4:])[0]:
        raise Rejected("damaged", f"the record at {offset} has another checksum")
    return parse(memoryview(content)[:-4])


def parse(content: memoryview) -> dict[str, list[bytes] | np.ndarray]:
    features = {}
    try:
        for entry in messages(content, 1):
            for pair in messages(entry, 1):
                for key, feature in zip(messages(pair, 1), messages(pair, 2), strict=False):
                    features[bytes(key).decode(errors="replace")] = values(feature)
    except Malformed as error:
        raise Rejected("damaged", f"an example: {error}") from error
    return features


def values(feature: memoryview) -> list[bytes] | np.ndarray:
    for content in messages(feature, 1):
        return [bytes(entry) for entry in messages(content, 1)]
    for content in messages(feature, 2):  # packed, or four bytes at a time
        packed = b"".join(value for _, _, value in fields(content) if isinstance(value, memoryview))
        if len(packed) % 4:
            raise Rejected("damaged", f"{len(packed)} bytes of float32 in an example")
        return np.frombuffer(packed, "<f4")
    for content in messages(feature, 3):
        found = [number for _, _, value in fields(content) for number in varints(value)]
        return np.array(found, dtype=np.uint64).astype(np.int64)
    return []
