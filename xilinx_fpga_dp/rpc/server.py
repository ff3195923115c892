"""A gRPC server for one servicer on one unix socket, which bounds what a client costs and ends cleanly.

grpclib's own server takes any number of connections and messages of any length. Its ``close()`` cancels
streams without trailers, and since Python 3.12 its ``wait_closed()`` waits until the client closes the
connection, which kubelet never does. So this module limits connections, header fields and requests, and adds
an end whose steps have time limits: unary calls under way may finish; the servicer refuses those that are
left, then ends its streams; a ping asks each client whether it has read everything; every connection is
closed. The calls end first: kubelet closes its connection when its stream ends.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Protocol, cast

import grpclib.const
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import Buffer, H2Protocol, Stream
from grpclib.server import Handler, Server
from h2.config import H2Configuration
from h2.events import Event as H2Event
from h2.events import PingAckReceived

from xilinx_fpga_dp.aio import listen
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.process import leave_frames_unprinted, limit_closed_streams
from xilinx_fpga_dp.rpc import heads
from xilinx_fpga_dp.rpc.calls import CONTENT_TYPE, Calls
from xilinx_fpga_dp.rpc.codec import Codec

log = logging.getLogger(__name__)

# Seconds for the steps of the end.
_CALLS_LIMIT = 0.3
_REFUSALS_LIMIT = 0.1
_STREAMS_LIMIT = 0.3
_FLUSH_LIMIT = 1.0  # for a client to read what was sent when its connection is closed

_MAX_CONNECTIONS = 16  # kubelet opens one; another client may open one, too
_MAX_CLOSED_STREAMS = 1024  # of a connection, see `limit_closed_streams`
# Bytes. The longest request names every id of the largest resource: 16 cards, SHARED_REPLICAS 1000, at most
# 23 bytes an id (`00000000:65:00.1::999` and its head) make 368,000.
_MAX_REQUEST = 1 << 19
_WINDOW = (1 << 16) - 1  # bytes: the least that HTTP/2 allows, which bounds what waits unread on a connection
_BUFFER = 1 << 14  # bytes read at once; kubelet's calls have a few hundred
_READ_BY_GRPCLIB = frozenset({":method", ":path", "content-type", "te", "grpc-timeout", "user-agent"})
_MAX_TIMEOUT = 9  # characters of a time limit: eight digits and a unit, by PROTOCOL-HTTP2.md of grpc


class Servicer(Protocol):
    """Methods, and how the server ends their calls."""

    @property
    def calls(self) -> Calls:
        """Its unary methods."""

    def __mapping__(self) -> Mapping[str, grpclib.const.Handler]:
        """Return grpclib's table of the other methods."""

    def end_streams(self) -> None:
        """Let every stream send its last message, then end."""

    def disconnected(self) -> None:
        """Note that the last open connection that has carried a call has closed."""


@asynccontextmanager
async def serving(servicer: Servicer, path: str) -> AsyncIterator[None]:
    """Serve on a new unix socket for root alone; at the end remove it and end all calls and streams cleanly.

    Raises:
        OSError: the socket can't be made. It carries the directory: the name may differ at each attempt.
    """
    server = RpcServer(servicer)
    listener = _bound(path)
    try:
        await server.start(sock=listener, backlog=listen.AT_ONCE)
        listen.set_backlog(listener)
        yield
    finally:
        with suppress(OSError):  # kubelet has removed it, or the directory is gone
            os.unlink(path)
        await server.end()


def _bound(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)  # kubelet is root
        listen.set_backlog(listener)  # at once: a sweep removes sockets that refuse connections
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, os.path.dirname(path)) from None
    return listener


class RpcServer(Server):
    """grpclib's server with bounded connections and an end."""

    def __init__(self, servicer: Servicer) -> None:
        limit_closed_streams(_MAX_CLOSED_STREAMS)
        leave_frames_unprinted()
        window = Configuration(http2_connection_window_size=_WINDOW, http2_stream_window_size=_WINDOW)
        super().__init__([servicer], codec=Codec(), config=window)
        self._servicer = servicer
        self._connections: set[_Connection] = set()  # the open ones
        self._ended = False

    def _protocol_factory(self) -> H2Protocol:
        handler = _Handler(self._mapping, self._codec, self._status_details_codec, self.__dispatch__)
        handler.unary = self._servicer.calls
        return _Connection(self, handler, self._config, self._h2_config)

    def connection_made(self, connection: "_Connection") -> None:
        """Take a connection, or close one that is not wanted: asyncio reports it only after it accepts it."""
        open_ones = [each for each in self._connections if not each.closing]
        if self._ended or len(open_ones) >= _MAX_CONNECTIONS:
            connection.close("not wanted")
        else:
            self._connections.add(connection)

    def connection_lost(self, connection: "_Connection") -> None:
        """Forget a connection that has closed."""
        self._connections.discard(connection)
        if connection.called and all(each.closing or not each.called for each in self._connections):
            self._servicer.disconnected()

    async def end(self) -> None:
        """Take no more connections, let calls and then streams end, then close every connection."""
        if self._server is not None:
            self._server.close()
        await _wait_while(lambda: self._servicer.calls.busy, _CALLS_LIMIT)
        self._servicer.calls.refuse_new()
        await _wait_while(lambda: self._servicer.calls.busy, _REFUSALS_LIMIT)
        self._servicer.end_streams()
        await asyncio.sleep(0)  # the streams end in this turn
        await _wait_while(lambda: False in [each.drained() for each in self._connections], _STREAMS_LIMIT)
        self._ended = True
        for connection in list(self._connections):
            connection.close("the server ends")


