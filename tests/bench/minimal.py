"""The reference: a minimal device plugin on grpcio.aio that returns fixed bytes.

``python -m tests.bench.minimal SOCKET ALLOCATE LIST``: the responses in hex. Ends with SIGTERM.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc


async def serve(socket: str, allocate: bytes, listed: bytes) -> None:
    """Serve until the process ends."""

    async def answer(request: bytes, context: Any) -> bytes:
        return allocate

    async def options(request: bytes, context: Any) -> bytes:
        return b""

    async def listing(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield listed
        await asyncio.Event().wait()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "v1beta1.DevicePlugin",
                {
                    "Allocate": grpc.unary_unary_rpc_method_handler(answer),
                    "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(options),
                    "ListAndWatch": grpc.unary_stream_rpc_method_handler(listing),
                },
            ),
        )
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])))
