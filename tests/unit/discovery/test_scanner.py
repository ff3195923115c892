"""From a sample node's files to devices, and to reasons for what is left out."""

import asyncio
import contextlib
import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.descriptors import CountedOpens
from tests.support.kubelet_names import kubelet_takes
from tests.support.observed_boards import allocatable_rows, board_of, documented_tree, name_of
from tests.support.opened import Openings
from tests.support.scanning import (
    RULES,
    impatient,
    only_device,
    only_reason,
    scanned_card,
    scanner_for,
    settled,
)
from xilinx_fpga_dp.discovery import sysfs
from xilinx_fpga_dp.discovery.scanner import ScanFailed, Scanner
from xilinx_fpga_dp.discovery.schedules import SERIAL
from xilinx_fpga_dp.discovery.slow_attributes import SlowAttributes, SlowRead, SlowReadings
from xilinx_fpga_dp.discovery.sysfs import OutOfDescriptors
from xilinx_fpga_dp.model import Device, Inventory, Reason, Shell
from xilinx_fpga_dp.resources.naming import Naming, name_problem
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.simulate.sysfs.sample_node import DAMAGES, Ids, SampleNode, XrtCard

NAMING = Naming("xilinx.com/fpga-", "{shell}-{timestamp}")


def documented_node(root: Path) -> Path:
    """A node with the card that XRT's documentation shows; its texts are those of a U200, or 0."""
    texts = {
        "0000:04:00.1/vendor": "0x10ee",
        "0000:04:00.1/device": "0x5001",
        "0000:04:00.1/ready": "0x1",
        "0000:04:00.1/rom.u.1025/VBNV": "xilinx_u200_xdma_201830_2",
        "0000:04:00.1/rom.u.1025/timestamp": "1561465320",
        "0000:04:00.0/vendor": "0x10ee",
        "0000:04:00.0/device": "0x5000",
    }
    above = root / "sys/devices/pci0000:00/0000:00:15.0"
    for name, target in documented_tree().items():
        if target == "/":
            (above / name).mkdir(parents=True)
        elif target:
            (above / name).symlink_to(target)
        else:
            (above / name).write_text(f"{texts.get(name, '0')}\n")
    bus = root / "sys/bus/pci/devices"
    bus.mkdir(parents=True)
    for function in above.iterdir():
        (bus / function.name).symlink_to(f"../../../devices/pci0000:00/0000:00:15.0/{function.name}")
    for node in ("dri/card1", "dri/renderD129", "xclmgmt1024", "xvc_pub.u1025"):
        (root / "dev" / node).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev" / node).touch()
    return root


