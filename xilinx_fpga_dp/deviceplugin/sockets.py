"""The unix sockets of this node's plugins: naming, serving, and sweeping up after dead instances."""

import asyncio
import logging
import os
import re
import secrets
import socket
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import cast

from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import AbstractHandler, Buffer, H2Protocol, Stream
from grpclib.server import Handler, Server
from h2.connection import H2Connection
from h2.events import Event, PingAckReceived

from xilinx_fpga_dp.aio import listen as accepting
from xilinx_fpga_dp.deviceplugin.plugin import Plugin
from xilinx_fpga_dp.deviceplugin.socket_directory import (
    SUFFIX,
    SocketDirectory,
    Watch,
    identity_of,
    is_socket,
)
from xilinx_fpga_dp.rpc.codec import Codec

log = logging.getLogger(__name__)

MAX_PATH = 107  # bytes of a unix socket's path: sizeof(sockaddr_un.sun_path) less the final zero
_TOKEN_BYTES = 6
_OURS = re.compile(rf"(?:.+-)?[0-9a-f]{{{2 * _TOKEN_BYTES}}}{re.escape(SUFFIX)}")
SHORTEST_NAME = len("-".join(("0" * 2 * _TOKEN_BYTES, SUFFIX.removeprefix("-"))))

# Seconds in which calls under way may end, then those that are refused, then the streams and their reading.
_LAST_CALLS = 0.3
_LAST_REFUSALS = 0.1
_LAST_LISTS = 0.3
_LAST_BYTES = 1.0  # and a client may take to read what was sent when its connection is closed

# Seconds that a living instance may take from its bind to its listen: inotify tells others of the one, and
# they may have the processor then.
_MOMENT = 0.1

# kubelet has one connection, and a guest perhaps another.
_CONNECTIONS = 16
# Bytes: a request names device ids, a few thousand at most. The window is the least that HTTP/2 allows, and
# all that waits unread of a connection.
_MAX_REQUEST = 1 << 20
_WINDOW = (1 << 16) - 1
# What grpclib reads of a call's head, and how long a time limit may be.
_HEAD = frozenset({":method", ":path", "content-type", "te", "grpc-timeout", "user-agent"})
_TIMEOUT = 9  # eight digits and a unit: PROTOCOL-HTTP2.md of grpc
# Streams that have ended which a connection remembers. kubelet has one for as long as it lives, on which h2's
# own 65,536 would take 8 MB.
H2Connection.MAX_CLOSED_STREAMS = 1024


class Bound:
    """A socket that is served. Its name was never used before, and only kubelet is told."""

    def __init__(self, name: str, watch: Watch) -> None:
        self.name = name
        self._watch = watch
        self._identity = identity_of(os.path.join(watch.path, name))
        self._settled = False

    async def settle(self) -> None:
        """Look at the directory once, so that what is seen of it from now on includes this socket."""
        if not self._settled:
            await self._watch.look()
            self._settled = True

    def seen_in(self, directory: SocketDirectory) -> bool:
        """Whether the name leads to this socket there: kubelet removes all sockets when it starts."""
        return self._identity is not None and (self.name, self._identity) in directory.ours


@asynccontextmanager
async def serving(plugin: Plugin, resource: str, watch: Watch) -> AsyncIterator[Bound]:
    """Serve a plugin on a new socket in the watched directory; at the end its streams end cleanly.

    Raises:
        OSError: the socket can't be made.
    """
    name = _socket_name(watch.path, resource)
    path = os.path.join(watch.path, name)
    server = _Server(plugin)
    watch.mine.add(name)
    try:
        listener = _listen(path)
        await server.start(sock=listener, backlog=accepting.AT_ONCE)
        accepting.set_backlog(listener)
        yield Bound(name, watch)
    finally:
        with suppress(OSError):  # kubelet was faster, or the directory is gone
            os.unlink(path)
        watch.mine.discard(name)
        await server.end()


