"""Scans in real time: hanging reads, late serial numbers, any damage; and the `list` command."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.descriptors import CountedOpens
from tests.support.observed_boards import allocatable_rows, board_of
from tests.support.process import cli
from tests.support.running import settings_for
from tests.support.scanning import RULES, impatient, listed, scanned_card, scanner_for, settled
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.model import Inventory, Reason
from xilinx_fpga_dp.simulate.sysfs.sample_node import DAMAGES, SampleNode

ATTRIBUTES = (
    "vendor", "device", "class", "numa_node", "driver", "user_pf", "ready", "dev_offline", "shutdown",
    "device_bad_state", "logic_uuids", "board_name", "rom", "rom/VBNV", "rom/timestamp", "rom/uuid", "xmc",
    "xmc/serial_num", "firewall", "firewall/level", "drm", "mgmt/instance", "mgmt/mfg", "mgmt/xrt_mgmt",
)  # fmt: skip


def _ruin(path: str, damage: Any) -> None:
    """Replace a file, link or directory by something else."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
    if not os.path.isdir(os.path.dirname(path)):
        return
    match damage:
        case "missing":
            return
        case "fifo":
            os.mkfifo(path)
        case "loop":
            os.symlink(os.path.basename(path), path)
        case "refused":
            os.mkdir(path)
        case "huge":
            with open(path, "wb") as file:
                file.truncate(1 << 30)
        case _:
            with open(path, "wb") as file:
                file.write(damage if isinstance(damage, bytes) else damage.encode("utf-8", "replace"))


async def _scanned_in_time(scanner: Scanner) -> Inventory:
    async with asyncio.timeout(30):
        await scanner.scan()
        await asyncio.sleep(0.05)
        return await _quiet(scanner.scan)


async def _quiet(scan: Callable[[], Awaitable[Inventory]]) -> Inventory:
    """Scan until the serial numbers are read, but do not wait for one that hangs."""
    found = await scan()
    for _ in range(50):
        if all(device.serial for device in found.devices[:2]):
            break
        await asyncio.sleep(0.01)
        found = await scan()
    return found


class TestRecipes:
    """The trees of field and driver evidence."""

    @pytest.mark.parametrize("driver", ["xdma", "vfio-pci", "pciback"])
    async def test_card_bound_to_another_driver_stays_for_the_grace_period(
        self, node: SampleNode, driver: str
    ) -> None:
        card = node.add_card("u250")
        scanner = Scanner(node.sysfs_root, node.dev_root, replace(RULES, reset_grace=3))
        await settled(scanner)
        card.unbind()
        card._user.bind(driver)
        for found in (await scanner.check(), await scanner.scan()):
            assert [(each.address, each.reason) for each in found.devices] == [
                (card.address, Reason.NO_DRIVER)
            ]
        await asyncio.sleep(3.1)
        [entry] = (await scanner.scan()).left_out
        assert f"lost its place; bound to {driver}" in entry.reason
        card._user.unbind()
        card.bind()
        assert [each.address for each in (await settled(scanner)).devices] == [card.address]


class TestFinding:
    async def test_late_serial_number_changes_nothing_else(self, node: SampleNode) -> None:
        card = node.add_card("u55c", serial="")
        scanner = scanner_for(node)
        before = (await settled(scanner)).devices[0]
        assert before.serial is None
        card.write("xmc/serial_num", "XFL1LATE")
        async with asyncio.timeout(30):
            while (after := (await scanner.scan()).devices[0]).serial is None:
                await asyncio.sleep(0.1)
        assert after.serial == "XFL1LATE"
        assert (after.address, after.shell, after.reason) == (before.address, before.shell, None)