class TestRecipes:
    """The trees of field and driver evidence."""

    async def test_tree_of_xrts_documentation_is_one_device(self, tmp_path: Path) -> None:
        root = documented_node(tmp_path)
        found = await settled(Scanner(f"{root}/sys", f"{root}/dev", RULES))
        assert found.left_out == ()
        [device] = found.devices
        assert device == Device(
            address="0000:04:00.1",
            shell=Shell("xilinx_u200_xdma_201830_2", "1561465320", None),
            board="u200",
            driver="xocl",
            device_id="5001",
            numa_node=0,
            pcie_path=("pci0000:00", "0000:00:15.0"),
            nodes=("/dev/dri/renderD129",),
            mgmt_node="/dev/xclmgmt1024",
        )

    async def test_u200_of_2019_1(self, node: SampleNode) -> None:
        node.add_card("u200-2019.1", "0000:04:00")
        device = await only_device(node)
        assert device.address == "0000:04:00.1"
        assert (device.shell.vbnv, device.shell.timestamp) == ("xilinx_u200_xdma_201830_2", "1561465320")
        assert (device.shell.logic_uuid, device.serial, device.board) == (None, None, "u200")
        assert device.mgmt_node == "/dev/xclmgmt1024"
        assert device.healthy

    async def test_u250_whose_uuids_cannot_be_read(self, node: SampleNode) -> None:
        card = node.add_card("u250")
        assert os.path.isdir(card.path("logic_uuids")), "the stand-in for EINVAL"
        device = await only_device(node)
        assert device.shell.logic_uuid is None
        assert device.serial == card.serial
        assert device.healthy

    async def test_u55c_with_timestamp_0_and_the_kernels_rom_file(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        assert os.path.isfile(f"{card.user}/rom")
        device = await only_device(node)
        assert device.shell.timestamp == "0"
        assert device.shell.logic_uuid == "97088961feaeda9152a21d9dfd63ccef"
        assert NAMING.resource_name(device) == "xilinx.com/fpga-xilinx_u55c_gen3x16_xdma_base_3-0"
        assert device.healthy

    async def test_card_without_loaded_shell_is_left_out(self, node: SampleNode) -> None:
        node.add_card("u55c").shell_unknown()
        assert "shell not loaded yet" in await only_reason(node)

    async def test_card_first_seen_in_its_reset_is_left_out(self, node: SampleNode) -> None:
        node.add_card("u55c").reset_begin()
        assert "reset" in await only_reason(node)

    async def test_firewall_trip_is_the_reason(self, node: SampleNode) -> None:
        node.add_card("u55c").firewall_trip()
        assert (await only_device(node)).reason is Reason.FIREWALL

    async def test_golden_image_is_left_out_with_remedy(self, node: SampleNode) -> None:
        node.add_card("u250", image="golden")
        assert (await only_reason(node)).startswith("golden image: management function only, program a shell")

    async def test_recovery_image_is_left_out(self, node: SampleNode) -> None:
        node.add_card("u55n", image="recovery")
        assert "recovery image" in await only_reason(node)

    async def test_card_bound_to_vfio_is_left_out(self, node: SampleNode) -> None:
        node.add_card("u250").vfio()
        assert "vfio-pci" in await only_reason(node)

    async def test_domain_of_five_digits_is_kept_in_the_address(self, node: SampleNode) -> None:
        node.add_card("u55c", "10000:e1:00")
        device = await only_device(node)
        assert device.address == "10000:e1:00.1"
        assert device.mgmt_node == "/dev/xclmgmt57600"


class TestFinding:
    async def test_ordinary_devices_are_none_of_ours(self, node: SampleNode) -> None:
        node.add_ordinary_devices()
        assert await settled(scanner_for(node)) == Inventory(numa_nodes=(0, 1))

    async def test_render_node_of_a_gpu_is_not_taken_for_a_cards(self, node: SampleNode) -> None:
        node.add_ordinary_devices()
        card = node.add_card("u50")
        assert (await only_device(node)).nodes == (card.render_node,) == ("/dev/dri/renderD129",)

    async def test_neither_ids_nor_class_nor_function_number_count(self, node: SampleNode) -> None:
        card = node.add_card("u30-vt1")
        assert card.address.endswith(".0")
        card.write("vendor", "0xabcd")
        card.write("device", "0x1234")
        card.write("class", "0x020000")
        assert (await only_device(node)).healthy

    async def test_card_without_management_function_is_healthy(self, node: SampleNode) -> None:
        node.add_card("u250", mgmt=False)
        device = await only_device(node)
        assert device.mgmt_node is None
        assert device.healthy

    @pytest.mark.parametrize("board", ["u2", "v70", "u55c"])
    async def test_serial_numbers_wherever_they_are(self, node: SampleNode, board: str) -> None:
        node.add_card(board, serial="XFL1SERIAL")
        assert (await only_device(node)).serial == "XFL1SERIAL"

    async def test_serial_that_never_comes_delays_no_scan(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        card.hang("xmc/serial_num")
        [device] = (await scanner_for(node).scan()).devices
        assert device.serial is None
        assert device.healthy
        card.unhang("xmc/serial_num")

    async def test_serial_is_awaited_until_a_scan_has_it(self, node: SampleNode) -> None:
        card = node.add_card("u55c", serial="XFL1SERIAL")
        card.hang("xmc/serial_num")
        scanner = scanner_for(node)
        [before] = (await scanner.scan()).devices
        assert scanner.awaits_serial(before)
        card.unhang("xmc/serial_num")
        while not scanner.complete:
            await asyncio.sleep(0.01)
        assert scanner.awaits_serial(before), "it came after that scan"
        [after] = (await scanner.scan()).devices
        assert after.serial == "XFL1SERIAL"
        assert not scanner.awaits_serial(after)

    async def test_no_numa_node(self, node: SampleNode) -> None:
        node.add_card("u55c", numa_node=-1)
        assert (await only_device(node)).numa_node is None

    async def test_what_stands_above_it(self, node: SampleNode) -> None:
        node.add_card("u55c", "0000:65:00")
        assert (await only_device(node)).pcie_path == ("pci0000:60", "0000:60:05.0")

    async def test_qdma_node_is_granted_only_where_it_exists(self, node: SampleNode) -> None:
        card = node.add_card("v70")
        assert any(name.startswith("dma.qdma") for name in os.listdir(card.user))
        assert (await only_device(node)).nodes == (card.render_node,)
        node.add_node(f"/dev/xfpga/dma.qdma.u{0x6501}.0")
        assert (await only_device(node)).nodes[1:] == (f"/dev/xfpga/dma.qdma.u{0x6501}.0",)

    @pytest.mark.parametrize(
        ("release", "queues"),
        [
            ("2018.3", "str_dma.u25857"),
            ("2019.1", "str_dma.u25857"),
            ("2019.2", "xfpga/dma.qdma.u25857"),
            ("2020.1", "xfpga/dma.qdma.u25857.0"),
            ("2022.1", "xfpga/dma.qdma.u25857.0"),
        ],
    )
    async def test_qdma_node_of_each_release(self, node: SampleNode, release: str, queues: str) -> None:
        node.add_card("v70", "0000:65:00", release=release)
        assert (await only_device(node)).nodes[1:] == (f"/dev/{queues}",)

    @pytest.mark.parametrize("shown", [True, False])
    async def test_qdma4_node_has_the_kernels_or_the_computed_name(
        self, node: SampleNode, shown: bool
    ) -> None:
        """The kernel's name for it counts; where it shows none, the one that is worked out."""
        card = node.add_card("u50", "0000:65:00", release="2020.2")
        name = f"dma.qdma4.u25857.{int(shown)}"
        card.write("dma.qdma4.u.5242880", {"xrt_user": {f"xfpga!{name}": {}}} if shown else {})
        assert (await only_device(node)).nodes == (card.render_node,)
        node.add_node(f"/dev/xfpga/{name}")
        assert (await only_device(node)).nodes[1:] == (f"/dev/xfpga/{name}",)

    async def test_suffixes_and_render_numbers_may_change(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        scanner = scanner_for(node)
        before = (await settled(scanner)).devices[0]
        card.reset_begin()
        card.reset_end(render=200, suffix=7)
        after = (await scanner.scan(check=True)).devices[0]
        assert after.nodes == ("/dev/dri/renderD200",) != before.nodes
        assert (after.address, after.shell, after.healthy) == (before.address, before.shell, True)

    async def test_without_a_driver_the_reason_has_the_remedy(self, node: SampleNode) -> None:
        card = node.add_card("u50", mgmt=False)
        card.unbind()
        node.files.drop(f"{node.sysfs_root}/module")
        assert (await only_reason(node)).startswith("no driver: install XRT")

    async def test_card_without_drivers_is_reported_once(self, node: SampleNode) -> None:
        card = node.add_card("u50")
        card.unbind()
        card.unbind_mgmt()
        [entry] = (await settled(scanner_for(node))).left_out
        assert entry.function == card.address

    async def test_card_that_lost_its_drivers_is_an_unhealthy_device(self, node: SampleNode) -> None:
        card = node.add_card("u50")
        watched = scanner_for(node)
        await settled(watched)
        card.unbind()
        card.unbind_mgmt()
        found = await settled(watched)
        assert [device.reason for device in found.devices] == [Reason.NO_DRIVER]
        assert found.left_out == ()

    async def test_card_that_never_returns_from_its_reset_is_left_out(self, node: SampleNode) -> None:
        card = node.add_card("u50")
        watched = Scanner(node.sysfs_root, node.dev_root, replace(RULES, reset_grace=0))
        await settled(watched)
        card.offline()
        assert [device.reason for device in (await settled(watched)).devices] == [Reason.OFFLINE]
        card.remove()
        for _ in range(2):
            [entry] = (await settled(watched)).left_out
            assert (entry.function, entry.lost) == (card.address, Reason.RESETTING)
        card.plug()
        card.unbind_mgmt()
        card.unbind()
        card._user.unplug()
        functions = [entry.function for entry in (await settled(watched)).left_out]
        assert functions == [card.address[:-1] + "0", card.address], "what is in its slot is told too"
        card._user.plug()
        card.bind()
        card.bind_mgmt()
        await settled(watched)
        [device] = (await watched.scan(check=True)).devices
        assert device.healthy

    @pytest.mark.parametrize(
        ("device", "driver"),
        [("5005", "xocl"), ("50b4", "ami"), ("5070", "transcoder"), ("f010", "xocl")],
    )
    async def test_reason_for_card_of_the_host_names_the_missing_driver(
        self, node: SampleNode, device: str, driver: str
    ) -> None:
        vendor = "1d0f" if device == "f010" else "10ee"
        for number in ("0", "1"):
            node.add_function(f"0000:70:00.{number}", Ids(vendor, device, "120000"), driver="vfio-pci")
        said = f"bound to vfio-pci, for a virtual machine; bind it to {driver} to offer it here"
        assert await only_reason(node) == said

    async def test_v80_without_drivers_is_reported_once(self, node: SampleNode) -> None:
        card = node.add_card("v80")
        card.unbind()
        card.others[0].unbind()
        [entry] = (await settled(scanner_for(node))).left_out
        assert (entry.function, "ami is loaded and" in entry.reason) == (card.address, True)

    async def test_card_in_the_place_of_another_makers_is_reported(self, node: SampleNode) -> None:
        for address, vendor in (("0000:70:00.0", "8086"), ("0000:71:00.0", "10ee")):
            node.add_function(address, Ids(vendor, "5005", "120000"))
        scanner = scanner_for(node)
        assert [entry.function for entry in (await settled(scanner)).left_out] == ["0000:71:00.0"]
        links = f"{node.sysfs_root}/bus/pci/devices"
        os.replace(f"{links}/0000:71:00.0", f"{links}/0000:70:00.0")
        assert [entry.function for entry in (await settled(scanner)).left_out] == ["0000:70:00.0"]

    async def test_card_in_the_place_of_another_is_a_new_device(self, node: SampleNode) -> None:
        first, second = node.add_card("u200"), node.add_card("u55c")
        scanner = scanner_for(node)
        before = {device.address: device for device in (await settled(scanner)).devices}
        links = f"{node.sysfs_root}/bus/pci/devices"
        os.replace(f"{links}/{second.address}", f"{links}/{first.address}")
        after = {device.address: device for device in (await settled(scanner)).devices}[first.address]
        other = before[second.address]
        assert (after.device_id, after.pcie_path, after.board) == (other.device_id, other.pcie_path, "u55c")
        assert after.device_id != before[first.address].device_id

    async def test_device_id_that_can_be_read_later_is_taken(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        text = Path(card.path("device")).read_text()
        card.corrupt("device", "empty")
        scanner = scanner_for(node)
        assert [device.device_id for device in (await settled(scanner)).devices] == [None]
        card.write("device", text.strip())
        assert [device.device_id for device in (await settled(scanner)).devices] == ["5001"]

    async def test_plain_dma_drivers_are_not_ours(self, node: SampleNode) -> None:
        node.add_function("0000:70:00.0", Ids("10ee", "903f", "070001"), driver="xdma")
        node.add_function("0000:71:00.0", Ids("10ee", "50b5", "120000"), driver="qdma-pf")
        assert (await settled(scanner_for(node))).left_out == ()

    async def test_card_is_left_out_once(self, node: SampleNode) -> None:
        node.add_card("u55c").shell_unknown()
        assert len((await settled(scanner_for(node))).left_out) == 1


class TestEveryRow:
    """What was seen in the field, or stands in the driver's tables."""

    @pytest.mark.parametrize("row", allocatable_rows(), ids=name_of)
    async def test_gets_its_resource_name(self, node: SampleNode, row: dict[str, Any]) -> None:
        node.add_card(board_of(row), numa_node=-1)
        offers = offers_of(await settled(scanner_for(node)), NAMING)
        [name] = offers.by_resource
        assert name == f"xilinx.com/fpga-{row['vbnv']}-{row['timestamp']}"
        assert name_problem(name) is None


class TestDefectsOfTheOriginal:
    """What the Go plugin broke on, in the order of its code."""

    @pytest.mark.parametrize("vbnv", ["emb-plus", "xilinx", "_", "xilinx_u2", "x" * 100])
    async def test_vbnv_without_the_usual_fields_gives_a_valid_name(
        self, node: SampleNode, vbnv: str
    ) -> None:
        node.add_card("u55c").write("rom/VBNV", vbnv)
        device = await only_device(node)
        assert device.shell.vbnv == vbnv
        assert name_problem(NAMING.resource_name(device)) is None

    @pytest.mark.parametrize("content", ["", "\n", "abc", "Z" * 32])
    async def test_logic_uuids_without_a_uuid(self, node: SampleNode, content: str) -> None:
        node.add_card("u55c").write("logic_uuids", content)
        assert (await only_device(node)).shell.logic_uuid is None

    async def test_uuid_of_the_shell_is_the_last_line(self, node: SampleNode) -> None:
        node.add_card("u55c").write("logic_uuids", "a" * 32 + "\n" + "b" * 32)
        assert (await only_device(node)).shell.logic_uuid == "b" * 32

    async def test_no_render_node_is_no_directory_handed_out(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        node.add_card("u50")
        list(zip(range(2), card.resetting(), strict=False))  # drm is gone
        found = await settled(scanner_for(node))
        by_address = {device.address: device for device in found.devices}
        assert by_address[card.address].reason is Reason.OFFLINE
        assert by_address[card.address].nodes == ()

    async def test_missing_attribute_is_no_fault(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        for name in ("ready", "shutdown", "device_bad_state", "logic_uuids", "board_name", "firewall/level"):
            card.corrupt(name, "missing")
        assert (await only_device(node)).healthy

    async def test_empty_vbnv_is_not_waited_for(self, node: SampleNode) -> None:
        node.add_card("u50").write("rom/VBNV", "")
        assert "not loaded" in await only_reason(node)


@pytest.fixture(scope="module")
def two_cards(tmp_path_factory: pytest.TempPathFactory) -> SampleNode:
    """A U200 and a U55C; a test that damages one mends it first."""
    node = SampleNode(tmp_path_factory.mktemp("two") / "node")
    node.add_card("u200")
    node.add_card("u55c")
    return node


class TestOneBadCard:
    """Nothing one function's directory holds can fail the scan or change another device."""

    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("attribute", ["rom/VBNV", "rom/timestamp", "ready", "numa_node", "logic_uuids"])
    async def test_damage(self, node: SampleNode, attribute: str, damage: Any) -> None:
        good = node.add_card("u200")
        bad = node.add_card("u55c")
        bad.corrupt(attribute, damage)
        found = await settled(scanner_for(node))
        assert [d for d in found.devices if d.address == good.address and d.healthy]
        assert {d.address for d in found.devices} | {e.function for e in found.left_out} >= {bad.address}

    @settings(max_examples=min(40, settings().max_examples))  # each is several scans
    @given(
        st.fixed_dictionaries({}, optional={
            "rom/VBNV": st.text(max_size=80) | st.from_regex(r"[a-z0-9.:_ -]{1,70}\n?", fullmatch=True),
            "rom/timestamp": st.text(max_size=30) | st.integers(-1, 2**65).map(str),
            "logic_uuids": st.text(max_size=70) | st.from_regex(r"([0-9A-Fa-f]{31,33}\n){1,3}"),
            "xmc/serial_num": st.text(max_size=70),
        })
    )  # fmt: skip
    def test_any_text_gives_a_name_kubelet_takes_or_a_reason(
        self, two_cards: SampleNode, texts: dict[str, str]
    ) -> None:
        good, odd = two_cards.cards
        odd.mend()
        for attribute, text in texts.items():
            odd.write(attribute, text.encode("utf-8", "replace"))
        found = asyncio.run(settled(scanner_for(two_cards)))
        for template in ("{shell}-{timestamp}", "{serial}.{uuid}_{shell}"):
            offers = offers_of(found, Naming("xilinx.com/fpga-", template))
            assert all(map(kubelet_takes, offers.by_resource))
            offered = {unit.id for offer in offers.by_resource.values() for unit in offer.units}
            reasons = {entry.function: entry.reason for entry in offers.left_out}
            assert good.address in offered
            assert offered ^ reasons.keys() == {good.address, odd.address}
            assert all(reason and reason.isprintable() for reason in reasons.values())

    async def test_what_a_late_check_finds_changed_is_probed_again(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        scanner = scanner_for(node)
        device = (await settled(scanner)).devices[0]
        for joined in (lambda: scanner.refresh(device), scanner.check, scanner.scan):
            card.hang("shutdown")
            with impatient():
                assert (await scanner.check()).devices[0].healthy
            waiting = asyncio.ensure_future(joined())
            await asyncio.sleep(0)
            card.offline()
            card.unhang("shutdown")
            found = await waiting
            if isinstance(found, Inventory):
                assert len(found.devices) == 1
                found = (await scanner.check()).devices[0]
            assert found
            assert found.reason is Reason.OFFLINE
            card.mend()
            assert (await scanner.scan(check=True)).devices[0].healthy

    async def test_granted_device_is_read_again_while_a_check_is_late(self, node: SampleNode) -> None:
        card, scanner, device = await scanned_card(node)
        card.hang("shutdown")
        with impatient():
            assert (await scanner.check()).devices[0] == device
        waiting = asyncio.ensure_future(scanner.refresh(device))
        await asyncio.sleep(0)
        card.write("rom/timestamp", b"1700000000\n")  # which a check does not read
        card.unhang("shutdown")
        found = await waiting
        assert found
        assert found.shell
        assert found.shell.timestamp == "1700000000"

    async def test_refresh_without_descriptor_is_refused_and_not_a_fault(self, node: SampleNode) -> None:
        card, scanner, device = await scanned_card(node)
        card.hang("shutdown")
        none_left = OutOfDescriptors("none is left")
        with mock.patch("xilinx_fpga_dp.discovery.scanner.refresh_bus", side_effect=none_left):
            waiting = asyncio.ensure_future(scanner.refresh(device))
            await asyncio.sleep(0)
            card.unbind()  # so that a full probe follows
            checking = asyncio.ensure_future(scanner.check())
            await asyncio.sleep(0)
            card.unhang("shutdown")
            found = await waiting
            assert found
            assert found.reason is Reason.UNRESPONSIVE
            with contextlib.suppress(ScanFailed):
                assert (await checking).devices[0].healthy

    async def test_refresh_sees_a_new_trip_and_not_an_old_one(self, node: SampleNode) -> None:
        card = node.add_card("u55c", release="2022.2")
        card.firewall_trip()
        card.reset_begin()
        card.reset_end()
        scanner = scanner_for(node)
        device = (await settled(scanner)).devices[0]
        assert device.healthy
        assert await scanner.refresh(device) == device
        card.firewall_trip()
        card.write("firewall/detected_time", "1700000000")
        card.write("dev_offline", "0")  # which follows a moment later
        found = await scanner.refresh(device)
        assert found
        assert found.reason is Reason.FIREWALL

    @pytest.mark.parametrize("attribute", ["vendor", "device", "numa_node", "class"])
    async def test_pipe_in_place_of_a_pci_attribute_delays_no_scan(
        self, node: SampleNode, attribute: str
    ) -> None:
        node.add_card("u200")
        bad = node.add_card("u55c")
        bad.hang(attribute)
        assert len((await settled(scanner_for(node))).devices) == 2
        bad.unhang(attribute)

    async def test_empty_file_is_not_late(self, node: SampleNode) -> None:
        node.add_card("u55c").write("rom/VBNV", b"")
        scanner = scanner_for(node)
        [entry] = (await scanner.scan()).left_out
        assert "not loaded" in entry.reason
        assert not scanner.unsettled


# Reading it clears it or has the driver do something, or it can only be written: XRT mgmtpf/mgmt-sysfs.c,
# userpf/xocl_sysfs.c, subdev/mailbox.c, subdev/firewall.c; zocl_drv.c
_NEVER = re.compile(
    r"/(error|mig_cache_update|mgmt_reset|sbr_toggle|zocl_reset"
    r"|mailbox\.[um]\.\d+/mailbox\w*|firewall\.[um]\.\d+/(clear|inject))$"
)
# It waits for the management function (20 s: mailbox.c) or for a lock that is held while an image is loaded,
# asks the hardware, or writes a line to the kernel's log each time (xocl_sysfs.c vmr_status_show)
_NOT_IN_A_SCAN = re.compile(
    r"/(mig_calibration|memstat(_raw)?|kdsstat|kds_stat|vmr_status|config|\w*link_(speed|width)\w*"
    r"|(icap|xmc|hwmon)[^/]*/.+)$"
)
_THREADS = ("VBNV", "serial_num", "firewall.u.")


class TestWhatIsOpened:
    """Nothing to write to it, nothing that must not be read, and the rest by whom it may be."""

    @pytest.mark.parametrize(
        "release", ["2018.3", "2019.1", "2019.2", "2020.2", "2022.1", "2022.2", "2026.1"]
    )
    async def test_what_must_never_be_read_is_not(self, node: SampleNode, release: str) -> None:
        cards = [node.add_card(board, release=release) for board in ("u200", "u55c", "u2", "v70")]
        node.add_card("u250", release=release, image="golden")
        node.add_card("u250", release=release, image="recovery")
        node.add_card("u50", release=release, mgmt=False).shell_unknown()
        opened = Openings(node.root)
        scanner = scanner_for(node)
        assert len((await self._scanned(scanner, opened)).devices) == len(cards)
        for change in (
            XrtCard.firewall_trip,
            XrtCard.reset_begin,
            XrtCard.reset_end,
            XrtCard.unbind,
        ):
            for card in cards:
                change(card)
            await self._scanned(scanner, opened)
        self._is_as_it_should_be(opened)
        threads = {name: {each.thread for each in opened if f"/{name}" in each.path} for name in _THREADS}
        in_scans, apart = {"worker"}, {"slow"}
        firewall = threads.pop("firewall.u.")
        if release >= "2022.2":
            assert firewall == in_scans
        else:  # apart, and only if no other attribute tells the reason
            assert firewall <= (apart if release >= "2019.2" else set())
        assert threads == {"VBNV": in_scans, "serial_num": apart}

    async def test_nor_of_the_whole_tree_that_xrt_documents(self, tmp_path: Path) -> None:
        root = documented_node(tmp_path)
        opened = Openings(str(root))
        assert (await self._scanned(Scanner(f"{root}/sys", f"{root}/dev", RULES), opened)).devices
        self._is_as_it_should_be(opened)

    @pytest.mark.parametrize(
        "boards", [("f1", "f2", "azure-np", "u30-vt1"), ("v80", "ma35d"), ("zcu102",)], ids="-".join
    )
    async def test_nor_of_other_flows_and_drivers(self, node: SampleNode, boards: tuple[str, ...]) -> None:
        node.add_ordinary_devices()
        for board in (*boards, "xdma", "qdma", "npu"):
            node.plug(board)
        opened = Openings(node.root)
        assert len((await self._scanned(scanner_for(node), opened)).devices) >= len(boards)
        self._is_as_it_should_be(opened)

    async def _scanned(self, scanner: Scanner, opened: Openings) -> Inventory:
        """Scan, check and refresh everything."""
        with opened:
            found = await settled(scanner)
            await scanner.scan(check=True)
            await scanner.check()
            for device in found.devices:
                await scanner.refresh(device)
        return found

    def _is_as_it_should_be(self, opened: Openings) -> None:
        assert opened
        assert not [each for each in opened if not each.path.startswith("sys/")], "nodes are never opened"
        assert not [each for each in opened if each.writing]
        assert not [each for each in opened if _NEVER.search(each.path)]
        assert not [each for each in opened if _NOT_IN_A_SCAN.search(each.path) and each.thread != "slow"]

    def test_every_way_to_open_a_file_is_heard_of(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        with Openings(str(tmp_path)) as opened:
            path.write_text("x")
            path.read_text()
            for flags in (os.O_RDONLY, os.O_RDWR):
                os.close(os.open(path, flags))
            other = threading.Thread(target=path.read_bytes, name="other")
            other.start()
            other.join()
        path.read_text()
        here = threading.current_thread().name
        assert [each.writing for each in opened] == [True, False, False, True, False]
        assert [each.thread for each in opened] == [here, here, here, here, "other"]


class TestAFirewallThatKeepsNoRecord:
    """Up to XRT 2022.1 its driver asks the management function for each answer, which may take 20 s."""

    @pytest.fixture(params=["2019.2", "2020.2", "2021.1"])
    def card(self, node: SampleNode, request: pytest.FixtureRequest) -> XrtCard:
        return node.add_card("u55c", release=request.param)

    async def test_is_read_only_once_and_when_offline(self, node: SampleNode, card: XrtCard) -> None:
        scanner = scanner_for(node)
        with Openings(node.root) as opened:
            await settled(scanner)
            for _ in range(5):
                await scanner.check()
            assert not self._of_firewall(opened)
            card.firewall_trip()
            await self._comes_to(scanner, Reason.FIREWALL)
            for _ in range(5):
                await scanner.check()
                await settled(scanner)
        assert set(Counter(self._of_firewall(opened)).values()) == {1}

    async def test_trip_ends_when_it_is_online_again(self, node: SampleNode, card: XrtCard) -> None:
        scanner = scanner_for(node)
        await settled(scanner)
        card.firewall_trip()
        await self._comes_to(scanner, Reason.FIREWALL)
        card.mend()
        await self._comes_to(scanner, None)

    @pytest.mark.parametrize("level", ["0", "2", str(0xFFFF_8D80_FFFF_FFFF), str(0xFFFF_8D80_0000_0000)])
    async def test_offline_without_a_status_is_offline(
        self, node: SampleNode, card: XrtCard, level: str
    ) -> None:
        scanner = scanner_for(node)
        card.write("firewall/status", "0")
        card.write("firewall/level", level)
        assert (await settled(scanner)).devices[0].healthy
        card.offline()
        await self._comes_to(scanner, Reason.OFFLINE)
        assert (await settled(scanner)).devices[0].reason is Reason.OFFLINE

    async def test_flapping_device_is_not_asked_each_time(self, node: SampleNode, card: XrtCard) -> None:
        scanner = scanner_for(node)
        await settled(scanner)
        with Openings(node.root) as opened:
            for _ in range(5):
                card.firewall_trip()
                await settled(scanner)
                card.mend()
                await settled(scanner)
        assert set(Counter(self._of_firewall(opened)).values()) == {1}

    async def test_holds_up_no_scan_while_it_is_read(self, node: SampleNode, card: XrtCard) -> None:
        scanner = scanner_for(node)
        await settled(scanner)
        card.hang("firewall/status")
        card.offline()
        [device] = (await scanner.scan(check=True)).devices
        assert device.reason is Reason.OFFLINE
        assert (await scanner.check()).devices == (device,)
        assert (await scanner.scan()).devices == (device,)
        assert await scanner.refresh(device) == device
        assert not scanner.complete, "it is being asked"
        card.unhang("firewall/status")

    def _of_firewall(self, opened: Openings) -> list[str]:
        return [each.path for each in opened if "/firewall.u." in each.path]

    async def _comes_to(self, scanner: Scanner, reason: Reason | None) -> None:
        async with asyncio.timeout(30):
            while (await scanner.scan(check=True)).devices[0].reason is not reason:
                await asyncio.sleep(0.02)


def _only(one: int, number: int, path: str) -> bool:
    return number == one


def _from(first: int, number: int, path: str) -> bool:
    return number >= first


class TestWithoutDescriptors:
    """A read that finds no free descriptor is no evidence about any card."""

    @pytest.fixture(params=[("u200", "u55c", "v80", "ma35d"), ("zcu102",)], ids="-".join)
    def cards(self, node: SampleNode, request: pytest.FixtureRequest) -> SampleNode:
        for board in request.param:
            node.add_card(board)
        node.add_card("u280").unbind()
        return node

    @pytest.mark.parametrize("later", [False, True], ids=["one", "all from one on"])
    @pytest.mark.parametrize("what", ["scan", "check"])
    async def test_nothing_changes(self, cards: SampleNode, what: str, later: bool) -> None:
        scanner = scanner_for(cards)
        before = await settled(scanner)
        assert before.devices
        call = getattr(scanner, what)
        with CountedOpens() as counted:
            await call()
        assert counted.count >= 3
        failed = 0
        for last in range(1, counted.count + 1):
            with CountedOpens(partial(_from, last) if later else partial(_only, last)):
                try:
                    now = await call()
                    assert (now.devices, now.left_out) == (before.devices, before.left_out)
                except ScanFailed as error:
                    failed += 1
                    assert "Too many open files" in str(error)
        assert failed or what == "check"
        after = await scanner.scan()
        assert (after.devices, after.left_out) == (before.devices, before.left_out)

    async def test_none_is_handed_out_unseen(self, cards: SampleNode) -> None:
        scanner = scanner_for(cards)
        for device in (await settled(scanner)).devices:
            with CountedOpens() as counted:
                assert await scanner.refresh(device) == device
            for last in range(1, counted.count + 1):
                with CountedOpens(partial(_from, last)):
                    now = await scanner.refresh(device)
                assert now == replace(device, reason=Reason.UNRESPONSIVE)

    async def test_it_is_asked_for_no_more_rarely(self) -> None:
        asked: list[str | None] = []

        def read() -> str:
            asked.append(None)
            if len(asked) < 5:
                raise OutOfDescriptors
            return "XFL1"

        slow = SlowAttributes(lambda: None)
        with mock.patch("xilinx_fpga_dp.discovery.slow_attributes._SOON", 0):
            async with asyncio.timeout(30):  # the pauses after answers without it are 30 s together
                while slow.get("card") != SlowReadings("XFL1"):
                    slow.refresh("card", {"serial": SlowRead(SERIAL, read)}, frozenset({"serial"}), well=True)
                    await asyncio.sleep(0.001)
        assert asked == [None] * 5

    async def test_base_without_its_shell_stays_withheld(self, node: SampleNode) -> None:
        card = node.add_card("u50")
        card.write("mgmt/rp_program", "1")
        scanner = scanner_for(node)
        before = (await settled(scanner)).left_out
        assert "waits for the shell" in before[0].reason
        with CountedOpens(lambda _, path: path.endswith("rp_program")), pytest.raises(ScanFailed):
            await scanner.scan()
        found = await scanner.check()
        assert (found.devices, found.left_out) == ((), before)
        card.hang("mgmt/rp_program")
        with impatient():
            found = await scanner.scan()
        assert (found.devices, found.left_out) == ((), before)
        card.unhang("mgmt/rp_program")

    async def test_card_is_starting_until_it_was_a_device(self, node: SampleNode) -> None:
        card = node.add_card("u50")
        scanner = scanner_for(node)
        card.write("mgmt/rp_program", "1")
        await settled(scanner)
        assert scanner.starting
        card.write("mgmt/rp_program", "0")
        await settled(scanner)
        assert not scanner.starting
        card.write("mgmt/rp_program", "1")
        [device] = (await settled(scanner)).devices
        assert device.reason is Reason.SHELL_UNKNOWN
        assert not scanner.starting, "it keeps its place"

    @pytest.mark.parametrize("board", ["u50", "u50-recovery", "f1", "f2", "v80", "ma35d", "zcu102"])
    async def test_card_that_is_offered_or_has_no_driver_is_not_starting(
        self, node: SampleNode, board: str
    ) -> None:
        cards = node.plug(board)
        scanner = scanner_for(node)
        await settled(scanner)
        assert not scanner.starting
        cards[0].unbind()
        await settled(scanner)
        again = scanner_for(node)
        await settled(again)
        assert (scanner.starting, again.starting) == (False, False)


class TestTheBus:
    async def test_bus_that_cannot_be_listed_is_an_error_with_its_path(self, node: SampleNode) -> None:
        os.rename(f"{node.sysfs_root}/bus", f"{node.sysfs_root}/sub")
        with pytest.raises(ScanFailed, match=r"bus/pci/devices: No such file"):
            await scanner_for(node).scan()

    @pytest.mark.parametrize("reads", range(14))
    @pytest.mark.parametrize("call", ["scan", "check"])
    async def test_bus_that_goes_during_a_scan_is_no_fault_of_the_cards(
        self, node: SampleNode, call: str, reads: int
    ) -> None:
        node.add_card("u50")
        scanning = scanner_for(node)
        assert (await settled(scanning)).devices[0].healthy
        count = itertools.count()
        real = sysfs.read_attribute
        away = f"{node.sysfs_root}/away"

        def meanwhile(path: str) -> str | None:
            if next(count) == reads:
                os.rename(f"{node.sysfs_root}/bus", away)
            return real(path)

        with (
            mock.patch.object(sysfs, "read_attribute", meanwhile),
            contextlib.suppress(ScanFailed),
        ):
            found = await getattr(scanning, call)()
            assert found.devices[0].healthy
        if os.path.exists(away):
            os.rename(away, f"{node.sysfs_root}/bus")
        [device] = (await scanning.scan()).devices
        assert device.healthy, "at once: it never had a fault"

    @pytest.mark.parametrize("goes", range(16))
    @pytest.mark.parametrize("call", ["scan", "check"])
    @pytest.mark.parametrize("board", ["u50", "v80"])
    async def test_bus_away_for_a_moment_of_a_scan_takes_no_card(
        self, node: SampleNode, board: str, call: str, goes: int
    ) -> None:
        node.add_card(board)
        for lasts in range(1, 6):
            scanning = scanner_for(node)
            # Until nothing is read any more: steps of another thread count too
            assert (await settled(scanning)).devices[0].healthy
            steps = itertools.count()
            bus, away = f"{node.sysfs_root}/bus", f"{node.sysfs_root}/away"

            def counted(real: Callable[..., Any], *args: Any, **more: Any) -> Any:
                step = next(steps)  # noqa: B023 - called within this turn only
                if step == goes:
                    os.rename(bus, away)  # noqa: B023
                if step == goes + lasts:  # noqa: B023
                    os.rename(away, bus)  # noqa: B023
                return real(*args, **more)

            with contextlib.ExitStack() as stack:
                for module, name in [
                    (sysfs, "read_attribute"),
                    (sysfs, "driver_of"),
                    (sysfs, "list_names"),
                    (sysfs, "_pci_inodes"),
                    (os.path, "lexists"),
                ]:
                    real = getattr(module, name)
                    stack.enter_context(mock.patch.object(module, name, partial(counted, real)))
                with contextlib.suppress(ScanFailed):
                    found = await getattr(scanning, call)()
                    assert [device.reason for device in found.devices] == [None], (goes, lasts)
            if os.path.exists(away):
                os.rename(away, bus)

    async def test_odd_names_on_the_bus_are_passed_over(self, node: SampleNode) -> None:
        node.add_card("u50")
        base = f"{node.sysfs_root}/bus/pci/devices"
        os.symlink(base, f"{base}/loop")
        os.symlink("nowhere", f"{base}/0000:aa:00.0")
        os.symlink("0000:ab:00.0", f"{base}/0000:ab:00.0")
        os.mkdir(f"{base}/..x")
        assert (await only_device(node)).healthy