class _Server(Server):
    """grpclib's server, which can also end its connections, and bounds what they cost.

    Its own close() cancels the streams without trailers, and on Python 3.12 and later its wait_closed() waits
    until the client closes the connection, which kubelet never does. It takes any number of connections and
    messages of any length.
    """

    def __init__(self, plugin: Plugin) -> None:
        window = Configuration(http2_connection_window_size=_WINDOW, http2_stream_window_size=_WINDOW)
        super().__init__([plugin], codec=Codec(), config=window)
        self._plugin = plugin
        self._protocols: weakref.WeakSet[_Protocol] = weakref.WeakSet()
        self._ended = False

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        protocol = _Protocol(_Calls(cast(Handler, made.handler)), made.config, made.h2_config)
        open_ones = sum(not each.closed for each in self._protocols)
        protocol.unwanted = self._ended or open_ones >= _CONNECTIONS
        protocol.ended = self._connection_ended
        self._protocols.add(protocol)
        return protocol

    def _connection_ended(self) -> None:
        """One that calls came on has."""
        if all(each.closed or not each.called for each in self._protocols):
            self._plugin.dropped.set()

    async def end(self) -> None:
        """Take no more connections, let calls and then streams end, then close every connection.

        kubelet closes its connection as soon as the stream has ended, so calls are answered before.
        """
        if self._server is not None:
            self._server.close()
        await _while(lambda: self._plugin.busy, _LAST_CALLS)
        self._plugin.refuse_the_rest()
        await _while(lambda: self._plugin.busy, _LAST_REFUSALS)
        self._plugin.end_streams()
        await asyncio.sleep(0)  # they do so now
        await _while(self._unheard, _LAST_LISTS)
        self._ended = True
        for protocol in list(self._protocols):
            protocol.close("the plugin ends")

    def _unheard(self) -> bool:
        return bool([protocol for protocol in self._protocols if not protocol.heard()])  # each is asked now


async def _while(busy: Callable[[], bool], limit: float) -> None:
    """Wait as long as something is under way: looked for, since grpclib tells nobody when a call ends."""
    deadline = asyncio.get_running_loop().time() + limit
    while busy() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


class _Protocol(H2Protocol):
    """One connection. What grpclib stumbles over ends it, and is no fault of ours to be logged as one."""

    handler: "_Calls"
    unwanted = False  # to be closed as soon as it is made
    ended: Callable[[], None]  # hears of the end of one that calls came on
    _asked = False
    _heard = False

    @property
    def closed(self) -> bool:
        """Whether it was open and is no more."""
        return hasattr(self, "connection") and self.connection.is_closing()

    @property
    def called(self) -> bool:
        """Whether any call has come on it."""
        return hasattr(self, "connection") and bool(self.connection.streams_started)

    def close(self, why: str) -> None:
        """End it, and the calls on it; one that is about to be made ends then."""
        self.unwanted = True
        if hasattr(self, "processor"):
            self.processor.close(why)

    def heard(self) -> bool:
        """Whether all calls have ended and the client has read so: a ping asks it for that.

        grpc's C core, once it fails to send (an acknowledgement, for one), drops what it has not read yet:
        closed too early, the empty list of a resource that is gone was lost. grpc-go reads on.
        """
        if self.handler.under_way:
            return False
        if self.closed or not self.called:
            return True
        if not self._asked:
            self._asked = True
            self.connection._connection.ping(bytes(8))  # noqa: SLF001 - grpclib pings to keep alive only
            self.connection.flush()
        return self._heard

    def _answered(self, _event: Event) -> None:
        self._heard = self._asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, some turns of the loop after the connection was accepted."""
        super().connection_made(_Gathering(cast(asyncio.Transport, transport)))
        self.processor.processors[PingAckReceived] = self._answered
        if self.unwanted:
            self.close("not wanted")

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has ended, whoever ended it."""
        super().connection_lost(exc)
        if self.called:
            self.ended()

    def data_received(self, data: bytes) -> None:
        """Take what has come: frames grpclib does not know, or more of them after the last one."""
        try:
            super().data_received(data)
        except Exception as error:
            log.debug("connection closed", extra={"error": repr(error)})
            self.close("not understood")


