"""Pods of a card that stays broken, with DRA_EVICT_ON."""

import time
from collections.abc import Iterator

import pytest

from ..namespace import wait_for
from ..report import Report
from .cluster import Cluster
from .deployed import nodes_in
from .driver import devices, driver_installed, name_of, run
from .user import User

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("evicting", "pods")]


@pytest.fixture(scope="module")
def evicting(cluster: Cluster, user: User, image: None) -> Iterator[None]:
    """The driver with DRA_EVICT_ON."""
    with driver_installed(cluster, user, "'dra.evictOn={offline,firewall,shutdown,unresponsive}'"):
        yield


def test_reason_that_lasts_evicts_a_pod_a_reset_does_not(cluster: Cluster, report: Report) -> None:
    for name, board in (("broken", "u200"), ("resetting", "u200"), ("mended", "u250")):
        run(cluster, name, board=board)
    nodes = {name: nodes_in(cluster, name)[0] for name in ("broken", "resetting", "mended")}
    cards = {
        name: card
        for name, node in nodes.items()
        for card in cluster.sample.cards
        if card.render_node == node
    }

    def effects() -> dict[str, list[str]]:
        published = devices(cluster)
        return {
            name: [taint["effect"] for taint in published[name_of(card.address)].get("taints", ())]
            for name, card in cards.items()
        }

    once = ["NoSchedule"]
    try:
        cards["resetting"].reset_begin()
        wait_for(lambda: effects()["resetting"] == once, "a taint of the resetting card", 30)
        began = time.monotonic()
        cards["broken"].offline()
        cards["mended"].offline()
        wait_for(lambda: effects() == dict.fromkeys(cards, once), "the taints", 30)
        cards["mended"].online()
        wait_for(lambda: not cluster.pod("broken"), "the eviction", 120, 0.1)
        report.time(
            "card offline to its pod evicted and gone (DRA_EVICT_ON)", took := time.monotonic() - began
        )
        assert took >= 30
        assert effects() == {"broken": ["NoExecute"], "resetting": once, "mended": []}
        for name in ("resetting", "mended"):
            pod = cluster.pod(name)
            assert pod["status"]["phase"] == "Running"
            assert "deletionTimestamp" not in pod["metadata"]
    finally:
        cards["broken"].online()
        cards["mended"].online()
        cards["resetting"].reset_end()
    wait_for(lambda: not any(effects().values()), "no taint", 60)
