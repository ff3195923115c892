"""The example pods that need more of a node than its cards: CPUs beside the card, and shared cards."""

from collections.abc import Iterator

import pytest
import yaml

from ..namespace import wait_for
from ..pods import pod
from .cluster import Cluster
from .deployed import (
    EXAMPLES,
    NAME,
    NAMESPACE,
    U200,
    U250,
    VARIABLE,
    nodes_in,
    only_card,
    opened,
    printed,
    wait_available,
    wait_offered,
)

# As the example's text says. The static policy wants a part of the node reserved.
ALIGNED = {
    "cpuManagerPolicy": "static",
    "cpuManagerReconcilePeriod": "1s",
    "topologyManagerPolicy": "single-numa-node",
    "kubeReserved": {"cpu": "100m"},
}
ELSEWHERE = 1  # a NUMA node of the sample node; kubelet finds all CPUs on node 0


@pytest.fixture
def aligned(cluster: Cluster, daemonset: None) -> Iterator[None]:
    """A kubelet that gives a pod CPUs of its own, of the NUMA node of its card."""
    with cluster.kubelet_with(ALIGNED):
        wait_offered(cluster)
        yield


def cpus(cluster: Cluster, name: str) -> str:
    """Return the CPUs that a pod may run on, as the kernel lists them."""
    return cluster.kubectl("exec", name, "--", "grep", "Cpus_allowed_list", "/proc/self/status").split()[1]


@pytest.mark.usefixtures("aligned", "pods")
def test_numa_example_has_a_cpu_of_its_own_beside_its_card(cluster: Cluster) -> None:
    cluster.run_pod(pod("other"))
    name = cluster.create(EXAMPLES / "dp-pod-numa.yaml")
    cluster.wait_pod(name, "Running")
    card = only_card(cluster, name)
    assert nodes_in(cluster, name) == [card.render_node]
    assert opened(cluster, name) == {card.render_node}
    assert f"{VARIABLE}={card.address}\n" in printed(cluster, name)
    own = cpus(cluster, name)
    assert own.isdigit(), "one CPU"
    cluster.wait_pod("other", "Running")
    # kubelet takes the CPU from the others' containers a moment later.
    wait_for(lambda: own not in cpus(cluster, "other"), "the CPU is its own", 60)


@pytest.mark.usefixtures("aligned", "pods")
def test_card_of_another_numa_node_than_the_cpus_is_refused(cluster: Cluster) -> None:
    card = cluster.sample.cards[2]
    far = yaml.safe_load((EXAMPLES / "dp-pod-numa.yaml").read_text())
    limits = far["spec"]["containers"][0]["resources"]["limits"]
    limits[U250] = limits.pop(U200)

    def lies(node: int) -> bool:
        return cluster.resources.allocatable().get(U250, {}) == {card.address: {node}}

    card.write("numa_node", str(ELSEWHERE))
    try:
        wait_for(lambda: lies(ELSEWHERE), "the NUMA node at kubelet", 30)
        cluster.run_pod(far)
        refused = cluster.wait_pod(far["metadata"]["name"], "Failed")
        assert refused["status"]["reason"] == "TopologyAffinityError"
    finally:
        card.write("numa_node", "0")
        wait_for(lambda: lies(0), "the NUMA node at kubelet", 30)


@pytest.fixture
def shared(cluster: Cluster, daemonset: None) -> Iterator[str]:
    """The name of the resource of the two U200, of which two containers may have each."""
    set_ = ["set", "env", "-n", NAMESPACE, f"daemonset/{NAME}"]
    cluster.kubectl(*set_, "XILINX_FPGA_DP_SHARED_REPLICAS=2")
    name = f"{U200}.shared"
    cluster.wait_resource(name, 4)
    wait_available(cluster)
    yield name
    cluster.kubectl(*set_, "XILINX_FPGA_DP_SHARED_REPLICAS-")
    cluster.wait_resource(name, 0)
    wait_available(cluster)
    wait_offered(cluster)


@pytest.mark.usefixtures("shared", "pods")
def test_shared_example_has_its_card_together_with_another(cluster: Cluster, shared: str) -> None:
    manifest = yaml.safe_load((EXAMPLES / "dp-pod-shared.yaml").read_text())
    names = [cluster.create(EXAMPLES / "dp-pod-shared.yaml"), "second", "third", "fourth"]
    for name in names[1:]:
        cluster.run_pod({**manifest, "metadata": {"name": name}})
    for name in names:
        cluster.wait_pod(name, "Running")
    cluster.run_pod({**manifest, "metadata": {"name": "fifth"}})
    message = wait_for(lambda: cluster.unscheduled("fifth"), "the scheduler's message", 30)
    assert f"Insufficient {shared}" in message
    node_of = {card.address: card.render_node for card in cluster.sample.cards}
    had = []
    for held in cluster.resources.held():
        [replica] = held.ids
        address = replica.partition("::")[0]
        assert nodes_in(cluster, held.pod) == [node_of[address]]
        assert opened(cluster, held.pod) == {node_of[address]}
        assert f"{VARIABLE}_SHARED={address}\n" in printed(cluster, held.pod)
        had.append((held.pod, address))
    assert sorted(pod for pod, _ in had) == sorted(names)
    addresses = sorted(address for _, address in had)
    assert addresses == sorted(2 * [card.address for card in cluster.sample.cards[:2]])
    cluster.kubectl("delete", "pod", names[0], "--now")
    cluster.wait_pod("fifth", "Running")
