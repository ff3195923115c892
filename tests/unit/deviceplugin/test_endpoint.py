"""One endpoint in rare orders of events."""

import asyncio
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest

from tests.support.directory import socket_directory
from tests.support.double import KubeletDouble
from tests.support.endpoints import channel_to, endpoint_and_dead_kubelet, endpoint_in, is_listed
from tests.support.factories import device, offer
from tests.support.metrics import NoMetrics
from tests.support.running import running
from tests.support.wire import pb
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.deviceplugin.plugin import Plugin, PluginConfig
from xilinx_fpga_dp.model import Device
from xilinx_fpga_dp.resources.allocator import Allocator, Refresh


async def test_kubelet_reached_before_a_scan_shows_it_is_registered_with_once(tmp_path: Path) -> None:
    dead, directory, endpoint = await endpoint_and_dead_kubelet(tmp_path)
    kubelet = KubeletDouble(tmp_path)
    kubelet.faults.list_delay = 0.3
    life = asyncio.create_task(endpoint.run())
    async with asyncio.timeout(30):
        while not endpoint.last_error:
            await asyncio.sleep(0.01)
        dead.unlink()
        with mock.patch("tests.support.double.wipe"):  # kubelet does that before it serves
            await asyncio.to_thread(kubelet.start)
        while not kubelet.registrations:
            await asyncio.sleep(0.01)
        await directory.refresh()
        while not is_listed(endpoint):
            await asyncio.sleep(0.01)
        assert len(kubelet.registrations) == 1
        endpoint.offer.set(None)
        await life
    kubelet.stop()


async def test_kubelet_that_disconnects_before_it_lists_is_registered_with_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubelet <= 1.36 does so if the stream of another socket ends at that time."""
    kubelet = KubeletDouble(tmp_path, by_socket=True)  # kubelet <= 1.36 would also drop the next endpoint
    kubelet.start()
    kubelet.faults.list_delay = 60.0
    endpoint = endpoint_in(directory := socket_directory(tmp_path))
    # Else the endpoint would only register again when kubelet has not called ListAndWatch for so long.
    monkeypatch.setattr("xilinx_fpga_dp.deviceplugin.endpoint._STREAM_LIMIT", 600.0)
    async with running(directory.run(), endpoint.run()), asyncio.timeout(30):
        while not kubelet.registrations:
            await asyncio.sleep(0.01)
        kubelet.faults.list_delay = 0.0
        kubelet.drop(endpoint.resource)
        while not is_listed(endpoint):
            await asyncio.sleep(0.01)
        assert len(kubelet.registrations) == 2
    kubelet.stop()


async def test_restarts_of_kubelet_cause_no_back_off(tmp_path: Path) -> None:
    """A stream that ends within a second counts as a failure, but not against the next kubelet."""
    kubelet = KubeletDouble(tmp_path)
    directory = socket_directory(tmp_path)
    endpoint = endpoint_in(directory)
    async with running(directory.run(), endpoint.run()), asyncio.timeout(20):
        for _ in range(6):
            await asyncio.to_thread(kubelet.start)
            while not is_listed(endpoint):
                await asyncio.sleep(0.005)
            assert endpoint.failures <= 2, "failures with this kubelet may count"
            await asyncio.to_thread(kubelet.kill)
            while is_listed(endpoint):
                await asyncio.sleep(0.005)


async def _interrupted(_: Device) -> Device | None:
    """Await a future that is cancelled."""
    waited_for: asyncio.Future[Device] = asyncio.get_running_loop().create_future()
    waited_for.cancel()
    return await waited_for


async def _without_end(device: Device) -> Device | None:
    await asyncio.sleep(600)
    return device


@pytest.mark.parametrize(
    ("refresh", "limit", "expected"),
    [
        (_interrupted, 10, (grpc.StatusCode.INTERNAL, "was interrupted")),
        (_without_end, 0.3, (grpc.StatusCode.DEADLINE_EXCEEDED, "took more than 0.3 s")),
    ],
    ids=["interrupted", "for ever"],
)
@pytest.mark.parametrize("method", ["Allocate", "PreStartContainer"])
async def test_call_without_an_answer_ends_with_a_status(
    tmp_path: Path, method: str, refresh: Refresh, limit: float, expected: tuple[grpc.StatusCode, str]
) -> None:
    """Without a status kubelet waits for ever: grpclib sends nothing when a call is cancelled."""
    offered = offer(device())
    ids = [device().address]
    requests = {
        "Allocate": pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)]),
        "PreStartContainer": pb.PreStartContainerRequest(devices_ids=ids),
    }
    terms = PluginConfig(Allocator(refresh=refresh, time_limit=600), limit, pre_start=True)
    plugin = Plugin(offered.resource, Latest(offered), terms, NoMetrics())

    def call(path: Path) -> grpc.Call:
        with channel_to(path) as channel:
            ask: Any = channel.unary_unary(f"/v1beta1.DevicePlugin/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                ask(requests[method].SerializeToString(), timeout=20)
        assert isinstance(caught.value, grpc.Call)
        return caught.value

    async with socket_directory(tmp_path).serving(plugin, offered.resource) as bound:
        status = await asyncio.to_thread(call, tmp_path / bound.name)
    code, text = expected
    assert status.code() is code
    assert text in (status.details() or "")
