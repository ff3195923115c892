"""Every query in alerts and dashboard, against the metrics that a running service exposes."""

import contextlib
import json
import re
import socket
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.manifests import DEPLOY
from tests.deploy.queries import Selector, grouping, selectors
from tests.support.double import KubeletDouble
from tests.support.paths import PROJECT
from tests.support.podresources import Hold, PodResourcesDouble
from tests.support.process import Service
from tests.support.resource_names import U200
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.observe import card_metrics
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import ErrorRecord

RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][
    0
]["rules"]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "prometheus" / "dashboard.json").read_text())


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
    "result": {"ok", "failed"},
    "code": {code.name for code in grpc.StatusCode},
    "job": {"xilinx-fpga-dp"},
}


CARD_METRICS = {f"xilinx_fpga_{name}" for name in card_metrics._HELP}
# What a card shows while an application runs on it
LOADED = {
    "kdsstat": "contexts:\t\t1\n",
    "memstat_raw": "4096 1\n",
    "kds_custat_raw": "0,0,vadd:vadd_1,0x1800000,0x4,17\n",
    "xclbinuuid": "0b095b81-fa2b-e6bd-4524-72b1c1474f18",
}

QUERIES = {rule["alert"]: str(rule["expr"]) for rule in RULES} | {
    f"{panel['title']} {target['refId']}": str(target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}


@pytest.fixture(scope="module")
def exposed() -> Mapping[str, set[str]]:
    """The labels of each sample of a service with registrations, allocations and a fault, by name.

    Its cards have everything that telemetry reads.
    """
    with tempfile.TemporaryDirectory(prefix="fpga-") as folder:
        node = SampleNode(folder, sensors=True)
        cards = [node.add_card("u200", release="2023.2") for _ in range(2)]
        for board in ("v80", "ma35d"):
            node.plug(board)
        cards[0].record_error(ErrorRecord(13, 1000))
        for name, content in LOADED.items():
            cards[0].write(name, content)
        pods = PodResourcesDouble(f"{node.root}/pods.sock")
        pods.holds = [Hold(U200, cards[0].address)]
        pods.start()
        telemetry = {"TELEMETRY": "all", "TELEMETRY_INTERVAL": "1", "POD_RESOURCES_SOCKET": pods.path}
        kubelet = KubeletDouble(Path(node.socket_dir))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        with Service(settings_for(node, HTTP_ADDRESS=address, **telemetry)), kubelet:
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
            kubelet.allocate(U200, [cards[0].address])
            cards[1].offline()
            wait_for(lambda: 'reason="offline"' in _scrape(address), "an unhealthy device")
            wait_for(
                lambda: set(re.findall(r"^\w+", _scrape(address), re.MULTILINE)) >= CARD_METRICS, "telemetry"
            )
            families = list(text_string_to_metric_families(_scrape(address)))
        pods.stop()
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def _scrape(address: str) -> str:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer,
    ):
        return str(answer.read().decode())
    return ""


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


def test_panels_of_the_dashboard_are_distinct_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
