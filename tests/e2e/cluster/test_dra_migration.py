"""The way from the device plugin to the DRA driver, with pods that run and pods that wait."""

from collections.abc import Iterator

import pytest

from ..namespace import wait_for
from ..pods import pod
from .card_holders import never_two
from .cluster import Cluster
from .deployed import (
    DRIVER_NAME,
    MANIFEST,
    NAME,
    U200,
    card_variables,
    nodes_in,
    plugins,
    wait_available,
    wait_offered,
    wait_withdrawn,
)
from .driver import DRIVER, SLICES
from .user import User, commands

pytestmark = [pytest.mark.since(36), pytest.mark.usefixtures("pods")]


@pytest.fixture
def plugin(cluster: Cluster, image: None) -> Iterator[None]:
    """The device plugin of the static manifest; removed at the latest at the end."""
    cluster.kubectl("create", "-f", MANIFEST)
    wait_offered(cluster)
    yield
    cluster.kubectl("delete", "-f", MANIFEST, "--ignore-not-found", "--wait")


@pytest.fixture
def installed(user: User, cluster: Cluster) -> Iterator[None]:
    """Remove what the case installs by Helm; pods first, since only a driver lets those with claims end."""
    yield
    cluster.kubectl("delete", "pods", "--all", "--wait", "--now")
    user.run(f"helm uninstall {NAME} --ignore-not-found --wait")
    wait_for(lambda: True if not plugins(cluster) else None, "the driver's pods gone", 60)
    cluster.kubectl("delete", "resourceslices", "--all", "--wait")


@pytest.fixture
def one_container_a_card() -> Iterator[None]:
    """Fail if two containers have one card at any time of the case."""
    with never_two() as found:
        yield
    assert len(found) > 1, "nothing was seen"


def held(cluster: Cluster) -> list[str]:
    """Return the devices with the taint of a card that a pod of the device plugin holds."""
    return sorted(
        device["name"]
        for each in cluster.api.get(SLICES)["items"]
        for device in each["spec"]["devices"]
        for taint in device.get("taints", ())
        if taint["key"] == f"{DRIVER}/held"
    )


def test_cards_change_over_one_by_one_as_their_pods_end(
    cluster: Cluster, user: User, plugin: None, installed: None, one_container_a_card: None
) -> None:
    for name in ("one", "two"):
        cluster.run_pod(pod(name, limits={U200: 1}))
        cluster.wait_pod(name, "Running")
    cluster.run_pod(pod("three", limits={U200: 1}))
    wait_for(lambda: cluster.unscheduled("three"), "the scheduler's message", 30)
    before = {name: nodes_in(cluster, name) for name in ("one", "two")}
    told = card_variables(cluster, "one")
    assert told
    cluster.kubectl("delete", "-f", MANIFEST, "--wait")
    wait_withdrawn(cluster)
    user.run(f"{commands('README.md', 'Install')[2]} --set mode=dra --set dra.classes[0].resource={U200}")
    wait_available(cluster, DRIVER_NAME)
    assert len(held(cluster)) == 2, "in the first slice, so that nothing is allocated twice"
    message = wait_for(
        lambda: said if "claims" in (said := cluster.unscheduled("three") or "") else None, "", 30
    )
    assert "cannot allocate all claims" in message
    cluster.kubectl("delete", "pod", "one", "--now", "--wait")
    cluster.wait_pod("three", "Running")
    assert nodes_in(cluster, "three") == before["one"]
    assert card_variables(cluster, "three") == told
    assert nodes_in(cluster, "two") == before["two"]
    assert len(held(cluster)) == 1
    [running] = [each for each in cluster.pods() if each["metadata"]["name"] == "two"]
    assert running["status"]["containerStatuses"][0]["restartCount"] == 0


def test_node_goes_back_to_the_plugin_also_if_begun_too_early(
    cluster: Cluster, user: User, image: None, installed: None, one_container_a_card: None
) -> None:
    page = commands("docs/operating/dra.md", "From the device plugin to the driver, and back")
    label, unlabel, uncordon = page[3], *page[-2:]
    user.run(
        f"{commands('README.md', 'Install')[2]} --set mode=by-label --set dra.classes[0].resource={U200}"
    )
    wait_offered(cluster)
    user.run(label)
    wait_available(cluster, DRIVER_NAME)
    wait_for(lambda: cluster.counts(U200).allocatable == 0, "no card of the plugin", 60)
    for name in ("one", "two"):
        cluster.run_pod(pod(name, limits={U200: 1}))
        cluster.wait_pod(name, "Running")
    before = {name: nodes_in(cluster, name) for name in ("one", "two")}
    cluster.run_pod(pod("three", limits={U200: 1}))
    wait_for(lambda: cluster.unscheduled("three"), "the scheduler's message", 30)
    user.run("kubectl cordon NODE")
    cluster.kubectl("delete", "pod", "one", "--now", "--wait")
    user.run(unlabel)  # too early: `two` has a claim
    wait_available(cluster)
    cluster.wait_resource(U200, 1)
    assert nodes_in(cluster, "two") == before["two"]
    cluster.kubectl("delete", "pod", "two", "--now", "--wait=false")
    user.run(label)
    wait_for(lambda: cluster.pod("two") is None, "the end of the pod with a claim", 60)
    user.run(unlabel)
    wait_offered(cluster)
    user.run(uncordon)
    cluster.wait_pod("three", "Running")
    assert len(nodes_in(cluster, "three")) == 1
    assert [each.pod for each in cluster.resources.held()] == ["three"]
