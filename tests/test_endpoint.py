"""The life of one endpoint, in the turns that a process would take too rarely."""

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any, cast
from unittest import mock

import grpc
import pytest
from grpclib.protocol import H2Protocol
from h2.events import DataReceived, Event, PingReceived, StreamEnded

from tests.conftest import running
from tests.double import KubeletDouble
from tests.faults.wires import begun, message
from tests.process import descriptors
from tests.support.directory import instance, socket_directory
from tests.support.metrics import NoMetrics
from tests.test_resources import PLAIN, device, offer
from tests.wire import pb
from xilinx_fpga_dp.deviceplugin import endpoint as endpoints
from xilinx_fpga_dp.deviceplugin.endpoint import Endpoint, Phase
from xilinx_fpga_dp.deviceplugin.fleet import Fleet
from xilinx_fpga_dp.deviceplugin.plugin import ListStream, Plugin, PluginConfig
from xilinx_fpga_dp.deviceplugin.registration import register
from xilinx_fpga_dp.deviceplugin.socket_directory import DirectoryState, SocketDirectory
from xilinx_fpga_dp.model import Device, Reason
from xilinx_fpga_dp.resources.allocator import Allocator, Refresh
from xilinx_fpga_dp.rpc import server as rpc_server


def _endpoint(directory: SocketDirectory) -> Endpoint:
    """The endpoint of a resource with one device."""
    offered = offer(device())
    endpoint = Endpoint(offered.resource, directory, PluginConfig(PLAIN, 5), NoMetrics())
    endpoint.offer.set(offered)
    return endpoint


def _listed(endpoint: Endpoint) -> bool:
    return endpoint.status.value.phase is Phase.LISTED


async def _beside_a_dead_kubelet(path: Path) -> tuple[Path, SocketDirectory, Endpoint]:
    """The socket that it has left, seen by a directory, and an endpoint that knows of it."""
    dead = path / "kubelet.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    directory = socket_directory(path)
    await directory.refresh()
    return dead, directory, _endpoint(directory)


async def test_a_kubelet_that_is_reached_before_it_is_seen_is_told_once(tmp_path: Path) -> None:
    dead, directory, endpoint = await _beside_a_dead_kubelet(tmp_path)
    kubelet = KubeletDouble(tmp_path)
    kubelet.faults.list_delay = 0.3
    life = asyncio.create_task(endpoint.run())
    async with asyncio.timeout(10):
        while not endpoint.status.value.last_error:
            await asyncio.sleep(0.01)
        dead.unlink()
        with mock.patch("tests.double.wipe"):  # that has just been
            await asyncio.to_thread(kubelet.start)
        while not kubelet.registrations:
            await asyncio.sleep(0.01)
        await directory.refresh()
        while not _listed(endpoint):
            await asyncio.sleep(0.01)
        assert len(kubelet.registrations) == 1
        endpoint.offer.set(None)
        await life
    kubelet.stop()


