"""Faults of clients of the plugin's sockets: too many, too slow, or with malformed messages."""

import resource
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from tests.faults.fault import EVER, PACED, Catalogue
from tests.faults.stage import Stage

faults = Catalogue()
fault = faults.fault

_PLUGIN = "/v1beta1.DevicePlugin/"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def connected(stage: Stage, within: ExitStack, limit: float = 2.0) -> socket.socket | None:
    """Connect to the endpoint of the U250 cards; return None if there is none or it does not accept."""
    peer = within.enter_context(socket.socket(socket.AF_UNIX))
    # SO_SNDTIMEO: with a timeout of Python, connect fails at once on a full backlog (man 2 connect). It is
    # short for a process that another fault may have stopped.
    patience = (0, 200_000) if stage.paired else (2, 0)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *patience))
    try:
        peer.connect(str(stage.endpoint("u250")))
        peer.settimeout(limit)
    except (OSError, IndexError) as error:
        stage.expect(False, f"no connection: {error}")
        return None
    return peer


def sent(peer: socket.socket | None, data: bytes) -> bool:
    """Send data; return whether all was sent."""
    try:
        if peer is not None:
            peer.sendall(data)
    except OSError:
        return False
    return True


@contextmanager
def caller(stage: Stage) -> Iterator[grpc.Channel]:
    """Connect another gRPC client than kubelet."""
    target = f"unix:{stage.endpoint('u250')}"
    options = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(target, options=options) as channel:
        yield channel


def begun(
    method: str, *, window: int | None = None, head: Mapping[str, str | None] | None = None
) -> H2Connection:
    """Return a client with the headers of a call to send on stream 1; for the arguments see `request`."""
    settings = H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
    client = H2Connection(settings)
    client.initiate_connection()
    if window is not None:
        client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
    headers: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": _PLUGIN + method,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **(head or {}),
    }
    client.send_headers(1, [(name, text) for name, text in headers.items() if text is not None])
    return client


def request(
    method: str,
    body: bytes,
    *,
    window: int | None = None,
    whole: bool = True,
    head: Mapping[str, str | None] | None = None,
) -> bytes:
    """Return the bytes of a call.

    Args:
        method: the name of the method.
        body: the bytes after the headers.
        window: the initial window size of the client; None: the default.
        whole: whether the stream ends after the body.
        head: headers to replace; with None, to omit.
    """
    data = begun(method, window=window, head=head).data_to_send()
    # The frames are built here because h2 would wait for window updates.
    for at in range(0, len(body), 16384):
        part = body[at : at + 16384]
        last = whole and at + 16384 >= len(body)
        data += struct.pack(">I", len(part))[1:] + bytes((0, 1 if last else 0)) + struct.pack(">I", 1) + part
    return data


def message(body: bytes, length: int | None = None) -> bytes:
    """Return a gRPC message; with ``length``, with a wrong length."""
    return b"\0" + struct.pack(">I", len(body) if length is None else length) + body


@fault("1,000 connections", place="connections")
def many_connections(stage: Stage) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    with ExitStack() as peers:
        for number in range(1000):
            if (peer := connected(stage, peers)) is None:
                break
            sent(peer, _PREFACE if number % 2 else b"")
        yield


@fault("half-open connections", place="connections")
def half_open(stage: Stage) -> Iterator[None]:
    with ExitStack() as peers:
        for number in range(12):
            whole = request("Allocate", message(b"\x0a\x02\x0a\x00"), whole=False)
            sent(connected(stage, peers), whole[: 4 * number])
        yield


@fault("garbage bytes", place="connections")
def garbage(stage: Stage) -> Iterator[None]:
    with ExitStack() as peers:
        for number in range(50):
            begin = (b"", _PREFACE, request("Allocate", b"", whole=False))[number % 3]
            sent(connected(stage, peers), begin + stage.dice.randbytes(stage.dice.randrange(1, 3000)))
        yield


@fault("a message with a length of 4 GiB", place="messages")
def oversized(stage: Stage) -> Iterator[None]:
    with ExitStack() as peers:
        for _ in range(8):
            if peer := connected(stage, peers, 0.3):
                sent(peer, request("Allocate", message(b"", 0xFFFFFFFF) + bytes(60_000), whole=False))
                sent(peer, bytes(1 << 20))
        yield


@fault("messages cut off, messages of 2 MiB, no message at all", place="messages")
def truncated(stage: Stage) -> Iterator[None]:
    with caller(stage) as channel:
        for method in ("Allocate", "GetPreferredAllocation", "PreStartContainer", "ListAndWatch"):
            for body in (b"\x0a", b"\x0a\xff", b"\xff" * 11, bytes(2 << 20)):
                _refused(stage, channel, method, body)
        with ExitStack() as peers:
            for cut in (b"\0", message(b"")[:3], message(b"abc", 7), b"\1" + message(b"abc")[1:]):
                sent(connected(stage, peers), request("Allocate", cut))
            yield


@fault("unknown methods and services", place="messages")
def unknown(stage: Stage) -> Iterator[None]:
    with caller(stage) as channel:
        for method in ("Frobnicate", "../Allocate", "", "A" * 5000):
            _refused(stage, channel, method, b"")
        yield


def _refused(stage: Stage, channel: grpc.Channel, method: str, body: bytes) -> None:
    """Make a call that must fail with a status; other tests check which one."""
    call: Any = channel.unary_unary(_PLUGIN + method)
    try:
        call(body, timeout=3)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        answered = error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        assert answered or stage.paired, f"{method} got no answer"
    else:
        stage.expect(False, f"{method} of {body[:12]!r} was answered")


@fault("streams opened and never read", touches="u250", devices=True, gap=EVER, place="cards", back=PACED,
       brief=True)  # fmt: skip
def never_read(stage: Stage) -> Iterator[None]:
    card = stage.cards("u250")[0]
    with ExitStack() as peers:
        for _ in range(4):
            peer = connected(stage, peers)
            sent(peer, request("ListAndWatch", message(b""), window=0))
            stage.expect(peer is not None and bool(peer.recv(1)), "the stream was not opened")
        for _ in range(4):  # lists that the clients do not read
            card.offline()
            time.sleep(0.15)
            card.mend()
            time.sleep(0.15)
        yield


@fault("kubelet's calls cancelled half way", place="messages")
def given_up(stage: Stage) -> Iterator[None]:
    with caller(stage) as channel:
        for number in range(60):
            call: Any = channel.unary_unary(_PLUGIN + "Allocate")
            answer = call.future(b"\x0a\x0e\x0a\x0c0000:31:00.1", timeout=3)
            time.sleep(0.0005 * (number % 7))
            answer.cancel()
        yield
