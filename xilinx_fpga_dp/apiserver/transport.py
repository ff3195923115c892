"""Connections to the API server: the pool of httpcore2 on the streams of asyncio.

httpcore2 is what httpx2 stands on. It brings what is not used here: proxies, HTTP/2, clients without an event
loop, and anyio, which runs it on any loop; that is not loaded. The only module that imports it.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, Final

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending
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

__all__ = ["HostLookup", "httpcore2", "pool"]

_PART: Final = 16 << 10  # bytes of a connection that are read at once
# Seconds after which the next address of a host is tried beside the first one (RFC 8305, section 5).
_NEXT_ADDRESS: Final = 0.25

read_tls_in_parts(_PART)


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HostLookup:
    """Looks up the addresses of hosts. asyncio's own lookup would keep the process from ending."""

    def __init__(self) -> None:
        self._lookups: BlockingReader[list[Any]] = BlockingReader()

    async def addresses(self, host: str, limit: float) -> list[str]:
        """Return the addresses of a host, the best one first.

        Raises:
            TimeoutError: no name server has answered within so many seconds.
        """
        if _is_address(host):
            return [host]
        look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        found = (await self._lookups.read_many({host: look_up}, limit))[host]
        if isinstance(found, Pending):
            raise TimeoutError
        if isinstance(found, Exception):
            raise found
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def pool(
    context: ssl.SSLContext | None,
    server_name: str | None,
    *,
    lookup: HostLookup,
    most: int | None,
    idle: float,
) -> httpcore2.AsyncConnectionPool:
    """Return a pool of connections to one server.

    Args:
        context: for TLS.
        server_name: in the server's certificate; None: its host.
        lookup: finds the addresses of the host.
        most: connections at a time; None: any number.
        idle: seconds that one is kept.
    """
    return httpcore2.AsyncConnectionPool(
        context,
        max_connections=most,
        keepalive_expiry=idle,
        network_backend=_Network(context, server_name, lookup),
    )


class _Network(httpcore2.AsyncNetworkBackend):
    """Connects with TLS at once: ``StreamWriter.start_tls`` leaves the reader with the old transport."""

    def __init__(self, context: ssl.SSLContext | None, server_name: str | None, lookup: HostLookup) -> None:
        self._context = context
        self._server_name = server_name
        self._lookup = lookup

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
                addresses = await self._lookup.addresses(host, math.inf if timeout is None else timeout)
                reader, writer = await _dial(addresses, port, self._context, name)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        return _Stream(reader, writer)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):
            return bool(socket.inet_pton(family, host.partition("%")[0]))
    return False


async def _dial(
    addresses: Iterable[str], port: int, context: ssl.SSLContext | None, name: str | None
) -> _Streams:
    """Connect to the first address that answers; the next one is tried when those before it do not soon."""
    left = list(addresses)
    dials: list[asyncio.Task[_Streams]] = []
    made: _Streams | None = None
    try:
        while made is None:
            if left:
                dial = asyncio.open_connection(left.pop(0), port, ssl=context, server_hostname=name)
                dials.append(asyncio.create_task(dial))
            pending = [each for each in dials if not each.done()]
            if pending:
                soon = _NEXT_ADDRESS if left else None
                await asyncio.wait(pending, timeout=soon, return_when=asyncio.FIRST_COMPLETED)
            made = next((each.result() for each in dials if each.done() and not each.exception()), None)
            if made is None and not left and all(each.done() for each in dials):
                return dials[0].result()  # raises
        return made
    finally:  # without a wait, which could be cancelled
        for each in dials:
            each.cancel()
            each.add_done_callback(partial(_abort, keep=made))


def _abort(dial: "asyncio.Task[_Streams]", *, keep: _Streams | None) -> None:
    """Close the connection of a dial unless it is the one to keep."""
    if not dial.cancelled() and not dial.exception() and dial.result() is not keep:
        dial.result()[1].transport.abort()


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
