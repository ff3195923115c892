"""The sampler: what is read of a card and what is not, and that one fault costs one source."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.opened import Openings
from tests.support.scanning import scanner_for, settled
from xilinx_fpga_dp.discovery.attributes import NEVER
from xilinx_fpga_dp.discovery.telemetry import CardState, Telemetry
from xilinx_fpga_dp.discovery.xocl_errors import ErrorRecord
from xilinx_fpga_dp.model import Device, Reason
from xilinx_fpga_dp.simulate.sysfs import xrt_releases
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode

STOPPED = (Reason.OFFLINE, Reason.FIREWALL, Reason.RESETTING, Reason.SHUTDOWN, Reason.UNRESPONSIVE)


@pytest.fixture
def node(node: SampleNode) -> SampleNode:
    node.sensors = True
    return node


class Sampled:
    """The telemetry of the cards of a node, sampled when a test says so."""

    def __init__(self, node: SampleNode, devices: Sequence[Device], **options: Any) -> None:
        self.devices = list(devices)
        self.errors: list[tuple[str, Sequence[ErrorRecord]]] = []
        self.opened = Openings(node.root)
        self.telemetry = Telemetry(
            node.sysfs_root,
            lambda: self.devices,
            **{"everything": False, "interval": 15.0, **options},
            on_errors=lambda address, errors: self.errors.append((address, errors)),
        )

    @property
    def card(self) -> CardState:
        """The only card."""
        [card] = self.telemetry.cards.values()
        return card

    async def sample(self, limit: float = 30) -> dict[tuple[str, ...], float]:
        """Sample all sources, due or not, and return the values of the only card, if there is one.

        Wait at most ``limit`` seconds for reads that hang.
        """
        for card in self.telemetry.cards.values():
            card.due = 0.0
            for state in card.sources.values():
                state.due = 0.0
        with self.opened:
            await self.telemetry.once(limit)
        if len(self.telemetry.cards) != 1:
            return {}
        return {
            (each.metric, *(label for _, label in each.labels)): each.value for each in self.card.values()
        }

    def become(self, reason: Reason | None) -> None:
        self.devices = [replace(device, reason=reason) for device in self.devices]

    def read(self) -> set[str]:
        """Return the names of the files opened since the last call."""
        names = {each.path.rpartition("/")[2] for each in self.opened}
        self.opened.clear()
        return names

    def paths(self) -> set[str]:
        return {each.path for each in self.opened}


async def sampled(node: SampleNode, **options: Any) -> Sampled:
    return Sampled(node, (await settled(scanner_for(node))).devices, **options)


class TestSources:
    async def test_card_with_its_management_function(self, node: SampleNode) -> None:
        node.add_card("u200")
        found = await (await sampled(node)).sample()
        assert found[("power_watts",)] == 28.011
        assert found[("temperature_celsius", "fpga")] == 41
        assert found[("voltage_volts", "12v_pex")] == 12.173
        assert found[("current_amperes", "12v_pex")] == 1.24
        assert found[("fan_rpm", "fan")] == 1108
        assert found[("pcie_link_transfers_per_second",)] == 8e9
        assert found[("pcie_link_lanes_max",)] == 16
        assert found[("pcie_errors_total", "fatal")] == 0
        assert ("temperature_celsius", "hbm") not in found, "a sensor that a card lacks prints 0"
        assert ("voltage_volts", "cs_target") not in found

    async def test_ma35d(self, node: SampleNode) -> None:
        node.plug("ma35d")
        test = await sampled(node)
        test.devices = test.devices[:1]
        found = await test.sample()
        assert found[("power_watts",)] == 15.691
        assert found[("memory_errors_total", "ddr0", "correctable")] == 0
        assert found[("memory_errors_total", "pcie", "correctable")] == 0
        assert not {"link_status", "ddrbw_s1_axi_r_MBps", "err_code"} & test.read()

    @pytest.mark.parametrize("mgmt", [True, False])
    async def test_v70_shows_all_sensors_of_its_firmware(self, node: SampleNode, mgmt: bool) -> None:
        card = node.add_card("v70", mgmt=mgmt)
        test = await sampled(node, everything=True)
        assert await test.sample() != {}
        opened = test.read()
        found = await test.sample()
        assert found[("temperature_celsius", "fpga")] == 44
        assert found[("voltage_volts", "12v_pex")] == 12.15
        assert found[("current_amperes", "vcc_int")] == 8.2
        assert found[("power_watts",)] == 21
        assert {name for name in opened if name.endswith(("_raw", "_input"))} == {
            *(f"{kind}_sensors_raw" for kind in ("temp", "voltage", "current")), "power1_input",
            *({"kds_custat_raw", "memstat_raw"}),
        }, "one request a kind"  # fmt: skip
        card.work(1)
        assert (await test.sample())[("temperature_celsius", "fpga")] == 66

    async def test_v70_before_2022_2_is_read_sensor_by_sensor(self, node: SampleNode) -> None:
        node.add_card("v70", release="2022.1")
        found = await (await sampled(node, everything=True)).sample()
        assert found[("temperature_celsius", "fpga")] == 44
        assert not [key for key in found if key[0] == "voltage_volts"], "a command for each is too much"

    async def test_system_monitor_serves_where_xmc_shows_only_currents(self, node: SampleNode) -> None:
        node.add_card("u200", release="2018.3")
        found = await (await sampled(node)).sample()
        assert found[("temperature_celsius", "fpga")] == 41
        assert found[("voltage_volts", "vcc_int")] == 0.851
        assert found[("current_amperes", "curr1")] == 1.24

    async def test_system_monitor_is_not_read_beside_xmc(self, node: SampleNode) -> None:
        node.add_card("u200")
        test = await sampled(node)
        await test.sample()
        monitors = {path.rpartition("/")[0] for path in test.paths() if path.endswith("temp1_input")}
        assert len(monitors) == 1

    async def test_board_with_zocl(self, node: SampleNode) -> None:
        [card] = node.plug("zcu102")
        card.write("memstat_raw", "4096 1 0\n0 0 0\n")
        card.write("kds_custat_raw", "0,0,vadd:vadd_1,0x80000000,0x4,17\n")
        card.write("xclbinid", "0 0b095b81-fa2b-e6bd-4524-72b1c1474f18\n")
        found = await (await sampled(node, everything=True)).sample()
        assert found == {
            ("memory_used_bytes", "0"): 4096,
            ("memory_used_bytes", "1"): 0,
            ("compute_unit_starts_total", "vadd:vadd_1"): 17,
            ("xclbin_info", "0b095b81-fa2b-e6bd-4524-72b1c1474f18", "0"): 1,
        }
        assert await (await sampled(node)).sample() == {}, "nothing is safe"

    async def test_values_follow_the_sensor(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        await test.sample()
        card.write("mgmt/hwmon/temp4_input", "95000")
        card.write("mgmt/hwmon/fan1_input", "0")
        card.write("current_link_width", "8")
        found = await test.sample()
        assert found[("temperature_celsius", "fpga")] == 95
        assert found[("fan_rpm", "fan")] == 0, "it has turned before"
        assert found[("pcie_link_lanes",)] == 8

    async def test_sensor_that_appears_late_is_found(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        await test.sample()
        card.write("mgmt/hwmon/temp10_input", "50000")
        found = [await test.sample() for _ in range(16)]
        assert found[-1][("temperature_celsius", "hbm")] == 50

    @pytest.mark.parametrize("text", ["4294967295", "-999999", "x", "", None])
    async def test_invalid_sensor_has_no_value(self, node: SampleNode, text: str | None) -> None:
        card = node.add_card("u200")
        card.write("mgmt/hwmon/temp4_input", text)
        found = await (await sampled(node)).sample()
        assert ("temperature_celsius", "fpga") not in found
        assert ("power_watts",) in found

    async def test_link_of_a_card_that_answers_all_ones_is_dropped(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        card.write("current_link_speed", "Unknown")
        card.write("current_link_width", "63")
        test = await sampled(node)
        assert ("pcie_link_lanes",) not in await test.sample()
        assert test.card.sources["pcie"].success is False

    async def test_node_without_aer_has_no_such_source(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        for severity in ("correctable", "nonfatal", "fatal"):
            node.files.drop(card.path(f"aer_dev_{severity}"))
        test = await sampled(node)
        await test.sample()
        assert test.card.sources["aer"].success is None

    async def test_what_seldom_changes_is_read_when_something_has_changed(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        await test.sample()
        test.read()
        assert (await test.sample())[("pcie_link_lanes_max",)] == 16
        opened = test.read()
        assert {"current_link_width", "temp4_input"} <= opened
        assert not {"max_link_width", "max_link_speed", "name"} & opened
        card.write("max_link_width", "8")
        card.write("current_link_width", "8")
        found = await test.sample()
        assert (found[("pcie_link_lanes",)], found[("pcie_link_lanes_max",)]) == (8, 8)

    async def test_better_hwmon_device_that_comes_later_is_found(self, node: SampleNode) -> None:
        xmc = Path(node.add_card("u200").path("mgmt/hwmon/fan1_input")).parent
        away = xmc.rename(f"{node.root}/away")
        test = await sampled(node)
        assert ("power_watts",) not in await test.sample(), "the system monitor has none"
        away.rename(xmc)
        assert any([("power_watts",) in await test.sample() for _ in range(4)])

    async def test_sensors_are_found_again_after_a_reset(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        await test.sample()
        card.reset_begin()
        test.become(Reason.RESETTING)
        await test.sample()
        card.reset_end()
        test.become(None)
        assert (await test.sample())[("power_watts",)] == 28.011


class TestRest:
    """How long the sampler rests between two looks."""

    @staticmethod
    async def _next(rests: AsyncGenerator[float, None]) -> float:
        async with asyncio.timeout(10):
            return await anext(rests)

    @staticmethod
    async def _rests(test: Sampled) -> AsyncGenerator[float, None]:
        """Let it run, and yield each rest when nothing is being read any more."""
        asked: asyncio.Queue[float] = asyncio.Queue()
        go = asyncio.Event()

        async def pause(seconds: float) -> None:
            asked.put_nowait(seconds)
            await go.wait()
            go.clear()

        test.telemetry._pause = pause
        running = asyncio.create_task(test.telemetry.run())
        try:
            while True:
                rest = await asked.get()
                while any(card.job for card in test.telemetry.cards.values()):
                    await asyncio.sleep(0.01)
                yield rest
                go.set()
        finally:
            running.cancel()

    async def test_ends_when_the_next_source_is_due(self, node: SampleNode) -> None:
        node.add_card("u200")
        test = await sampled(node)
        async with aclosing(self._rests(test)) as rests:
            assert await self._next(rests) == 1, "reads are in progress, which may hang"
            for state in test.card.sources.values():
                state.due = 1e-9  # the second sample, which is due soon after the first
            assert await self._next(rests) == 1
            assert 13 < await self._next(rests) <= 15

    async def test_is_short_while_a_read_hangs(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        card.hang("mgmt/hwmon/temp4_input")
        await TestHang.hangs(test, "temp4_input")
        await test.sample()
        assert len(test.card.hanging) == 1
        assert not test.card.job
        assert test.telemetry._rest() == 1
        card.unhang("mgmt/hwmon/temp4_input")

    async def test_card_that_recovers_is_read_at_once(self, node: SampleNode) -> None:
        node.add_card("u200")
        test = await sampled(node)
        test.become(Reason.RESETTING)
        async with aclosing(self._rests(test)) as rests:
            assert await self._next(rests) == 15
            test.become(None)
            assert await self._next(rests) == 1
            assert test.card.sources["hwmon"].success


class TestDangers:
    @pytest.mark.parametrize("level", [False, True])
    @pytest.mark.parametrize("reason", STOPPED)
    async def test_nothing_is_read_while_a_card_cannot_answer(
        self, node: SampleNode, reason: Reason, level: bool
    ) -> None:
        for board in ("u200", "v80", "ma35d"):
            node.plug(board)
        test = await sampled(node, everything=level)
        test.become(reason)
        await test.sample()
        assert test.read() <= ({"xocl_errors"} if reason in (Reason.OFFLINE, Reason.FIREWALL) else set())
        assert not [value for card in test.telemetry.cards.values() for value in card.values()]

    async def test_values_end_with_the_health_of_a_card(self, node: SampleNode) -> None:
        node.add_card("u200")
        test = await sampled(node)
        assert await test.sample()
        test.become(Reason.RESETTING)
        assert await test.sample() == {}
        assert {state.success for state in test.card.sources.values()} <= {False, None}

    async def test_offline_card_is_not_asked_before_its_health_is_known(self, node: SampleNode) -> None:
        card = node.add_card("u200", mgmt=False)
        test = await sampled(node, everything=True)
        card.write("dev_offline", "1")
        await test.sample()
        assert not {"kdsstat", "memstat_raw", "kds_custat_raw", "xclbinuuid"} & test.read()
        assert test.card.sources["mailbox"].success is False

    @pytest.mark.parametrize(
        ("board", "mgmt"), [("u200", False), ("v70", True), ("v70", False), ("v80", True)]
    )
    async def test_safe_reads_no_sensor_that_waits(self, node: SampleNode, board: str, mgmt: bool) -> None:
        if mgmt:
            node.plug(board)
        else:
            node.add_card(board, mgmt=False)
        test = await sampled(node)
        await test.sample()
        assert not [name for name in test.read() if name.endswith(("_input", "_crit", "_raw"))]

    async def test_user_function_is_not_asked_beside_a_management_function(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node, everything=True)
        await test.sample()
        own = f"{card.address}/hwmon"
        assert not [path for path in test.paths() if own in path]

    async def test_rows_that_wait_are_read_each_minute_at_most(self, node: SampleNode) -> None:
        node.add_card("u200", mgmt=False)
        test = await sampled(node, everything=True, interval=1.0)
        await test.sample()
        now = asyncio.get_running_loop().time()
        for name, state in test.card.sources.items():
            if name in ("mailbox", "contexts", "memory", "compute_units", "xclbin"):
                assert state.source.pause >= 60
        assert test.card.sources["pcie"].due < now + 2

    async def test_sample_of_zeros_is_dropped(self, node: SampleNode) -> None:
        card = node.add_card("u200", mgmt=False)
        test = await sampled(node, everything=True)
        assert (await test.sample())[("power_watts",)] == 28.011
        card.mailbox_silent()
        found = await test.sample()
        assert not [key for key in found if key[0] in ("power_watts", "temperature_celsius", "fan_rpm")]
        assert test.card.sources["mailbox"].success is False
        assert test.card.sources["pcie"].success

    async def test_silent_firmware_of_a_v70_has_no_values(self, node: SampleNode) -> None:
        card = node.add_card("v70", mgmt=False)
        test = await sampled(node, everything=True)
        await test.sample()
        card.write("hwmon_sdm/voltage_sensors_raw", None)
        found = await test.sample()
        assert not [key for key in found if key[0] in ("power_watts", "temperature_celsius")]
        assert test.card.sources["mailbox"].success is False

    async def test_v80_near_its_critical_temperature_is_left_alone(self, node: SampleNode) -> None:
        [card] = node.plug("v80")
        test = await sampled(node, everything=True)
        assert (await test.sample())[("temperature_celsius", "device")] == 45
        hwmon = f"{card.path('hwmon')}"
        [number] = node.hwmons._taken
        node.files.put(f"{hwmon}/hwmon{number}/temp2_input", "80000")
        await test.sample()
        test.read()
        for _ in range(3):
            found = await test.sample()
        assert "temp2_input" not in test.read()
        assert ("temperature_celsius", "device") not in found
        assert found[("temperature_celsius", "board")] == 34
        assert found[("temperature_critical_celsius", "device")] == 97

    async def test_v80_sensor_without_a_limit_is_not_read(self, node: SampleNode) -> None:
        [card] = node.plug("v80")
        [number] = node.hwmons._taken
        node.files.drop(f"{card.path('hwmon')}/hwmon{number}/temp2_crit")
        test = await sampled(node, everything=True)
        await test.sample()
        assert "temp2_input" not in test.read()

    async def test_ma35d_with_a_lost_link_is_not_read(self, node: SampleNode) -> None:
        node.plug("ma35d")
        test = await sampled(node)
        for device in test.devices:
            node.files.put(f"{node.sysfs_root}/bus/pci/devices/{device.address}/config", b"\xff" * 64)
        await test.sample()
        assert "board_power" not in test.read()

    @pytest.mark.parametrize("board", ["u200", "v70", "v80", "ma35d"])
    async def test_what_is_never_to_be_read_is_not(self, node: SampleNode, board: str) -> None:
        node.plug(board)
        test = await sampled(node, everything=True)
        await test.sample()
        assert test.opened
        assert not any(each.writing for each in test.opened)
        assert not {*NEVER, "vmr_status", "link_status", "clock_freqs", "power1_average"} & test.read()


class TestHang:
    @staticmethod
    async def hangs(test: Sampled, *files: str) -> None:
        """Sample until one of these files is opened, and let that read count as hanging."""
        test.read()
        with test.opened:
            while not {os.path.basename(path) for path in test.paths()} & {*files}:
                await test.sample(0.02)
        assert test.card.job is not None
        test.card.job.since -= 100

    async def test_hung_sensor_costs_its_own_series(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        before = await test.sample()
        card.hang("mgmt/hwmon/temp4_input")
        card.write("current_link_width", "4")
        await self.hangs(test, "temp4_input")
        found = await test.sample()
        assert before.keys() - found.keys() == {("temperature_celsius", "fpga")}
        assert found[("pcie_link_lanes",)] == 4
        assert test.card.sources["hwmon"].success is False
        card.write("mgmt/hwmon/power1_input", "30000000")
        for _ in range(5):
            found = await test.sample()
        assert found[("power_watts",)] == 30
        assert len(test.card.hanging) == 1, "it is not read again"
        card.unhang("mgmt/hwmon/temp4_input")
        while test.card.hanging:
            await asyncio.sleep(0.01)
        assert (await test.sample()).keys() == before.keys()
        assert test.card.sources["hwmon"].success

    async def test_second_hung_sensor_costs_the_source(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        await test.sample()
        for sensor in ("temp4", "power1"):
            card.hang(f"mgmt/hwmon/{sensor}_input")
        for _ in range(2):
            await self.hangs(test, "temp4_input", "power1_input")
        found = await test.sample()
        assert {key[0] for key in found if not key[0].startswith("pcie_")} == set()
        for _ in range(5):
            await test.sample()
        assert len(test.card.hanging) == 2, "not one more thread"
        for sensor in ("temp4", "power1"):
            card.unhang(f"mgmt/hwmon/{sensor}_input")
        while test.card.hanging:
            await asyncio.sleep(0.01)
        assert (await test.sample())[("power_watts",)] == 28.011

    async def test_hung_counter_of_an_ma35d_costs_its_own_series(self, node: SampleNode) -> None:
        card, _ = node.plug("ma35d")
        test = await sampled(node)
        test.devices = test.devices[:1]
        before = await test.sample()
        card.hang("board_power")
        await self.hangs(test, "board_power")
        found = await test.sample()
        assert before.keys() - found.keys() == {("power_watts",)}
        card.unhang("board_power")

    async def test_hung_card_delays_no_other(self, node: SampleNode) -> None:
        cards = [node.add_card("u200") for _ in range(4)]
        test = await sampled(node)
        for card in cards[:2]:
            card.hang("mgmt/hwmon/power1_input")
        good: set[str] = set()
        async with asyncio.timeout(30):
            while len(good) < 2:
                await test.sample(0.1)
                cards_now = test.telemetry.cards.items()
                good = {address for address, card in cards_now if card.sources["hwmon"].success}
        for card in cards[:2]:
            card.unhang("mgmt/hwmon/power1_input")
        assert good == {card.address for card in cards[2:]}

    async def test_card_that_goes_takes_its_series_along(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        card.hang("mgmt/hwmon/temp4_input")
        await self.hangs(test, "temp4_input")
        gone, test.devices = test.devices, []
        await test.sample()
        assert test.telemetry.cards == {}
        test.devices = gone
        await test.sample()
        assert test.telemetry.cards == {}, "not while a read of the one before hangs"
        card.unhang("mgmt/hwmon/temp4_input")
        test.devices = []
        async with asyncio.timeout(30):
            while test.telemetry._cards:
                await asyncio.sleep(0.01)
                await test.sample()

    @pytest.mark.parametrize("change", ["it leaves the bus", "its node is another"])
    async def test_card_that_is_back_while_a_read_hangs_is_read_after_it(
        self, node: SampleNode, change: str
    ) -> None:
        card = node.add_card("u200")
        test = await sampled(node)
        card.hang("mgmt/hwmon/temp4_input")
        await self.hangs(test, "temp4_input")
        before = test.devices
        another = [replace(device, nodes=("/dev/dri/renderD200",)) for device in before]
        test.devices = [] if change == "it leaves the bus" else another
        await test.sample()
        test.devices = before
        await test.sample()
        assert test.telemetry.cards == {}
        card.unhang("mgmt/hwmon/temp4_input")
        async with asyncio.timeout(30):
            while not (found := await test.sample()):
                await asyncio.sleep(0.01)
        assert found[("temperature_celsius", "fpga")] == 41


class TestErrors:
    async def test_record_at_the_start_is_counted_and_not_new(self, node: SampleNode) -> None:
        card = node.add_card("u200", release="2022.2")
        card.record_error(xrt_releases.ErrorRecord(xrt_releases.FIREWALL_CODE, 1000))
        test = await sampled(node)
        found = await test.sample()
        assert found[("errors_total", "firewall")] == 1
        assert found[("last_error_timestamp_seconds", "firewall")] == 1000
        assert test.errors == []

    async def test_new_error_is_told_once(self, node: SampleNode) -> None:
        card = node.add_card("u200", release="2022.2")
        test = await sampled(node)
        await test.sample()
        card.record_error(xrt_releases.ErrorRecord(13, 2000))
        for _ in range(3):
            found = await test.sample()
        [(address, [record])] = test.errors
        assert (address, record.kind, record.time) == (card.address, "cu_timeout", 2000)
        assert found[("errors_total", "cu_timeout")] == 1

    async def test_error_that_takes_a_card_offline_is_told(self, node: SampleNode) -> None:
        card = node.add_card("u200", release="2022.2")
        test = await sampled(node)
        await test.sample()
        card.firewall_trip()
        test.become(Reason.FIREWALL)
        await test.sample()
        assert [record.kind for _, errors in test.errors for record in errors] == ["firewall"]

    async def test_count_goes_on_beyond_the_length_of_the_record(self, node: SampleNode) -> None:
        card = node.add_card("u200", release="2022.2")
        test = await sampled(node)
        await test.sample()
        for number in range(40):
            card.record_error(xrt_releases.ErrorRecord(13, 2000 + number))
            if number % 10 == 9:
                found = await test.sample()
        assert found[("errors_total", "cu_timeout")] == 40
        assert sum(len(errors) for _, errors in test.errors) == 40
