"""Whether bytes are whole: what betterproto2 does not ask when it reads a message.

It takes what is cut off for something shorter, and its time grows with the square of the unknown fields.
This looks at lengths only and knows nothing of what a message means.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, cast, get_args, get_type_hints

import betterproto2

# Fields all in all: a node has a few thousand device ids, and reading one takes microseconds. And fields of
# one message that its kind does not have.
_MOST_FIELDS = 1 << 16
_MOST_UNKNOWN = 1 << 8

_VARINT_BYTES = 10
_TAG_BYTES = 5  # a tag is 32 bits; google takes no longer ones, whatever they say
_NUMBERS = 1 << 29  # field numbers are less


def check(data: bytes, kind: type[betterproto2.Message]) -> None:
    """Refuse bytes that are no whole message.

    Raises:
        ValueError: something is cut off, of no kind the wire knows, or there is too much of it.
    """
    fields = 0
    rest = [(data, kind)]
    while rest:
        part, of = rest.pop()
        known = _known(of)
        unknown = 0
        for number, value in _fields(part):
            field = known.get(number)
            fields += 1
            unknown += field is None
            if fields > _MOST_FIELDS or unknown > _MOST_UNKNOWN:
                raise ValueError("too many fields")
            if field is not None and value is None and field.has_length:
                raise ValueError(f"field {number} without a length")
            if field is not None and value is not None and field.message:
                rest.append((value, field.message))


def _fields(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """The number of each field and, where it has a length, its bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, _TAG_BYTES)
        value = None
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                length, at = _varint(data, at)
                value = data[at : at + length]
                at += length
            case other:
                raise ValueError(f"wire type {other}")
        if at > len(data):
            raise ValueError("cut off")
        if not 0 < tag >> 3 < _NUMBERS:
            raise ValueError(f"field number {tag >> 3}")
        yield tag >> 3, value


def _varint(data: bytes, at: int, most: int = _VARINT_BYTES) -> tuple[int, int]:
    result = 0
    for index, byte in enumerate(data[at : at + most]):
        result |= (byte & 0x7F) << 7 * index
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return result, at + index + 1
    raise ValueError("a number is cut off or too long")


class _Known(NamedTuple):
    has_length: bool
    message: type[betterproto2.Message] | None


@cache
def _known(kind: type[betterproto2.Message]) -> dict[int, _Known]:
    """The fields of a kind by number: whether each has a length, and the message that stands in it."""
    hints = get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(cast(Any, kind)):  # each generated class is one
        about = field.metadata["betterproto"]
        kinds = (hints[field.name], *get_args(hints[field.name]))
        messages = [
            each for each in kinds if isinstance(each, type) and issubclass(each, betterproto2.Message)
        ]
        found[about.number] = _Known(
            about.proto_type in ("string", "bytes", "message", "map"), next(iter(messages), None)
        )
    return found
