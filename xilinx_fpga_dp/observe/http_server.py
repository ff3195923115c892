"""Probes, metrics and state over HTTP. As much of HTTP as kubelet's probes, Prometheus and curl need."""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from xilinx_fpga_dp.aio import descriptors
from xilinx_fpga_dp.aio import listen as accepting
from xilinx_fpga_dp.aio.daemon_threads import DaemonExecutor

log = logging.getLogger(__name__)

_REQUEST_LIMIT = 8192  # bytes of a request's head
_TIME_LIMIT = 10.0  # seconds for a request and its answer
_CONNECTIONS = 64  # at once; for one more the oldest is closed: a probe asks at once, who is silent is none
_AGAIN = 1.0  # seconds until an address that is not to be had is tried again
_NAME_LIMIT = 5.0  # seconds a name server may take

NAME = "xilinx-fpga-dp"  # of the server, by which `diagnose` knows it

_STATUS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: bytes
    status: int = 200
    kind: str = "text/plain; charset=utf-8"


Page = Callable[[], Awaitable[Answer]]


def text(said: str, status: int = 200) -> Answer:
    """A line for people."""
    return Answer(f"{said}\n".encode(), status)


def as_json(document: object) -> Answer:
    """A document for programs."""
    return Answer(json.dumps(document, indent=2).encode() + b"\n", kind="application/json")


class HttpServer:
    """Serves pages on an address, for ever; an address that is taken is tried again and stops nothing.

    Args:
        address: ``host:port``; an IPv6 host in brackets, an empty one for all interfaces.
        pages: by path.
    """

    def __init__(self, address: str, pages: Mapping[str, Page]) -> None:
        self._address = address
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._names = DaemonExecutor(1)
        self._pages = pages
        self._connections: dict[asyncio.StreamWriter, None] = {}  # oldest first

    async def run(self) -> None:
        """Serve until cancelled."""
        complaint: str | None = None
        while True:
            try:
                server = await self._listen()
            except OSError as error:
                why = error.strerror or str(error) or "no answer from the name server"
                if why != complaint:
                    told = {"address": self._address, "error": why}
                    log.warning("HTTP address not to be had, trying again", extra=told)
                complaint = why
                await asyncio.sleep(_AGAIN)
                continue
            for listener in server.sockets:
                host, port, *_ = listener.getsockname()
                log.info("serving HTTP", extra={"host": host, "port": port})
            try:
                await asyncio.Event().wait()
            finally:
                server.close()

    async def _listen(self) -> asyncio.Server:
        hosts = await self._hosts()
        descriptors.require(len(hosts))  # asyncio goes without a socket that it can't have, and says nothing
        server = await asyncio.start_server(
            self._connected, hosts, self._port, limit=_REQUEST_LIMIT, backlog=accepting.AT_ONCE
        )
        try:
            for shown in server.sockets:
                with shown.dup() as listener:  # what asyncio shows of it can't be told to listen
                    accepting.set_backlog(listener)
        except OSError:
            server.close()
            raise
        return server

    async def _hosts(self) -> list[str]:
        """The addresses to listen on. asyncio's own look for a name would keep the process from ending."""
        find = partial(
            socket.getaddrinfo,
            self._host.strip("[]") or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE,
        )  # fmt: skip
        async with asyncio.timeout(_NAME_LIMIT):
            found = await asyncio.get_running_loop().run_in_executor(self._names, find)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) == _CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()
        self._connections[writer] = None
        try:
            async with asyncio.timeout(_TIME_LIMIT):
                await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()  # all of it is sent then
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("HTTP connection broken")  # a TimeoutError is an OSError
        except asyncio.CancelledError:
            log.debug("ending")  # raised on, asyncio's streams would log it as an error
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()  # what a client has not read is nothing to wait for

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, answer = await self._page(head)
        writer.write(
            f"HTTP/1.1 {answer.status} {_STATUS[answer.status]}\r\n"
            f"Server: {NAME}\r\n"
            f"Content-Type: {answer.kind}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "Cache-Control: no-store\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(answer.body)
        await writer.drain()

    async def _page(self, head: bytes) -> tuple[str, Answer]:
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
