"""The unary calls of a servicer: each has a time limit and ends with an answer or a status with a sentence.

Without either, kubelet would wait for ever: it sets no deadline on most calls. They pass by grpclib's request
handler, which takes 50 us for what no unary call of kubelet has (metadata, events, a stream of messages).
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.metadata import decode_timeout, encode_grpc_message
from grpclib.protocol import Stream
from grpclib.stream import recv_message
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.rpc.codec import Codec

log = logging.getLogger(__name__)

_READ_LIMIT = 10.0  # seconds for a client to read an answer that it does not take at once

# Of RFC 9113, 6.1 and 6.2
_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS = 1, 4

CONTENT_TYPE = f"application/grpc+{Codec.__content_subtype__}"
_HEAD = [(":status", "200"), ("content-type", CONTENT_TYPE)]
_TRAILERS = [("grpc-status", "0")]

# The same in the forms of RFC 7541, 6.1 and 6.2.2, which neither use nor change the state of the compression
_HEAD_BLOCK = b"\x88\x0f\x10" + bytes([len(CONTENT_TYPE)]) + CONTENT_TYPE.encode()
_TRAILERS_BLOCK = b"\x00\x0bgrpc-status\x010"


Answer = Callable[[Any], Awaitable[Any]]
"""Makes the answer to a request: a message, or one that is encoded."""


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method: its name, how a status names it, the type of its request, and what answers it."""

    name: str
    what: str
    request: type
    answer: Answer


class Calls:
    """The unary calls under way of one servicer, which can be refused at its end."""

    def __init__(
        self,
        service: str,
        methods: Mapping[str, tuple[Answer, type]],
        limit: float,
        *,
        of: str = "",
        extra: Mapping[str, object] | None = None,
        ended: Callable[[str, str, float], None] | None = None,
    ) -> None:
        """Serve these methods.

        Args:
            service: the path of all methods, ``/v1.DRAPlugin/``.
            methods: what makes the answer, and the type of the request, by the name of the method.
            limit: seconds that a call may take; fewer, if its client says so.
            of: what they are about, as a status is to name it.
            extra: fields of the log line about a fault.
            ended: receives the method, the code and the seconds of each call once it has been answered.
        """
        self.by_path = {
            service + name: Method(name, f"{name} of {of}" if of else name, request, answer)
            for name, (answer, request) in methods.items()
        }
        self._limit = limit
        self._extra = dict(extra or {})
        self._ended = ended
        self._calls: set[asyncio.Task[Any]] = set()
        self._refusing = False

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return bool(self._calls)

    def refuse_new(self) -> None:
        """Answer every call with a status: those under way and all that come later."""
        self._refusing = True
        for call in self._calls:
            call.cancel()

    async def run(self, method: Method, stream: Stream, grpc_timeout: str | None) -> None:
        """Receive the request of a call and send its answer, or the status that it ends with.

        Args:
            method: what is called.
            stream: the call.
            grpc_timeout: how long its client waits, as gRPC writes it (``30S``); None: for ever.
        """
        call = current_call()
        self._calls.add(call)
        began = time.perf_counter()
        try:
            status = await self._serve(call, method, stream, grpc_timeout)
        except (StreamTerminatedError, StreamClosedError):
            return  # the client has gone
        finally:
            self._calls.discard(call)
        if self._ended is not None:
            self._ended(method.name, status.name, time.perf_counter() - began)

    async def _serve(
        self, call: "asyncio.Task[Any]", method: Method, stream: Stream, grpc_timeout: str | None
    ) -> Status:
        """Serve a call; return the status that it ends with."""
        try:
            message = await self._answer(call, method, stream, grpc_timeout)
        except GRPCError as error:
            await _send_status(stream, error)
            return error.status
        try:
            await _send_answer(stream, message)
        except TimeoutError:
            return Status.DEADLINE_EXCEEDED
        return Status.OK

    async def _answer(
        self, call: "asyncio.Task[Any]", method: Method, stream: Stream, grpc_timeout: str | None
    ) -> bytes:
        """Return the answer to a call, encoded, or raise the GRPCError that it ends with."""
        what = method.what
        ending = GRPCError(Status.UNAVAILABLE, f"{what}: the plugin is ending")
        if self._refusing:
            raise ending
        try:
            limit = self._limit if grpc_timeout is None else min(self._limit, decode_timeout(grpc_timeout))
        except ValueError:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{what}: no such time limit: {grpc_timeout}") from None
        try:
            async with asyncio.timeout(limit):
                request = await received(what, recv_message(stream, Codec(), method.request))
                return Codec().encode(await method.answer(request), None)
        except (GRPCError, StreamTerminatedError):
            raise
        except TimeoutError:
            raise GRPCError(Status.DEADLINE_EXCEEDED, f"{what} took more than {limit:g} s") from None
        except asyncio.CancelledError:
            if self._refusing:
                call.uncancel()
                raise ending from None
            if call.cancelling():
                raise  # the stream or the connection ends
            raise GRPCError(Status.INTERNAL, f"{what} was interrupted") from None
        except Exception as error:
            log.exception(Event.CALL_FAILED, extra={**self._extra, "method": method.name})
            raise GRPCError(Status.INTERNAL, f"{what} failed: {error!r}") from None


