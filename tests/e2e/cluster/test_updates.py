"""Updates and removals of the plugin while pods are created all along."""

import pytest

from ..namespace import wait_for
from ..pods import pod
from ..report import Report
from .churn import timed, without_a_gap
from .cluster import Cluster
from .deployed import (
    EXAMPLES,
    IMAGE,
    MANIFEST,
    NAME,
    NAMESPACE,
    U200,
    U250,
    plugins,
    wait_withdrawn,
)
from .registry import Registry


@pytest.mark.usefixtures("daemonset", "pods")
def test_rolling_update_rejects_no_pod_and_hides_no_card(
    cluster: Cluster, registry: Registry, report: Report
) -> None:
    registry.tag(IMAGE.partition("/")[2], "update")
    image = f"{IMAGE.rpartition(':')[0]}:update"
    with without_a_gap(cluster, report, "kubectl set image"):
        cluster.kubectl("set", "image", "-n", NAMESPACE, f"daemonset/{NAME}", f"{NAME}={image}")
    [plugin] = plugins(cluster)
    assert plugin["spec"]["containers"][0]["image"] == image


@pytest.mark.usefixtures("daemonset", "pods")
def test_pods_outlive_a_deleted_daemonset_and_new_ones_wait_for_it(cluster: Cluster) -> None:
    held = cluster.create(EXAMPLES / "dp-pod.yaml")
    before = cluster.wait_pod(held, "Running")["status"]["containerStatuses"]
    cluster.kubectl("delete", "-f", MANIFEST)
    wait_withdrawn(cluster)
    waiting = cluster.create(EXAMPLES / "dp-pod-non-root.yaml")
    message = wait_for(lambda: cluster.unscheduled(waiting), "the scheduler's message", 30)
    assert f"Insufficient {U200}" in message
    cluster.kubectl("create", "-f", MANIFEST)
    cluster.wait_pod(waiting, "Running")
    assert cluster.wait_pod(held, "Running")["status"]["containerStatuses"] == before
    owners = {each.pod: each.ids for each in cluster.resources.held()}
    assert owners[held].isdisjoint(owners[waiting])


@pytest.mark.usefixtures("daemonset", "pods")
def test_pod_with_a_card_starts_as_fast_as_one_without(cluster: Cluster, report: Report) -> None:
    """The times are in the report; a busy machine breaks no case."""
    for number in range(10):
        for kind, limits in (("plain", {}), ("with a card", {U250: 1})):
            name = f"{kind.split()[-1]}-{number}"
            took, status = timed(cluster, pod(name, limits=limits))
            assert status["phase"] == "Running"
            report.time(f"pod created to Running, {kind}", took)
            cluster.kubectl("delete", "pod", name, "--now")
