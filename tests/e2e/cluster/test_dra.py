"""The DRA driver, installed by the chart: claims, extended resources, faults, restarts, rights."""

import json
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import yaml

from ..build import DRA_MODULE, DRA_VERSION, HERE, build_source
from ..host import HOSTNAME
from ..namespace import NodeError, wait_for
from ..pods import open_number, pod
from ..report import Report
from .api import Api, ApiError
from .churn import timed
from .cluster import NODE_ADDRESS, Cluster
from .deployed import (
    DRIVER_NAME,
    EXAMPLES,
    NAMESPACE,
    U200,
    U250,
    VARIABLE,
    card_variables,
    nodes_in,
    plugins,
    printed,
    wait_available,
)
from .driver import (
    DRIVER,
    SLICES,
    claiming,
    devices,
    every_slice,
    name_of,
    restarts,
    run,
    runs_again,
    slices,
    taints,
    template,
)

pytestmark = pytest.mark.usefixtures("driver", "pods")


# Types and names are an interface of the cluster's users.
TYPES = {
    **dict.fromkeys(("type", "resourceName", "resourcePrefix", "board", "shell", "serial"), "string"),
    **dict.fromkeys(("deviceID", "driver", "driverBuild", "card"), "string"),
    **dict.fromkeys(("timestamp", "devices", "resource.kubernetes.io/numaNode"), "int"),
    **dict.fromkeys(("shared", "experimental"), "bool"),
    "driverVersion": "version",
    "resource.kubernetes.io/pciBusID": "string",
    "resource.kubernetes.io/pcieRoot": "string",
}

RESTARTS = int(os.environ.get("RESTARTS", "20"))  # of kubelet


def other_slice(cluster: Cluster, uid: str) -> list[Any] | None:
    """Return the slices that are not the one with this uid; None if there are none."""
    return [each for each in slices(cluster) if each["metadata"]["uid"] != uid] or None


def test_driver_is_ready_and_has_published_each_card(cluster: Cluster) -> None:
    [found] = slices(cluster)
    assert found["metadata"]["name"] == f"00000-{DRIVER}-{HOSTNAME}"
    node = cluster.api.get(f"/api/v1/nodes/{HOSTNAME}")
    assert [each["uid"] for each in found["metadata"]["ownerReferences"]] == [node["metadata"]["uid"]]
    assert devices(cluster).keys() == {name_of(card.address) for card in cluster.sample.cards}
    for card in cluster.sample.cards:
        attributes = devices(cluster)[name_of(card.address)]["attributes"]
        assert {name: kind for name, value in attributes.items() for kind in value} == TYPES
        assert attributes["resource.kubernetes.io/pciBusID"] == {"string": card.address}
        assert attributes["resourcePrefix"] == {"string": U200.partition("/")[0]}
        assert attributes["devices"] == {"int": 1}
        assert attributes["shared"] == attributes["experimental"] == {"bool": False}
    names = {each["attributes"]["resourceName"]["string"] for each in devices(cluster).values()}
    assert names == {each.partition("/")[2] for each in (U200, U250)}


def opened(cluster: Cluster, name: str) -> list[str]:
    """Return the device nodes of cards that a container may open, whether its /dev has them or not."""
    numbers = cluster.sample.devices()
    script = "; ".join(map(open_number, numbers.values()))
    said = cluster.kubectl("exec", name, "--", "sh", "-c", script).splitlines()
    may = {f"number {os.major(number)}:{os.minor(number)} ok": node for node, number in numbers.items()}
    return sorted(may[line] for line in said if line in may)


def as_from_the_plugin(cluster: Cluster, nodes: Collection[str]) -> dict[str, str]:
    """Return the variables that the device plugin gives for the cards with these nodes."""
    addresses = sorted(card.address for card in cluster.sample.cards if card.render_node in nodes)
    assert len(addresses) == len(nodes)
    unheld = {"XILINX_FPGA_DP_POD_RESOURCES_SOCKET": "/nothing"}  # else it is refused: a pod has them
    settings = [f"{name}={value}" for name, value in {**cluster.sample.environment(), **unheld}.items()]
    explain = [sys.executable, "-m", "xilinx_fpga_dp", "explain", *addresses, "--output", "json"]
    answer = json.loads(cluster.namespace.run(["env", *settings, *explain]))["answer"]
    variables: dict[str, str] = answer["envs"]
    return variables