class TestEveryRow:
    """The boards that were observed on nodes, and those of the tables of the driver."""

    def test_list_command_lists_every_row(self, node: SampleNode) -> None:
        rows = allocatable_rows()
        for row in rows:
            node.add_card(board_of(row))
        document = listed(node)
        assert {each["resource"] for each in document["devices"]} == {
            f"xilinx.com/fpga-{row['vbnv']}-{row['timestamp']}" for row in rows
        }
        assert len(document["devices"]) == len(rows)
        assert document["left_out"] == []


class TestOneBadCard:
    """The files of one function can neither fail a scan nor change another device."""

    @pytest.mark.parametrize("attribute", ["rom/VBNV", "ready", "dev_offline", "logic_uuids"])
    async def test_hanging_read_leaves_out_only_its_card(self, node: SampleNode, attribute: str) -> None:
        node.add_card("u200")
        bad = node.add_card("u55c")
        bad.hang(attribute)
        scanner = scanner_for(node)
        with impatient():
            found = await scanner.scan()
            reasons = {each.function: each.reason for each in found.left_out}
            assert reasons[bad.address].startswith("waiting for its driver to answer")
            found = await _until(scanner, lambda seen: "does not answer" in seen.left_out[0].reason)
            assert len(found.devices) == 1
        bad.unhang(attribute)
        assert len((await _until(scanner, lambda seen: len(seen.devices) == 2)).left_out) == 0

    async def test_hanging_management_driver_is_not_a_fault_of_the_device(self, node: SampleNode) -> None:
        card, scanner, device = await scanned_card(node)
        both = (scanner, scanner_for(node))
        card.hang("mgmt/rp_program")
        with mock.patch("xilinx_fpga_dp.discovery.scanner._PATIENCE", 1.5):
            for _ in range(2):  # the read is late in the second scan
                for found in await asyncio.gather(*(each.scan(check=True) for each in both)):
                    assert [each.reason for each in found.devices] == [None]
            async with asyncio.timeout(30):
                assert (await scanner.check()).devices[0].healthy
                assert await scanner.refresh(device) == device
        card.unhang("mgmt/rp_program")

    @given(
        damages=st.lists(
            st.tuples(
                st.sampled_from(ATTRIBUTES),
                st.one_of(
                    st.sampled_from(DAMAGES), st.binary(max_size=40), st.text(max_size=40), st.just("fifo")
                ),
            ),
            min_size=1,
            max_size=4,
        )
    )
    @settings(max_examples=min(30, settings().max_examples))  # each is a node and many scans
    def test_any_damage_changes_no_other_device(self, damages: list[tuple[str, Any]]) -> None:
        root = tempfile.mkdtemp(prefix="fpga-")
        try:
            node = SampleNode(root)
            for _ in range(2):
                node.add_card("u200")
            bad = node.add_card("u55c")
            before = asyncio.run(settled(scanner_for(node)))
            for attribute, damage in damages:
                _ruin(bad.path(attribute), damage)
            after = asyncio.run(_scanned_in_time(scanner_for(node)))
            assert [d for d in after.devices if d.address != bad.address] == list(before.devices[:2])
        finally:
            shutil.rmtree(root)


class TestWithoutDescriptors:
    """A read that finds no free descriptor is no evidence about any card."""

    async def test_serial_number_is_read_again_after_lack_of_descriptors(self, node: SampleNode) -> None:
        node.add_card("u200", serial="XFL1")
        scanner = scanner_for(node)
        with CountedOpens(lambda _, path: path.endswith("serial_num")):
            assert [device.serial for device in (await settled(scanner)).devices] == [None]
        async with asyncio.timeout(30):
            while (await scanner.scan()).devices[0].serial != "XFL1":
                await asyncio.sleep(0.1)

    async def test_permanently_hanging_read_causes_no_more_scans(self, node: SampleNode) -> None:
        node.add_card("u200").hang("ready")
        scanner = scanner_for(node)
        with impatient():
            await scanner.scan()
            assert scanner.unsettled
            async with asyncio.timeout(30):
                while scanner.unsettled:
                    await asyncio.sleep(0.1)
                    found = await scanner.scan()
        assert "a read hangs" in found.left_out[0].reason