def current_call() -> "asyncio.Task[Any]":
    """Return the task of the call under way: each has one."""
    return cast("asyncio.Task[Any]", asyncio.current_task())


async def received(what: str, message: Awaitable[Any]) -> Any:
    """Return the request of a call, or raise GRPCError if it is missing, too long, or can't be parsed."""
    try:
        request = await message
    except (GRPCError, StreamTerminatedError, TimeoutError):
        raise
    except Exception as error:  # betterproto2 raises errors of many kinds
        raise GRPCError(Status.INVALID_ARGUMENT, f"{what}: no such request: {error}") from None
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, f"{what}: the request is missing")
    return request


@asynccontextmanager
async def _reset_if_unread(stream: Stream) -> AsyncIterator[None]:
    """Reset a call whose client does not read what is sent to it, or that is refused meanwhile."""
    try:
        async with asyncio.timeout(_READ_LIMIT):
            yield
    except (TimeoutError, asyncio.CancelledError):
        if stream.closable:
            stream.reset_nowait(ErrorCodes.CANCEL)
        raise


async def _send_status(stream: Stream, error: GRPCError) -> None:
    if not stream.closable:
        raise StreamClosedError(cast(int, stream.id))
    text = (error.message or "").encode(errors="replace").decode()
    status = [("grpc-status", str(error.status.value)), ("grpc-message", encode_grpc_message(text))]
    with suppress(TimeoutError):
        async with _reset_if_unread(stream):
            await stream.send_headers([*_HEAD, *status], end_stream=True)
    if stream.closable:  # the client has not sent its whole request
        stream.reset_nowait()


async def _send_answer(stream: Stream, message: bytes) -> None:
    """Send an answer and the end of the call, in one piece if the client takes it all at once.

    Head, message and trailers one by one would be a system call and a wake-up of the client each, and h2
    takes 50 us to make the same two heads each time.
    """
    if not stream.closable:
        raise StreamClosedError(cast(int, stream.id))
    framed = b"\0" + len(message).to_bytes(4) + message
    http2, stream_id = stream._h2_connection, cast(int, stream.id)  # noqa: SLF001 - grpclib has no method for it
    if not _takes_at_once(stream, stream_id, len(framed)):
        async with _reset_if_unread(stream):
            await stream.send_headers(_HEAD)
            await stream.send_data(framed)
            await stream.send_headers(_TRAILERS, end_stream=True)
        return
    stream.connection.flush()
    http2.send_data(stream_id, framed, end_stream=True)  # so that h2 counts it and ends the call
    http2.clear_outbound_data_buffer()
    stream._transport.write(  # noqa: SLF001
        _frame(_HEADERS, _END_HEADERS, stream_id, _HEAD_BLOCK)
        + _frame(_DATA, 0, stream_id, framed)
        + _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream_id, _TRAILERS_BLOCK)
    )


def _takes_at_once(stream: Stream, stream_id: int, size: int) -> bool:
    """Return whether the client of a call takes a message of this size now, after a constant head."""
    http2 = stream._h2_connection  # noqa: SLF001
    return (
        stream.connection.write_ready.is_set()
        and not http2.encoder.header_table.resized  # which the next head must announce
        and size <= min(http2.max_outbound_frame_size, http2.local_flow_control_window(stream_id))
    )


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload
