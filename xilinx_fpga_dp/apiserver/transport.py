"""Connections to the API server: the pool of httpcore2 on the streams of asyncio.

httpcore2 is what httpx2 stands on. It brings what is not used here: proxies, HTTP/2, clients without an event
loop, and anyio, which runs it on any loop; that is not loaded. The only module that imports it.
"""

import asyncio
import ssl
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from xilinx_fpga_dp.process import read_tls_in_parts, replaced, stand_ins

_UNUSED: Final = (
    "httpcore2._api",
    "httpcore2._async.http2",
    "httpcore2._async.http_proxy",
    "httpcore2._async.socks_proxy",
    "httpcore2._backends.mock",
    "httpcore2._backends.sync",
    "httpcore2._sync",
    "importlib.metadata",
    "truststore",
)


def _unlimited(*_: object, **__: object) -> AbstractContextManager[None]:
    return nullcontext()


# The part of anyio that the pool uses (httpcore2/_synchronization.py). The shield against cancellation covers
# `_Stream.aclose` alone, which does not wait; for a connection the caller limits the wait.
_ANYIO: Final = {
    "CancelScope": _unlimited,
    "Event": asyncio.Event,
    "Lock": lambda **_: asyncio.Lock(),
    "fail_after": _unlimited,
}

with stand_ins(*_UNUSED), replaced("anyio", **_ANYIO):
    import httpcore2

__all__ = ["httpcore2", "pool"]

_PART: Final = 16 << 10  # bytes of a connection that are read at once
# Seconds after which the next address of a host is tried beside the first one (RFC 8305, section 5).
_NEXT_ADDRESS: Final = 0.25

read_tls_in_parts(_PART)


def pool(
    context: ssl.SSLContext | None, server_name: str | None, *, most: int | None, idle: float
) -> httpcore2.AsyncConnectionPool:
    """Return a pool of connections to one server.

    Args:
        context: for TLS.
        server_name: in the server's certificate; None: its host.
        most: connections at a time; None: any number.
        idle: seconds that one is kept.
    """
    return httpcore2.AsyncConnectionPool(
        context,
        max_connections=most,
        keepalive_expiry=idle,
        network_backend=_Network(context, server_name),
    )


class _Network(httpcore2.AsyncNetworkBackend):
    """Connects with TLS at once: ``StreamWriter.start_tls`` leaves the reader with the old transport."""

    def __init__(self, context: ssl.SSLContext | None, server_name: str | None) -> None:
        self._context = context
        self._server_name = server_name

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        del local_address, socket_options
        name = self._server_name or host if self._context else None
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(
                    host,
                    port,
                    ssl=self._context,
                    server_hostname=name,
                    happy_eyeballs_delay=_NEXT_ADDRESS,
                )
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        return _Stream(reader, writer)


class _Stream(httpcore2.AsyncNetworkStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    async def aclose(self) -> None:
        self._writer.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        del ssl_context, server_hostname, timeout
        return self

    def get_extra_info(self, info: str) -> Any:
        """Return what the pool asks for: whether a connection in no use was closed by the server."""
        if info == "is_readable":
            return self._writer.transport.is_closing() or self._reader.at_eof()
        return self._writer.get_extra_info(info)
