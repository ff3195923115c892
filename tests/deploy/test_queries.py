"""Every query in alerts and dashboards, against the metrics that a running service exposes."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.dashboards import DASHBOARDS, Dashboard, queries, resolved
from tests.deploy.full_driver import full_driver
from tests.deploy.full_service import full_service
from tests.deploy.manifests import DEPLOY
from tests.deploy.queries import Selector, grouping, selectors
from tests.support.paths import PROJECT
from tests.support.waiting import wait_for
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.observe import card_metrics

RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][
    0
]["rules"]


# The labels that Prometheus adds to each series that it scrapes by the PodMonitor.
TARGET = {"job", "instance", "namespace", "pod", "container", "endpoint", "node"}
# Metrics of Prometheus itself and, for one alert, of kube-state-metrics.
OTHERS = {
    "up": TARGET,
    "kube_node_labels": {"node", "label_xilinx_com_fpga_on_bus"},
}

VALUES = {
    "health": {"Healthy", "Unhealthy"},
    "reason": {"", *map(str, Reason)},
    "result": {"ok", "failed", "refused"},
    "code": {code.name for code in grpc.StatusCode},
    "job": {"xilinx-fpga-dp"},
}


CARD_METRICS = {f"xilinx_fpga_{name}" for name in card_metrics._HELP}

QUERIES = {rule["alert"]: str(rule["expr"]) for rule in RULES} | {
    f"{name} {title}": resolved(dashboard, query)
    for name, dashboard in DASHBOARDS.items()
    for title, query in queries(dashboard).items()
}


@pytest.fixture(scope="module")
def exposed() -> Mapping[str, set[str]]:
    """The labels of each sample, by name: of a service whose cards have everything, and of a DRA driver."""
    with full_service() as service, full_driver() as driver:
        wait_for(
            lambda: set(re.findall(r"^\w+", service.scrape(), re.MULTILINE)) >= CARD_METRICS, "telemetry"
        )
        texts = [service.scrape(), driver.scrape()]
    families = [family for text in texts for family in text_string_to_metric_families(text)]
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def wrong(query: str, exposed: Mapping[str, set[str]]) -> list[str]:
    """Return the errors of a query: unknown metrics, labels and values."""
    return [*_wrong_selectors(query, exposed), *_wrong_grouping(query, exposed)]


def _wrong_selectors(query: str, exposed: Mapping[str, set[str]]) -> Iterator[str]:
    for selector in selectors(query):
        labels = OTHERS.get(selector.metric) or exposed.get(selector.metric)
        if labels is None:
            yield f"no metric {selector.metric}"
            continue
        yield from _wrong_matchers(selector, labels | TARGET)


def _wrong_matchers(selector: Selector, labels: set[str]) -> Iterator[str]:
    for label, operator, value in selector.matchers:
        if label not in labels:
            yield f"{selector.metric} has no label {label}"
        values = value.split("|") if "~" in operator else [value]
        for each in values if label in VALUES else ():
            if each not in VALUES[label]:
                yield f"{label} is never {each!r}"


def _wrong_grouping(query: str, exposed: Mapping[str, set[str]]) -> Iterator[str]:
    named = {selector.metric for selector in selectors(query)}
    labels = TARGET.union(*(OTHERS.get(name) or exposed.get(name, set()) for name in named))
    for label in grouping(query):
        if label not in labels:
            yield f"no label {label} to group by"


@pytest.mark.parametrize("query", list(QUERIES.values()), ids=list(QUERIES))
def test_query_uses_existing_metrics_and_labels(query: str, exposed: Mapping[str, set[str]]) -> None:
    assert any(each.metric.startswith("xilinx_fpga_") or each.metric == "up" for each in selectors(query))
    assert wrong(query, exposed) == []


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("sum(xilinx_fpga_dp_device) > 0", "no metric xilinx_fpga_dp_device"),
        ("rate(xilinx_fpga_dp_scan_errors[5m])", "no metric xilinx_fpga_dp_scan_errors"),
        ('xilinx_fpga_dp_devices{state="x"}', "xilinx_fpga_dp_devices has no label state"),
        ('xilinx_fpga_dp_devices{reason!~"held|broken"}', "reason is never 'broken'"),
        ("sum by (node, card) (xilinx_fpga_dp_registered) or vector(0)", "no label card to group by"),
        ("sum(xilinx_fpga_dp_registered offset 1h) by (bus)", "no label bus to group by"),
    ],
)
def test_wrong_query_is_found(query: str, error: str, exposed: Mapping[str, set[str]]) -> None:
    assert wrong(query, exposed) == [error]


def test_each_metric_is_used_in_a_query(exposed: Mapping[str, set[str]]) -> None:
    queried = {each.metric for query in QUERIES.values() for each in selectors(query)}
    families = {re.sub("_(bucket|count|sum|created)$", "", name) for name in exposed}
    unused = {name for name in families if not any(each.startswith(name) for each in queried)}
    assert unused == set()


def test_reference_has_each_metric_with_its_labels(exposed: Mapping[str, set[str]]) -> None:
    assert documented() == {
        re.sub("_(bucket|count|sum)$", "", name): labels - {"le"}
        for name, labels in exposed.items()
        if not name.endswith("_created")
    }


def documented() -> dict[str, set[str]]:
    """Return the labels of each metric in the tables of the reference."""
    found: dict[str, set[str]] = {}
    text = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
    for row in re.findall(r"^\| (`xilinx_fpga_.*)$", text, re.MULTILINE):
        names, _, labels, *_ = re.split(r"\s*\|\s*", row)
        for name, own in re.findall(r"`(xilinx_fpga_\w+)(?:\{(.*?)\})?`", names):
            if name.startswith("xilinx_fpga_dp_"):
                found[name] = set(re.findall(r"\w+", own))
            else:
                found[name] = {"device", *re.findall(r"`(\w+)`", labels.partition(":")[0])}
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_has_a_remedy(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (PROJECT / file).read_text(), re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings]
    # The expression has to keep the labels that the text uses.
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert used <= set(grouping(rule["expr"]))


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=list(DASHBOARDS))
def test_panels_are_distinct_and_do_not_overlap(dashboard: Dashboard) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_dashboards_are_distinct_and_linked() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 2
    for dashboard in DASHBOARDS.values():
        [link] = dashboard["links"]
        assert set(link["tags"]) <= set(dashboard["tags"])
