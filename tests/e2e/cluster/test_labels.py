"""Node labels through node-feature-discovery itself, from its chart."""

from collections.abc import Iterator

import pytest

from tests.support.pages import blocks

from ..build import Go, build_program
from ..host import HOSTNAME
from ..images import write_program_image
from ..namespace import NodeError, wait_for
from ..report import Report
from .cluster import Cluster
from .registry import Registry
from .user import User, commands

MODULE, VERSION = "sigs.k8s.io/node-feature-discovery", "0.18.3"
PROGRAMS = ("nfd-master", "nfd-worker", "nfd-gc")
# Its go.mod replaces the module of its API by a directory.
REPLACE = [f"\t{MODULE}/api/nfd => {MODULE}/api/nfd v{VERSION}"]
# The directories of the host, as in its image (HOSTMOUNT_PREFIX of its Makefile)
VALUES = {f"{MODULE}/pkg/utils/hostpath.pathPrefix": "/host-"}
FEATURES = "/etc/kubernetes/node-feature-discovery/features.d"
PAGE = "docs/operating/maintenance.md"

NAMESPACE = "node-feature-discovery"
UNINSTALL = f"helm uninstall nfd --namespace {NAMESPACE} --wait"
NFD = "feature.node.kubernetes.io/"  # the domain of its own labels


@pytest.fixture(scope="module", autouse=True)
def nfd(cluster: Cluster, registry: Registry, user: User, report: Report) -> Iterator[None]:
    """A release of node-feature-discovery, built from its module."""
    programs = {
        name: build_program(name, MODULE, VERSION, f"cmd/{name}", REPLACE, values=VALUES) for name in PROGRAMS
    }
    archive = cluster.folder / "nfd.tar"
    write_program_image(
        archive, programs, ["/bin/nfd-worker"], user="65534:65534"
    )  # as its Dockerfile has it
    registry.push(archive, f"nfd/node-feature-discovery:v{VERSION}")
    chart = Go.find().module_folder(MODULE, VERSION) / "deployment" / "helm" / "node-feature-discovery"
    install = f"helm install nfd {chart} --namespace {NAMESPACE} --create-namespace --wait"
    user.run(install)
    try:
        wait_for(lambda: any(NFD in name for name in labels(cluster)), "a label of its own", 90, 0.2)
    except NodeError:  # seen once: it ran and set no label at all, before the plugin was there
        report.note(f"node-feature-discovery set no label: installed again\n{cluster.described()[:8000]}")
        user.run(UNINSTALL)
        user.run(install)
        wait_for(lambda: any(NFD in name for name in labels(cluster)), "a label of its own", 90, 0.2)
    yield
    user.run(UNINSTALL)


def labels(cluster: Cluster) -> dict[str, str]:
    """Return the labels of the node."""
    found: dict[str, str] = cluster.api.get(f"/api/v1/nodes/{HOSTNAME}")["metadata"]["labels"]
    return found


def wait_label(cluster: Cluster, name: str, value: str) -> None:
    """Wait until the node has a label."""
    wait_for(lambda: labels(cluster).get(name) == value, f"{name}={value}", 90, 0.2)


@pytest.mark.usefixtures("bare", "pods")
def test_node_gets_the_labels_of_the_feature_file_and_of_the_rule(cluster: Cluster, user: User) -> None:
    install = commands("README.md", "Install")[2]
    user.run(f"{install} --set nodeFeatureRule.enabled=true --set settings.NFD_FEATURES_DIR={FEATURES}")
    # The rule goes by the bus, the file by what the plugin offers.
    for name, value in {"on-bus": "true", "present": "true", "count": "3", "board.u200": "true"}.items():
        wait_label(cluster, f"xilinx.com/fpga.{name}", value)

    select, rule = blocks(PAGE, "yaml")
    cluster.kubectl("create", "-f", "-", stdin=select)
    cluster.wait_pod("mypod", "Running")
    cluster.kubectl("create", "-f", "-", stdin=rule)
    wait_label(cluster, "example.com/fpga-farm", "true")
    cluster.kubectl("delete", "-f", "-", stdin=rule)
