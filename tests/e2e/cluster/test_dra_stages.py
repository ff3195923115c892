"""The DRA driver on API servers that lack a feature, by their version or by a gate: a cluster for each.

STAGES=all adds those that take part only on demand.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import XrtCard

from ..build import install_packages, programs
from ..host import HOSTNAME
from ..namespace import Process, wait_for
from ..report import Report
from .cluster import PACKAGES, Cluster
from .deployed import nodes_in
from .driver import DRIVER, claiming, devices, every_slice, name_of, run, template

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("pods_removed")]

API = "/apis/resource.k8s.io/v1"

SETTINGS = {
    "MODE": "dra",
    "NODE_NAME": HOSTNAME,
    "SHARED_REPLICAS": "2",
    "SCAN_INTERVAL": "0.5",
    "HEALTH_INTERVAL": "0.2",
    "RECOVERY_CHECKS": "2",
    "HTTP_ADDRESS": "",
    "LOG_FORMAT": "text",
}


@dataclass(frozen=True)
class Stage:
    """What an API server does not store."""

    name: str
    emulated_version: str = ""
    off: tuple[str, ...] = ()  # gates, with those that depend on them
    taints: bool = True
    sharing: bool = True


STAGES = [
    Stage("1.34", emulated_version="1.34", taints=False, sharing=False),
    Stage("without taints", off=("DRADeviceTaints", "DRADeviceTaintRules"), taints=False),
    Stage("without capacity", off=("DRAConsumableCapacity", "DRAFractionalCapacityRange"), sharing=False),
]
ON_DEMAND = [
    Stage("1.35", emulated_version="1.35", taints=False, sharing=False),
    Stage("1.36", emulated_version="1.36"),
    Stage("1.37"),
    Stage("without granular status", off=("DRAResourceClaimGranularStatusAuthorization",)),
]
CHOSEN = STAGES + (ON_DEMAND if os.environ.get("STAGES") == "all" else [])


@dataclass
class Staged:
    """A cluster with a U200 and a U250, which is broken from the start, and the driver on its node."""

    stage: Stage
    cluster: Cluster
    driver: Process
    good: XrtCard
    broken: XrtCard
    versions: list[tuple[float, Any]]  # of the slice, since before the driver's start


@pytest.fixture(scope="module", params=CHOSEN, ids=lambda stage: stage.name.replace(" ", "-"))
def staged(request: pytest.FixtureRequest, report: Report) -> Iterator[Staged]:
    """The stage of all cases of the module."""
    stage: Stage = request.param
    built, plane = programs(os.environ.get("KUBERNETES", ""), os.environ.get("KUBELET", ""))
    install_packages(PACKAGES)
    report.kubernetes, report.kind = str(built.kubernetes), "cluster"
    gates = dict.fromkeys(stage.off, False)
    logs = report.folder / f"logs-{stage.name.replace(' ', '-')}"
    with Cluster(built, plane, emulated_version=stage.emulated_version, gates=gates, log_dir=logs) as cluster:
        good, broken = (cluster.sample.add_card(board) for board in ("u200", "u250"))
        broken.offline()
        for board in ("u200", "u250"):
            cluster.api("POST", f"{API}/namespaces/default/resourceclaimtemplates", template(board))
        selector = {"cel": {"expression": f'device.driver == "{DRIVER}"'}}
        named = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": DRIVER}}
        cluster.api("POST", f"{API}/deviceclasses", {**named, "spec": {"selectors": [selector]}})
        with every_slice(cluster) as versions:
            environment = {f"XILINX_FPGA_DP_{name}": value for name, value in SETTINGS.items()}
            environment |= cluster.sample.environment() | {"KUBECONFIG": str(cluster.kubeconfig())}
            driver = cluster.spawn("driver", [sys.executable, "-m", "xilinx_fpga_dp"], environment)
            wait_for(lambda: name_of(good.address) in devices(cluster), "the good card published", 60)
            yield Staged(stage, cluster, driver, good, broken, versions)


@pytest.fixture
def pods_removed(staged: Staged) -> Iterator[None]:
    """Remove the pods of the case."""
    yield
    staged.cluster.kubectl("delete", "pods", "--all", "--wait", "--now")


def is_allocatable(version: Any, card: XrtCard) -> bool:
    """Whether the scheduler may give a card to a pod, by a version of the slice as it is stored."""
    name = name_of(card.address)
    return any(each["name"] == name and not each.get("taints") for each in version["spec"]["devices"])


def waits(cluster: Cluster, name: str, board: str) -> None:
    """Create a pod and wait until the scheduler has no card for it."""
    cluster.run_pod(claiming(name, board=board))
    wait_for(
        lambda: "cannot allocate all claims" in (cluster.unscheduled(name) or ""), f"{name} unscheduled", 60
    )


def test_broken_card_is_never_allocatable(staged: Staged) -> None:
    cluster, card = staged.cluster, staged.broken
    waits(cluster, "early", "u250")
    versions = list(staged.versions)
    assert versions
    assert not any(is_allocatable(each, card) for _, each in versions)
    card.online()
    cluster.wait_pod("early", "Running")
    cluster.kubectl("delete", "pod", "early", "--wait", "--now")
    card.offline()
    wait_for(lambda: not is_allocatable(staged.versions[-1][1], card), "the fault in the slice", 30)
    waits(cluster, "late", "u250")
    card.online()
    cluster.wait_pod("late", "Running")


def test_card_is_shared_where_that_is_stored(staged: Staged) -> None:
    cluster, stage = staged.cluster, staged.stage
    published = devices(cluster)[name_of(staged.good.address)]
    assert published.get("allowMultipleAllocations", False) is stage.sharing
    run(cluster, "one")
    if stage.sharing:
        run(cluster, "two")
        assert nodes_in(cluster, "one") == nodes_in(cluster, "two") == [staged.good.render_node]
    waits(cluster, "last", "u200")
    said = staged.driver.output()
    assert (Event.FIELDS_DROPPED in said) is not (stage.taints and stage.sharing)
