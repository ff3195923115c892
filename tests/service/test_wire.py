"""The endpoint's gRPC on the wire: encoding, malformed bytes, limits of size and connections."""

import os
import re
import socket
from contextlib import ExitStack
from functools import partial
from typing import Any

import grpc
import pytest
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from h2.settings import SettingCodes

from tests.faults.wires import begun, message, request
from tests.support.double import KubeletDouble
from tests.support.process import Service
from tests.support.refused import refused
from tests.support.resource_names import U200, U250
from tests.support.waiting import wait_for
from tests.support.wire import pb
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

_DATA, _HEADERS = 0, 1  # types of frames: RFC 9113, 6


def _frames_of_call(received: bytes) -> list[int]:
    """Return the types of the frames of stream 1, of data that begins with a frame."""
    types = []
    while received:
        length, kind, stream = int.from_bytes(received[:3]), received[3], int.from_bytes(received[5:9])
        types += [kind] if stream == 1 else []
        received = received[9 + length :]
    return types


@pytest.mark.parametrize("method", ["allocate_raw", "preferred_raw", "options_raw", "pre_start_raw"])
def test_answers_have_the_encoding_of_google_protobuf(registered: KubeletDouble, method: str) -> None:
    arguments: dict[str, tuple[tuple[Any, ...], Any]] = {
        "allocate_raw": ((["0000:11:00.1"],), pb.AllocateResponse),
        "preferred_raw": ((["0000:11:00.1", "0000:21:00.1"], [], 1), pb.PreferredAllocationResponse),
        "options_raw": ((), pb.DevicePluginOptions),
        "pre_start_raw": ((["0000:11:00.1"],), pb.PreStartContainerResponse),
    }
    given, message = arguments[method]
    encoded = getattr(registered, method)(U200, *given)
    assert message.FromString(encoded).SerializeToString(deterministic=True) == encoded


def test_lists_have_the_encoding_of_google_protobuf(registered: KubeletDouble) -> None:
    for name in (U200, U250):
        [only] = registered.lists(name)
        assert only.message.SerializeToString(deterministic=True) == only.encoded


def test_malformed_bytes_return_a_status(registered: KubeletDouble) -> None:
    channel = grpc.insecure_channel(
        f"unix://{registered.directory}/{registered.registrations[0].endpoint}",
        options=[("grpc.default_authority", "localhost")],
    )
    with channel:
        call: Any = channel.unary_unary("/v1beta1.DevicePlugin/Allocate")
        for garbage in (b"\x0a\xff", b"\x0b", b"\x0f\x00", b""):
            status = refused(lambda sent: call(sent, timeout=30), garbage)
            assert status.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
            assert "Allocate" in (status.details() or "")
        truncated = b"\x0a\x04\x0a\x05ab"  # betterproto2 reads it as a request for the device `ab`
        assert refused(lambda: call(truncated, timeout=30)).code() is grpc.StatusCode.NOT_FOUND
        unknown: Any = channel.unary_unary("/v1beta1.DevicePlugin/Frobnicate")
        assert refused(lambda: unknown(b"", timeout=30)).code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "head",
    [{":method": None}, {":path": None}, {"grpc-timeout": f"1{'0' * 400}H"}, {"x-bin": "ABCDE"}],
)
def test_malformed_header_causes_no_error_of_the_service(
    registered: KubeletDouble, service: Service, head: dict[str, str | None]
) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(f"{registered.directory}/{registered.registrations[0].endpoint}")
        peer.sendall(request("GetDevicePluginOptions", message(b""), head=head))
        answer = b""
        # Until a HEADERS or RST_STREAM frame of stream 1, or the end of the connection (RFC 9113)
        while not re.search(rb"[\x01\x03].\x00\x00\x00\x01", answer, re.DOTALL) and (some := peer.recv(4096)):
            answer += some
    registered.options(registered.registrations[0].resource)
    assert not [each for each in service.events if each["level"] == "error"]


