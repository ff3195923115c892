"""The DRA driver while the API server, the Node or its own older instance goes and comes back.

API_SERVER_AWAY is how many seconds the API server is away.
"""

import os
import shutil
import signal
import time
from typing import Any

import pytest

from ..host import HOSTNAME
from ..namespace import wait_for
from ..report import Report
from .churn import Churn
from .cluster import Cluster
from .deployed import DRIVER_NAME, NAMESPACE, U200, plugins, wait_available
from .driver import DRIVER, SLICES, devices, every_slice, followed, name_of, run, slices, taints

pytestmark = [pytest.mark.long, pytest.mark.since(36), pytest.mark.usefixtures("driver", "pods")]

AWAY = float(os.environ.get("API_SERVER_AWAY", "8"))
APISERVER = "kube-apiserver"
KEY = f"{DRIVER}/offline"


def state(cluster: Cluster) -> list[tuple[str, int]]:
    """Return what has to stay: the driver's pod and the pods with a card, with their restarts."""
    return [
        (each["metadata"]["uid"], each["status"]["containerStatuses"][0]["restartCount"])
        for each in [*plugins(cluster), *cluster.pods()]
    ]


def wait_mended(cluster: Cluster, report: Report, what: str, device: str) -> None:
    """Wait for the taint of a device that broke meanwhile, then for the slice after its removal by hand."""
    began = time.monotonic()
    wait_for(lambda: [each["key"] for each in devices(cluster)[device].get("taints", ())] == [KEY], KEY, 90)
    report.time(f"{what}, to the slice", time.monotonic() - began)
    before = slices(cluster)[0]["metadata"]
    cluster.api("DELETE", f"{SLICES}/{before['name']}")
    began = time.monotonic()
    wait_for(
        lambda: (
            before["uid"] not in [each["metadata"]["uid"] for each in slices(cluster)]
            and taints(cluster) == [KEY]
        ),
        "the slice again",
        90,
    )
    report.time(f"{what}, a slice removed by hand is back", time.monotonic() - began)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_api_server_comes_back_to_a_slice_as_wanted(cluster: Cluster, report: Report, how: str) -> None:
    run(cluster, "one", board="u250")
    before = state(cluster)
    card = cluster.sample.cards[0]
    server = cluster.processes[APISERVER]
    if how == "killed":
        server.kill()
    else:
        server.send(signal.SIGSTOP)
    try:
        card.offline()
        time.sleep(AWAY)
    finally:
        if how == "killed":
            cluster.start(APISERVER)
        else:
            server.send(signal.SIGCONT)
    try:
        wait_mended(cluster, report, f"API server {how} for {AWAY:g} s serves again", name_of(card.address))
    finally:
        card.mend()
    wait_for(lambda: taints(cluster) == [], "no taint", 60)
    assert state(cluster) == before
    run(cluster, "two")


def test_older_data_of_etcd_are_mended(cluster: Cluster, report: Report) -> None:
    """As after a restoration: the versions of all objects go back."""
    run(cluster, "one", board="u250")
    before = state(cluster)
    data, copy = cluster.folder / "etcd", cluster.folder / "etcd-copy"
    cluster.kill(APISERVER)
    cluster.stop("etcd")
    shutil.copytree(data, copy)
    cluster.start("etcd")
    cluster.start(APISERVER)
    card = cluster.sample.cards[0]
    try:
        card.offline()
        wait_for(lambda: taints(cluster) == [KEY], "the taint", 60)
        for number in range(
            300
        ):  # more than the cluster's own writes raise the version of the copy meanwhile
            labels = {"metadata": {"labels": {"case": str(number)}}}
            cluster.api("PATCH", "/api/v1/namespaces/default", labels, "application/merge-patch+json")
        newest = slices(cluster)[0]["metadata"]["resourceVersion"]
        cluster.kill(APISERVER)
        cluster.stop("etcd")
        shutil.rmtree(data)
        copy.rename(data)
        cluster.start("etcd")
        cluster.start(APISERVER)
        assert int(slices(cluster)[0]["metadata"]["resourceVersion"]) < int(newest)
        wait_mended(cluster, report, "API server serves older data", name_of(card.address))
    finally:
        card.mend()
    wait_for(lambda: taints(cluster) == [], "no taint", 60)
    # The other parts watch from versions that the server no longer has.
    for part in ("kube-controller-manager", "kube-scheduler", "kubelet"):
        cluster.kill(part)
        cluster.start(part)
    wait_for(cluster.ready, "node Ready", 60)
    run(cluster, "two")
    assert state(cluster)[:-1] == before


def test_node_that_is_made_again_gets_its_slice(cluster: Cluster) -> None:
    """The garbage collector removes the slice of the older one, and the token names that for a while."""
    run(cluster, "one", board="u250")
    node = f"/api/v1/nodes/{HOSTNAME}"
    older = cluster.api.get(node)["metadata"]["uid"]
    cluster.api("DELETE", node)
    cluster.kill("kubelet")
    cluster.start("kubelet")  # which registers the node
    wait_for(cluster.ready, "node Ready", 60)
    uid = cluster.api.get(node)["metadata"]["uid"]
    assert uid != older

    def owners() -> list[str]:
        return [owner["uid"] for each in slices(cluster) for owner in each["metadata"]["ownerReferences"]]

    wait_for(lambda: owners() == [uid], "the slice of the Node", 120)
    assert cluster.pod("one")["status"]["phase"] == "Running"
    run(cluster, "two")


def healths(pod: Any) -> set[str]:
    """Return the health of the devices of a pod in its status."""
    return {
        resource["health"]
        for status in pod["status"].get("containerStatuses", ())
        for claim in status.get("allocatedResourcesStatus", ())
        for resource in claim["resources"]
    }


def failed_claims(cluster: Cluster) -> set[str]:
    """Return the Events of claims that could not be prepared."""
    query = "?fieldSelector=reason=FailedPrepareDynamicResources"
    return {each["message"] for each in cluster.api.get(f"/api/v1/events{query}")["items"]}


def test_rolling_update_fails_no_claim_and_keeps_slice_and_health(cluster: Cluster, report: Report) -> None:
    run(cluster, "one", board="u250")
    wait_for(lambda: healths(cluster.pod("one")) == {"Healthy"}, "the health in the status", 60)
    failed, before = failed_claims(cluster), state(cluster)
    one = "/api/v1/namespaces/default/pods?fieldSelector=metadata.name=one"
    with followed(cluster, one) as statuses, every_slice(cluster) as written:
        wait_for(lambda: bool(statuses and written), "the first of each", 30)
        with Churn(cluster, {U200: 1}) as churn:
            churn.wait_more(1)
            cluster.kubectl("rollout", "restart", "-n", NAMESPACE, f"daemonset/{DRIVER_NAME}")
            wait_available(cluster, DRIVER_NAME)
            wait_for(lambda: len(plugins(cluster)) == 1, "one instance", 60)
            churn.wait_more(1)
    assert before[0] not in state(cluster), "nothing was updated"
    assert churn.rejected == []
    assert failed_claims(cluster) == failed
    assert len({each["metadata"]["resourceVersion"] for _, each in written}) <= 2
    ends = [*(at for at, _ in statuses[1:]), time.monotonic()]
    unknown = [end - at for (at, pod), end in zip(statuses, ends, strict=True) if "Unknown" in healths(pod)]
    report.time("rolling update of the driver: health Unknown", max(unknown, default=0.0))
    assert max(unknown, default=0.0) < 10, "1 s where the machine is not busy"
    report.note(f"rolling update of the driver: {len(churn.took)} pods with a claim ran")