@pytest.mark.since(36)
def test_pod_of_the_device_plugin_runs_unchanged(cluster: Cluster) -> None:
    name = cluster.create(EXAMPLES / "dp-pod.yaml")
    cluster.wait_pod(name, "Running")
    [node] = nodes_in(cluster, name)
    assert opened(cluster, name) == [node]
    [card] = [card for card in cluster.sample.cards if card.render_node == node]

    assert f"{VARIABLE}={card.address}\n" in printed(cluster, name)
    assert card_variables(cluster, name) == as_from_the_plugin(cluster, [node])


def test_claim_gives_a_card_and_the_file_with_its_attributes(cluster: Cluster) -> None:
    run(cluster, "one")
    [node] = nodes_in(cluster, "one")
    assert opened(cluster, "one") == [node]
    [card] = [card for card in cluster.sample.cards if card.render_node == node]
    path = "/var/run/kubernetes.io/dra-device-attributes/resourceclaimtemplates/card/fpga"
    said = cluster.kubectl("exec", "one", "--", "cat", f"{path}/{DRIVER}-metadata.json")
    newest, older = (json.loads(line) for line in said.splitlines())
    assert [each["apiVersion"].rpartition("/")[2] for each in (newest, older)] == ["v1beta1", "v1alpha1"]
    [device] = newest["requests"][0]["devices"]
    assert device["name"] == name_of(card.address)
    assert device["attributes"]["devNode"] == {"string": node}
    told = card_variables(cluster, "one")
    assert told[VARIABLE] == card.address
    assert told == as_from_the_plugin(cluster, [node])


def test_go_decodes_the_file_with_the_attributes(cluster: Cluster) -> None:
    reader = build_source("metadata", HERE / "metadata" / "main.go", DRA_MODULE, DRA_VERSION)
    made = claiming("one")
    made["spec"]["volumes"] = [{"name": "reader", "hostPath": {"path": str(reader)}}]
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "reader", "mountPath": "/reader"}]
    cluster.run_pod(made)
    cluster.wait_pod("one", "Running")
    said = cluster.kubectl("exec", "one", "--", "/reader", DRIVER, "card", "fpga")
    decoded = [json.loads(line) for line in said.splitlines()]
    assert [each["version"] for each in decoded] == ["v1beta1", "v1alpha1"]
    [node] = nodes_in(cluster, "one")
    for each in decoded:
        assert each["content"]["podClaimName"] == "card"
        [request] = each["content"]["requests"]
        [device] = request["devices"]
        published = devices(cluster)[device["name"]]["attributes"]
        assert device["attributes"] == {**published, "devNode": {"string": node}}


def test_pods_with_one_claim_have_its_card_and_no_other(cluster: Cluster) -> None:
    claim = {**template("u250"), "kind": "ResourceClaim", "spec": template("u250")["spec"]["spec"]}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(claim))
    try:
        for name in ("one", "two"):
            made = claiming(name)
            made["spec"]["resourceClaims"] = [{"name": "card", "resourceClaimName": "u250"}]
            cluster.run_pod(made)
            cluster.wait_pod(name, "Running")
        card = cluster.sample.cards[2]
        path = f"/var/run/kubernetes.io/dra-device-attributes/resourceclaims/u250/fpga/{DRIVER}-metadata.json"
        for name in ("one", "two"):
            assert nodes_in(cluster, name) == opened(cluster, name) == [card.render_node]
            assert name_of(card.address) in cluster.kubectl("exec", name, "--", "cat", path)
            assert card_variables(cluster, name) == as_from_the_plugin(cluster, nodes_in(cluster, name))
        cluster.kubectl("delete", "pod", "one", "--now", "--wait")
        assert opened(cluster, "two") == [card.render_node]
    finally:
        cluster.kubectl("delete", "pods", "--all", "--now", "--wait")
        cluster.kubectl("delete", "resourceclaim", "u250", "--wait")


def test_third_pod_waits_for_one_of_two_cards(cluster: Cluster) -> None:
    run(cluster, "one")
    run(cluster, "two")
    assert nodes_in(cluster, "one") != nodes_in(cluster, "two")
    cluster.run_pod(claiming("three"))
    message = wait_for(lambda: cluster.unscheduled("three"), "the scheduler's message", 30)
    assert "cannot allocate all claims" in message
    freed = nodes_in(cluster, "one")
    cluster.kubectl("delete", "pod", "one", "--now")
    cluster.wait_pod("three", "Running")
    assert nodes_in(cluster, "three") == freed


