"""The commands of docs/operating/dra.md, each as it stands there and in the page's order."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.support.pages import text

from ..host import HOSTNAME
from ..namespace import wait_for
from .cluster import Cluster
from .deployed import (
    DRIVER_NAME,
    EXAMPLES,
    NAME,
    U200,
    nodes_in,
    plugins,
    wait_available,
    wait_offered,
)
from .driver import DRIVER, name_of, slices, taints
from .user import User, commands

PAGE = "docs/operating/dra.md"
MODE = f"{DRIVER}/mode"

pytestmark = pytest.mark.since(36)


class Commands(NamedTuple):
    """All commands of the page: one more or less fails every case."""

    install: str
    slices: str
    classes: str
    board: str
    claims: str
    environment: str
    plain: str
    claims_again: str
    list_: str
    diagnose: str
    watch: str
    by_label: str
    print_classes: str
    apply_classes: str
    label: str
    slices_of_both: str
    driver_only: str
    unlabel: str
    uncordon: str


@pytest.fixture
def page() -> Commands:
    return Commands(*commands(PAGE))


@pytest.fixture
def clean(cluster: Cluster, user: User, image: None) -> Iterator[None]:
    """Remove all that the page installs; pods first, since only a driver lets those with claims end."""
    yield
    cluster.kubectl("uncordon", HOSTNAME)
    cluster.kubectl("delete", "pods,resourceclaimtemplates", "--all", "--wait", "--now")
    user.run(f"helm uninstall {NAME} --ignore-not-found --wait")
    wait_for(lambda: not plugins(cluster), "the instances gone", 60)
    cluster.kubectl("label", "node", HOSTNAME, f"{MODE}-")
    cluster.kubectl("delete", "resourceslices,deviceclasses", "--all", "--wait")


@pytest.fixture
def u55c(cluster: Cluster) -> Iterator[None]:
    """A card of the board that the page asks for."""
    card = cluster.sample.add_card("u55c")
    yield
    card.remove()
    cluster.sample.cards.remove(card)


def has_slice(listed: str) -> bool:
    """Return whether `kubectl get resourceslices` shows one of this node."""
    return any({HOSTNAME, DRIVER} <= set(line.split()) for line in listed.splitlines())


@pytest.mark.usefixtures("clean", "u55c")
def test_page_reaches_pods_with_claims_and_shows_a_fault(
    cluster: Cluster, user: User, page: Commands
) -> None:
    user.run(page.install)
    wait_available(cluster, DRIVER_NAME)
    assert has_slice(user.run(page.slices))
    user.run(page.classes)

    user.run(page.board)
    cluster.wait_pod("one-u55c", "Running")
    assert "allocated,reserved" in user.run(page.claims)
    assert "PCIDEVICE_XILINX_COM_FPGA_XILINX_U55C_" in user.run(page.environment)
    user.run(page.plain)
    cluster.wait_pod("mypod", "Running")
    assert "mypod-extended-resources-" in user.run(page.claims_again)

    listed = user.run(page.list_)
    assert all(name_of(card.address) in listed for card in cluster.sample.cards)
    assert [line for line in user.run(page.diagnose).splitlines() if not line.startswith("ok ")] == []

    [unused] = [card for card in cluster.sample.cards if "u250" in card.board.vbnv]
    with ThreadPoolExecutor(1) as pool:
        seen = user.checkout / "seen"
        watching = pool.submit(user.run, f"{page.watch} | grep -m 1 {DRIVER}/offline >{seen.name}")
        unused.offline()
        try:
            wait_for(lambda: seen.exists() and seen.stat().st_size > 0, "the taint", 60)
        finally:
            unused.mend()
        wait_for(lambda: not taints(cluster), "no taint", 60)
        watching.result(60)  # its reader is gone, so it has ended with the last change


@pytest.mark.usefixtures("clean")
def test_page_leads_from_the_plugin_to_the_driver_and_back(
    cluster: Cluster, user: User, page: Commands
) -> None:
    cordon = "kubectl cordon NODE"
    assert f"`{cordon}`" in text(PAGE)
    user.run(commands("README.md", "Install")[2])
    wait_offered(cluster)
    held = cluster.create(EXAMPLES / "dp-pod.yaml")
    before = cluster.wait_pod(held, "Running")["status"]["containerStatuses"]

    user.run(page.by_label)
    wait_available(cluster)
    user.run(page.print_classes)
    user.run(page.apply_classes)
    user.run(page.label)
    wait_for(lambda: slices(cluster), "a slice", 60)
    wait_available(cluster, DRIVER_NAME)
    assert has_slice(user.run(page.slices_of_both))
    cluster.wait_resource(U200, 0)
    assert taints(cluster) == [f"{DRIVER}/held"]
    claiming = cluster.create(EXAMPLES / "dp-pod-non-root.yaml")
    cluster.wait_pod(claiming, "Running")
    assert set(nodes_in(cluster, claiming)).isdisjoint(nodes_in(cluster, held))

    user.run(cordon)
    cluster.kubectl("delete", "pod", claiming, "--wait", "--now")
    user.run(page.unlabel)
    wait_offered(cluster)
    user.run(page.uncordon)
    again = cluster.create(EXAMPLES / "dp-pod-non-root.yaml")
    cluster.wait_pod(again, "Running")
    assert cluster.pod(held)["status"]["containerStatuses"] == before

    user.run(page.label)
    wait_available(cluster, DRIVER_NAME)
    user.run(page.driver_only)
    wait_available(cluster, DRIVER_NAME)
    cluster.kubectl("delete", "pod", held, again, "--wait", "--now")
    cluster.kubectl("label", "node", HOSTNAME, f"{MODE}-")
    wait_for(lambda: not taints(cluster), "all cards free", 60)
    cluster.wait_pod(cluster.create(EXAMPLES / "dp-pod-two-cards.yaml"), "Running")
