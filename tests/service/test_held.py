"""Devices that a pod holds under another name or id are not offered."""

import json
import socket
import time
from pathlib import Path

import grpc
import pytest

from tests.support.double import KubeletDouble
from tests.support.paths import PROJECT
from tests.support.podresources import ClaimHold, Hold, PodResourcesDouble
from tests.support.process import Service, cli
from tests.support.resource_names import U55C, U250
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

A, B = "0000:11:00.1", "0000:21:00.1"
RULES = str(PROJECT / "deploy" / "device-rules.yaml")
REGION, V0, V1 = "xilinx.com/fpga-coyote", "coyote_fpga_0_v0", "coyote_fpga_0_v1"


@pytest.fixture(autouse=True)
def two_cards(node: SampleNode) -> None:
    node.add_card("u55c", "0000:11:00")
    node.add_card("u55c", "0000:21:00")


def querying(node: SampleNode, pods: PodResourcesDouble, **settings: str) -> dict[str, str]:
    return settings_for(node, POD_RESOURCES_SOCKET=pods.path, **settings)


@pytest.mark.parametrize(
    "hold",
    [
        Hold("amd.com/xilinx_u55c_gen3x16_xdma_base_3-0", A),  # another prefix
        Hold(U250, A),  # reprogrammed
        Hold(U55C + ".shared", f"{A}::1"),  # a replica
        Hold("amd.com/xilinx_u55c_gen3x16_xdma_base_3-0", f"{A}-3"),  # plugin 1.3.0 with VirtualDev
        Hold(U55C, f"{A}::0"),  # another replica count
    ],
)
def test_device_held_under_another_name_or_id_is_unhealthy(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble, hold: Hold
) -> None:
    pods.holds = [hold]
    pods.start()
    with Service(querying(node, pods)) as service:
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.resources().get(U55C) == {A: "Unhealthy", B: "Healthy"})
        assert kubelet.lists(U55C)[0].health[A] == "Unhealthy", "not offered in the first list either"
        service.logged(Event.DEVICE_UNHEALTHY, device=A, reason="held")
        with pytest.raises(grpc.RpcError, match="held"):
            kubelet.allocate(U55C, [A])
        pods.holds = []
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)


