"""What deploy/ ships, by name, and its state in a cluster."""

import json
import os
from typing import Any

import yaml

from xilinx_fpga_dp.simulate.sysfs.sample_node import XrtCard

from ..image import PROJECT
from ..namespace import wait_for
from ..pods import open_each, open_number
from .cluster import Cluster

MANIFEST = PROJECT / "deploy" / "fpga-device-plugin.yml"
EXAMPLES = PROJECT / "deploy" / "examples"
DAEMONSET: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
NAMESPACE = str(DAEMONSET["metadata"]["namespace"])
NAME = str(DAEMONSET["metadata"]["name"])
IMAGE = str(DAEMONSET["spec"]["template"]["spec"]["containers"][0]["image"])

# The resources of the default cards: two U200 of one shell, a U250 of another.
U200 = "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320"
U250 = "xilinx.com/fpga-xilinx_u250_xdma_201830_2-1561656294"

# The variable that names the cards of the first of them.
VARIABLE = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U200_XDMA_201830_2_1561465320"

DRIVER_NAME = f"{NAME}-dra"  # of the DaemonSet of the DRA driver

_SELECTOR = f"app.kubernetes.io/name={NAME}"


def wait_offered(cluster: Cluster) -> None:
    """Wait until the status of the node has all cards, as allocatable."""
    cluster.wait_resource(U200, 2)
    cluster.wait_resource(U250, 1)


def wait_available(cluster: Cluster, name: str = NAME) -> None:
    """Wait until a DaemonSet is rolled out and each of its pods has been ready for a while."""
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, f"daemonset/{name}", "--timeout=120s")


def wait_withdrawn(cluster: Cluster) -> None:
    """Wait until the plugin's pods are gone and the status of the node has no card to allocate."""
    wait_for(lambda: not plugins(cluster), "the plugin's pods gone", 120)  # late after an outage
    cluster.wait_resource(U200, 0)
    cluster.wait_resource(U250, 0)


def plugins(cluster: Cluster) -> list[Any]:
    """Return the pods of the plugin, the oldest first."""
    pods = cluster.pods(_SELECTOR, NAMESPACE)
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def only_card(cluster: Cluster, pod: str) -> XrtCard:
    """Return the card that a pod holds, which is its only one and the only one that is held."""
    [held] = cluster.resources.held()
    assert (held.pod, held.resource) == (pod, U200)
    [card] = [card for card in cluster.sample.cards if {card.address} == held.ids]
    return card


def nodes_in(cluster: Cluster, pod: str) -> list[str]:
    """Return the device nodes of cards that a pod has."""
    return [f"/dev/dri/{name}" for name in cluster.kubectl("exec", pod, "--", "ls", "/dev/dri").split()]


def opened(cluster: Cluster, pod: str) -> set[str]:
    """Return the nodes of cards that a pod can open, at their path or by a node that it makes itself."""
    nodes = cluster.sample.devices()
    attempts = [open_each(nodes), *map(open_number, nodes.values())]
    said = cluster.kubectl("exec", pod, "--", "sh", "-c", "; ".join(attempts)).splitlines()
    return {
        node
        for node, number in nodes.items()
        if {f"open {node} ok", f"number {os.major(number)}:{os.minor(number)} ok"} & set(said)
    }


def card_variables(cluster: Cluster, pod: str) -> dict[str, str]:
    """Return the variables by which a container knows its cards."""
    lines = cluster.kubectl("exec", pod, "--", "env").splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith("PCIDEVICE_"))


def printed(cluster: Cluster, pod: str) -> str:
    """Return the output of an example pod, with the variables of its cards."""

    def complete() -> str | None:
        said = cluster.kubectl("logs", pod)
        return said if "PCIDEVICE_" in said else None

    return wait_for(complete, "its output", 30)


def daemonset(cluster: Cluster) -> Any:
    """Return the DaemonSet."""
    return json.loads(cluster.kubectl("get", "daemonset", "-n", NAMESPACE, NAME, "-o", "json"))