def test_unary_answer_is_sent_in_one_piece(registered: KubeletDouble) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(f"{registered.directory}/{registered.registrations[0].endpoint}")
        peer.sendall(request("GetDevicePluginOptions", message(b"")))
        while not (frames := _frames_of_call(peer.recv(1 << 16))):
            pass
    assert frames == [_HEADERS, _DATA, _HEADERS]


def _data_of_call(registered: KubeletDouble, client: H2Connection) -> list[bytes]:
    """Ask for the options on stream 1, which has begun; return the data of each frame."""
    client.send_data(1, message(b""), end_stream=True)
    received: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(f"{registered.directory}/{registered.registrations[0].endpoint}")
        while True:
            peer.sendall(client.data_to_send())
            events = client.receive_data(peer.recv(1 << 16))
            new = [each.data for each in events if isinstance(each, DataReceived)]
            received += new
            if any(isinstance(each, StreamEnded) for each in events):
                return received
            if new:
                client.increment_flow_control_window(len(b"".join(new)), 1)


def test_answer_waits_for_room_in_the_clients_window(registered: KubeletDouble) -> None:
    received = _data_of_call(registered, begun("GetDevicePluginOptions", window=1))
    options = registered.options_raw(registered.registrations[0].resource)
    assert received == [bytes([each]) for each in message(options)]


def test_change_of_the_table_for_heads_is_announced(registered: KubeletDouble) -> None:
    client = begun("GetDevicePluginOptions")
    client.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
    options = registered.options_raw(registered.registrations[0].resource)
    assert _data_of_call(registered, client) == [message(options)]


@pytest.mark.parametrize("method", ["GetDevicePluginOptions", "ListAndWatch"])
def test_calls_that_are_reset_at_once_take_no_room_from_others(
    registered: KubeletDouble, method: str
) -> None:
    client, size = begun(method), 1000
    head = [(":method", "POST"), (":scheme", "http"), (":path", f"/v1beta1.DevicePlugin/{method}")]
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(f"{registered.directory}/{registered.registrations[0].endpoint}")
        for number in range(3, 403, 2):
            client.send_headers(number, [*head, ("content-type", "application/grpc"), ("te", "trailers")])
            while client.local_flow_control_window(number) < size:
                client.receive_data(peer.recv(1 << 16))
            client.send_data(number, bytes(size))
            client.reset_stream(number)
            peer.sendall(client.data_to_send())


def test_too_long_request_is_refused_before_it_is_read(registered: KubeletDouble) -> None:
    with grpc.insecure_channel(
        f"unix://{registered.directory}/{registered.registrations[0].endpoint}",
        options=[("grpc.default_authority", "localhost")],
    ) as channel:
        for method in ("Allocate", "ListAndWatch"):
            call: Any = channel.unary_unary(f"/v1beta1.DevicePlugin/{method}")
            status = refused(partial(call, timeout=30), bytes(2 << 20))
            assert status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(2 << 20) in (status.details() or "")


def test_request_longer_than_a_read_is_read_whole(registered: KubeletDouble) -> None:
    ids = [f"0000:11:00.{number}" for number in range(10, 20_000)]  # 350 KB
    status = refused(registered.allocate, registered.registrations[0].resource, ids)
    assert status.code() is grpc.StatusCode.NOT_FOUND
    assert ids[0] in (status.details() or "")


def _is_closed(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        while peer.recv(65536):
            pass
    except BlockingIOError:
        return False
    return True


def test_excess_connections_are_closed_except_that_of_kubelet(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    before = len(os.listdir(f"/proc/{service.process.pid}/fd"))
    path = f"{cards.socket_dir}/{registered.registrations[0].endpoint}"
    with ExitStack() as stack:
        peers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(100)]
        for peer in peers:
            peer.settimeout(5)
            peer.connect(path)
        wait_for(lambda: len([each for each in peers if _is_closed(each)]) == 85, "kubelet has the 16th")
        wait_for(lambda: len(os.listdir(f"/proc/{service.process.pid}/fd")) <= before + 16, "16 at most")
        assert registered.allocate(U200, ["0000:11:00.1"]).container_responses
    wait_for(lambda: len(os.listdir(f"/proc/{service.process.pid}/fd")) <= before, "all are closed")
    assert registered.ends == []
