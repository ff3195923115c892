"""What the cluster is told of the node's cards: Events, condition, startup taint; and the policies."""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from ..host import HOSTNAME
from ..namespace import wait_for
from .api import Api, ApiError
from .cluster import NODE_ADDRESS, Cluster
from .deployed import NAME, NAMESPACE, U200, U250, plugins, wait_available, wait_offered
from .user import User, commands

AWAY = float(os.environ.get("API_SERVER_AWAY", "8"))  # seconds of the API server
TAINT = "fpga.xilinx.com/starting"
NODE = f"/api/v1/nodes/{HOSTNAME}"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


@pytest.fixture(scope="module")
def states(cluster: Cluster, user: User, image: None) -> Iterator[list[Any]]:
    """Install the chart with all reports on a node with the startup taint; its states since then."""
    _forget_events(cluster)
    cluster.kubectl("taint", "node", HOSTNAME, f"{TAINT}=:NoSchedule")
    states: list[Any] = []
    with cluster.api.watch(f"/api/v1/nodes?fieldSelector=metadata.name={HOSTNAME}") as nodes:
        thread = threading.Thread(target=lambda: deque(map(states.append, nodes), maxlen=0))
        thread.start()
        try:
            install = commands("README.md", "Install")[2]
            user.run(f"{install} --set events=true,nodeCondition=true,startupTaint={TAINT}")
            wait_offered(cluster)
            wait_available(cluster)
            wait_for(lambda: not _is_starting(cluster.api.get(NODE)), "the startup taint removed", 60)
        finally:
            nodes.end()  # a later case stops the API server
            thread.join(10)
    yield states
    user.remove_plugin()


def _is_starting(node: Any) -> bool:
    return any(taint["key"] == TAINT for taint in node["spec"].get("taints", ()))


@pytest.fixture(scope="module")
def plugin_api(cluster: Cluster, states: list[Any]) -> Iterator[Api]:
    """The API server with a token that is bound to the plugin's pod, and a Node that is another one's."""
    [plugin] = plugins(cluster)
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={plugin['metadata']['name']}"]
    bound.append(f"--bound-object-uid={plugin['metadata']['uid']}")
    token = cluster.kubectl("create", "token", "-n", NAMESPACE, NAME, *bound)
    other = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}}
    cluster.api("POST", "/api/v1/nodes", {**other, "spec": {"taints": [_taint(TAINT)]}})
    yield Api(NODE_ADDRESS, cluster.authority, token.strip())
    cluster.kubectl("delete", "node", "other")


def _taint(key: str) -> dict[str, str]:
    return {"key": key, "effect": "NoSchedule"}


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


def _forget_events(cluster: Cluster) -> None:
    for each in _own_events(cluster):
        cluster.api("DELETE", f"{EVENTS}/{each['metadata']['name']}")


def test_node_without_its_taint_always_has_its_cards(states: list[Any]) -> None:
    assert any(map(_is_starting, states))
    for node in states:
        if not _is_starting(node):
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


def test_server_that_was_away_is_told_once(cluster: Cluster, states: list[Any]) -> None:
    broken, mended = cluster.sample.cards[2], cluster.sample.cards[1]
    _forget_events(cluster)
    [before] = plugins(cluster)
    cluster.kill("kube-apiserver")  # SIGTERM would let its watches go on for a minute
    for card in (broken, mended):
        card.offline()
    wait_for(lambda: _unhealthy(cluster) == 2, "the faults at kubelet", 60)
    mended.mend()
    wait_for(lambda: _unhealthy(cluster) == 1, "the recovery at kubelet", 60)
    time.sleep(AWAY)
    cluster.start("kube-apiserver")
    _wait_condition(cluster, "False", "Offline")
    wait_for(lambda: len(_own_events(cluster)) == 3, "three Events", 60)
    broken.mend()
    _wait_condition(cluster, "True", "AllHealthy")
    wait_for(lambda: len(_own_events(cluster)) == 4, "four Events", 60)
    notes = [f"{card.address} ({board}): " for card, board in ((broken, "u250"), (mended, "u200"))]
    assert sorted(each["note"] for each in _own_events(cluster)) == sorted(
        note + what for note in notes for what in ("offline", "healthy after offline")
    )
    assert not any("series" in each and each["series"] for each in _own_events(cluster))
    [plugin] = plugins(cluster)
    assert plugin["metadata"]["uid"] == before["metadata"]["uid"]
    assert plugin["status"]["containerStatuses"] == before["status"]["containerStatuses"]
    assert not _is_starting(cluster.api.get(NODE))


