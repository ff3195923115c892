"""Telemetry of the running program: series with pods, the log of errors, and tables."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.support.podresources import Hold, PodResourcesDouble
from tests.support.probed import Probed
from tests.support.process import COMMAND, ENDS, Service, clean_environment, cli
from tests.support.resource_names import U200
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import ErrorRecord

NAME = re.compile(r"^(xilinx_fpga_(?!dp_)\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@pytest.fixture
def card(node: SampleNode) -> XrtCard:
    node.sensors = True
    return node.add_card("u200", release="2023.2")


@pytest.fixture
def pages(node: SampleNode, card: XrtCard, pods: PodResourcesDouble) -> Probed:
    """The pages of a service that samples each second, with a kubelet that knows who holds what."""
    pods.start()
    return Probed(node, TELEMETRY_INTERVAL="1", POD_RESOURCES_SOCKET=pods.path)


def series(pages: Probed) -> dict[str, str]:
    return {f"{name}{{{labels}}}": value for name, labels, value in NAME.findall(pages.get("metrics")[1])}


def seconds_of_a_scrape(pages: Probed) -> float:
    began = time.monotonic()
    pages.get("metrics")
    return time.monotonic() - began


def test_card_is_scraped_with_its_pod(pages: Probed, card: XrtCard, pods: PodResourcesDouble) -> None:
    pods.holds = [Hold(U200, card.address)]
    device = f'device="{card.address}"'
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        held = f'xilinx_fpga_allocated{{{device},namespace="default",pod="mypod",container="mine"}}'
        wait_for(lambda: series(pages).get(held) == "1.0", "the pod that holds it")
        wait_for(lambda: f"xilinx_fpga_power_watts{{{device}}}" in series(pages), "its power")
        found = series(pages)
        assert found[f"xilinx_fpga_power_watts{{{device}}}"] == "28.011"
        assert found[f'xilinx_fpga_temperature_celsius{{{device},sensor="fpga"}}'] == "41.0"
        assert [name for name in found if name.startswith(f"xilinx_fpga_card_info{{{device},")]
        pods.holds = []
        wait_for(lambda: held not in series(pages), "no pod")
        card.remove()
        wait_for(lambda: series(pages) == {}, "no series of a card that is gone")


def test_error_is_logged_with_the_pod_that_held_the_card(
    pages: Probed, card: XrtCard, pods: PodResourcesDouble
) -> None:
    pods.holds = [Hold(U200, card.address)]
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        wait_for(lambda: any("allocated{" in name for name in series(pages)), "the pod that holds it")
        wait_for(lambda: any('source="events"' in name for name in series(pages)), "a first sample")
        time.sleep(1)  # a record has whole seconds, and the pod holds the card since the service started
        now = int(time.time())
        card.record_error(ErrorRecord(13, now))
        service.logged(Event.CARD_ERROR)
        wait_for(lambda: any('kind="cu_timeout"' in name for name in series(pages)), "it is counted")
        pods.holds = []
        time.sleep(2)
        card.record_error(ErrorRecord(1, now))
        wait_for(lambda: any('kind="firewall"' in name for name in series(pages)), "it is counted")
        service.logged(Event.CARD_ERROR, kind="firewall")
        logged = [event for event in service.events if event["event"] == Event.CARD_ERROR]
    assert [(event["kind"], event["held_by"]) for event in logged] == [
        ("cu_timeout", "default/mypod"),
        ("firewall", "default/mypod"),
    ]


def test_scrape_answers_at_once_while_a_sensor_hangs(pages: Probed, card: XrtCard) -> None:
    card.hang("mgmt/hwmon/temp4_input")
    device = f'device="{card.address}"'
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        failed = f'xilinx_fpga_telemetry_success{{{device},source="hwmon"}}'
        wait_for(lambda: series(pages).get(failed) == "0.0", "the failure of one source")
        wait_for(lambda: f"xilinx_fpga_power_watts{{{device}}}" in series(pages), "the other sensors")
        wait_for(lambda: seconds_of_a_scrape(pages) < 0.5, "an answer at once")
        found = series(pages)
        assert f"xilinx_fpga_pcie_link_lanes{{{device}}}" in found
        assert f'xilinx_fpga_temperature_celsius{{{device},sensor="fpga"}}' not in found
        assert pages.get("livez")[0] == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(ENDS) == 0
    card.unhang("mgmt/hwmon/temp4_input")


def test_card_with_two_devices_has_the_id_that_kubelet_counts(node: SampleNode) -> None:
    node.sensors = True
    node.plug("u30")
    pages = Probed(node, TELEMETRY_INTERVAL="1")
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        first = node.cards[0].address
        second = f'xilinx_fpga_temperature_celsius{{device="{first}",sensor="fpga_2"}}'
        wait_for(lambda: second in series(pages), "the sensors of its second device")
        [unit] = json.loads(pages.get("state")[1])["devices"]
        assert unit["id"] == first
        assert {re.findall(r'device="(.*?)"', name)[0] for name in series(pages)} == {first}


def test_none_has_no_series(node: SampleNode, card: XrtCard) -> None:
    pages = Probed(node, TELEMETRY="none")
    with Service(pages.settings) as service:
        service.logged(Event.SERVING_HTTP)
        service.logged(Event.DEVICE_FOUND)
        assert series(pages) == {}


def test_none_loads_no_module_of_telemetry() -> None:
    code = "import xilinx_fpga_dp.service, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ("telemetry", "card_sources", "sensor_texts", "card_metrics")
    assert not [name for name in done.stdout.split() if name.rpartition(".")[2] in names]


@pytest.mark.parametrize(
    ("setting", "value"), [("TELEMETRY", "some"), ("TELEMETRY_INTERVAL", "0.5"), ("TELEMETRY_INTERVAL", "x")]
)
def test_bad_setting_ends_with_a_line(node: SampleNode, setting: str, value: str) -> None:
    done = cli("list", settings=settings_for(node, **{setting: value}))
    assert done.returncode == 2
    assert done.stderr.startswith(f"XILINX_FPGA_DP_{setting}: ")
    assert done.stderr.count("\n") == 1


class TestList:
    def test_wide_shows_power_temperature_and_link(self, node: SampleNode, card: XrtCard) -> None:
        card.write("current_link_width", "8")
        done = cli("list", "--output", "wide", settings=settings_for(node))
        assert done.returncode == 0
        [line] = [line for line in done.stdout.splitlines() if line.startswith(card.address)]
        assert "28.0 W" in line
        assert "41 C" in line
        assert "8 GT/s x8 of 8 x16" in line

    def test_wide_shows_both_devices_of_a_card_and_its_power_once(self, node: SampleNode) -> None:
        node.sensors = True
        node.plug("u30")
        done = cli("list", "--output", "wide", settings=settings_for(node))
        [line] = [line for line in done.stdout.splitlines() if line.startswith(node.cards[0].address)]
        assert " 28.0 W  41 C + 41 C  8 GT/s x16 + 8 GT/s x16  " in line

    def test_wide_without_telemetry_shows_dashes(self, node: SampleNode, card: XrtCard) -> None:
        done = cli("list", "--output", "wide", settings=settings_for(node, TELEMETRY="none"))
        [line] = [line for line in done.stdout.splitlines() if line.startswith(card.address)]
        assert re.search(r" -  +-  +-  ", line)

    def test_wide_ends_in_spite_of_a_hung_sensor(self, node: SampleNode, card: XrtCard) -> None:
        card.hang("mgmt/hwmon/power1_input")
        done = cli("list", "--output", "wide", settings=settings_for(node))
        assert "8 GT/s x16" in done.stdout
        card.unhang("mgmt/hwmon/power1_input")

    def test_json_and_plain_table_are_unchanged(self, node: SampleNode, card: XrtCard) -> None:
        plain = cli("list", settings=settings_for(node)).stdout
        assert "POWER" not in plain
        document = json.loads(cli("list", "--output", "json", settings=settings_for(node)).stdout)
        assert document.keys() == {"devices", "left_out", "resources"}
        assert "28.0" not in json.dumps(document)

    def test_watch_prints_a_table_when_something_changes(self, node: SampleNode, card: XrtCard) -> None:
        with subprocess.Popen(
            [*COMMAND, "list", "--watch"],
            env=clean_environment(settings_for(node)),
            stdout=subprocess.PIPE,
            text=True,
        ) as watch:
            assert watch.stdout
            lines = iter(watch.stdout.readline, "")
            first = [next(lines), next(lines), next(lines)]
            assert "Healthy" in first[1]
            assert first[2] == "\n"
            time.sleep(2.5)
            card.offline()
            second = [next(lines), next(lines)]
            assert "Unhealthy (offline)" in second[1], "nothing was printed while nothing changed"
            card.mend()
            third = [line for line in (next(lines), next(lines), next(lines)) if card.address in line]
            assert "Healthy" in third[-1]
            watch.send_signal(signal.SIGINT)
            assert watch.wait(ENDS) == 0
