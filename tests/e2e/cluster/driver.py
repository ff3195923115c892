"""The DRA driver in a cluster: its installation, what it publishes, and pods with claims."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..namespace import wait_for
from ..pods import STAY, pod
from .cluster import Cluster
from .deployed import DRIVER_NAME, NAME, U200, plugins, wait_available
from .user import User, commands

DRIVER = "fpga.xilinx.com"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"


@contextmanager
def driver_installed(cluster: Cluster, user: User, *values: str) -> Iterator[None]:
    """Install the driver by the chart, with a class for the U200's resource and templates of claims.

    Pods with a claim have to be gone at the end: only a driver lets them end.
    """
    install = commands("README.md", "Install")[2]
    user.run(" --set ".join([install, "mode=dra", f"dra.classes[0].resource={U200}", *values]))
    wait_for(lambda: slices(cluster) or None, "a slice", 60)
    wait_available(cluster, DRIVER_NAME)
    for board in ("u200", "u250"):
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(template(board)))
    yield
    cluster.kubectl("delete", "resourceclaimtemplates", "--all")
    user.run(f"helm uninstall {NAME} --wait")
    wait_for(lambda: not plugins(cluster), "the driver's pods gone", 60)
    cluster.kubectl("delete", "resourceslices", "--all", "--wait")


def template(board: str) -> dict[str, Any]:
    """Return a template of claims for a card of a board, which it is named after."""
    selector = {"cel": {"expression": f'device.attributes["{DRIVER}"].board == "{board}"'}}
    request = {"name": "fpga", "exactly": {"deviceClassName": DRIVER, "selectors": [selector]}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": board},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def claiming(name: str, script: str = STAY, *, board: str = "u200") -> dict[str, Any]:
    """Return a pod with a claim for a card of a board."""
    made = pod(name, script, resourceClaims=[{"name": "card", "resourceClaimTemplateName": board}])
    made["spec"]["containers"][0]["resources"] = {"claims": [{"name": "card"}]}
    return made


def run(cluster: Cluster, name: str, script: str = STAY, *, board: str = "u200") -> None:
    """Create a pod with a claim for a card and wait until it runs."""
    cluster.run_pod(claiming(name, script, board=board))
    cluster.wait_pod(name, "Running")


def restarts(cluster: Cluster, name: str) -> int:
    """Return how often the container of a pod has been started again."""
    [status] = cluster.pod(name)["status"]["containerStatuses"]
    return int(status["restartCount"])


def runs_again(cluster: Cluster, name: str) -> bool:
    """Return whether the container of a pod has been started again and runs."""
    statuses = cluster.pod(name)["status"].get("containerStatuses", ())  # none just after a reboot
    return any(each["restartCount"] > 0 and "running" in each["state"] for each in statuses)


def slices(cluster: Cluster) -> list[Any]:
    """Return the slices of the driver."""
    items = cluster.api.get(SLICES)["items"]
    return [each for each in items if each["spec"]["driver"] == DRIVER]


def devices(cluster: Cluster) -> dict[str, Any]:
    """Return the published devices by name."""
    return {each["name"]: each for one in slices(cluster) for each in one["spec"]["devices"]}


def taints(cluster: Cluster) -> list[str]:
    """Return the keys of the taints of all devices."""
    return [taint["key"] for each in devices(cluster).values() for taint in each.get("taints", ())]


def name_of(address: str) -> str:
    """Return the name of the device with an address."""
    return "pci-" + address.replace(":", "-").replace(".", "-")


@contextmanager
def followed(cluster: Cluster, path: str) -> Iterator[list[tuple[float, Any]]]:
    """Yield a list to which each version of the objects of a list is added, with its time.

    An object that is removed is added once more.
    """
    found: list[tuple[float, Any]] = []

    def follow() -> None:
        for each in watch:
            version = (time.monotonic(), each)
            found.append(version)  # at once: `extend` may add them at the end

    with cluster.api.watch(path) as watch:
        thread = threading.Thread(target=follow, name=f"follow {path}")
        thread.start()
        try:
            yield found
        finally:
            watch.end()
            thread.join(10)


def every_slice(cluster: Cluster) -> AbstractContextManager[list[tuple[float, Any]]]:
    """Follow the driver's slices."""
    return followed(cluster, f"{SLICES}?fieldSelector=spec.driver={DRIVER}")