async def _wait_while(busy: Callable[[], bool], limit: float) -> None:
    """Wait until ``busy`` is false. Polls: grpclib reports the end of no call."""
    deadline = asyncio.get_running_loop().time() + limit
    while busy() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


class _Connection(H2Protocol, asyncio.BufferedProtocol):
    """One connection. An error that grpclib raises on its input closes it and is not logged as a fault.

    It has a buffer of its own. asyncio's are 256 KiB, a new one for each read, which malloc maps and unmaps
    each time: two page faults and 20 us a call (asyncio/selector_events.py). It can go when those are reused.
    """

    handler: "_Handler"

    def __init__(
        self, server: RpcServer, handler: "_Handler", config: Configuration, h2_config: H2Configuration
    ) -> None:
        super().__init__(handler, config, h2_config)
        self._server = server
        self._ping_answered: bool | None = None  # None: no ping was sent
        self._buffer = memoryview(bytearray(_BUFFER))

    @property
    def closing(self) -> bool:
        """Whether it is closed, or will be once its client has read what was sent."""
        return self.connection.is_closing()

    @property
    def called(self) -> bool:
        """Whether it has carried a call."""
        return bool(self.connection.streams_started)

    def close(self, why: str) -> None:
        self.processor.close(why)

    def drained(self) -> bool:
        """Whether all calls have ended and the client has read that: it answers a ping, sent at first use.

        grpc's C core drops unread data as soon as it fails to send, an acknowledgement for one. On a
        connection closed too early the empty list of a resource that is gone got lost. grpc-go reads on.
        """
        if not self.handler.check_closed():  # a call is under way
            return False
        if self.closing or not self.called:
            return True
        if self._ping_answered is None:
            self._ping_answered = False
            self.connection._connection.ping(bytes(8))  # noqa: SLF001 - grpclib pings to keep alive only
            self.connection.flush()
        return self._ping_answered

    def _ping_ack(self, _event: H2Event) -> None:
        self._ping_answered = self._ping_answered is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.handler.transport = cast(asyncio.Transport, transport)
        heads.remember(self.connection._connection)  # noqa: SLF001 - made by grpclib
        self.processor.processors[PingAckReceived] = self._ping_ack
        self._server.connection_made(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._server.connection_lost(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as error:  # of an unknown frame, or of a frame after the last one
            log.debug(Event.CONNECTION_CLOSED, extra={"error": repr(error)})
            self.close("not understood")


class _Handler(Handler):
    """The calls of one connection, behind the filter of heads and the limit of requests."""

    transport: asyncio.Transport  # set when the connection is made
    unary: Calls

    def accept(
        self, stream: Stream, headers: list[tuple[str, str]], release_stream: Callable[[], None]
    ) -> None:
        """Start a call, of which only the head has been read."""
        stream.buffer.__class__ = _Request  # made by grpclib; to make another takes longer than its whole use
        head = _filtered(headers)
        method = self.unary.by_path.get(head[":path"])
        if method is None or not _is_grpc(head):
            super().accept(stream, list(head.items()), release_stream)
        else:
            self.__gc_step__()
            call = self.unary.run(method, stream, head.get("grpc-timeout"))
            self._tasks[stream] = self.loop.create_task(call)
        self._tasks[stream].add_done_callback(partial(_release, release_stream))

    def cancel(self, stream: Stream) -> None:
        """Cancel a call that its client has reset, unless it has ended and is about to be released."""
        if stream in self._tasks:
            super().cancel(stream)

    def close(self) -> None:
        """Cancel all calls: the connection closes. It is cut off if the client does not read what is left."""
        super().close()
        if self.transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_FLUSH_LIMIT, self.transport.abort)


def _release(release_stream: Callable[[], None], _call: object) -> None:
    """Give back the room that a call takes on its connection, also of one that was reset before it began."""
    with suppress(KeyError):  # grpclib's request handler has done so
        release_stream()


def _filtered(headers: list[tuple[str, str]]) -> dict[str, str]:
    """Return a call's head without what grpclib fails on instead of refusing it.

    That is a missing method or path, a time limit that no float can hold, and metadata that is not base64.
    """
    kept = {":method": "", ":path": ""} | {name: value for name, value in headers if name in _READ_BY_GRPCLIB}
    if len(kept.get("grpc-timeout", "")) > _MAX_TIMEOUT:
        kept["grpc-timeout"] = ""  # not a time limit by its form
    return kept


def _is_grpc(head: Mapping[str, str]) -> bool:
    """Return whether a call's head is as gRPC demands; grpclib refuses all others."""
    return (
        head[":method"] == "POST"
        and head.get("content-type") in ("application/grpc", "application/grpc+", CONTENT_TYPE)
        and head.get("te") == "trailers"
    )


class _Request(Buffer):
    """The received part of a request."""

    async def read(self, size: int) -> bytes:
        if size > _MAX_REQUEST:
            problem = f"a request of {size} bytes; {_MAX_REQUEST} are allowed"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, problem)
        return await super().read(size)