@pytest.mark.parametrize(
    "hold", [Hold(U55C, A), Hold("nvidia.com/gpu", "GPU-1"), Hold("intel.com/nic", "0000:99:00.1")]
)
def test_device_held_under_own_name_is_not_reported(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble, hold: Hold
) -> None:
    pods.holds = [hold]
    pods.start()
    with Service(querying(node, pods)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        assert len(kubelet.lists(U55C)) == 1


def test_device_reprogrammed_while_held_is_unhealthy(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    pods.start()
    with Service(querying(node, pods)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        pods.holds = [Hold(U55C, A)]
        node.cards[0].reprogram("u250")
        kubelet.wait_for(lambda: kubelet.resources().get(U250) == {A: "Unhealthy"})
        assert all(each.health.get(A) != "Healthy" for each in kubelet.lists(U250))
        pods.holds = []
        kubelet.wait_for(lambda: kubelet.allocatable(U250) == 1)


def test_device_allocated_under_old_name_during_update_is_held(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    """A rolling update may change names; kubelet still allocates under those of the older instance."""
    pods.start()
    kubelet.start()
    with Service(querying(node, pods)) as older:
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        new = U55C.replace("xilinx.com", "amd.com")
        with Service(querying(node, pods, RESOURCE_PREFIX="amd.com/fpga-")):
            older.logged(Event.SUPERSEDED)
            kubelet.wait_for(lambda: kubelet.allocatable(new) == 2)
            before = pods.questions
            kubelet.wait_for(lambda: pods.questions > before + 2)  # queries continue
            kubelet.allocate(U55C, [A])
            pods.holds = [Hold(U55C, A)]
            kubelet.wait_for(lambda: kubelet.resources()[new] == {A: "Unhealthy", B: "Healthy"})
            assert older.terminate() == 0
            pods.holds = []
            kubelet.wait_for(lambda: kubelet.allocatable(new) == 2)


@pytest.mark.parametrize("serial", ["XFL1", ""])
def test_podresources_queries_end_once_names_are_stable(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble, serial: str
) -> None:
    for card in node.cards:
        card.write("xmc/serial_num", serial)
    rules = Path(node.root, "rules.yaml")
    rules.write_text("[]")
    pods.start()
    with Service(querying(node, pods, RESOURCE_RENAMES=str(rules), SCAN_INTERVAL="3600")) as service:
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        for name in ("", "x"):
            if name:
                rules.write_text("- {match: {}, name: x}")
                service.logged(Event.DEVICE_MOVED, count=2)
            time.sleep(2)  # one more query: the device may have been allocated in between
            wait_for(lambda: _quiet(pods), "queries end", 90)


def _quiet(pods: PodResourcesDouble) -> bool:
    before = pods.questions
    time.sleep(4)
    return pods.questions == before


def test_other_device_of_held_card_is_held(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    """A pod holds both devices of a U30; after a restart only one exists."""
    first, second = node.plug("u30")
    assert first.address < second.address
    resource = "xilinx.com/fpga-xilinx_u30_gen3x4_base_1-0"
    pods.holds = [Hold(resource, first.address)]
    pods.start()
    first.remove()
    with Service(querying(node, pods)) as service:
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.resources().get(resource) == {second.address: "Unhealthy"})
        service.logged(Event.DEVICE_UNHEALTHY, device=second.address, reason="held")
        pods.holds = []
        kubelet.wait_for(lambda: kubelet.allocatable(resource) == 1)


@pytest.mark.parametrize("strategy", ["cdi", "device-specs"])
def test_files_of_earlier_instance_stay_until_holders_are_known(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble, strategy: str
) -> None:
    """A restarted container needs the CDI spec, and pods are scheduled by labels."""
    folder = Path(node.root, "files")
    settings = querying(
        node, pods, CDI_DIR=str(folder), DEVICE_STRATEGY=strategy, NFD_FEATURES_DIR=str(folder)
    )

    def files() -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.glob("[!.]*")}

    pods.start()
    kubelet.start()
    with Service(settings):
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        kubelet.wait_for(lambda: len(files()) == (2 if strategy == "cdi" else 1))
        before = files()
    pods.hangs.clear()
    with Service(settings) as service:
        end = time.monotonic() + 60
        while not any(each["event"] == Event.REGISTERED for each in service.events):
            assert files() == before
            assert time.monotonic() < end
            time.sleep(0.01)
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        assert files() == before


def test_refused_query_is_repeated_when_kubelet_starts(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    """A refused query does not count as a query."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(pods.path)
    pods.holds = [Hold("amd.com/x", A)]
    kubelet.start()
    with Service(querying(node, pods)) as service:
        service.logged(Event.STARTED)
        time.sleep(0.2)
        pods.start()
        kubelet.wait_for(lambda: kubelet.resources().get(U55C) == {A: "Unhealthy", B: "Healthy"})
        assert kubelet.lists(U55C)[0].health[A] == "Unhealthy", "not offered in the first list either"


def test_each_replica_has_its_own_holder(node: SampleNode, pods: PodResourcesDouble) -> None:
    pods.holds = [Hold(f"{U55C}.shared", f"{A}::1"), Hold("amd.com/x", B)]
    pods.start()
    document = json.loads(
        cli("list", "--output", "json", settings=querying(node, pods, SHARED_REPLICAS="2")).stdout
    )
    held = {each["id"]: len(each["held_by"]) for each in document["devices"]}
    assert held == {f"{A}::0": 0, f"{A}::1": 1, f"{B}::0": 1, f"{B}::1": 1}


def test_missing_socket_is_one_warning(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    with Service(querying(node, pods)) as service:
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        node.add_card("u55c", "0000:31:00")
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 3)
        logged = [each for each in service.events if each["event"].startswith("podresources unavailable")]
        assert len(logged) == 1
        pods.holds = [Hold("amd.com/x", B)]
        pods.start()  # the service queries it as soon as it answers
        kubelet.wait_for(lambda: kubelet.resources()[U55C][B] == "Unhealthy")
        service.logged(Event.PODRESOURCES_AVAILABLE)


def test_hanging_podresources_delays_updates_briefly(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    pods.start()
    with Service(querying(node, pods)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)
        pods.hangs.clear()
        node.add_card("u250", "0000:31:00")
        node.cards[0].offline()
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 1)
        kubelet.wait_for(lambda: kubelet.allocatable(U250) == 1)


def test_held_device_stays_held_without_an_answer(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble
) -> None:
    pods.holds = [Hold("amd.com/x", A)]
    pods.start()
    with Service(querying(node, pods)) as service:
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.resources().get(U55C) == {A: "Unhealthy", B: "Healthy"})
        pods.stop()
        service.logged(Event.PODRESOURCES_UNAVAILABLE)
        assert kubelet.resources()[U55C][A] == "Unhealthy"


def test_list_shows_holders(node: SampleNode, pods: PodResourcesDouble) -> None:
    pods.holds = [Hold(U55C, A), Hold("amd.com/x", B)]
    pods.start()
    document = json.loads(cli("list", "--output", "json", settings=querying(node, pods)).stdout)
    by_id = {each["id"]: each for each in document["devices"]}
    holder = {"namespace": "default", "pod": "mypod", "container": "mine"}
    assert (by_id[A]["health"], by_id[A]["held_by"]) == ("Healthy", [holder])
    assert (by_id[B]["reason"], by_id[B]["held_by"]) == ("held", [holder])


@pytest.mark.parametrize("driver", ["fpga.xilinx.com", "another.example.com"])
def test_device_that_a_pod_has_by_a_claim_is_held(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble, driver: str
) -> None:
    pods.claims = [ClaimHold(driver, "pci-0000-11-00-1"), ClaimHold("gpu.example.com", "gpu-1")]
    pods.start()
    with Service(querying(node, pods)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.resources().get(U55C) == {A: "Unhealthy", B: "Healthy"})
        pods.claims = []
        kubelet.wait_for(lambda: kubelet.allocatable(U55C) == 2)


@pytest.mark.parametrize(
    "hold", [Hold(f"{REGION}-before", f"{V0}::1"), ClaimHold("fpga.xilinx.com", "dev-coyote-fpga-0-v0")]
)
def test_class_device_that_a_pod_holds_otherwise_is_held(
    node: SampleNode, kubelet: KubeletDouble, pods: PodResourcesDouble, hold: Hold | ClaimHold
) -> None:
    node.plug("coyote")
    if isinstance(hold, Hold):
        pods.holds = [hold, Hold("example.com/regions", V1)]
    else:
        pods.claims = [hold]
    pods.start()
    with Service(querying(node, pods, DEVICE_RULES=RULES)):
        kubelet.start()
        kubelet.wait_for(lambda: kubelet.resources().get(REGION) == {V0: "Unhealthy", V1: "Healthy"})
        pods.holds = []
        pods.claims = []
        kubelet.wait_for(lambda: kubelet.allocatable(REGION) == 2)


def test_list_shows_the_holder_of_a_class_device(node: SampleNode, pods: PodResourcesDouble) -> None:
    node.plug("coyote")
    pods.holds = [Hold(REGION, V0)]
    pods.start()
    settings = querying(node, pods, DEVICE_RULES=RULES)
    document = json.loads(cli("list", "--output", "json", settings=settings).stdout)
    by_id = {each["id"]: each for each in document["devices"]}
    assert (by_id[V0]["health"], len(by_id[V0]["held_by"]), by_id[V1]["held_by"]) == ("Healthy", 1, [])