@pytest.mark.since(36)
def test_broken_card_is_told_everywhere_and_recovers(cluster: Cluster) -> None:
    run(cluster, "one", board="u250")
    card = cluster.sample.cards[2]
    assert nodes_in(cluster, "one") == [card.render_node]

    def health() -> tuple[str, str] | None:
        for status in cluster.pod("one")["status"]["containerStatuses"]:
            for claim in status.get("allocatedResourcesStatus", ()):
                for resource in claim["resources"]:
                    return resource["health"], resource.get("message", "")
        return None

    def condition() -> str:
        conditions = cluster.api.get(f"/api/v1/nodes/{HOSTNAME}")["status"]["conditions"]
        return str(next((each["status"] for each in conditions if each["type"] == "FPGAHealthy"), None))

    def events() -> list[str]:
        found = cluster.api.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
        return [each["note"] for each in found if each.get("reportingController") == DRIVER]

    wait_for(lambda: condition() == "True", "the condition", 30)
    card.offline()
    try:
        wait_for(lambda: taints(cluster) == [f"{DRIVER}/offline"], "the taint", 30)
        wait_for(lambda: health() == ("Unhealthy", "offline"), "the health in the status", 30)
        wait_for(lambda: condition() == "False", "the condition", 30)
        wait_for(lambda: f"{card.address} (u250): offline" in events(), "an Event", 30)
        assert cluster.pod("one")["status"]["phase"] == "Running"
    finally:
        card.online()
    wait_for(lambda: taints(cluster) == [], "no taint", 30)
    wait_for(lambda: health() == ("Healthy", ""), "the health in the status", 60)
    wait_for(lambda: condition() == "True", "the condition", 30)
    wait_for(lambda: f"{card.address} (u250): healthy after offline" in events(), "an Event", 30)
    assert restarts(cluster, "one") == 0


@pytest.mark.since(36)
def test_new_pod_waits_for_a_broken_card(cluster: Cluster) -> None:
    card = cluster.sample.cards[2]
    card.offline()
    try:
        wait_for(lambda: taints(cluster) == [f"{DRIVER}/offline"], "the taint", 30)
        cluster.run_pod(claiming("one", board="u250"))
        wait_for(
            lambda: "cannot allocate all claims" in (cluster.unscheduled("one") or ""), "no card for it", 30
        )
    finally:
        card.online()
    cluster.wait_pod("one", "Running")


@pytest.mark.since(36)
def test_restarts_of_kubelet_touch_no_pod_and_no_claim(cluster: Cluster, report: Report) -> None:
    run(cluster, "one")
    extended = cluster.create(EXAMPLES / "dp-pod.yaml")
    cluster.wait_pod(extended, "Running")
    before = {name: cluster.pod(name)["status"]["containerStatuses"] for name in ("one", extended)}
    with every_slice(cluster) as seen:
        for _ in range(RESTARTS):
            before_it = slices(cluster)[0]["metadata"]["uid"]
            cluster.kill("kubelet")
            cluster.start("kubelet")
            wait_for(partial(other_slice, cluster, before_it), "the slice again", 60)
    for (gone, old), (back, new) in pairwise(seen):
        if old["metadata"]["uid"] != new["metadata"]["uid"]:
            report.time("slice back after kubelet has removed it at its start", back - gone)

    def nodes_once_known(name: str) -> list[str] | None:
        try:
            return nodes_in(cluster, name)
        except NodeError:
            return None  # the slice is back before kubelet knows its pods

    for name in before:
        assert len(wait_for(partial(nodes_once_known, name), f"exec in {name}", 60)) == 1
    assert {name: cluster.pod(name)["status"]["containerStatuses"] for name in before} == before
    cluster.kubectl("delete", "pod", *before, "--now", "--wait")


def test_server_takes_the_examples(cluster: Cluster) -> None:
    """The expressions, too, which no schema checks."""
    texts = [each.read_text() for each in sorted((EXAMPLES / "dra").glob("*.yaml"))]
    assert texts
    # Without their namespace, what is in it would be refused.
    parts = [each for text in texts for each in yaml.safe_load_all(text) if each["kind"] == "Namespace"]
    for each in parts:
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(each))
    for text in texts:
        cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
    for each in parts:
        cluster.kubectl("delete", "namespace", each["metadata"]["name"])


def test_rolling_update_keeps_slice_and_pods(cluster: Cluster) -> None:
    run(cluster, "one")
    before = slices(cluster)[0]["metadata"]["resourceVersion"]
    cluster.kubectl("rollout", "restart", "-n", NAMESPACE, f"daemonset/{DRIVER_NAME}")
    wait_available(cluster, DRIVER_NAME)
    wait_for(lambda: len(plugins(cluster)) == 1 or None, "one instance", 60)
    assert slices(cluster)[0]["metadata"]["resourceVersion"] == before
    run(cluster, "two")
    cluster.kubectl("delete", "pod", "one", "two", "--now", "--wait")
    run(cluster, "three")


