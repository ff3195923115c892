"""The static manifest and the example pods, as deploy/ ships them."""

import pytest

from ..namespace import wait_for
from ..pods import pod
from .cluster import Cluster, Counts
from .deployed import (
    EXAMPLES,
    U200,
    U250,
    VARIABLE,
    daemonset,
    nodes_in,
    only_card,
    opened,
    plugins,
    printed,
)

pytestmark = pytest.mark.usefixtures("daemonset", "pods")


def test_daemonset_is_available_and_the_node_has_all_cards(cluster: Cluster) -> None:
    status = daemonset(cluster)["status"]
    assert status["numberAvailable"] == status["desiredNumberScheduled"] == 1
    assert (cluster.counts(U200), cluster.counts(U250)) == (Counts(2, 2), Counts(1, 1))


@pytest.mark.parametrize("example", ["dp-pod", "dp-pod-non-root"])
def test_example_pod_gets_one_card_and_no_other(cluster: Cluster, example: str) -> None:
    name = cluster.create(EXAMPLES / f"{example}.yaml")
    cluster.wait_pod(name, "Running")
    card = only_card(cluster, name)
    assert nodes_in(cluster, name) == [card.render_node]
    assert opened(cluster, name) == {card.render_node}
    said = printed(cluster, name)
    assert f"{VARIABLE}={card.address}\n" in said
    assert str(card.render_node).removeprefix("/dev/dri/") in said


def test_pod_that_asks_for_one_card_too_many_waits_for_it(cluster: Cluster) -> None:
    one = cluster.create(EXAMPLES / "dp-pod.yaml")
    cluster.wait_pod(one, "Running")
    two = cluster.create(EXAMPLES / "dp-pod-two-cards.yaml")
    message = wait_for(lambda: cluster.unscheduled(two), "the scheduler's message", 30)
    assert f"Insufficient {U200}" in message
    assert cluster.pod(two)["status"]["phase"] == "Pending"
    cluster.kubectl("delete", "pod", one, "--now")
    cluster.wait_pod(two, "Running")
    cards = cluster.sample.cards[:2]
    assert opened(cluster, two) == {card.render_node for card in cards}
    assert f"{VARIABLE}={','.join(card.address for card in cards)}\n" in printed(cluster, two)


def test_pod_on_its_own_network_reads_probes_and_metrics(cluster: Cluster) -> None:
    [plugin] = plugins(cluster)
    address = plugin["status"]["podIP"]
    assert address != plugin["status"]["hostIP"]
    cluster.run_pod(pod("reader", hostNetwork=False))
    cluster.wait_pod("reader", "Running")

    def page(path: str) -> str:
        return cluster.kubectl("exec", "reader", "--", "wget", "-qO-", f"http://{address}:8080{path}")

    for probe in ("/livez", "/readyz"):
        page(probe)  # fails unless the status is 200
    assert f'xilinx_fpga_dp_registered{{resource="{U200}"}} 1' in page("/metrics")
