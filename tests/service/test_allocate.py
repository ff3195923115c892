"""Lists and calls of kubelet: resources, Allocate, refusals, and changes of cards."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.support.directory import endpoint_sockets
from tests.support.double import KubeletDouble
from tests.support.process import Service
from tests.support.refused import refused
from tests.support.resource_names import U55C, U200, U250
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from tests.support.wire import pb
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_each_shell_is_a_resource_with_its_devices(registered: KubeletDouble) -> None:
    assert registered.resources() == {
        U200: {"0000:11:00.1": "Healthy", "0000:21:00.1": "Healthy"},
        U250: {"0000:31:00.1": "Healthy"},
    }
    assert registered.topology(U200) == {"0000:11:00.1": (0,), "0000:21:00.1": (1,)}
    for registration in registered.registrations:
        assert registration.version == "v1beta1"
        assert registration.endpoint.endswith("-fpga.sock")
        assert registration.options.get_preferred_allocation_available
    assert registered.refusals == []


def test_unchanged_list_is_sent_once(registered: KubeletDouble, service: Service) -> None:
    time.sleep(1.5)  # several scans and health checks
    assert [len(registered.lists(name)) for name in (U200, U250)] == [1, 1]


def test_allocate_returns_device_node_and_variables(registered: KubeletDouble, cards: SampleNode) -> None:
    [container] = registered.allocate(U200, ["0000:21:00.1"]).container_responses
    render = cards.cards[1].render_node
    assert [(d.host_path, d.container_path, d.permissions) for d in container.devices] == [
        (render, render, "rw")
    ]
    assert not container.mounts
    assert not container.annotations
    variable = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320"
    assert container.envs.keys() == {variable, f"{variable}_INFO"}
    assert container.envs[variable] == "0000:21:00.1"
    info = json.loads(container.envs[f"{variable}_INFO"])["0000:21:00.1"]
    assert (info["shell"], info["timestamp"], info["numa_node"], info["nodes"]) == (
        "xilinx_u200_xdma_201830_2",
        "1561465320",
        1,
        [render],
    )


def test_allocate_serves_several_containers_and_devices(registered: KubeletDouble) -> None:
    both = registered.allocate(U200, ["0000:21:00.1", "0000:11:00.1"])
    [container] = both.container_responses
    assert (
        next(v for n, v in container.envs.items() if not n.endswith("_INFO")) == "0000:11:00.1,0000:21:00.1"
    )
    assert len(container.devices) == 2
    request = pb.AllocateRequest(
        container_requests=[
            pb.ContainerAllocateRequest(devices_ids=[each]) for each in ("0000:11:00.1", "0000:21:00.1")
        ]
    )
    encoded = registered._call(U200, "Allocate", request, 5)
    assert len(pb.AllocateResponse.FromString(encoded).container_responses) == 2


def test_preferred_allocation_contains_required_device(registered: KubeletDouble) -> None:
    [answer] = registered.preferred(
        U200, ["0000:11:00.1", "0000:21:00.1"], ["0000:21:00.1"], 1
    ).container_responses
    assert list(answer.deviceIDs) == ["0000:21:00.1"]


@pytest.mark.parametrize(
    ("ids", "code", "text"),
    [
        (["0000:99:00.1"], grpc.StatusCode.NOT_FOUND, "0000:99:00.1"),
        (["0000:31:00.1"], grpc.StatusCode.NOT_FOUND, U200),  # a device of another resource
        (["0000:11:00.1"] * 2, grpc.StatusCode.INVALID_ARGUMENT, "twice"),
        ([], grpc.StatusCode.INVALID_ARGUMENT, "no device id"),
    ],
)
def test_refusal_states_the_reason(
    registered: KubeletDouble, ids: list[str], code: grpc.StatusCode, text: str
) -> None:
    status = refused(registered.allocate, U200, ids)
    assert status.code() is code
    assert text in (status.details() or "")


def test_unhealthy_device_is_refused_and_healthy_one_granted(
    registered: KubeletDouble, cards: SampleNode
) -> None:
    cards.cards[0].offline()
    registered.wait_for(lambda: registered.allocatable(U200) == 1)
    status = refused(registered.allocate, U200, ["0000:11:00.1"])
    assert status.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "offline" in (status.details() or "")
    assert registered.allocate(U200, ["0000:21:00.1"]).container_responses
    assert registered.capacity(U200) == 2


def test_missing_device_node_is_refused_at_once(registered: KubeletDouble, cards: SampleNode) -> None:
    os.unlink(f"{cards.root}{cards.cards[0].render_node}")
    status = refused(registered.allocate, U200, ["0000:11:00.1"])
    assert status.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no-node" in (status.details() or "")


def test_new_shell_changes_no_other_resource(registered: KubeletDouble, cards: SampleNode) -> None:
    cards.add_card("u55c", "0000:41:00")
    registered.wait_for(lambda: registered.allocatable(U55C) == 1)
    cards.add_card("u250", "0000:51:00")
    registered.wait_for(lambda: registered.allocatable(U250) == 2)
    assert len(registered.lists(U200)) == 1, "no other resource gets a list"
    assert len(registered.lists(U250)) == 2


def test_resource_of_removed_shell_ends_cleanly(registered: KubeletDouble, cards: SampleNode) -> None:
    cards.cards[2].remove()
    registered.wait_for(lambda: registered.capacity(U250) == 0)
    [end] = registered.wait_for(lambda: registered.ends)
    assert end.clean
    assert registered.lists(U250)[-1].health == {}
    wait_for(lambda: len(endpoint_sockets(cards)) == 1, "the socket is removed")
    assert len(registered.lists(U200)) == 1
    cards.cards[2].plug()
    registered.wait_for(lambda: registered.allocatable(U250) == 1)


def test_removed_card_leaves_the_list(registered: KubeletDouble, cards: SampleNode) -> None:
    cards.cards[0].remove()
    registered.wait_for(lambda: registered.capacity(U200) == 1)
    assert registered.ends == []
    status = refused(registered.allocate, U200, ["0000:11:00.1"])
    assert status.code() is grpc.StatusCode.NOT_FOUND


def test_reprogrammed_card_moves_in_one_step(registered: KubeletDouble, cards: SampleNode) -> None:
    cards.cards[0].reprogram("u250")
    registered.wait_for(lambda: registered.capacity(U250) == 2)
    registered.wait_for(lambda: registered.capacity(U200) == 1)
    registered.wait_for(lambda: registered.allocatable(U250) == 2)
    both = sorted(registered.lists(U200) + registered.lists(U250), key=lambda each: each.time)
    assert all(
        "0000:11:00.1" not in each.health for each in both if each.resource == U250 and len(each.health) < 2
    )


def test_hundred_concurrent_allocates_are_answered(registered: KubeletDouble) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: registered.allocate_raw(U200, ["0000:11:00.1"]), range(100)))
    assert len(set(answers)) <= 2  # the serial number may arrive in between


@pytest.mark.parametrize("method", ["allocate", "pre_start"])
def test_hanging_device_is_refused_in_time(cards: SampleNode, kubelet: KubeletDouble, method: str) -> None:
    patient = {"HEALTH_INTERVAL": "60", "SCAN_INTERVAL": "60"}
    with Service(settings_for(cards, REQUEST_TIMEOUT="2", PRESTART_CHECK="true", **patient)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        cards.cards[0].hang("ready")
        os.unlink(f"{cards.root}{cards.cards[0].render_node}")  # the call now reads from the driver
        details = ""
        for _ in range(3):  # on a busy machine the limit of the call may end before that of the device
            status = refused(getattr(kubelet, method), U200, ["0000:11:00.1"])
            assert status.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if "0000:11:00.1" in (details := status.details() or ""):
                break
        assert "0000:11:00.1" in details
        getattr(kubelet, method)(U200, ["0000:21:00.1"])


def test_prefix_and_template_settings_change_resource_names(
    cards: SampleNode, kubelet: KubeletDouble
) -> None:
    with Service(settings_for(cards, RESOURCE_PREFIX="amd.com/", RESOURCE_NAME_TEMPLATE="{board}")):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.resources().keys() == {"amd.com/u200", "amd.com/u250"})


def test_unknown_variable_is_a_warning(cards: SampleNode) -> None:
    with Service(settings_for(cards, SERVICE_HOST="10.0.0.1")) as service:
        assert service.logged(Event.UNKNOWN_SETTING)["variable"] == "XILINX_FPGA_DP_SERVICE_HOST"


def test_unreadable_bus_removes_no_card(
    registered: KubeletDouble, cards: SampleNode, service: Service
) -> None:
    os.rename(f"{cards.sysfs_root}/bus", f"{cards.sysfs_root}/away")
    service.logged(Event.SCAN_FAILED)
    time.sleep(0.5)
    os.rename(f"{cards.sysfs_root}/away", f"{cards.sysfs_root}/bus")
    time.sleep(0.5)
    assert [len(registered.lists(name)) for name in (U200, U250)] == [1, 1]
    assert registered.ends == []


FRESH_FAULTS: dict[str, Any] = {
    "offline": lambda card: card.offline(),
    "not-ready": lambda card: card.not_ready(),
    "no-driver": lambda card: os.unlink(card.path("driver")),
    "reprogrammed": lambda card: card.write("rom/VBNV", "xilinx_u250_other"),
    "resetting": lambda card: card.reset_begin(),
}


@pytest.mark.parametrize("name", FRESH_FAULTS)
def test_allocate_probes_the_device_again(cards: SampleNode, kubelet: KubeletDouble, name: str) -> None:
    with Service(settings_for(cards, HEALTH_INTERVAL="60", SCAN_INTERVAL="60")):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
        time.sleep(1.5)  # until the scan that the serial numbers cause has ended
        FRESH_FAULTS[name](cards.cards[0])
        status = refused(kubelet.allocate, U200, ["0000:11:00.1"])
        assert status.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert name in (status.details() or "")


def test_allocate_is_answered_while_devices_change(registered: KubeletDouble, cards: SampleNode) -> None:
    """Each call returns the current device node or a status."""

    def allocate(_: int) -> str:
        try:
            [container] = registered.allocate(U200, ["0000:11:00.1"]).container_responses
            return str(container.devices[0].host_path)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return str(error.code())

    card = cards.cards[0]
    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(allocate, number) for number in range(100)]
        for render in (150, 151, 152):
            card.reset_begin()
            time.sleep(0.05)
            card.reset_end(render=render)
            calls += [pool.submit(allocate, number) for number in range(30)]
        answers = {each.result(20) for each in calls}
    refusals = {"StatusCode.FAILED_PRECONDITION", "StatusCode.NOT_FOUND"}
    assert answers - refusals <= {f"/dev/dri/renderD{number}" for number in (128, 129, 130, 150, 151, 152)}
    registered.wait_for(lambda: registered.allocatable(U200) == 2)
    wait_for(lambda: allocate(0) == "/dev/dri/renderD152", "the current node")
