"""The wire format of Protocol Buffers: fields of a message, without a schema and without its package.

    field    varint (number << 3 | kind), then: 0 a varint, 1 eight bytes, 2 a varint length and as many bytes, 5 four

Lengths are checked against what is left before anything is taken, and values are views: nothing is copied.
"""

from collections.abc import Iterator

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5


class Malformed(ValueError):
    """Bytes that are no message."""


def fields(content: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """(number, kind, value) of each field, in their order."""
    at = 0
    while at < len(content):
        number, kind, value, at = field(content, at)
        yield number, kind, value


def field(content: memoryview, at: int) -> tuple[int, int, memoryview | int, int]:
    """Number, kind and value of the field that begins here, and the place after it."""
    key, at = varint(content, at)
    number, kind = key >> 3, key & 7
    if kind == VARINT:
        return number, kind, *varint(content, at)
    length = {EIGHT: 8, FOUR: 4}.get(kind)
    if kind == LENGTH:
        length, at = varint(content, at)
    if length is None:
        raise Malformed(f"field {number} is of kind {kind}, which no message has")
    if at + length > len(content):
        raise Malformed(f"field {number} has {length} bytes, {len(content) - at} are left")
    return number, kind, content[at : at + length], at + length


def messages(content: memoryview, wanted: int) -> Iterator[memoryview]:
    """The fields of a number that have a length."""
    return (value for number, kind, value in fields(content) if number == wanted and kind == LENGTH)


def varint(content: memoryview, at: int) -> tuple[int, int]:
    """The number that begins here, below 2^64, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise Malformed("a number does not end")


def varints(value: memoryview | int) -> Iterator[int]:
    """Packed numbers, or one that is not."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = varint(value, at)
        yield number
