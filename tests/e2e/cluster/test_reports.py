"""What the cluster is told of the node's cards: Events, the condition, the startup taint."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from ..host import HOSTNAME
from ..namespace import wait_for
from .cluster import Cluster
from .deployed import U200, U250, wait_available, wait_offered
from .user import User, commands

TAINT = "fpga.xilinx.com/starting"
NODE = f"/api/v1/nodes/{HOSTNAME}"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


@pytest.fixture(scope="module")
def states(cluster: Cluster, user: User, image: None) -> Iterator[list[Any]]:
    """Install the chart with all reports on a node with the startup taint; its states since then."""
    cluster.kubectl("taint", "node", HOSTNAME, f"{TAINT}=:NoSchedule")
    states: list[Any] = []
    with cluster.api.watch(f"/api/v1/nodes?fieldSelector=metadata.name={HOSTNAME}") as nodes:
        thread = threading.Thread(target=lambda: deque(map(states.append, nodes), maxlen=0))
        thread.start()
        install = commands("README.md", "Install")[2]
        user.run(f"{install} --set events=true,nodeCondition=true,startupTaint={TAINT}")
        wait_offered(cluster)
        wait_available(cluster)
        yield states
    thread.join(10)
    user.remove_plugin()


def _condition(cluster: Cluster) -> Any:
    conditions = cluster.api.get(NODE)["status"]["conditions"]
    return next((each for each in conditions if each["type"] == "FPGAHealthy"), {})


def _wait_condition(cluster: Cluster, status: str, reason: str) -> None:
    def as_wanted() -> bool:
        found = _condition(cluster)
        return (found.get("status"), found.get("reason")) == (status, reason)

    wait_for(as_wanted, f"FPGAHealthy {status} {reason}", 60)


def _own_events(cluster: Cluster) -> list[Any]:
    items: list[Any] = cluster.api.get(EVENTS)["items"]
    return [each for each in items if each.get("reportingController") == "fpga.xilinx.com"]


def test_node_without_its_taint_always_has_its_cards(cluster: Cluster, states: list[Any]) -> None:
    def gone() -> bool:
        return not any(taint["key"] == TAINT for taint in cluster.api.get(NODE)["spec"].get("taints", ()))

    wait_for(gone, "the startup taint removed", 60)
    for node in list(states):
        if not any(taint["key"] == TAINT for taint in node["spec"].get("taints", ())):
            capacity = node["status"]["capacity"]
            assert (capacity.get(U200), capacity.get(U250)) == ("2", "1")


def test_describe_node_shows_a_fault_and_its_recovery(cluster: Cluster, states: list[Any]) -> None:
    _wait_condition(cluster, "True", "AllHealthy")
    card = cluster.sample.cards[0]
    card.offline()
    _wait_condition(cluster, "False", "Offline")
    card.mend()
    _wait_condition(cluster, "True", "AllHealthy")
    wait_for(lambda: len(_own_events(cluster)) >= 2, "two Events", 30)
    said = cluster.kubectl("describe", "node", HOSTNAME)
    conditions = said[said.index("Conditions:") : said.index("Addresses:")]
    assert "FPGA devices: 3, none has a fault" in conditions
    events = said[said.index("Events:") :]
    assert f"{card.address} (u200): offline" in events
    assert f"{card.address} (u200): healthy after offline" in events
