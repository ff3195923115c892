"""What operators and accidents do to a node: taints, drains, evictions, restarts of kubelet, reboots."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.pages import blocks, text

from ..namespace import wait_for
from ..pods import pod
from .cluster import Cluster
from .deployed import EXAMPLES, NAMESPACE, U200, nodes_in, plugins, wait_available, wait_offered
from .user import User, manifest

pytestmark = pytest.mark.usefixtures("daemonset", "pods")

APP = "app=app"  # the label that kubectl gives to the pods of the deployment


@pytest.fixture
def app(cluster: Cluster) -> Iterator[str]:
    """A Deployment with two pods, each with a card."""
    cluster.kubectl("create", "deployment", "app", "--image=my/fpga-application", "--replicas=0")
    cluster.kubectl("set", "resources", "deployment", "app", f"--limits={U200}=1")
    cluster.kubectl("scale", "deployment", "app", "--replicas=2")
    wait_for(lambda: len(running(cluster)) == 2, "two pods of the deployment", 60)
    yield "app"
    cluster.kubectl("delete", "deployment", "app", "--wait", "--cascade=foreground")


def running(cluster: Cluster, selector: str = APP) -> dict[str, Any]:
    """Return the statuses of the containers of all pods that run and are not about to end, by pod."""
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"]
        for pod in cluster.pods(selector)
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        if "containerStatuses" in pod["status"]  # not yet, just after a reboot
    }


def cards(cluster: Cluster) -> list[str]:
    """Return the devices that pods hold, each as often as it is held."""
    return sorted(each for held in cluster.resources.held() for each in held.ids)


def test_plugin_tolerates_the_taint_of_nodes_with_cards(cluster: Cluster, user: User) -> None:
    page = "docs/getting-started.md"
    taint = "kubectl taint node NODE xilinx.com/fpga=true:NoSchedule"
    assert f"`{taint}`" in text(page)
    user.run(taint)
    try:
        [plugin] = plugins(cluster)
        cluster.kubectl("delete", "pod", "-n", NAMESPACE, plugin["metadata"]["name"], "--wait")
        wait_available(cluster)
        wait_offered(cluster)
        other = cluster.create(EXAMPLES / "dp-pod.yaml")
        message = wait_for(lambda: cluster.unscheduled(other), "the scheduler's message", 30)
        assert "untolerated taint" in message
        pod = yaml.safe_load((EXAMPLES / "dp-pod-non-root.yaml").read_text())
        pod["spec"] |= yaml.safe_load(manifest(page, "tolerations:"))
        cluster.run_pod(pod)
        cluster.wait_pod(pod["metadata"]["name"], "Running")
        assert cluster.pod(other)["status"]["phase"] == "Pending"
    finally:
        user.run(f"{taint}-")


def test_drained_node_frees_its_cards_and_keeps_the_plugin(cluster: Cluster, user: User, app: str) -> None:
    page = "docs/operating/maintenance.md"
    drain, uncordon = "kubectl drain NODE --ignore-daemonsets", "kubectl uncordon NODE"
    assert f"`{drain}`" in text(page)
    assert f"`{uncordon}`" in text(page)
    [before] = plugins(cluster)
    user.run(drain)
    assert cards(cluster) == []
    [plugin] = plugins(cluster)
    assert plugin["metadata"]["uid"] == before["metadata"]["uid"]
    wait_offered(cluster)
    user.run(uncordon)
    wait_for(lambda: len(running(cluster)) == 2, "the pods back", 60)
    assert len(set(cards(cluster))) == 2


def test_evicted_pod_leaves_its_card_to_the_one_that_waits(cluster: Cluster) -> None:
    """By the Eviction API, as an autoscaler or a descheduler does."""
    had = _two_run_and_a_third_waits(cluster, pod("one", limits={U200: 1}))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "one"}}
    path = "/api/v1/namespaces/default/pods/one/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    cluster.wait_pod("three", "Running")
    assert nodes_in(cluster, "three") == had
    wait_for(lambda: cluster.pod("one") is None, "the evicted pod gone", 60)  # its card is free before


def test_pod_that_kubelet_evicts_leaves_its_card_to_the_one_that_waits(cluster: Cluster) -> None:
    """It fills its volume beyond its limit, once a file of the case is there; the pod stays, as Failed."""
    fill = "until [ -e /tmp/go ]; do sleep 0.1; done; dd if=/dev/zero of=/volume/file bs=1M count=16"
    full = pod(
        "one",
        f"{fill}; exec sleep 3600",
        limits={U200: 1},
        volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
    )
    full["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/volume"}]
    had = _two_run_and_a_third_waits(cluster, full)
    cluster.kubectl("exec", "one", "--", "touch", "/tmp/go")
    evicted = cluster.wait_pod("one", "Failed", limit=180)  # kubelet measures volumes once a minute
    assert evicted["status"]["reason"] == "Evicted"
    cluster.wait_pod("three", "Running")
    assert nodes_in(cluster, "three") == had


def _two_run_and_a_third_waits(cluster: Cluster, one: dict[str, Any]) -> list[str]:
    """Run `one` and another pod, each with a U200, and let a third wait; return the node of the first."""
    cluster.run_pod(one)
    cluster.run_pod(pod("two", limits={U200: 1}))
    for name in ("one", "two"):
        cluster.wait_pod(name, "Running")
    cluster.run_pod(pod("three", limits={U200: 1}))
    wait_for(lambda: cluster.unscheduled("three"), "the scheduler's message", 30)
    return nodes_in(cluster, "one")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_kubelet_restart_disturbs_no_pod(cluster: Cluster, app: str, how: str) -> None:
    before, held = running(cluster), cards(cluster)
    getattr(cluster, how)("kubelet")
    cluster.start("kubelet")
    wait_offered(cluster)
    wait_for(cluster.ready, "node Ready", 60)
    # podresources lists a pod only after the new kubelet has read it from the API server.
    wait_for(lambda: cards(cluster) == held, f"{held} held", 60)
    assert running(cluster) == before
    # What is asked for now is refused no more than before.
    waiting = cluster.create(EXAMPLES / "dp-pod.yaml")
    wait_for(lambda: cluster.unscheduled(waiting), "the scheduler's message", 30)
    cluster.kubectl("scale", "deployment", app, "--replicas=1")
    cluster.wait_pod(waiting, "Running")
    assert len(set(cards(cluster))) == 2


def test_node_reboot_brings_back_cards_and_pods(cluster: Cluster, user: User, app: str) -> None:
    """Two pods hold the cards and a third waits; then containers, sandboxes and sockets are gone."""
    waiting = cluster.create(EXAMPLES / "dp-pod.yaml")
    wait_for(lambda: cluster.unscheduled(waiting), "the scheduler's message", 30)
    cluster.reboot()
    wait_for(cluster.ready, "node Ready", 60)
    wait_offered(cluster)
    wait_available(cluster)
    # kubelet refuses the pods that were there, as the page describes, and others take their place.
    wait_for(lambda: len(running(cluster, "")) == 2 and len(cards(cluster)) == 2, "two pods with a card", 120)
    assert len(set(cards(cluster))) == 2
    [command] = [
        b for b in blocks("docs/operating/troubleshooting.md", "sh") if "UnexpectedAdmissionError" in b
    ]
    user.run(command)
    phases = [pod["status"]["phase"] for pod in cluster.pods()]
    assert sorted(phases) == ["Pending", "Running", "Running"]
    cluster.kubectl("scale", "deployment", app, "--replicas=1")
    cluster.wait_pod(waiting, "Running")
