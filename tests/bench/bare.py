"""A reference server on grpclib that returns fixed bytes from Allocate: the cost of grpclib alone.

``python -m tests.bench.bare SOCKET ALLOCATE``: the response in hex. Ends with SIGTERM.
"""

import asyncio
import sys
from typing import Any

from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.server import Server, Stream


class _Bytes(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


class _Plugin:
    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/v1beta1.DevicePlugin/Allocate": Handler(self._allocate, Cardinality.UNARY_UNARY, bytes, bytes)
        }

    async def _allocate(self, stream: Stream[bytes, bytes]) -> None:
        await stream.recv_message()
        await stream.send_message(self._answer)


async def serve(socket: str, answer: bytes) -> None:
    """Serve until the process ends."""
    server = Server([_Plugin(answer)], codec=_Bytes())
    await server.start(path=socket)
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], bytes.fromhex(sys.argv[2])))
