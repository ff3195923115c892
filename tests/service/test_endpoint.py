"""One endpoint in rare orders of events, in real time."""

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any, cast
from unittest import mock

import grpc
from grpclib.protocol import H2Protocol
from h2.events import DataReceived, PingReceived, StreamEnded
from h2.events import Event as H2Event

from tests.faults.wires import begun, message
from tests.support.descriptors import descriptors
from tests.support.directory import instance, socket_directory
from tests.support.double import KubeletDouble
from tests.support.endpoints import channel_to, endpoint_and_dead_kubelet, endpoint_in, is_listed
from tests.support.factories import PLAIN, device, offer
from tests.support.metrics import NoMetrics
from tests.support.running import running
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.deviceplugin import endpoint as endpoints
from xilinx_fpga_dp.deviceplugin.fleet import Fleet
from xilinx_fpga_dp.deviceplugin.plugin import ListStream, Plugin, PluginConfig
from xilinx_fpga_dp.deviceplugin.registration import register
from xilinx_fpga_dp.deviceplugin.socket_directory import DirectoryState
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.rpc import server as rpc_server


async def test_kubelet_that_starts_during_the_connect_is_registered_with_once(tmp_path: Path) -> None:
    """The connection may belong to either kubelet, so it is not used. No scan ends in between."""
    dead, directory, endpoint = await endpoint_and_dead_kubelet(tmp_path)
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
            with mock.patch("tests.support.double.wipe"):  # kubelet does that before it serves
                kubelet.start()
        await register(*arguments)

    with (
        mock.patch.object(directory, "refresh", late_refresh),
        mock.patch.object(endpoints, "register", late_register),
    ):
        life = asyncio.create_task(endpoint.run())
        async with asyncio.timeout(30):
            while not is_listed(endpoint):
                await asyncio.sleep(0.01)
            thread.set()
            await asyncio.sleep(0.3)
            assert is_listed(endpoint)
            assert (attempts, len(kubelet.registrations)) == (2, 1)
            endpoint.offer.set(None)
            await life
    kubelet.stop()


async def test_end_of_another_clients_connection_is_not_kubelets(tmp_path: Path) -> None:
    kubelet = KubeletDouble(tmp_path)
    kubelet.start()
    kubelet.faults.register_hang = kubelet.faults.list_delay = 0.5
    endpoint = endpoint_in(directory := socket_directory(tmp_path))
    async with running(directory.run(), endpoint.run()), asyncio.timeout(30):
        while not (found := list(tmp_path.glob("*-fpga.sock"))):
            await asyncio.sleep(0.01)
        with grpc.insecure_channel(f"unix:{found[0]}") as client:  # before kubelet dials
            call: Any = client.unary_unary("/v1beta1.DevicePlugin/GetDevicePluginOptions")
            await asyncio.to_thread(call, b"")
        while not is_listed(endpoint):
            await asyncio.sleep(0.01)
        assert len(kubelet.registrations) == 1
    kubelet.stop()


async def test_stalled_endpoint_does_not_register_over_newer_instance(tmp_path: Path) -> None:
    registering: list[str] = []
    kubelet = KubeletDouble(tmp_path, on_register=registering.append)
    kubelet.start()
    directory = socket_directory(tmp_path)
    await directory.refresh()
    newer = instance(tmp_path)
    assert not newer.has_newer_instance()
    endpoint = endpoint_in(directory)
    with mock.patch.object(directory, "refresh", asyncio.Event().wait):
        life = asyncio.create_task(endpoint.run())
        async with asyncio.timeout(30):
            while not endpoint.last_error:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
    assert registering == []
    assert Event.SUPERSEDED in str(endpoint.last_error)
    life.cancel()
    await asyncio.wait([life])
    newer.release()
    kubelet.stop()


async def test_pending_register_is_given_up_for_a_newer_instance(tmp_path: Path) -> None:
    """kubelet <= 1.36 keeps the endpoint that registered last, here that of an older instance."""
    registering: list[str] = []
    kubelet = KubeletDouble(tmp_path, on_register=registering.append)
    kubelet.faults.register_hang = 60.0
    kubelet.start()
    directory = socket_directory(tmp_path)
    endpoint = endpoint_in(directory)
    newer = instance(tmp_path)
    async with running(directory.run(), endpoint.run()), asyncio.timeout(30):
        while not list(tmp_path.glob("*-fpga.sock")):
            await asyncio.sleep(0.01)
        while not registering:  # until the endpoint waits for the answer of kubelet
            await asyncio.sleep(0.01)
        assert not newer.has_newer_instance()
        while list(tmp_path.glob("*-fpga.sock")):
            await asyncio.sleep(0.01)
        endpoint.register_again()
        await asyncio.sleep(1.5)
        assert len(registering) == 1
        assert kubelet.registrations == []
        kubelet.faults.register_hang = 0.0
        newer.release()
        while not is_listed(endpoint):
            await asyncio.sleep(0.01)
    kubelet.stop()