async def test_a_kubelet_that_comes_while_it_is_connected_to_is_told_once(tmp_path: Path) -> None:
    """Whom that connection has reached can't be told, so nothing is said on it; and no look is to be had."""
    dead, directory, endpoint = await _beside_a_dead_kubelet(tmp_path)
    kubelet = KubeletDouble(tmp_path)
    refresh, thread, attempts = directory.refresh, asyncio.Event(), 0

    async def late_refresh() -> DirectoryState:
        await thread.wait()
        return await refresh()

    async def late_register(*arguments: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            dead.unlink()
            with mock.patch("tests.double.wipe"):  # that has just been
                kubelet.start()
        await register(*arguments)

    with (
        mock.patch.object(directory, "refresh", late_refresh),
        mock.patch.object(endpoints, "register", late_register),
    ):
        life = asyncio.create_task(endpoint.run())
        async with asyncio.timeout(10):
            while not _listed(endpoint):
                await asyncio.sleep(0.01)
            thread.set()
            await asyncio.sleep(0.3)
            assert _listed(endpoint)
            assert (attempts, len(kubelet.registrations)) == (2, 1)
            endpoint.offer.set(None)
            await life
    kubelet.stop()


async def test_a_guest_who_goes_is_not_kubelet(tmp_path: Path) -> None:
    kubelet = KubeletDouble(tmp_path)
    kubelet.start()
    kubelet.faults.register_hang = kubelet.faults.list_delay = 0.5
    endpoint = _endpoint(directory := socket_directory(tmp_path))
    async with running(directory.run(), endpoint.run()), asyncio.timeout(10):
        while not (found := list(tmp_path.glob("*-fpga.sock"))):
            await asyncio.sleep(0.01)
        with grpc.insecure_channel(f"unix:{found[0]}") as guest:  # before kubelet dials
            call: Any = guest.unary_unary("/v1beta1.DevicePlugin/GetDevicePluginOptions")
            await asyncio.to_thread(call, b"")
        while not _listed(endpoint):
            await asyncio.sleep(0.01)
        assert len(kubelet.registrations) == 1
    kubelet.stop()


async def test_one_that_was_held_up_since_its_last_look_leaves_it_to_a_newer_instance(tmp_path: Path) -> None:
    told: list[str] = []
    kubelet = KubeletDouble(tmp_path, on_register=told.append)
    kubelet.start()
    directory = socket_directory(tmp_path)
    await directory.refresh()
    newer = instance(tmp_path)
    assert not newer.has_newer_instance()
    endpoint = _endpoint(directory)
    with mock.patch.object(directory, "refresh", asyncio.Event().wait):
        life = asyncio.create_task(endpoint.run())
        async with asyncio.timeout(10):
            while not endpoint.status.value.last_error:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
    assert told == []
    assert "superseded by a newer instance" in str(endpoint.status.value.last_error)
    life.cancel()
    await asyncio.wait([life])
    newer.release()
    kubelet.stop()


async def test_a_kubelet_that_closes_its_connection_before_it_lists_is_told_again(tmp_path: Path) -> None:
    """As kubelets up to 1.36 do where the stream of another socket ends meanwhile."""
    kubelet = KubeletDouble(tmp_path, by_socket=True)  # another one would drop the next one, too
    kubelet.start()
    kubelet.faults.list_delay = 60.0
    endpoint = _endpoint(directory := socket_directory(tmp_path))
    # Kubelet may take 10 s to ask for the list.
    async with running(directory.run(), endpoint.run()), asyncio.timeout(8):
        while not kubelet.registrations:
            await asyncio.sleep(0.01)
        kubelet.faults.list_delay = 0.0
        kubelet.drop(endpoint.resource)
        while not _listed(endpoint):
            await asyncio.sleep(0.01)
        assert len(kubelet.registrations) == 2
    kubelet.stop()


async def test_one_that_registers_while_a_newer_instance_comes_leaves_it_to_that_one(tmp_path: Path) -> None:
    """Of two Registers kubelet believes the one it has answered last, and would ask who is about to end."""
    told: list[str] = []
    kubelet = KubeletDouble(tmp_path, on_register=told.append)
    kubelet.faults.register_hang = 5.0
    kubelet.start()
    directory = socket_directory(tmp_path)
    endpoint = _endpoint(directory)
    newer = instance(tmp_path)
    async with running(directory.run(), endpoint.run()), asyncio.timeout(10):
        while not list(tmp_path.glob("*-fpga.sock")):
            await asyncio.sleep(0.01)
        while not told:  # it waits for kubelet's answer
            await asyncio.sleep(0.01)
        assert not newer.has_newer_instance()
        while list(tmp_path.glob("*-fpga.sock")):
            await asyncio.sleep(0.01)
        endpoint.register_again()
        await asyncio.sleep(1.5)
        assert len(told) == 1
        assert kubelet.registrations == []
        kubelet.faults.register_hang = 0.0
        newer.release()
        while not _listed(endpoint):
            await asyncio.sleep(0.01)
    kubelet.stop()


async def test_kubelet_that_restarts_again_and_again_is_not_backed_off_from(tmp_path: Path) -> None:
    """A stream that lives for less than a second is a failure, but not of the kubelet that comes next."""
    kubelet = KubeletDouble(tmp_path)
    directory = socket_directory(tmp_path)
    endpoint = _endpoint(directory)
    async with running(directory.run(), endpoint.run()), asyncio.timeout(20):
        for _ in range(6):
            await asyncio.to_thread(kubelet.start)
            while not _listed(endpoint):
                await asyncio.sleep(0.005)
            assert endpoint.status.value.failures <= 2, "being refused by this one may count"
            await asyncio.to_thread(kubelet.kill)
            while _listed(endpoint):
                await asyncio.sleep(0.005)


async def test_the_last_list_is_not_lost_on_a_client_that_sends_before_it_reads(tmp_path: Path) -> None:
    """grpc's C core drops what it has not read when it can't send: the connection waits until all is read."""
    directory = socket_directory(tmp_path)
    endpoint = _endpoint(directory)
    plugin = Plugin(endpoint.resource, lambda: endpoint.offer.value, PluginConfig(PLAIN, 5), NoMetrics())
    reader = begun("ListAndWatch")
    reader.send_data(1, message(b""), end_stream=True)

    async def served(client: socket.socket) -> None:
        async with directory.serving(plugin, endpoint.resource, plugin.disconnected) as bound:
            await loop.sock_connect(client, str(tmp_path / bound.name))
            await loop.sock_sendall(client, reader.data_to_send())
            await plugin.stream.until(lambda stream: stream is ListStream.OPEN)
            endpoint.offer.set(None)
            plugin.publish()

    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as client, mock.patch.object(rpc_server, "_STREAMS_LIMIT", 10.0):
        client.setblocking(False)
        service = asyncio.create_task(served(client))
        async with asyncio.timeout(5):
            await plugin.stream.until(lambda stream: stream is ListStream.OPEN)
            await asyncio.sleep(0.1)
            reader.ping(bytes(8))
            await loop.sock_sendall(client, reader.data_to_send())
            seen: list[Event] = []
            while not any(isinstance(event, PingReceived) for event in seen):
                seen += reader.receive_data(await loop.sock_recv(client, 65536))
            assert [each.data for each in seen if isinstance(each, DataReceived)][-1] == message(b"")
            assert any(isinstance(each, StreamEnded) for each in seen)
            assert not service.done()
            await loop.sock_sendall(client, reader.data_to_send())
            await service


async def test_a_list_that_is_due_is_not_sent_once_a_newer_instance_speaks(tmp_path: Path) -> None:
    """Kubelet takes the list that came last, whoever sent it."""
    kubelet = KubeletDouble(tmp_path)
    await asyncio.to_thread(kubelet.start)
    directory = socket_directory(tmp_path)
    endpoint = _endpoint(directory)
    async with running(directory.run(), endpoint.run()), asyncio.timeout(20):
        while not _listed(endpoint):
            await asyncio.sleep(0.01)
        for number in range(8):  # more than may be sent in a row
            endpoint.offer.set(offer(device(reason=Reason.OFFLINE if number % 2 else None)))
            await asyncio.sleep(0.05)
        endpoint.offer.set(offer(device(serial="1")))
        newer = instance(tmp_path)
        assert not newer.has_newer_instance()
        while not directory.state.value.standby:
            await asyncio.sleep(0.01)
        count = len(kubelet.lists(endpoint.resource))
        await asyncio.sleep(1.5)
        assert len(kubelet.lists(endpoint.resource)) == count
        newer.release()
    await asyncio.to_thread(kubelet.stop)


async def test_a_shell_that_goes_while_kubelet_answers_leaves_no_list(tmp_path: Path) -> None:
    """Kubelet may read the list before it answers Register."""
    kubelet = KubeletDouble(tmp_path)
    await asyncio.to_thread(kubelet.start)
    directory = socket_directory(tmp_path)
    endpoint = _endpoint(directory)

    async def answered_late(*arguments: Any) -> None:
        await register(*arguments)
        await asyncio.sleep(30)

    watching = asyncio.create_task(directory.run())
    with mock.patch("xilinx_fpga_dp.deviceplugin.endpoint.register", answered_late):
        life = asyncio.create_task(endpoint.run())
        async with asyncio.timeout(20):
            while not kubelet.lists(endpoint.resource):
                await asyncio.sleep(0.01)
            endpoint.offer.set(None)
            await life
            while kubelet.capacity(endpoint.resource):
                await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.wait([watching])
    await asyncio.to_thread(kubelet.stop)


async def test_a_client_that_never_reads_keeps_no_connection(tmp_path: Path) -> None:
    directory = socket_directory(tmp_path)
    endpoint = _endpoint(directory)
    plugin = Plugin(endpoint.resource, lambda: endpoint.offer.value, PluginConfig(PLAIN, 5), NoMetrics())
    loop = asyncio.get_running_loop()
    client = begun("ListAndWatch")
    before = descriptors()
    with socket.socket(socket.AF_UNIX) as silent, mock.patch.object(rpc_server, "_FLUSH_LIMIT", 0.2):
        silent.setblocking(False)
        async with (
            directory.serving(plugin, endpoint.resource, plugin.disconnected) as bound,
            asyncio.timeout(20),
        ):
            await loop.sock_connect(silent, str(tmp_path / bound.name))
            for _ in range(50_000):  # each is answered
                client.ping(bytes(8))
            await loop.sock_sendall(silent, client.data_to_send())
            await asyncio.sleep(0.5)
        async with asyncio.timeout(20):
            while descriptors() > before + 1:
                await asyncio.sleep(0.05)


def _channel(path: Path) -> grpc.Channel:
    return grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")])


async def _interrupted(_: Device) -> Device | None:
    """What comes of waiting for what somebody else cancels."""
    waited_for: asyncio.Future[Device] = asyncio.get_running_loop().create_future()
    waited_for.cancel()
    return await waited_for


async def _for_ever(device: Device) -> Device | None:
    await asyncio.sleep(600)
    return device


@pytest.mark.parametrize(
    ("refresh", "limit", "expected"),
    [
        (_interrupted, 10, (grpc.StatusCode.INTERNAL, "was interrupted")),
        (_for_ever, 0.3, (grpc.StatusCode.DEADLINE_EXCEEDED, "took more than 0.3 s")),
    ],
    ids=["interrupted", "for ever"],
)
@pytest.mark.parametrize("method", ["Allocate", "PreStartContainer"])
async def test_a_call_that_comes_to_no_answer_of_its_own_gets_a_status(
    tmp_path: Path, method: str, refresh: Refresh, limit: float, expected: tuple[grpc.StatusCode, str]
) -> None:
    """Without one kubelet would wait for ever: grpclib sends nothing where a call is cancelled."""
    offered = offer(device())
    ids = [device().address]
    requests = {
        "Allocate": pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)]),
        "PreStartContainer": pb.PreStartContainerRequest(devices_ids=ids),
    }
    terms = PluginConfig(Allocator(refresh=refresh, time_limit=600), limit, pre_start=True)
    plugin = Plugin(offered.resource, lambda: offered, terms, NoMetrics())

    def call(path: Path) -> grpc.Call:
        with _channel(path) as channel:
            ask: Any = channel.unary_unary(f"/v1beta1.DevicePlugin/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                ask(requests[method].SerializeToString(), timeout=20)
        assert isinstance(caught.value, grpc.Call)
        return caught.value

    async with socket_directory(tmp_path).serving(plugin, offered.resource, plugin.disconnected) as bound:
        status = await asyncio.to_thread(call, tmp_path / bound.name)
    code, says = expected
    assert status.code() is code
    assert says in (status.details() or "")


async def test_a_connection_forgets_the_calls_that_ended_long_ago(tmp_path: Path) -> None:
    """kubelet has one for as long as it lives, and h2 by itself remembers 65,536."""
    made: list[Any] = []

    class Server(rpc_server.RpcServer):
        def _protocol_factory(self) -> H2Protocol:
            made.append(super()._protocol_factory())
            return cast(H2Protocol, made[-1])

    def asked(channel: grpc.Channel, times: int) -> set[bytes]:
        ask: Any = channel.unary_unary("/v1beta1.DevicePlugin/GetDevicePluginOptions")
        calls = [ask.future(b"", timeout=60) for _ in range(times)]
        return {each.result() for each in calls}

    offered = offer(device())
    plugin = Plugin(offered.resource, lambda: offered, PluginConfig(PLAIN, 60), NoMetrics())
    with mock.patch.object(rpc_server, "RpcServer", Server):
        async with socket_directory(tmp_path).serving(plugin, offered.resource, plugin.disconnected) as bound:
            with _channel(tmp_path / bound.name) as channel:
                assert len(await asyncio.to_thread(asked, channel, 1500)) == 1
                [protocol] = made
                assert protocol.connection.streams_started == 1500
                assert 0 < len(protocol.connection._connection._closed_streams) <= 1024


async def test_a_dead_instances_socket_that_could_not_be_removed_is_tried_again_soon(tmp_path: Path) -> None:
    dead = tmp_path / f"fpga-x-{'0' * 12}-fpga.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    directory = socket_directory(tmp_path)
    await directory.refresh()
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with mock.patch(
        "xilinx_fpga_dp.deviceplugin.socket_names.os.unlink", side_effect=[read_only, read_only]
    ) as tries:
        sweeping = asyncio.create_task(Fleet(directory, PluginConfig(PLAIN, 5), NoMetrics()).sweep())
        async with asyncio.timeout(10):
            while tries.call_count < 2:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while dead.exists():
            await asyncio.sleep(0.01)
    sweeping.cancel()
    await asyncio.wait([sweeping])
