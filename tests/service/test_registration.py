"""Registration with kubelet: its start, restart, end and faults."""

import asyncio
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.directory import endpoint_sockets
from tests.support.double import KubeletDouble
from tests.support.process import Service
from tests.support.resource_names import U55C, U200, U250
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.deviceplugin.registration import register
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.rpc.api.deviceplugin_v1beta1 import DevicePluginOptions
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_service_waits_for_kubelet_at_start(
    cards: SampleNode, kubelet: KubeletDouble, service: Service
) -> None:
    hint = service.logged(Event.NO_KUBELET)  # fmt: skip
    assert hint["path"].endswith("kubelet.sock")
    assert endpoint_sockets(cards) == []
    kubelet.start()
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)


def test_service_registers_after_each_kubelet_restart(registered: KubeletDouble, cards: SampleNode) -> None:
    for _ in range(3):
        before = {registration.endpoint for registration in registered.registrations}
        registered.restart(down=0.2)
        registered.wait_for(lambda: registered.allocatable(U200) == 2 and registered.allocatable(U250) == 1)
        assert len({r.endpoint for r in registered.registrations} - before) >= 2, "sockets have new names"
    assert len(endpoint_sockets(cards)) == 2


def test_service_waits_for_killed_kubelet_with_remaining_socket(
    registered: KubeletDouble, service: Service
) -> None:
    registered.kill()
    assert os.path.exists(registered.socket)
    service.logged(Event.NOT_REGISTERED, resource=U200)
    time.sleep(1)
    registered.start()
    registered.wait_for(lambda: registered.allocatable(U200) == 2)
    complaints = [e for e in service.events if e["event"] == Event.NOT_REGISTERED and e["resource"] == U200]
    assert len(complaints) <= 3, "one error is logged once"


def test_lost_stream_causes_registration_of_its_resource(registered: KubeletDouble) -> None:
    count = len(registered.registrations)
    registered.cut_stream(U200)
    registered.wait_for(lambda: len(registered.registrations) >= count + 1)
    registered.wait_for(lambda: registered.allocatable(U200) == 2)
    assert registered.registrations[-1].resource == U200
    assert len(registered.lists(U250)) == 1, "no other resource gets a list"


@pytest.mark.parametrize("fault", ["refuse", "register_hang", "list_delay"])
def test_registration_is_retried_after_fault_of_kubelet(
    cards: SampleNode, kubelet: KubeletDouble, service: Service, fault: str
) -> None:
    value: Any = {"refuse": grpc.StatusCode.UNKNOWN, "register_hang": 1.0, "list_delay": 1.0}[fault]
    setattr(kubelet.faults, fault, value)
    kubelet.start()
    if fault == "refuse":
        kubelet.wait_for(lambda: len(kubelet.refusals) >= 6)
        assert service.logged(Event.NOT_REGISTERED)["error"].startswith("kubelet refused")
        times = [refusal.time for refusal in kubelet.refusals if refusal.resource == U200]
        assert max(b - a for a, b in pairwise(times)) < 5, (
            "half a second apart at most; a busy machine takes longer"
        )
    setattr(kubelet.faults, fault, None if fault == "refuse" else 0.0)
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)


@pytest.mark.parametrize(("fault", "seconds"), [("dial_hang", 11.0), ("list_delay", 6.0)])
def test_slow_kubelet_gets_one_register(node: SampleNode, fault: str, seconds: float) -> None:
    """kubelet may dial back for 10 s before it answers (client.go); a second Register restarts that."""
    node.add_card("u55c", "0000:41:00")
    registers: list[str] = []
    kubelet = KubeletDouble(Path(node.socket_dir), on_register=registers.append)
    setattr(kubelet.faults, fault, seconds)
    with kubelet, Service(settings_for(node)) as service:
        service.logged(Event.REGISTERED, limit=40)
        assert len(registers) == 1
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        assert Event.NOT_REGISTERED not in {each["event"] for each in service.events}


def test_hanging_register_is_cancelled_when_kubelet_restarts(
    cards: SampleNode, kubelet: KubeletDouble, service: Service
) -> None:
    kubelet.faults.register_hang = 60.0
    kubelet.start()
    wait_for(lambda: len(endpoint_sockets(cards)) == 2, "both sockets exist")
    time.sleep(0.3)
    kubelet.faults.register_hang = 0.0
    kubelet.restart()
    kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2 and kubelet.allocatable(U250) == 1)


def test_second_stream_does_not_disturb_the_first(registered: KubeletDouble, service: Service) -> None:
    count = len(registered.registrations)
    endpoint = next(r.endpoint for r in registered.registrations if r.resource == U250)
    with grpc.insecure_channel(
        f"unix://{registered.directory}/{endpoint}", options=[("grpc.default_authority", "x")]
    ) as channel:
        lists: Any = channel.unary_stream("/v1beta1.DevicePlugin/ListAndWatch")
        stream = lists(b"", timeout=30)
        assert next(stream) == registered.lists(U250)[0].encoded
        stream.cancel()
    time.sleep(0.3)
    assert len(registered.registrations) == count
    assert registered.allocatable(U250) == 1


async def test_removed_socket_is_not_registered(node: SampleNode, kubelet: KubeletDouble) -> None:
    kubelet.dial_limit = 0.2
    kubelet.start()
    with pytest.raises(FileNotFoundError, match=r"gone-fpga\.sock"):
        await register(str(kubelet.socket), "gone-fpga.sock", U200, DevicePluginOptions())
    await asyncio.sleep(0.5)
    assert kubelet.refusals == [], "kubelet got no Register"