async def test_last_list_reaches_a_client_that_sends_before_it_reads(tmp_path: Path) -> None:
    """The C core of gRPC drops unread data if a send fails, so the connection stays until all is read."""
    directory = socket_directory(tmp_path)
    endpoint = endpoint_in(directory)
    plugin = Plugin(endpoint.resource, endpoint.offer, PluginConfig(PLAIN, 5), NoMetrics())
    reader = begun("ListAndWatch")
    reader.send_data(1, message(b""), end_stream=True)

    async def served(client: socket.socket) -> None:
        async with directory.serving(plugin, endpoint.resource) as bound:
            await loop.sock_connect(client, str(tmp_path / bound.name))
            await loop.sock_sendall(client, reader.data_to_send())
            await plugin.stream.until(lambda stream: stream is ListStream.OPEN)
            endpoint.offer.set(None)
            plugin.publish()

    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as client, mock.patch.object(rpc_server, "_STREAMS_LIMIT", 60.0):
        client.setblocking(False)
        service = asyncio.create_task(served(client))
        async with asyncio.timeout(30):
            await plugin.stream.until(lambda stream: stream is ListStream.OPEN)
            await asyncio.sleep(0.1)
            reader.ping(bytes(8))
            await loop.sock_sendall(client, reader.data_to_send())
            seen: list[H2Event] = []
            while not any(isinstance(event, PingReceived) for event in seen):
                seen += reader.receive_data(await loop.sock_recv(client, 65536))
            assert [each.data for each in seen if isinstance(each, DataReceived)][-1] == message(b"")
            assert any(isinstance(each, StreamEnded) for each in seen)
            assert not service.done()
            await loop.sock_sendall(client, reader.data_to_send())
            await service


async def test_delayed_list_is_not_sent_while_a_newer_instance_is_active(tmp_path: Path) -> None:
    """kubelet uses the newest list, from any instance."""
    kubelet = KubeletDouble(tmp_path)
    await asyncio.to_thread(kubelet.start)
    directory = socket_directory(tmp_path)
    endpoint = endpoint_in(directory)
    async with running(directory.run(), endpoint.run()), asyncio.timeout(30):
        while not is_listed(endpoint):
            await asyncio.sleep(0.01)
        for number in range(8):  # more than the burst of the rate limit
            endpoint.offer.set(offer(device(reason=Reason.OFFLINE if number % 2 else None)))
            await asyncio.sleep(0.05)
        endpoint.offer.set(offer(device(serial="1")))
        newer = instance(tmp_path)
        assert not newer.has_newer_instance()
        while not directory.state.value.standby:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # a list sent before may be on its way
        count = len(kubelet.lists(endpoint.resource))
        await asyncio.sleep(1.5)
        assert len(kubelet.lists(endpoint.resource)) == count
        newer.release()
    await asyncio.to_thread(kubelet.stop)


async def test_shell_that_goes_during_register_leaves_an_empty_list(tmp_path: Path) -> None:
    """kubelet may read the list before it answers Register."""
    kubelet = KubeletDouble(tmp_path)
    await asyncio.to_thread(kubelet.start)
    directory = socket_directory(tmp_path)
    endpoint = endpoint_in(directory)

    async def answered_late(*arguments: Any) -> None:
        await register(*arguments)
        await asyncio.sleep(30)

    watching = asyncio.create_task(directory.run())
    with mock.patch("xilinx_fpga_dp.deviceplugin.endpoint.register", answered_late):
        life = asyncio.create_task(endpoint.run())
        async with asyncio.timeout(30):
            while not kubelet.lists(endpoint.resource):
                await asyncio.sleep(0.01)
            endpoint.offer.set(None)
            await life
            while kubelet.capacity(endpoint.resource):
                await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.wait([watching])
    await asyncio.to_thread(kubelet.stop)


async def test_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    directory = socket_directory(tmp_path)
    endpoint = endpoint_in(directory)
    plugin = Plugin(endpoint.resource, endpoint.offer, PluginConfig(PLAIN, 5), NoMetrics())
    loop = asyncio.get_running_loop()
    client = begun("ListAndWatch")
    before = descriptors()
    with socket.socket(socket.AF_UNIX) as silent, mock.patch.object(rpc_server, "_FLUSH_LIMIT", 0.2):
        silent.setblocking(False)
        async with (
            directory.serving(plugin, endpoint.resource) as bound,
            asyncio.timeout(30),
        ):
            await loop.sock_connect(silent, str(tmp_path / bound.name))
            for _ in range(50_000):  # the server answers each
                client.ping(bytes(8))
            await loop.sock_sendall(silent, client.data_to_send())
            await asyncio.sleep(0.5)
        async with asyncio.timeout(30):
            while descriptors() > before + 1:
                await asyncio.sleep(0.05)


async def test_connection_forgets_ended_calls(tmp_path: Path) -> None:
    """kubelet keeps one connection for its whole life; h2 keeps 65,536 ended calls by default."""
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
    plugin = Plugin(offered.resource, Latest(offered), PluginConfig(PLAIN, 60), NoMetrics())
    with mock.patch.object(rpc_server, "RpcServer", Server):
        async with socket_directory(tmp_path).serving(plugin, offered.resource) as bound:
            with channel_to(tmp_path / bound.name) as channel:
                assert len(await asyncio.to_thread(asked, channel, 1500)) == 1
                [protocol] = made
                assert protocol.connection.streams_started == 1500
                assert 0 < len(protocol.connection._connection._closed_streams) <= 1024


async def test_failed_removal_of_a_dead_instances_socket_is_retried_soon(tmp_path: Path) -> None:
    dead = tmp_path / f"fpga-x-{'0' * 12}-fpga.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    directory = socket_directory(tmp_path)
    await directory.refresh()
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with mock.patch("xilinx_fpga_dp.rpc.sockets.os.unlink", side_effect=[read_only, read_only]) as tries:
        sweeping = asyncio.create_task(Fleet(directory, PluginConfig(PLAIN, 5), NoMetrics()).sweep())
        async with asyncio.timeout(30):
            while tries.call_count < 2:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        while dead.exists():
            await asyncio.sleep(0.01)
    sweeping.cancel()
    await asyncio.wait([sweeping])
