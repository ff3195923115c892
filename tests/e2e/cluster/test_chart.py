"""The chart: upgrade and removal, and a namespace of its own under Pod Security admission."""

from collections.abc import Iterator

import pytest

from tests.support.pages import blocks

from ..namespace import wait_for
from ..report import Report
from .churn import without_a_gap
from .cluster import Cluster
from .deployed import EXAMPLES, NAME, wait_offered, wait_withdrawn
from .user import User, commands

pytestmark = pytest.mark.usefixtures("bare", "pods")

PAGE = "docs/operating/install.md"


def test_helm_upgrade_and_uninstall(cluster: Cluster, user: User, report: Report) -> None:
    install = commands("README.md", "Install")[2]
    user.run(install)
    held = cluster.create(EXAMPLES / "dp-pod.yaml")
    cluster.wait_pod(held, "Running")
    with without_a_gap(cluster, report, "helm upgrade"):
        user.run(install.replace("install", "upgrade") + " --reuse-values --set settings.LOG_LEVEL=debug")
    user.run("helm uninstall xilinx-fpga-dp")
    wait_withdrawn(cluster)
    assert cluster.pod(held)["status"]["phase"] == "Running"


@pytest.fixture
def namespace(cluster: Cluster, user: User, image: None) -> Iterator[str]:
    """The namespace of the page's example, removed with what is in it."""
    yield "fpga"
    user.run(f"helm uninstall {NAME} --ignore-not-found --wait")
    cluster.kubectl("delete", "namespace", "fpga", "--wait")


def test_chart_makes_a_namespace_that_admits_its_pods(cluster: Cluster, user: User, namespace: str) -> None:
    install = commands("README.md", "Install")[2]
    user.run(f"{install} --set namespace={namespace} --set podSecurity.createNamespace=true")
    wait_offered(cluster)
    cluster.kubectl("rollout", "status", "-n", namespace, f"daemonset/{NAME}", "--timeout=120s")


def test_refused_pods_are_explained_and_admitted_after_the_label(
    cluster: Cluster, user: User, namespace: str
) -> None:
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=baseline")
    user.run(f"{commands('README.md', 'Install')[2]} --set namespace={namespace}")
    describe = f"kubectl -n NAMESPACE describe daemonset {NAME}"

    def explained() -> bool:
        said = user.run(describe, NAMESPACE=namespace)
        return "FailedCreate" in said and "violates PodSecurity" in said

    wait_for(explained, "the event of the DaemonSet", 60, 0.5)
    [label] = [block for block in blocks(PAGE, "sh") if "pod-security" in block]
    user.run(label, NAMESPACE=namespace)
    # The controller tries again after a while that grows with each failure.
    cluster.kubectl("rollout", "restart", "-n", namespace, f"daemonset/{NAME}")
    wait_offered(cluster)
