"""The series of the cards: format, labels, the pods that hold them, and the log of errors."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.support.factories import NAMING
from tests.support.scanning import scanner_for, settled
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.discovery.xocl_errors import ErrorRecord
from xilinx_fpga_dp.model import Held, Holder, Inventory
from xilinx_fpga_dp.observe.card_metrics import CardMetrics, _escaped
from xilinx_fpga_dp.observe.device_log import log_card_errors
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.card_pairing import CardAssignment
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.simulate.sysfs import xrt_releases
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard
from xilinx_fpga_dp.snapshot import Snapshot

POD = Holder("lab", "trainer", "main", "xilinx.com/fpga-x", "0000:65:00.1")
FIREWALL = xrt_releases.ErrorRecord(xrt_releases.FIREWALL_CODE, 1_735_689_600)
OTHER = Holder("lab", "other", "main", "xilinx.com/fpga-x", "0000:65:00.1")


async def held_by_none() -> Held:
    return {}


def metrics_for(
    node: SampleNode, found: Inventory, pairs: CardAssignment | None = None, replicas: int = 1, **options: Any
) -> CardMetrics:
    offers = offers_of(found, NAMING, replicas, pairs or CardAssignment())
    snapshots = Latest(Snapshot(offers, offers))
    plain = {"everything": False, "interval": 15.0, "held": held_by_none}
    return CardMetrics(snapshots, node.sysfs_root, **{**plain, **options})


def lines(metrics: CardMetrics) -> list[str]:
    return [line for line in b"".join(metrics.text()).decode().splitlines() if line[0] != "#"]


def samples(metrics: CardMetrics) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for family in text_string_to_metric_families(b"".join(metrics.text()).decode()):
        assert family.documentation
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


@pytest.fixture
async def metrics(node: SampleNode) -> CardMetrics:
    node.sensors = True
    node.add_card("u200")
    metrics = metrics_for(node, await settled(scanner_for(node)))
    await metrics._telemetry.once(30)
    return metrics


class TestSeries:
    async def test_names_labels_and_units(self, metrics: CardMetrics) -> None:
        found = {(name, *labels.values()): value for name, labels, value in samples(metrics)}
        device = "0000:65:00.1"
        assert found[("xilinx_fpga_power_watts", device)] == 28.011
        assert found[("xilinx_fpga_temperature_celsius", device, "fpga")] == 41
        assert found[("xilinx_fpga_pcie_link_transfers_per_second", device)] == 8e9
        assert found[("xilinx_fpga_pcie_link_lanes_max", device)] == 16
        assert found[("xilinx_fpga_pcie_errors_total", device, "correctable")] == 0
        assert found[("xilinx_fpga_telemetry_success", device, "hwmon")] == 1
        assert found[("xilinx_fpga_telemetry_age_seconds", device, "pcie")] < 60

    async def test_info_has_what_joins_a_card(self, metrics: CardMetrics) -> None:
        [labels] = [labels for name, labels, _ in samples(metrics) if name == "xilinx_fpga_card_info"]
        assert labels == {
            "device": "0000:65:00.1",
            "board": "u200",
            "shell": "xilinx_u200_xdma_201830_2",
            "serial": "XFL100006501",
            "driver": "xocl",
            "driver_version": "",
            "resource": "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320",
            "numa_node": "0",
        }

    async def test_versions_of_drivers_are_read_now_and_then(self, metrics: CardMetrics) -> None:
        with mock.patch.object(metrics._versions, "of", wraps=metrics._versions.of) as reads:
            for _ in range(3):
                await metrics._read_versions()
            assert reads.await_count == 1
            metrics._versions_due = 0.0
            await metrics._read_versions()
            assert reads.await_count == 2
            metrics._drivers = {"another"}
            await metrics._read_versions()
            assert reads.await_count == 3

    async def test_no_series_appears_twice(self, metrics: CardMetrics) -> None:
        series = [line.rpartition(" ")[0] for line in lines(metrics)]
        assert len(series) == len(set(series)) > 40

    async def test_change_of_the_devices_ends_a_rest(self, metrics: CardMetrics) -> None:
        rest = asyncio.create_task(metrics._pause(60))
        await asyncio.sleep(0)
        metrics._snapshots.set(replace(metrics._snapshots.value, scan_error="no change of a device"))
        await asyncio.sleep(0)
        metrics._snapshots.set(Snapshot())
        async with asyncio.timeout(10):
            await rest

    async def test_series_go_with_the_card(self, metrics: CardMetrics) -> None:
        metrics._remember({"0000:65:00.1": (POD,)}, 1.0)
        metrics._snapshots.set(Snapshot())
        await metrics._telemetry.once(30)
        metrics._remember({}, 2.0)
        assert metrics.text() == []
        assert not metrics._holders

    @given(st.text(max_size=30))
    def test_any_text_is_the_value_of_a_label(self, text: str) -> None:
        line = f'x{{a="{_escaped(text)}"}} 1\n'
        [family] = text_string_to_metric_families(line)
        shown = "".join(char if char.isprintable() else "?" for char in text)
        assert family.samples[0].labels == {"a": shown}


class TestCardWithTwoDevices:
    """A U30 that is counted as one unit: the series of both devices under one id."""

    FIRST, SECOND = "0000:67:00.1", "0000:68:00.1"

    @pytest.fixture
    async def card(self, node: SampleNode) -> list[XrtCard]:
        node.sensors = True
        node.plug("u30")
        return node.cards

    @pytest.fixture
    async def metrics(self, node: SampleNode, card: list[XrtCard]) -> CardMetrics:
        found = await settled(scanner_for(node))
        assert [each.address for each in found.devices] == [self.FIRST, self.SECOND]
        pair = CardAssignment(dict.fromkeys((self.FIRST, self.SECOND), (self.FIRST, self.SECOND)))
        metrics = metrics_for(node, found, pair)
        await metrics._telemetry.once(30)
        return metrics

    @staticmethod
    async def again(metrics: CardMetrics) -> dict[tuple[str, ...], float]:
        """Sample all sources, due or not."""
        for state in metrics._telemetry.cards.values():
            state.due = 0.0
            for source in state.sources.values():
                source.due = 0.0
        await metrics._telemetry.once(30)
        return {
            (name.removeprefix("xilinx_fpga_"), *list(labels.values())[1:]): value
            for name, labels, value in samples(metrics)
        }

    async def test_every_series_has_the_id_of_the_card(self, metrics: CardMetrics) -> None:
        assert {labels["device"] for _, labels, _ in samples(metrics)} == {self.FIRST}
        series = [line.rpartition(" ")[0] for line in lines(metrics)]
        assert len(series) == len(set(series))

    async def test_its_sensors_tell_the_devices_apart(
        self, metrics: CardMetrics, card: list[XrtCard]
    ) -> None:
        card[1].write("mgmt/hwmon/temp4_input", "70000")
        found = await self.again(metrics)
        assert found["temperature_celsius", "fpga"] == 41
        assert found["temperature_celsius", "fpga_2"] == 70
        assert found["telemetry_success", "hwmon"] == found["telemetry_success", "hwmon_2"] == 1

    async def test_what_has_no_part_is_of_the_card(self, metrics: CardMetrics, card: list[XrtCard]) -> None:
        card[1].write("mgmt/hwmon/power1_input", "28500000")
        card[1].train_link(8)
        for each in card:
            each.record_error(FIREWALL)
        found = await self.again(metrics)
        assert found["power_watts",] == 28.5, "both devices read the same supplies"
        assert found["pcie_link_lanes",] == 8
        assert found["pcie_link_lanes_max",] == 16
        assert found["errors_total", "firewall"] == 2
        assert found["last_error_timestamp_seconds", "firewall"] == FIREWALL.time

    async def test_sum_is_missing_while_a_device_does_not_show_its_share(
        self, metrics: CardMetrics, card: list[XrtCard]
    ) -> None:
        for each in card:
            each.record_error(FIREWALL)
        assert (await self.again(metrics))["errors_total", "firewall"] == 2
        card[1].write("xocl_errors", None)
        found = await self.again(metrics)
        assert not [key for key in found if key[0] == "errors_total"]
        assert found["telemetry_success", "events_2"] == 0
        assert ("power_watts",) in found

    async def test_pod_holds_both(self, metrics: CardMetrics) -> None:
        metrics._remember({self.FIRST: (POD,)}, metrics._asked + 15)
        [labels] = [labels for name, labels, _ in samples(metrics) if name == "xilinx_fpga_allocated"]
        assert labels["device"] == self.FIRST
        assert metrics.holders_at(self.SECOND, 0) == (POD,)

    async def test_each_device_alone_has_its_own_series(self, node: SampleNode, card: list[XrtCard]) -> None:
        metrics = metrics_for(node, await settled(scanner_for(node)))
        await metrics._telemetry.once(30)
        devices = {labels["device"] for name, labels, _ in samples(metrics) if "power" in name}
        assert devices == {self.FIRST, self.SECOND}


class TestSharedDevice:
    async def test_its_replicas_have_one_set_of_series(self, node: SampleNode) -> None:
        node.sensors = True
        node.add_card("u200")
        metrics = metrics_for(node, await settled(scanner_for(node)), replicas=3)
        await metrics._telemetry.once(30)
        metrics._remember({"0000:65:00.1": (POD, OTHER)}, 1.0)
        found = list(samples(metrics))
        assert {labels["device"] for _, labels, _ in found} == {"0000:65:00.1"}
        assert len([name for name, *_ in found if name == "xilinx_fpga_power_watts"]) == 1
        pods = [labels["pod"] for name, labels, _ in found if name == "xilinx_fpga_allocated"]
        assert sorted(pods) == ["other", "trainer"]


class TestHolders:
    async def test_container_that_holds_a_card(self, metrics: CardMetrics) -> None:
        metrics._remember({"0000:65:00.1": (POD, POD)}, 1.0)
        [labels] = [labels for name, labels, _ in samples(metrics) if name == "xilinx_fpga_allocated"]
        assert labels == {
            "device": "0000:65:00.1", "namespace": "lab", "pod": "trainer", "container": "main",
        }  # fmt: skip
        metrics._remember({}, 2.0)
        assert not [name for name, *_ in samples(metrics) if name == "xilinx_fpga_allocated"]

    async def test_container_that_holds_a_board_by_a_claim(self, node: SampleNode) -> None:
        node.add_card("vek385")
        metrics = metrics_for(node, await settled(scanner_for(node)))
        metrics._remember({"dev-axi-zyxclmm-drm": (POD,)}, 1.0)
        [labels] = [labels for name, labels, _ in samples(metrics) if name == "xilinx_fpga_allocated"]
        assert labels["device"] == "axi:zyxclmm_drm"

    async def test_holder_at_a_time_is_remembered(self, metrics: CardMetrics) -> None:
        at, device = metrics._asked, "0000:65:00.1"
        metrics._remember({device: (POD,)}, at + 15)
        metrics._remember({}, at + 30)
        metrics._remember({device: (OTHER,)}, at + 45)
        times = ((at - 1, ()), (at + 5, (POD,)), (at + 29, (POD,)), (at + 31, (OTHER,)), (0, (OTHER,)))
        for moment, holders in times:
            assert metrics.holders_at(device, moment) == holders, moment - at

    async def test_history_is_bounded(self, metrics: CardMetrics) -> None:
        for second in range(100):
            metrics._remember({"0000:65:00.1": (POD,) if second % 2 else ()}, second)
        assert len(metrics._holders["0000:65:00.1"]) <= 8


class TestLogOfErrors:
    def test_error_is_logged_with_time_kind_and_pod(self, caplog: pytest.LogCaptureFixture) -> None:
        log_card_errors("0000:65:00.1", [ErrorRecord(1, 1_735_689_600)], lambda _: (POD,))
        [record] = caplog.records
        assert (record.message, record.levelno) == (Event.CARD_ERROR, logging.WARNING)
        fields = {name: record.__dict__[name] for name in ("device", "kind", "time", "held_by")}
        assert fields == {
            "device": "0000:65:00.1",
            "kind": "firewall",
            "time": "2025-01-01T00:00:00Z",
            "held_by": "lab/trainer",
        }

    def test_equal_errors_share_a_line(self, caplog: pytest.LogCaptureFixture) -> None:
        errors = [ErrorRecord(13, 5), ErrorRecord(13, 6), ErrorRecord(1, 0)]
        log_card_errors("0000:65:00.1", errors, lambda _: ())
        assert [(each.__dict__["kind"], each.__dict__.get("count")) for each in caplog.records] == [
            ("cu_timeout", 2),
            ("firewall", None),
        ]
        assert "time" not in caplog.records[1].__dict__, "before XRT 2022.2 a trip has none"

    @given(st.integers(0, 2**64 - 1))
    def test_any_time_is_logged(self, moment: int) -> None:
        log_card_errors("0000:65:00.1", [ErrorRecord(1, moment)], lambda _: ())