def _unhealthy(cluster: Cluster) -> int:
    """Count the devices that kubelet does not give to pods, by the kubelet's own API."""
    return 3 - sum(map(len, cluster.resources.allocatable().values()))


@pytest.mark.parametrize(
    ("path", "patch", "kind"),
    [
        (f"{NODE}/status", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, STRATEGIC),
        (f"{NODE}/status", {"status": {"conditions": [{"type": "Mine", "status": "True"}]}}, STRATEGIC),
        (f"{NODE}/status", {"status": {"capacity": {"example.com/x": "9"}}}, STRATEGIC),
        (f"{NODE}/status", {"status": {"allocatable": {"example.com/x": "9"}}}, STRATEGIC),
        (
            f"{NODE}/status",
            {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}},
            STRATEGIC,
        ),
        (f"{NODE}/status", {"metadata": {"labels": {"a": "b"}}}, STRATEGIC),
        (
            "/api/v1/nodes/other/status",
            {"status": {"conditions": [{"type": "FPGAHealthy", "status": "True"}]}},
            STRATEGIC,
        ),
        (NODE, {"metadata": {"labels": {"a": "b"}}}, MERGE),
        (NODE, {"metadata": {"annotations": {"a": "b"}}}, MERGE),
        (NODE, {"spec": {"unschedulable": True}}, MERGE),
        (NODE, {"spec": {"taints": [_taint(TAINT)]}}, MERGE),
        (NODE, {"spec": {"taints": [_taint("example.com/x")]}}, MERGE),
        ("/api/v1/nodes/other", [{"op": "remove", "path": "/spec/taints/0"}], JSON_PATCH),
    ],
)
def test_policy_denies_what_is_not_a_report_of_the_own_node(
    plugin_api: Api, path: str, patch: Any, kind: str
) -> None:
    with pytest.raises(ApiError, match="denied request") as caught:
        plugin_api("PATCH", path, patch, kind)
    assert caught.value.status == 422


def test_policy_allows_the_reports(cluster: Cluster, plugin_api: Api) -> None:
    before = _condition(cluster)
    plugin_api("PATCH", f"{NODE}/status", {"status": {"conditions": [before]}}, STRATEGIC)
    taints = cluster.api.get(NODE)["spec"].get("taints", [])
    cluster.kubectl("taint", "node", HOSTNAME, f"{TAINT}=:NoSchedule")
    plugin_api("PATCH", NODE, {"spec": {"taints": taints or None}}, MERGE)
    assert cluster.api.get(NODE)["spec"].get("taints", []) == taints


@pytest.mark.parametrize(
    ("node", "controller", "allowed"),
    [
        (HOSTNAME, "fpga.xilinx.com", True),
        (HOSTNAME, "kubelet", False),
        ("other", "fpga.xilinx.com", False),
    ],
)
def test_policy_allows_own_events_of_the_own_node_only(
    plugin_api: Api, node: str, controller: str, allowed: bool
) -> None:
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{node}.{controller}", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": controller,
        "reportingInstance": node,
        "action": "Test",
        "reason": "Test",
        "type": "Normal",
        "note": "of a test",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
    }
    if allowed:
        assert plugin_api("POST", EVENTS, event)["regarding"]["name"] == node
        return
    with pytest.raises(ApiError, match="denied request"):
        plugin_api("POST", EVENTS, event)


def test_diagnose_finds_all_rights_or_prints_them(cluster: Cluster, states: list[Any]) -> None:
    [plugin] = plugins(cluster)
    command = ["exec", "-n", NAMESPACE, plugin["metadata"]["name"], "--", "xilinx-fpga-dp", "diagnose"]
    said = cluster.kubectl(*command)
    assert "gives the rights that EVENTS, NODE_CONDITION, STARTUP_TAINT need" in said
    role = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{NAME}"
    rules = cluster.api.get(role)["rules"]
    cluster.api("PATCH", role, {"rules": []}, MERGE)
    try:
        failed = json.loads(cluster.sh('kubectl "$@" || true', *command, "--output", "json"))
        added = failed["missing_rights"]
        cluster.kubectl("apply", "-f", "-", stdin=added)
        assert "gives the rights that EVENTS, NODE_CONDITION, STARTUP_TAINT need" in cluster.kubectl(*command)
    finally:
        cluster.api("PATCH", role, {"rules": rules}, MERGE)
    cluster.kubectl("delete", "-f", "-", stdin=added)
