"""An upgrade from the last release, for users who have set nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from xilinx_fpga_dp import __version__

from ..image import PROJECT
from ..report import Report
from .churn import without_a_gap
from .cluster import Cluster
from .deployed import EXAMPLES, NAME, NAMESPACE, daemonset, plugins, wait_available, wait_offered
from .user import User

pytestmark = pytest.mark.usefixtures("bare", "pods")

RELEASE = PROJECT / "tests" / "data" / "release-0.2.0.yaml"
CHART = {"apiVersion": "v2", "name": NAME, "version": "0.2.0"}
MAPS = "print(open('/proc/{}/maps').read())"


def kept_chart(checkout: Path) -> str:
    """Write a chart with the objects of the release; return its path in the checkout."""
    folder = checkout / "release"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text(yaml.safe_dump(CHART))
    # With the image that there is.
    text = RELEASE.read_text().replace("0.2.0", __version__)
    (folder / "templates" / "objects.yaml").write_text(text)
    return folder.name


def spec(cluster: Cluster) -> Any:
    """Return the spec of the DaemonSet, without what this release has added on purpose."""
    found = daemonset(cluster)["spec"]
    found["template"]["spec"].pop("affinity", None)  # keeps it off virtual nodes
    return found


def test_upgrade_from_the_last_release_changes_nothing(cluster: Cluster, user: User, report: Report) -> None:
    user.run(f"helm install {NAME} {kept_chart(user.checkout)}")
    wait_offered(cluster)
    wait_available(cluster)
    held = cluster.create(EXAMPLES / "dp-pod.yaml")
    status = cluster.wait_pod(held, "Running")["status"]["containerStatuses"]
    before = spec(cluster)
    with without_a_gap(cluster, report, "helm upgrade from 0.2.0"):
        user.run(f"helm upgrade {NAME} deploy/helm/xilinx-fpga-dp")
    assert spec(cluster) == before
    objects = yaml.safe_load_all(user.run(f"helm get manifest {NAME}"))
    assert [each["kind"] for each in objects] == ["DaemonSet"]
    assert cluster.pod(held)["status"]["containerStatuses"] == status
    # The plugin makes no call to the API server, and has nothing in its memory for one.
    [plugin] = plugins(cluster)
    python = ("exec", "-n", NAMESPACE, plugin["metadata"]["name"], "--", "python", "-c")
    assert "_ssl" in cluster.kubectl(*python, f"import ssl; {MAPS.format('self')}"), "it can be seen"
    own = cluster.kubectl(*python, MAPS.format(1))
    assert "python" in own
    assert "ssl" not in own
