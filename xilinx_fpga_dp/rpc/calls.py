"""The unary calls of a servicer: each has a time limit and ends with an answer or a status with a sentence.

Without either, kubelet would wait for ever: it sets no deadline on most calls.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.protocol import Stream as HTTP2Stream
from grpclib.server import Stream

from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.rpc.codec import Codec

log = logging.getLogger(__name__)

# Of RFC 9113, 6.1 and 6.2
_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS = 1, 4

# In the forms of RFC 7541, 6.1 and 6.2.2, which neither use nor change the state of the header compression
_CONTENT_TYPE = f"application/grpc+{Codec.__content_subtype__}".encode()
_HEAD = b"\x88\x0f\x10" + bytes([len(_CONTENT_TYPE)]) + _CONTENT_TYPE  # :status 200, content-type
_TRAILERS = b"\x00\x0bgrpc-status\x010"


class Calls:
    """The calls under way of one servicer, which can be refused at its end."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Task[Any]] = set()
        self._refusing = False

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return bool(self._calls)

    def refuse_new(self) -> None:
        """Refuse the calls that are under way, and all that come later."""
        self._refusing = True
        for call in self._calls:
            call.cancel()

    async def answer(
        self,
        what: str,
        answer: Callable[[Any], Awaitable[Any]],
        stream: Stream[Any, Any],
        limit: float,
        extra: Mapping[str, object],
    ) -> Any:
        """Return the answer to a call, or raise the GRPCError that it ends with.

        Args:
            what: names the call in a status.
            answer: makes the answer from the request.
            stream: the call.
            limit: seconds.
            extra: fields of the log line about a fault.
        """
        ending = GRPCError(Status.UNAVAILABLE, f"{what}: the plugin is ending")
        call = current_call()
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        if self._refusing:
            raise ending
        try:
            async with asyncio.timeout(limit):
                return await answer(await received(what, stream))
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
            log.exception(Event.CALL_FAILED, extra=dict(extra))
            raise GRPCError(Status.INTERNAL, f"{what} failed: {error!r}") from None


def current_call() -> "asyncio.Task[Any]":
    """Return the task of the call under way: grpclib makes one of each call."""
    return cast("asyncio.Task[Any]", asyncio.current_task())


async def received(what: str, stream: Stream[Any, Any]) -> Any:
    """Return the request of a call, or raise GRPCError if it is missing, too long, or can't be parsed."""
    try:
        request = await stream.recv_message()
    except (GRPCError, StreamTerminatedError, TimeoutError):
        raise
    except Exception as error:  # betterproto2 raises errors of many kinds
        raise GRPCError(Status.INVALID_ARGUMENT, f"{what}: no such request: {error}") from None
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, f"{what}: the request is missing")
    return request


async def send_answer(stream: Stream[Any, Any], answer: Any) -> None:
    """Send the answer to a unary call, and its end, in one piece if the client takes it all at once.

    grpclib sends the head, the message and the trailers one by one, each with a system call and a wake-up of
    the client, and h2 takes 50 us to make the same two heads each time. It can go when grpclib sends them
    together and h2 remembers them.
    """
    call = stream._stream  # noqa: SLF001 - grpclib has no method for it
    message = Codec().encode(answer, None)
    framed = b"\0" + len(message).to_bytes(4) + message
    if call.id is None or not _takes_at_once(call, call.id, len(framed)):
        await stream.send_message(answer)
        return
    http2 = call._h2_connection  # noqa: SLF001
    call.connection.flush()
    http2.send_data(call.id, framed, end_stream=True)  # so that h2 counts it and ends the call
    http2.clear_outbound_data_buffer()
    call._transport.write(  # noqa: SLF001
        _frame(_HEADERS, _END_HEADERS, call.id, _HEAD)
        + _frame(_DATA, 0, call.id, framed)
        + _frame(_HEADERS, _END_HEADERS | _END_STREAM, call.id, _TRAILERS)
    )
    stream._send_initial_metadata_done = True  # noqa: SLF001
    stream._send_message_done = stream._send_trailing_metadata_done = True  # noqa: SLF001


def _takes_at_once(call: HTTP2Stream, stream_id: int, size: int) -> bool:
    """Return whether the client of a call takes a message of this size now, after a constant head."""
    http2 = call._h2_connection  # noqa: SLF001
    return (
        call.closable
        and call.connection.write_ready.is_set()
        and not http2.encoder.header_table.resized  # which the next head must announce
        and size <= min(http2.max_outbound_frame_size, http2.local_flow_control_window(stream_id))
    )


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload
