"""The DRA driver with cards of every kind, with shared cards, and with many of them.

The files of /sys are those of their drivers; their device nodes are harmless devices of this machine.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard

from ..namespace import wait_for
from ..pods import STAY, open_each, pod
from .cluster import XRT_RELEASE, Cluster
from .deployed import DRIVER_NAME, EXAMPLES, NAME, NAMESPACE, wait_available
from .driver import CLAIMS, DRIVER, devices, name_of, slices
from .user import User, commands

pytestmark = pytest.mark.usefixtures("driver", "claims")

BOARDS = ("u30", "v80", "ma35d", "zcu102")
UPGRADE = commands("README.md", "Install")[2].replace("install", "upgrade")
CONTROLLER = f"app.kubernetes.io/name={NAME}-classes"


@pytest.fixture
def claims(cluster: Cluster) -> Iterator[None]:
    """Remove the pods of the case and their claims."""
    yield
    cluster.kubectl("delete", "pods", "--all", "--wait", "--now")
    cluster.kubectl("delete", "resourceclaims", "--all", "--wait")


@pytest.fixture(scope="module")
def kinds(cluster: Cluster, driver: None) -> Iterator[dict[str, list[SampleCard]]]:
    """A card of each kind, by its board."""
    cluster.sample.every_node = True
    cards = {board: cluster.sample.plug(board, release=XRT_RELEASE) for board in BOARDS}
    wait_for(lambda: all(of_board(cluster, board) for board in BOARDS), "a device of each kind", 60)
    yield cards
    for card in (card for each in cards.values() for card in each):
        card.remove()
    shutil.rmtree(f"{cluster.sample.sysfs_root}/firmware")  # zcu102: a board stays without its application
    cluster.sample.every_node = False


def of_board(cluster: Cluster, board: str) -> dict[str, Any]:
    """Return the published devices of a board by name."""
    found = devices(cluster).items()
    return {name: each for name, each in found if each["attributes"]["board"] == {"string": board}}


def create(cluster: Cluster, name: str, expression: str) -> None:
    """Create a claim for a device, and a pod with it."""
    exactly = {"deviceClassName": DRIVER, "selectors": [{"cel": {"expression": expression}}]}
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "fpga", "exactly": exactly}]}},
    }
    cluster.api("POST", CLAIMS, claim)
    made = pod(name, STAY, resourceClaims=[{"name": "card", "resourceClaimName": name}])
    made["spec"]["containers"][0]["resources"] = {"claims": [{"name": "card"}]}
    cluster.run_pod(made)


def run(cluster: Cluster, name: str, expression: str) -> str:
    """Create a claim and a pod with it, wait until it runs; return the name of its device."""
    create(cluster, name, expression)
    cluster.wait_pod(name, "Running")
    [result] = cluster.api.get(f"{CLAIMS}/{name}")["status"]["allocation"]["devices"]["results"]
    return str(result["device"])


def remove(cluster: Cluster, name: str) -> None:
    """Remove a pod and its claim."""
    cluster.kubectl("delete", "pod", name, "--now", "--wait")
    cluster.kubectl("delete", "resourceclaim", name, "--wait")


def is_board(board: str) -> str:
    """Return the expression that selects the devices of a board."""
    return f'device.attributes["{DRIVER}"].board == "{board}"'


def nodes(cluster: Cluster, name: str) -> set[str]:
    """Return the nodes of cards that a pod has, each of which it can open."""
    inside = cluster.kubectl("exec", name, "--", "find", "/dev", "-type", "c").split()
    found = cluster.sample.devices().keys() & set(inside)
    opened = cluster.kubectl("exec", name, "--", "sh", "-c", open_each(sorted(found))).splitlines()
    assert opened == [f"open {node} ok" for node in sorted(found)]
    return set(found)


def nodes_of(cards: list[SampleCard]) -> set[str]:
    """Return the nodes of cards."""
    return {node for card in cards for node in card.nodes}


@pytest.mark.parametrize("board", BOARDS)
def test_pod_gets_the_nodes_of_its_device(
    cluster: Cluster, kinds: dict[str, list[SampleCard]], board: str
) -> None:
    device = run(cluster, board, is_board(board))
    attributes = of_board(cluster, board)[device]["attributes"]
    assert attributes["experimental"] == {"bool": board != "u30"}
    cards = kinds[board]
    if board == "ma35d":
        assert len(of_board(cluster, board)) == len(cards) == 2
        cards = [card for card in cards if name_of(card.address) == device]
    assert attributes["devices"] == {"int": 2 if board == "u30" else 1} == {"int": len(cards)}
    assert nodes(cluster, board) == nodes_of(cards) != set()


@pytest.mark.since(36)
def test_controller_of_classes_serves_a_pod_of_the_device_plugin(
    cluster: Cluster, user: User, kinds: dict[str, list[SampleCard]]
) -> None:
    [entry] = of_board(cluster, "v80").values()
    resource = "/".join(entry["attributes"][part]["string"] for part in ("resourcePrefix", "resourceName"))
    cluster.run_pod(pod("unchanged", limits={resource: 1}))
    user.run(f"{UPGRADE} --reuse-values --set dra.classesController=true")
    cluster.wait_pod("unchanged", "Running")
    assert nodes(cluster, "unchanged") == nodes_of(kinds["v80"])
    user.run(f"{UPGRADE} --reuse-values --set dra.classesController=false")
    wait_for(lambda: not cluster.pods(CONTROLLER, NAMESPACE), "the controller's pod gone", 60)
    cluster.kubectl("delete", "deviceclass", "-l", "app.kubernetes.io/name,!app.kubernetes.io/instance")


@pytest.mark.since(36)
def test_fifth_pod_waits_for_a_share_and_sharing_waits_for_a_claim(
    cluster: Cluster, user: User, kinds: dict[str, list[SampleCard]]
) -> None:
    device = run(cluster, "whole", is_board("u250"))
    user.run(f"{UPGRADE} --reuse-values --set settings.SHARED_REPLICAS=4,settings.U30_UNIT=device")
    wait_available(cluster, DRIVER_NAME)
    wait_for(lambda: len(of_board(cluster, "u30")) == 2, "both devices of the U30", 60)
    assert all(each.get("allowMultipleAllocations") for each in of_board(cluster, "u30").values())
    assert "allowMultipleAllocations" not in devices(cluster)[device]
    remove(cluster, "whole")
    wait_for(lambda: "allowMultipleAllocations" in devices(cluster)[device], "a shared card", 60)

    shared = EXAMPLES / "dra" / "dra-pod-shared.yaml"
    cluster.kubectl("create", "-f", shared)
    cluster.wait_pod("shared-card", "Running")
    assert nodes(cluster, "shared-card") in [set(card.nodes) for card in cluster.sample.cards]
    cluster.kubectl("delete", "-f", shared, "--now", "--wait")

    names = [f"share-{number}" for number in range(5)]
    assert {run(cluster, name, is_board("u250")) for name in names[:4]} == {device}
    assert len({frozenset(nodes(cluster, name)) for name in names[:4]}) == 1
    create(cluster, names[4], is_board("u250"))
    message = wait_for(lambda: cluster.unscheduled(names[4]), "the scheduler's message", 60)
    assert "cannot allocate all claims" in message
    remove(cluster, names[0])
    cluster.wait_pod(names[4], "Running")

    half = run(cluster, "half", is_board("u30"))
    assert (
        nodes(cluster, "half") == nodes_of([c for c in kinds["u30"] if name_of(c.address) == half]) != set()
    )


def test_many_devices_are_spread_over_five_slices(
    cluster: Cluster, kinds: dict[str, list[SampleCard]]
) -> None:
    before = len(devices(cluster))
    slots = [f"{domain:04x}:{bus:02x}:00" for domain in (1, 2) for bus in range(1, 129)]
    cards = [cluster.sample.add_card("ma35d", slot) for slot in slots]
    try:

        def whole_pool() -> list[Any] | None:
            found = slices(cluster)  # a write raises the generation of one after the other
            generations = {each["spec"]["pool"]["generation"] for each in found}
            published = sum(len(each["spec"]["devices"]) for each in found)
            return found if len(generations) == 1 and published == before + len(cards) else None

        found = wait_for(whole_pool, "all devices in one generation", 120, 0.5)
        assert len(found) == -(-(before + len(cards)) // 64) == 5
        assert {each["spec"]["pool"]["resourceSliceCount"] for each in found} == {5}
        last = cards[-1]
        bus = f'device.attributes["resource.kubernetes.io"].pciBusID == "{last.address}"'
        assert run(cluster, "last", bus) == name_of(last.address)
        assert nodes(cluster, "last") == set(last.nodes)
        remove(cluster, "last")
    finally:
        for card in cards:
            card.remove()
    # Some keep their place for a while, as in a reset: they lost their driver before their function.
    wait_for(lambda: len(slices(cluster)) == 1, "one slice", 120, 0.5)