class _Gathering(asyncio.Transport):
    """A transport that sends in one go what is written in one turn of the loop.

    grpclib writes an answer's head, body and end one by one, and each would wake the client.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._waiting: list[bytes | bytearray | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send it at the end of this turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(data)

    def close(self) -> None:
        """Send what is still to be sent, then close; a client that does not read is not waited for."""
        self._send()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_LAST_BYTES, self._transport.abort)

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What the transport tells of itself."""
        return self._transport.get_extra_info(name, default)

    def _send(self) -> None:
        if self._waiting:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()


class _Calls(AbstractHandler):
    """The calls of one connection, as grpclib takes them, but for their heads and the length of a request."""

    def __init__(self, calls: Handler) -> None:
        self._calls = calls

    @property
    def under_way(self) -> bool:
        """Whether there are any; those that have ended are forgotten."""
        return not self._calls.check_closed()

    def accept(
        self, stream: Stream, headers: list[tuple[str, str]], release_stream: Callable[[], None]
    ) -> None:
        """Answer a call, of which nothing but the head has been read yet."""
        assert stream.id is not None  # noqa: S101 - for the type: it came with the head
        stream.buffer = _Request(partial(stream.connection.ack, stream.id))
        self._calls.accept(stream, _head(headers), release_stream)

    def cancel(self, stream: Stream) -> None:
        """The client has given the call up."""
        self._calls.cancel(stream)

    def close(self) -> None:
        """The connection is closed."""
        self._calls.close()


def _head(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What counts of a call's head, so that grpclib refuses what it would stumble over.

    That is a head without a method or a path, a time limit that no float can hold, and metadata that is no
    base64, which nothing here asks for.
    """
    told = {":method": "", ":path": ""} | {name: value for name, value in headers if name in _HEAD}
    if len(told.get("grpc-timeout", "")) > _TIMEOUT:
        told["grpc-timeout"] = ""  # no limit by its form
    return list(told.items())


class _Request(Buffer):
    """What has come of a request."""

    async def read(self, size: int) -> bytes:
        """Wait for so many bytes."""
        if size > _MAX_REQUEST:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED, f"a request of {size} bytes; {_MAX_REQUEST} are allowed"
            )
        return await super().read(size)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)  # kubelet is root
        accepting.set_backlog(
            listener
        )  # at once: whoever sweeps takes a socket without for a dead instance's
    except OSError as error:
        listener.close()
        # Not the socket's own name, which is another one at each try
        raise OSError(error.errno, error.strerror, os.path.dirname(path)) from None
    except BaseException:
        listener.close()
        raise
    return listener


def _socket_name(directory: str, resource: str) -> str:
    """A name nobody used before, which still tells the resource as far as the path's length allows."""
    token = secrets.token_hex(_TOKEN_BYTES)
    room = MAX_PATH - len(os.fsencode(directory)) - 1 - SHORTEST_NAME - 1
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", resource.rpartition("/")[2])[: max(room, 0)]
    return f"{stem}-{token}{SUFFIX}" if stem else token + SUFFIX


def sweep(directory: str, names: Iterable[str]) -> dict[str, bool]:
    """Remove those sockets that nobody listens on: a dead instance left them. Blocks.

    A living instance is between its bind and its listen for a moment, so each is tried twice.

    Returns:
        Of each of those whether it could be removed.
    """
    paths = {name: os.path.join(directory, name) for name in names}
    dead = [name for name in paths if _dead(paths[name])]
    if dead:
        time.sleep(_MOMENT)
    return {name: _removed(paths[name]) for name in dead if _dead(paths[name])}


def strangers(directory: str) -> tuple[str, ...]:
    """The names of live sockets that look like ours and are not: plugin 1.3.0 has no token in them. Blocks.

    Raises:
        OSError: the directory can't be listed.
    """
    names = sorted(
        name for name in os.listdir(directory) if name.endswith(SUFFIX) and not _OURS.fullmatch(name)
    )
    return tuple(name for name in names if _listened_to(os.path.join(directory, name)))


def _listened_to(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(path) == 0


def _dead(path: str) -> bool:
    if not is_socket(path):  # to connect to it would be refused, too
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:  # gone, or alive and busy
            return False
    return False


def _removed(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
