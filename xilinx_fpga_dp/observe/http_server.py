"""Serves pages over HTTP/1: as much of it as kubelet's probes, Prometheus and curl need."""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from xilinx_fpga_dp.aio import descriptors, listen
from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_REQUEST_LIMIT = 8192  # bytes of a request's head
_TIME_LIMIT = 10.0  # seconds for a request and its response
_CONNECTIONS = 64  # open at once; one more closes the oldest, since probes send their request at once
_RETRY = 1.0  # seconds until an address that cannot be bound is tried again
_NAME_LIMIT = 5.0  # seconds a name server may take

NAME = "xilinx-fpga-dp"
"""The server's name, by which `diagnose` recognizes it."""


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a request. ``more`` follows the body."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    more: Sequence[bytes | bytearray] = ()


Page = Callable[[], Awaitable[Response]]


def text(message: str, status: int = 200) -> Response:
    """Make a response of one line for people."""
    return Response(f"{message}\n".encode(), status)


def as_json(document: object) -> Response:
    """Make a response of a document for programs."""
    return Response(json.dumps(document, indent=2).encode() + b"\n", content_type="application/json")


class HttpServer:
    """Serves pages at an address. An address that cannot be bound is tried again each second.

    Args:
        address: ``host:port``; an IPv6 host in brackets, an empty one for all interfaces.
        pages: by path.
    """

    def __init__(self, address: str, pages: Mapping[str, Page]) -> None:
        self._address = address
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._resolver: BlockingReader[list[Any]] = BlockingReader()
        self._pages = pages
        self._connections: dict[asyncio.StreamWriter, None] = {}  # oldest first

    async def run(self) -> None:
        """Serve. Endless."""
        last_error: str | None = None
        while True:
            try:
                server = await self._listen()
                break
            except OSError as error:
                late = isinstance(error, TimeoutError)
                message = "no answer from the name server" if late else error.strerror or str(error)
                if message != last_error:
                    fields = {"address": self._address, "error": message}
                    log.warning(Event.HTTP_ADDRESS_UNAVAILABLE, extra=fields)
                last_error = message
                await asyncio.sleep(_RETRY)
        with closing(server):
            for listener in server.sockets:
                host, port, *_ = listener.getsockname()
                log.info(Event.SERVING_HTTP, extra={"host": host, "port": port})
            await asyncio.Event().wait()

    async def _listen(self) -> asyncio.Server:
        hosts = await self._resolve()
        descriptors.require(len(hosts))  # asyncio skips a socket that it cannot open, without a word
        server = await asyncio.start_server(
            self._connected, hosts, self._port, limit=_REQUEST_LIMIT, backlog=listen.AT_ONCE
        )
        try:
            for shown in server.sockets:
                with shown.dup() as listener:  # asyncio's view of a socket has no listen()
                    listen.set_backlog(listener)
        except OSError:
            server.close()
            raise
        return server

    async def _resolve(self) -> list[str]:
        """Return the addresses to listen on. asyncio's own lookup would keep the process from ending."""
        find = partial(
            socket.getaddrinfo,
            self._host.strip("[]") or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE,
        )  # fmt: skip
        found = await self._resolver.read(find, _NAME_LIMIT)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) == _CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()
        self._connections[writer] = None
        try:
            async with asyncio.timeout(_TIME_LIMIT):
                await self._respond(reader, writer)
                writer.close()
                await writer.wait_closed()  # everything has been sent then
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug(Event.HTTP_CONNECTION_BROKEN)  # a TimeoutError is an OSError
        except asyncio.CancelledError:
            log.debug(Event.HTTP_CONNECTION_CLOSED)  # asyncio's streams would log the exception as an error
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()  # a client that does not read is not waited for

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, response = await self._response(head)
        writer.write(
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
            f"Server: {NAME}\r\n"
            f"Content-Type: {response.content_type}\r\n"
            f"Content-Length: {sum(map(len, (response.body, *response.more)))}\r\n"
            "Cache-Control: no-store\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        if method != "HEAD":
            for part in (response.body, *response.more):
                writer.write(part)
        await writer.drain()

    async def _response(self, head: bytes) -> tuple[str, Response]:
        """Return the method and the response to a request."""
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, path, version
            return "GET", text("not a request of HTTP/1", 400)
        method, path, _ = words
        page = self._pages.get(path.partition("?")[0])
        if method not in ("GET", "HEAD"):
            return method, text("only GET", 405)
        if page is None:
            return method, text(f"there are {', '.join(self._pages)}", 404)
        return method, await page()
