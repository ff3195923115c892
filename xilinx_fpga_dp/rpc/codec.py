"""Turns messages into bytes and back."""

from functools import lru_cache
from typing import Any

from grpclib.encoding.base import CodecBase

_KEPT = 64  # requests: pods get the same few dozen devices again and again
_MAX_KEPT = 256  # bytes of one; what it makes may be 400 times as large


class Codec(CodecBase):
    """Sends bytes as they are and encodes the rest, so that an answer can be encoded once and sent often."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        del message_type
        return message if isinstance(message, bytes) else bytes(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        """Parse a message; for bytes that betterproto2 can't parse it raises exceptions of many kinds.

        It accepts some truncated messages as shorter ones. gRPC prefixes each message with its length, so
        only a client that sends such bytes on purpose gets an answer to what they parse as. A short request
        is parsed once, which takes 50 us, so it is not to be changed.
        """
        return _parsed(message_type, data) if len(data) <= _MAX_KEPT else message_type.parse(data)


@lru_cache(_KEPT)
def _parsed(message_type: Any, data: bytes) -> Any:
    return message_type.parse(data)
