"""The dashboards without Grafana: its types, and every query in a real Prometheus with a real scrape."""

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.dashboards import DASHBOARDS, Dashboard, choices, queries, resolved
from tests.deploy.full_driver import full_driver
from tests.deploy.full_service import FullService, full_service
from tests.deploy.manifests import DEPLOY
from tests.deploy.prometheus import Prometheus
from tests.deploy.tools import dashboard_checker
from tests.support.waiting import wait_for

QUERIES = {
    f"{name} {title}": resolved(dashboard, query)
    for name, dashboard in DASHBOARDS.items()
    for title, query in queries(dashboard).items()
}
# Alerts on the held card after `FullService.degrade`; the others are for the offline one
DEGRADED = {
    "FpgaCardErrors": "firing",
    "FpgaPcieErrors": "firing",
    "FpgaCardHot": "pending",
    "FpgaLinkDegraded": "pending",
}


class Scraped(NamedTuple):
    """A Prometheus that has scraped a service."""

    prometheus: Prometheus
    service: FullService


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A service with allocations and a fault between two scrapes."""
    with (
        full_service() as service,
        full_driver() as driver,
        Prometheus(
            tmp_path_factory.mktemp("prometheus"), {"sample": service.address, "claims": driver.address}
        ) as prometheus,
    ):
        wait_for(lambda: prometheus.query("xilinx_fpga_dp_allocations_total == 1"), "a first scrape")
        wait_for(lambda: prometheus.query('xilinx_fpga_pcie_errors_total{severity="fatal"}'), "telemetry")
        wait_for(lambda: prometheus.query("xilinx_fpga_dp_claims_total == 1"), "a first scrape of the driver")
        service.allocate()
        service.degrade()
        driver.prepare()
        yield Scraped(prometheus, service)


def complaints(path: Path) -> str:
    """Return what Grafana's types refuse in a dashboard; empty if it is valid."""
    done = subprocess.run(
        [dashboard_checker(), path], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_is_valid_for_grafana(name: str) -> None:
    assert complaints(DEPLOY / "prometheus" / f"{name}.json") == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"gridPos": {', "position"),
        ('"textMode"', "mode"),
        ('"drawStyle"', "style"),
        ('"legendFormat"', "legend"),
        ('"includeAll"', "all"),
    ],
)
def test_unknown_field_of_a_dashboard_is_found(old: str, new: str, tmp_path: Path) -> None:
    for name, dashboard in DASHBOARDS.items():
        text = json.dumps(dashboard)
        assert old in text
        (tmp_path / name).write_text(text.replace(old, old.replace(old.split('"')[1], new)))
        assert f"unexpected field '{new}'" in complaints(tmp_path / name)


@pytest.mark.parametrize("query", QUERIES.values(), ids=list(QUERIES))
def test_query_finds_data_of_a_real_scrape(query: str, scraped: Scraped) -> None:
    def numbers() -> list[float]:
        return [
            number
            for series in scraped.prometheus.query(query)
            if math.isfinite(number := float(series["value"][1]))
        ]

    wait_for(numbers, query)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=list(DASHBOARDS))
def test_variables_have_choices(dashboard: Dashboard, scraped: Scraped) -> None:
    for selector, label in choices(dashboard):
        wait_for(lambda: scraped.prometheus.label_values(label, selector), selector)  # noqa: B023


def test_rules_are_evaluated_on_a_real_scrape(scraped: Scraped) -> None:
    def states() -> dict[str, str]:
        """Return the states of the alerts of the held card."""
        return {
            rule["name"]: alert["state"]
            for rule in scraped.prometheus.rules()
            for alert in rule["alerts"]
            if alert["labels"].get("device") == scraped.service.card.address
        }

    wait_for(lambda: states() == DEGRADED, lambda: str(states()))
    assert {rule["health"] for rule in scraped.prometheus.rules()} == {"ok"}
    others = {
        alert["labels"]["device"]
        for rule in scraped.prometheus.rules()
        for alert in rule["alerts"]
        if "device" in alert["labels"]
    }
    assert others == {scraped.service.card.address}


def test_pod_of_a_card_keeps_its_labels(scraped: Scraped) -> None:
    [series] = scraped.prometheus.query("xilinx_fpga_allocated")
    assert (series["metric"]["namespace"], series["metric"]["pod"]) == ("default", "mypod")
    [info] = scraped.prometheus.query('xilinx_fpga_dp_build_info{node="sample"}')
    assert info["metric"]["pod"] == "xilinx-fpga-dp-abcde"
