"""Pods of a card that stays broken, with DRA_EVICT_ON."""

import time
from collections.abc import Iterator, Mapping
from functools import partial

import pytest

from xilinx_fpga_dp.simulate.sysfs.sample_node import XrtCard

from ..namespace import wait_for
from ..report import Report
from .cluster import Cluster
from .deployed import nodes_in
from .driver import DRIVER, devices, driver_installed, name_of, run, taints
from .user import User

pytestmark = [pytest.mark.long, pytest.mark.since(36), pytest.mark.usefixtures("evicting", "pods")]


@pytest.fixture(scope="module")
def evicting(cluster: Cluster, user: User, image: None) -> Iterator[None]:
    """The driver with DRA_EVICT_ON."""
    with driver_installed(cluster, user, "'dra.evictOn={offline,firewall,shutdown,unresponsive}'"):
        yield


def run_each(cluster: Cluster, *names: str) -> dict[str, XrtCard]:
    """Run a pod for each card; return the card of each pod."""
    cards = {}
    for name, board in zip(names, ("u200", "u200", "u250"), strict=True):
        run(cluster, name, board=board)
        [node] = nodes_in(cluster, name)
        [cards[name]] = [card for card in cluster.sample.cards if card.render_node == node]
    return cards


def effects_of(cluster: Cluster, cards: Mapping[str, XrtCard]) -> dict[str, list[str]]:
    """Return the effects of the taints of each card by the name of its pod."""
    published = devices(cluster)
    return {
        name: [taint["effect"] for taint in published[name_of(card.address)].get("taints", ())]
        for name, card in cards.items()
    }


def test_reason_that_lasts_evicts_a_pod_a_reset_does_not(cluster: Cluster, report: Report) -> None:
    cards = run_each(cluster, "broken", "resetting", "mended")
    effects = partial(effects_of, cluster, cards)
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


def test_each_other_reason_evicts_too(cluster: Cluster) -> None:
    cards = run_each(cluster, "firewall", "shutdown", "unresponsive")
    try:
        cards["firewall"].firewall_trip()
        cards["shutdown"].shutdown()
        cards["unresponsive"].hang("ready")
        wait_for(lambda: set(taints(cluster)) == {f"{DRIVER}/{name}" for name in cards}, "the taints", 30)
        wait_for(lambda: not any(map(cluster.pod, cards)), "the evictions", 120)
        assert effects_of(cluster, cards) == {key: ["NoExecute"] for key in cards}
    finally:
        cards["firewall"].mend()
        cards["shutdown"].online()
        cards["unresponsive"].unhang("ready")
    wait_for(lambda: taints(cluster) == [], "no taint", 60)