class TestList:
    def test_json(self, node: SampleNode) -> None:
        card = node.add_card("u200", "0000:65:00", serial="XFL1")
        node.add_card("u250", image="golden")
        document = listed(node)
        assert document == {
            "devices": [
                {
                    "id": "0000:65:00.1",
                    "resource": "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320",
                    "shell": "xilinx_u200_xdma_201830_2",
                    "timestamp": "1561465320",
                    "board": "u200",
                    "serial": "XFL1",
                    "logic_uuid": None,
                    "numa_node": 0,
                    "driver": "xocl",
                    "rule": None,
                    "health": "Healthy",
                    "reason": None,
                    "since": None,
                    "changes": None,
                    "last_reason": None,
                    "held_by": [],
                    "nodes": [card.render_node],
                }
            ],
            "left_out": [
                {
                    "function": "0000:66:00.0",
                    "reason": "golden image: management function only, program a shell first "
                    "(xbmgmt program --base)",
                }
            ],
            "resources": {
                "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320": {
                    "devices": 1,
                    "healthy": 1,
                    "registered": None,
                }
            },
        }

    def test_device_with_known_fault_is_listed_unhealthy(self, node: SampleNode) -> None:
        node.add_card("u200").offline()
        [device] = listed(node)["devices"]
        assert (device["health"], device["reason"]) == ("Unhealthy", "offline")

    def test_exposed_management_node_is_listed(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        [device] = listed(node, EXPOSE_MGMT="true")["devices"]
        assert device["nodes"] == [card.render_node, card.mgmt_node]

    def test_table(self, node: SampleNode) -> None:
        node.add_card("u200", "0000:65:00", serial="XFL1")
        node.add_card("u250", image="golden")
        lines = cli("list", settings=settings_for(node)).stdout.splitlines()
        assert lines[0].split() == ["DEVICE", "BOARD", "HEALTH", "NUMA", "SERIAL", "NODES", "RESOURCE"]
        assert lines[1].startswith(
            "0000:65:00.1  u200   Healthy  0     XFL1    /dev/dri/renderD128  xilinx.com/"
        )
        assert any("golden image" in line for line in lines)

    def test_nothing_to_offer(self, node: SampleNode) -> None:
        done = cli("list", settings=settings_for(node))
        assert (done.returncode, done.stdout) == (0, "no device to offer\n")

    def test_control_characters_from_sysfs_do_not_reach_the_terminal(self, node: SampleNode) -> None:
        node.add_card("u50").write("rom/VBNV", b"xilinx_\x1b[31mu50\n")
        done = cli("list", settings=settings_for(node))
        assert "\x1b" not in done.stdout
        assert "control characters" in done.stdout

    def test_different_builds_under_one_name_are_reported(self, node: SampleNode) -> None:
        node.add_card("u55c").write("logic_uuids", "a" * 32)
        node.add_card("u55c").write("logic_uuids", "b" * 32)
        done = cli("list", settings=settings_for(node))
        assert "warning: xilinx.com/fpga-xilinx_u55c" in done.stdout
        parted = listed(node, RESOURCE_NAME_TEMPLATE="{shell}-{uuid}")
        assert len(parted["resources"]) == 2

    def test_list_waits_briefly_for_a_hanging_driver(self, node: SampleNode) -> None:
        node.add_card("u50")
        card = node.add_card("u55c")
        card.hang("ready")
        document = listed(node)
        assert [each["health"] for each in document["devices"]] == ["Healthy"]
        assert "does not answer" in document["left_out"][0]["reason"]
        card.unhang("ready")


async def _until(scanner: Scanner, holds: Callable[[Inventory], bool]) -> Inventory:
    async with asyncio.timeout(30):
        while not holds(found := await scanner.scan()):
            await asyncio.sleep(0.05)
    return found
