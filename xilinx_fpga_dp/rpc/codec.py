"""How messages become bytes on the wire and back."""

from typing import Any

from grpclib.encoding.base import CodecBase

from xilinx_fpga_dp.rpc.framing import check


class Codec(CodecBase):
    """Sends bytes as they are and encodes the rest, so that an answer can be encoded once and sent often."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        """Return the message's bytes; ``message_type`` is what the method declares."""
        del message_type
        return message if isinstance(message, bytes) else bytes(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        """Parse a message.

        Raises:
            Exception: of many kinds, for bytes that are no such message.
        """
        check(data, message_type)
        return message_type.parse(data)