def test_lost_specs_come_back_for_a_container_that_restarts(cluster: Cluster) -> None:
    run(cluster, "one")
    folder = cluster.path("/run/cdi")
    for path in folder.glob("*.json"):
        path.unlink()
    wait_for(lambda: list(folder.glob(f"k8s.{DRIVER}-claim_*.json")) or None, "the spec", 30)
    cluster.kill_container("one")
    wait_for(lambda: runs_again(cluster, "one"), "its container again", 60)
    wait_for(lambda: len(nodes_in(cluster, "one")) == 1 or None, "its node", 30)


def test_policy_allows_slices_of_the_own_node_and_driver_only(cluster: Cluster) -> None:
    [instance] = plugins(cluster)
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={instance['metadata']['name']}")
    account = instance["spec"]["serviceAccountName"]
    token = cluster.kubectl("create", "token", "-n", NAMESPACE, account, *bound).strip()
    api = Api(NODE_ADDRESS, cluster.authority, token)
    [found] = slices(cluster)
    spec = {**found["spec"], "devices": []}
    wanted: dict[str, Any] = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "case"},
        "spec": spec,
    }
    for part, value in (("nodeName", "another"), ("driver", "gpu.example.com")):
        with pytest.raises(ApiError, match="only slices of the") as refused:
            api("POST", f"{SLICES}?dryRun=All", {**wanted, "spec": {**spec, part: value}})
        assert refused.value.status in (403, 422)
    assert api("POST", f"{SLICES}?dryRun=All", wanted)["metadata"]["name"] == "case"


def test_reboot_brings_pods_back_with_their_cards(cluster: Cluster) -> None:
    run(cluster, "one")
    before = nodes_in(cluster, "one")
    cluster.reboot()
    wait_for(lambda: cluster.ready() or None, "the node Ready", 120)
    wait_for(lambda: runs_again(cluster, "one"), "its container again", 120)
    wait_for(lambda: nodes_in(cluster, "one") == before or None, "its node", 60)


@contextmanager
def example(cluster: Cluster, name: str) -> Iterator[None]:
    """Create what an example ships; remove it at the end."""
    manifest = EXAMPLES / "dra" / f"dra-pod-{name}.yaml"
    cluster.kubectl("create", "-f", manifest)
    try:
        yield
    finally:
        cluster.kubectl("delete", "-f", manifest, "--now", "--wait")


@pytest.mark.parametrize(
    ("file", "name", "cards"),
    [("shell", "one-shell", 1), ("two-cards", "two-cards", 2), ("prefer", "u55c-or-u250", 1)],
)
def test_example_gets_the_cards_that_it_asks_for(cluster: Cluster, file: str, name: str, cards: int) -> None:
    with example(cluster, file):
        cluster.wait_pod(name, "Running")
        found = nodes_in(cluster, name)
        assert len(found) == cards
        wanted = cluster.sample.cards[2:] if file == "prefer" else cluster.sample.cards[:2]
        assert set(found) <= {card.render_node for card in wanted}
        assert opened(cluster, name) == found
        assert card_variables(cluster, name) == as_from_the_plugin(cluster, found)


@pytest.mark.since(36)
def test_monitoring_example_sees_every_card_also_held_and_broken_ones(cluster: Cluster) -> None:
    run(cluster, "one")
    before = cluster.pod("one")["status"]["containerStatuses"]
    broken = cluster.sample.cards[2]
    broken.offline()
    try:
        wait_for(lambda: taints(cluster) == [f"{DRIVER}/offline"], "the taint", 30)
        with example(cluster, "admin"):
            cluster.wait_pod("all-cards", "Running", "fpga-monitoring")
            inside = ("exec", "-n", "fpga-monitoring", "all-cards", "--", "ls", "/dev/dri")
            assert len(cluster.kubectl(*inside).split()) == len(cluster.sample.cards)
            run(cluster, "two")  # what a pod with admin access has is free for others
            assert nodes_in(cluster, "one") != nodes_in(cluster, "two")
    finally:
        broken.online()
    wait_for(lambda: taints(cluster) == [], "no taint", 30)
    assert cluster.pod("one")["status"]["containerStatuses"] == before


def test_pod_with_a_claim_beside_a_plain_one(cluster: Cluster, report: Report) -> None:
    """The times are in the report; a busy machine breaks no case."""
    for number in range(10):
        for kind, made in (("plain", pod(f"plain-{number}")), ("with a claim", claiming(f"claim-{number}"))):
            took, status = timed(cluster, made)
            assert status["phase"] == "Running"
            report.time(f"pod created to Running beside the DRA driver, {kind}", took)
            cluster.kubectl("delete", "pod", made["metadata"]["name"], "--now")
