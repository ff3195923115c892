"""Devices by rules: what a rule takes, and that no rule grants a node that is not its device's."""

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.opened import Openings
from tests.support.paths import PROJECT
from tests.support.scanning import impatient, scanner_for, settled
from xilinx_fpga_dp.discovery.attributes import RULES, TABLE
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.model import Device, Inventory, Reason
from xilinx_fpga_dp.resources.device_rules import DeviceRules, parse
from xilinx_fpga_dp.simulate.sysfs.files import Link
from xilinx_fpga_dp.simulate.sysfs.sample_node import Ids, PciFunction, SampleNode

SHIPPED = (PROJECT / "deploy" / "device-rules.yaml").read_bytes()
BOARDS = {
    "v80-slash": "v80-slash",
    "v80-qdma": "v80-qdma",
    "ul3524-xdma": "ul3524",
    "opennic": "opennic",
    "coyote": "coyote",
    "xdma": "xdma",
    "qdma": "qdma",
    "accel": "accel",
    "aws-f2-slot": "aws-f2-slot",
}
XDMA = {"name": "xdma", "match": {"driver": "xdma"}, "nodes": ["/dev/xdma*"]}


def rules(*documents: dict[str, Any]) -> DeviceRules:
    found = parse(json.dumps(documents).encode())
    assert found.problems == ()
    return found


def scanner_with(node: SampleNode, *documents: dict[str, Any]) -> Scanner:
    scanner = scanner_for(node)
    scanner.use_rules(rules(*documents))
    return scanner


async def scanned(node: SampleNode, *documents: dict[str, Any]) -> Inventory:
    return await settled(scanner_with(node, *documents))


def by_address(found: Inventory) -> dict[str, Device]:
    return {device.address: device for device in found.devices}


async def nodes_of(node: SampleNode, *documents: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {device.address: device.nodes for device in (await scanned(node, *documents)).devices}


def own_function(node: SampleNode, address: str = "0000:65:00.0", driver: str = "own") -> PciFunction:
    return node.add_function(address, Ids("10ee", "9038", "070001", ("10ee", "0007")), driver=driver)


def own_rule(*nodes: object, **more: object) -> dict[str, Any]:
    return {"name": "own", "match": {"driver": "own"}, "nodes": list(nodes), **more}


class TestShippedRules:
    @pytest.mark.parametrize(("board", "rule"), BOARDS.items())
    async def test_rule_takes_its_sample_card(self, node: SampleNode, board: str, rule: str) -> None:
        node.plug(board)
        scanner = scanner_for(node)
        scanner.use_rules(parse(SHIPPED))
        found = [device for device in (await settled(scanner)).devices if device.rule]
        assert {device.rule for device in found} == {rule}
        for device in found:
            assert device.healthy
            assert (device.board, device.shell.vbnv, device.shell.timestamp) == (rule, rule, None)
            assert bool(device.nodes) is (rule not in ("opennic", "aws-f2-slot"))
        assert (await scanner.refresh(found[0])) == found[0]

    async def test_two_cards_of_each_share_no_node(self, node: SampleNode) -> None:
        for board in BOARDS:
            if board != "accel":
                node.plug(board)
                node.plug(board)
        scanner = scanner_for(node)
        scanner.use_rules(parse(SHIPPED))
        found = (await settled(scanner)).devices
        granted = [each for device in found for each in device.nodes]
        assert len(granted) == len(set(granted))
        assert {device.rule for device in found} >= {*BOARDS.values()} - {"accel"}
        assert all(device.healthy for device in found)


class TestWhatARuleTakes:
    async def test_first_rule_that_matches_counts(self, node: SampleNode) -> None:
        node.plug("xdma")
        found = await scanned(node, {**XDMA, "name": "a", "nodes": []}, XDMA)
        assert [device.rule for device in found.devices] == ["a"]

    async def test_rule_precedes_the_built_in_drivers(self, node: SampleNode) -> None:
        card, other = node.add_card("u250"), node.add_card("u200")
        match = {"driver": "xocl", "address": card.address}
        found = await scanned(node, {"name": "lab", "match": match, "nodes": ["/dev/dri/renderD*"]})
        devices = by_address(found)
        assert (devices[card.address].rule, devices[other.address].rule) == ("lab", None)
        assert devices[card.address].nodes == card.nodes
        assert found.left_out == ()  # nor its management function

    async def test_function_of_a_rule_is_not_left_out(self, node: SampleNode) -> None:
        card = node.add_card("u250", image="golden")
        [entry] = (await settled(scanner_for(node))).left_out
        rule = {"name": "x", "match": {"address": entry.function}, "nodes": []}
        found = await scanned(node, rule)
        assert ([each.address for each in found.devices], found.left_out) == ([entry.function], ())
        assert card.slot in entry.function

    async def test_ids_and_class_are_matched(self, node: SampleNode) -> None:
        own_function(node)
        own_function(node, "0000:66:00.0")
        node.add_function("0000:67:00.0", Ids("1234", "9038", "070001"))
        for match, count in (
            ({"vendor": "10ee", "subsystem_device": "0007"}, 2),
            ({"class": "0700*"}, 3),
            ({"vendor": "1234"}, 1),
            ({"driver": "", "vendor": "1234"}, 1),
            ({"driver": "no"}, 0),
        ):
            found = await scanned(node, {"name": "x", "match": match, "nodes": []})
            assert len([each for each in found.devices if each.rule]) == count, match

    async def test_class_device_without_a_pci_function(self, node: SampleNode) -> None:
        node.plug("accel")
        found = await scanned(
            node,
            {"name": "aie", "match": {"subsystem": "accel", "driver": "amdxdna"}, "nodes": ["/dev/accel/*"]},
        )
        device = by_address(found)["accel0"]
        assert (device.nodes, device.driver, device.healthy) == (
            ("/dev/accel/accel0",),
            "amdxdna.amdxdna",
            True,
        )
        assert by_address(found)["axi:zyxclmm_drm"].nodes == ("/dev/dri/renderD128",)

    async def test_class_device_of_a_function_takes_its_driver_and_place(self, node: SampleNode) -> None:
        card = node.plug("npu")[0]
        rule = {
            "name": "npu",
            "match": {"subsystem": "accel", "driver": "amdxdna"},
            "nodes": ["/dev/accel/*"],
        }
        scanner = scanner_with(node, rule)
        [device] = (await settled(scanner)).devices
        assert (device.address, device.driver, device.nodes) == ("accel0", "amdxdna", ("/dev/accel/accel0",))
        assert device.pcie_path
        assert await scanner.refresh(device) == device
        card.remove()
        assert (await settled(scanner)).devices == ()

    async def test_class_device_is_not_offered_twice_with_its_function(self, node: SampleNode) -> None:
        card = node.add_card("u250")
        node.plug("xdma")
        by_class = {"name": "r", "match": {"subsystem": "drm", "address": "render*"}, "nodes": ["/dev/dri/*"]}
        found = await nodes_of(node, by_class, XDMA)
        assert set(found) == {"renderD128", "0000:66:00.0"}
        assert found["renderD128"] == card.nodes
        by_function = {"name": "f", "match": {"driver": "xocl"}, "nodes": ["/dev/dri/renderD*"]}
        assert set(await nodes_of(node, by_function, by_class)) == {card.address}


class TestNodes:
    async def test_nodes_of_another_function_are_not_granted(self, node: SampleNode) -> None:
        first, second = node.plug("xdma")[0], node.plug("xdma")[0]
        found = await nodes_of(node, {**XDMA, "nodes": ["/dev/*"]})
        assert found == {card.address: tuple(sorted(card.nodes)) for card in (first, second)}

    async def test_nodes_of_built_in_devices_are_not_granted(self, node: SampleNode) -> None:
        node.plug("u250")
        node.plug("v80")
        node.plug("ma35d")
        own_function(node, "0000:70:00.0")
        found = await scanned(node, own_rule({"glob": "/dev/*", "of": "slot"}, "/dev/dri/*"))
        device = by_address(found)["0000:70:00.0"]
        assert (device.nodes, device.reason) == ((), Reason.NO_NODE)
        assert "/dev/*, /dev/dri/*" in str(device.note)

    async def test_slot_has_no_nodes_of_a_built_in_device(self, node: SampleNode) -> None:
        card = node.add_card("u250")
        own_function(node, f"{card.slot}.2")
        found = await nodes_of(node, own_rule({"glob": "/dev/dri/*", "of": "slot"}))
        assert found == {card.address: card.nodes, f"{card.slot}.2": ()}

    async def test_slot_has_no_nodes_of_another_rule(self, node: SampleNode) -> None:
        card = node.plug("v80-slash")[0]
        slot = card.address[:-2]
        ctl = {
            "name": "ctl",
            "match": {"driver": "slash_ctl"},
            "nodes": [{"glob": "/dev/slash*", "of": "slot"}],
        }
        data = {"name": "data", "match": {"driver": "slash_qdma"}, "nodes": ["/dev/slash*"]}
        found = await nodes_of(node, ctl, data)
        assert found[f"{slot}.2"] == ("/dev/slash_ctl0",)
        assert found[f"{slot}.1"] == ("/dev/slash_qdma_ctl0",)

    @pytest.mark.parametrize(("board", "rule"), [("v80-slash", "v80-slash"), ("v80-qdma", "v80-qdma")])
    async def test_node_that_flashes_the_card_manages_it(
        self, node: SampleNode, board: str, rule: str
    ) -> None:
        """One card is one device: the rule's, and AMI's node needs EXPOSE_MGMT."""
        node.plug(board)
        scanner = scanner_for(node)
        scanner.use_rules(parse(SHIPPED))
        found = await settled(scanner)
        assert found.left_out == ()
        [device] = found.devices
        assert (device.board, device.reason, device.mgmt_node) == (rule, None, "/dev/ami1")
        assert device.nodes
        assert not any("ami" in each for each in device.nodes)

    async def test_optional_nodes_may_be_missing(self, node: SampleNode) -> None:
        own_function(node)
        optional = await scanned(node, own_rule({"glob": "/dev/x*", "optional": True}))
        assert optional.devices[0].healthy
        required = await scanned(node, own_rule("/dev/x*"))
        assert required.devices[0].reason is Reason.NO_NODE

    async def test_name_with_the_address_needs_no_parent(self, node: SampleNode) -> None:
        own_function(node)
        for name in ("own65000-q0", "own65001-q0", "own650000-q0", "own-q0"):
            node.add_class_device("own", name, f"/dev/{name}", (240, 0), {})
        found = await nodes_of(node, own_rule("/dev/own{bus}{device}{function}-*"))
        assert found == {"0000:65:00.0": ("/dev/own65000-q0",)}
        assert await nodes_of(node, own_rule("/dev/own*")) == {"0000:65:00.0": ()}

    async def test_name_with_the_address_of_two_domains(self, node: SampleNode) -> None:
        own_function(node)
        own_function(node, "0001:65:00.0")
        for name in ("own65000-q0", "own-0001:65:00.0"):
            node.add_class_device("own", name, f"/dev/{name}", (240, 0), {})
        found = await nodes_of(node, own_rule("/dev/own{bus}{device}{function}-*"))
        assert found == {"0000:65:00.0": (), "0001:65:00.0": ()}
        found = await nodes_of(node, own_rule("/dev/own-{domain}:{bus}:{device}.{function}"))
        assert found == {"0000:65:00.0": (), "0001:65:00.0": ("/dev/own-0001:65:00.0",)}

    async def test_name_with_the_address_of_another_functions_node(self, node: SampleNode) -> None:
        own_function(node)
        other = own_function(node, "0000:66:00.0", "other")
        node.add_class_device("x", "own65000-q0", "/dev/own65000-q0", (240, 0), {}, parent=other.path)
        found = await nodes_of(node, own_rule("/dev/own{bus}{device}{function}-*"))
        assert found == {"0000:65:00.0": ()}

    async def test_class_device_elsewhere_whose_device_it_is(self, node: SampleNode) -> None:
        function = own_function(node)
        path = node.add_class_device("own", "own0", "/dev/own0", (240, 0), {})
        assert await nodes_of(node, own_rule("/dev/own*")) == {"0000:65:00.0": ()}
        node.files.put(f"{path}/device", Link(os.path.relpath(function.path, path)))
        assert await nodes_of(node, own_rule("/dev/own*")) == {"0000:65:00.0": ("/dev/own0",)}

    async def test_node_below_a_bridge_is_not_the_bridges(self, node: SampleNode) -> None:
        card = node.plug("xdma")[0]
        bridge = {"name": "port", "match": {"class": "0604*"}, "nodes": ["/dev/xdma*"]}
        found = await nodes_of(node, bridge)
        assert card.address not in found
        assert set(found.values()) == {()}

    async def test_disk_of_a_function_is_not_granted(self, node: SampleNode) -> None:
        function = own_function(node)
        node.add_class_device("block", "own0", "/dev/own0", (259, 0), {}, parent=function.path)
        assert await nodes_of(node, own_rule("/dev/own*")) == {"0000:65:00.0": ()}

    async def test_links_in_dev_are_resolved_and_never_leave_it(self, node: SampleNode) -> None:
        card = node.plug("xdma")[0]
        os.makedirs(f"{node.dev_root}/xdma")
        os.symlink("../xdma0_user", f"{node.dev_root}/xdma/user")
        os.symlink("/etc/passwd", f"{node.dev_root}/xdma0_evil")
        os.symlink("/etc", f"{node.dev_root}/xdma/etc")
        found = await nodes_of(
            node, {**XDMA, "nodes": ["/dev/xdma/user", {"glob": "/dev/xdma/etc/*", "optional": True}]}
        )
        assert found == {card.address: ("/dev/xdma0_user",)}
        assert "/etc/passwd" not in (await nodes_of(node, {**XDMA, "nodes": ["/dev/*"]}))[card.address]

    async def test_link_in_place_of_an_own_node_is_not_followed(self, node: SampleNode) -> None:
        card = node.plug("xdma")[0]
        os.unlink(f"{node.dev_root}/xdma0_user")
        os.symlink("/etc/passwd", f"{node.dev_root}/xdma0_user")
        [nodes] = (await nodes_of(node, {**XDMA, "nodes": ["/dev/xdma*"]})).values()
        assert set(card.nodes) - set(nodes) == {"/dev/xdma0_user"}

    async def test_names_from_sysfs_do_not_leave_dev(self, node: SampleNode) -> None:
        function = own_function(node)
        for number, name in enumerate(("../x", "a/../../x", "", "x y", "/x")):
            path = f"{function.path}/own/own{number}"
            os.makedirs(path)
            node.files.put(f"{path}/uevent", f"DEVNAME={name}")
            node.files.put(f"{path}/dev", "240:0")
        Path(node.root, "x").write_text("")
        assert await nodes_of(node, own_rule("/dev/*", "/dev/*/*")) == {"0000:65:00.0": ()}

    async def test_number_of_nodes_is_limited(self, node: SampleNode) -> None:
        function = own_function(node)
        for number in range(100):
            node.add_class_device(
                "own", f"own{number}", f"/dev/own{number}", (240, number), {}, parent=function.path
            )
        assert len((await nodes_of(node, own_rule("/dev/own*")))["0000:65:00.0"]) == 64

    @pytest.mark.skipif(os.geteuid() != 0, reason="creates device nodes")
    async def test_real_device_nodes(self, tmp_path: Path) -> None:
        node = SampleNode(tmp_path / "node", device_nodes=True)
        card = node.plug("xdma")[0]
        os.mknod(f"{node.dev_root}/null", stat.S_IFCHR, os.makedev(1, 3))
        for name in ("user", "control", "h2c_0"):
            os.unlink(f"{node.dev_root}/xdma0_{name}")
        os.mknod(f"{node.dev_root}/xdma0_user", stat.S_IFBLK, os.makedev(7, 0))
        os.mknod(f"{node.dev_root}/xdma0_control", stat.S_IFCHR, os.makedev(1, 1))  # /dev/mem
        Path(f"{node.dev_root}/xdma0_h2c_0").write_text("no node")
        assert await nodes_of(node, XDMA) == {card.address: ("/dev/xdma0_c2h_0",)}

    @pytest.mark.skipif(os.geteuid() != 0, reason="creates device nodes")
    async def test_number_that_leads_to_the_function(self, tmp_path: Path) -> None:
        node = SampleNode(tmp_path / "node")
        function = own_function(node)
        os.makedirs(f"{function.path}/own/own0")
        os.makedirs(f"{node.sysfs_root}/dev/char")
        os.symlink(f"{function.path}/own/own0", f"{node.sysfs_root}/dev/char/240:7")
        os.mknod(f"{node.dev_root}/renamed", stat.S_IFCHR, os.makedev(240, 7))
        os.mknod(f"{node.dev_root}/other", stat.S_IFCHR, os.makedev(240, 8))
        assert await nodes_of(node, own_rule("/dev/*")) == {function.address: ("/dev/renamed",)}

    @pytest.mark.skipif(os.geteuid() != 0, reason="creates device nodes")
    async def test_name_with_the_address_on_the_number_of_another_device(self, tmp_path: Path) -> None:
        node = SampleNode(tmp_path / "node")
        function = own_function(node)
        os.makedirs(f"{node.sysfs_root}/dev/char")
        for number, name in enumerate(("mem", "own65000-q1")):
            path = node.add_class_device("mem", name, f"/dev/{name}", (240, number), {})
            os.symlink(path, f"{node.sysfs_root}/dev/char/240:{number}")
            node.remove_node(f"/dev/{name}")
            os.mknod(f"{node.dev_root}/own65000-q{number}", stat.S_IFCHR, os.makedev(240, number))
        os.mknod(f"{node.dev_root}/own65000-q2", stat.S_IFCHR, os.makedev(240, 2))  # no class device
        found = await nodes_of(node, own_rule("/dev/own{bus}{device}{function}-*"))
        assert found == {function.address: ("/dev/own65000-q1", "/dev/own65000-q2")}


parts = st.sampled_from(
    [
        "*",
        "?",
        "xdma",
        "qdma",
        "dri",
        "[a-z]*",
        "renderD",
        "{bus}",
        "{device}",
        "{function}",
        "-",
        "0",
        "ami",
        "slash",
        "ctl",
    ]
)
globs = st.lists(st.lists(parts, min_size=1, max_size=5).map("".join), min_size=1, max_size=2).map(
    lambda path: "/dev/" + "/".join(path)
)
matches = st.dictionaries(
    st.sampled_from(["vendor", "device", "class", "driver", "address"]),
    st.sampled_from(["*", "10ee", "x*", "0000*", "*0"]),
    min_size=1,
) | st.fixed_dictionaries({"subsystem": st.sampled_from(["*", "drm", "misc", "xdma", "ami"])})
documents = st.fixed_dictionaries(
    {
        "name": st.just("x"),
        "match": matches,
        "nodes": st.lists(globs | st.fixed_dictionaries({"glob": globs, "of": st.just("slot")}), max_size=3),
    }
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(documents, min_size=1, max_size=3))
async def test_no_rule_grants_what_is_not_its_devices(full: SampleNode, found: list[dict[str, Any]]) -> None:
    devices = (await scanned(full, *found)).devices
    granted = [each for device in devices for each in device.nodes]
    assert len(granted) == len(set(granted))
    for device in devices:
        assert all(each.startswith("/dev/") and os.path.isfile(full.node_path(each)) for each in device.nodes)
        if not device.rule:
            continue
        for each in device.nodes:
            [owner] = {
                os.path.realpath(path.parent)
                for path in Path(full.sysfs_root, "devices").rglob("uevent")
                if f"DEVNAME={each.removeprefix('/dev/')}" in path.read_text().split("\n")
            }
            assert device.address.rpartition(".")[0] in owner or owner.endswith(f"/{device.address}")


@pytest.fixture
def full(node: SampleNode) -> SampleNode:
    for board in ("u250", "v80-slash", "xdma", "xdma", "qdma", "ma35d"):
        node.plug(board)
    return node


class TestHealth:
    async def test_attribute_that_is_not_healthy(self, node: SampleNode) -> None:
        function = own_function(node)
        rule = own_rule(health=[{"attribute": "state/now", "healthy": ["READY", "IDLE"]}])
        scanner = scanner_with(node, rule)
        assert (await settled(scanner)).devices[0].healthy  # a missing attribute is no fault
        for value, reason in (
            ("READY", None),
            ("IDLE", None),
            ("BUSY", Reason.BAD_STATE),
            (None, Reason.BAD_STATE),
        ):
            function.write("state", {"now": value})
            [device] = (await settled(scanner)).devices
            assert device.reason is reason, value
        function.write("state", {"now": "READY"})
        await scanner.check()
        assert (await scanner.check()).devices[0].healthy

    async def test_attribute_outside_of_the_device_is_not_read(self, node: SampleNode) -> None:
        function = own_function(node)
        Path(node.root, "secret").write_text("x")
        node.files.put(f"{function.path}/out", Link(f"{node.root}/secret"))
        rule = own_rule(health=[{"attribute": "out", "healthy": ["READY"]}])
        with Openings(node.root) as opened:
            assert (await scanned(node, rule)).devices[0].healthy
        assert "secret" not in {each.path for each in opened}

    async def test_check_reads_no_more_than_the_attributes_of_rules(self, node: SampleNode) -> None:
        function = own_function(node)
        function.write("state", "READY")
        scanner = scanner_with(node, own_rule(health=[{"attribute": "state", "healthy": ["READY"]}]))
        await settled(scanner)
        with Openings(node.root) as opened:
            await scanner.check()
        assert [os.path.basename(each.path) for each in opened] == ["state"]

    async def test_attribute_that_hangs_costs_its_own_device_only(
        self, node: SampleNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad, good = node.plug("xdma")[0], node.plug("xdma")[0]
        for card in (bad, good):
            card.write("state", "READY")
        scanner = scanner_with(node, {**XDMA, "health": [{"attribute": "state", "healthy": ["READY"]}]})
        assert [each.healthy for each in (await settled(scanner)).devices] == [True, True]
        monkeypatch.setattr("xilinx_fpga_dp.discovery.scanner._LATE", 0.0)
        bad.hang("state")
        reasons: dict[str, Reason | None] = {}
        with impatient():
            async with asyncio.timeout(30):
                while reasons != {bad.address: Reason.UNRESPONSIVE, good.address: None}:
                    found = await scanner.scan(check=True)
                    reasons = {each.address: each.reason for each in found.devices}
        bad.unhang("state")

    async def test_scan_reads_what_the_table_names(self, node: SampleNode) -> None:
        for board in BOARDS:
            node.plug(board)
        scanner = scanner_for(node)
        scanner.use_rules(parse(SHIPPED))
        with Openings(node.root) as opened:
            for device in (await settled(scanner)).devices:
                await scanner.refresh(device)
            await scanner.check()
        known = {row.pattern.rpartition("/")[2] for row in (*TABLE, *RULES)} - {"*"}
        assert {os.path.basename(each.path) for each in opened} <= known
        assert not [each for each in opened if each.writing]

    async def test_driver_that_is_unbound_and_bound_again(self, node: SampleNode) -> None:
        card = node.plug("xdma")[0]
        scanner = scanner_with(node, XDMA)
        assert (await settled(scanner)).devices[0].healthy
        card.unbind()
        [device] = (await settled(scanner)).devices
        assert device.reason is Reason.NO_DRIVER
        card.bind()
        await scanner.check()
        assert (await scanner.scan(check=True)).devices[0].healthy

    async def test_function_that_is_unplugged_is_gone(self, node: SampleNode) -> None:
        card = node.plug("xdma")[0]
        scanner = scanner_with(node, XDMA)
        await settled(scanner)
        card.remove()
        found = await settled(scanner)
        assert (found.devices, found.left_out) == ((), ())

    async def test_node_that_is_removed(self, node: SampleNode) -> None:
        card = node.plug("xdma")[0]
        scanner = scanner_with(node, XDMA)
        [device] = (await settled(scanner)).devices
        for each in card.nodes:
            node.remove_node(each)
        assert (await scanner.check()).devices[0].reason is Reason.NO_NODE
        refreshed = await scanner.refresh(device)
        assert refreshed
        assert refreshed.reason is Reason.NO_NODE


class TestChangedRules:
    async def test_device_of_a_removed_rule_is_gone(self, node: SampleNode) -> None:
        node.plug("xdma")
        scanner = scanner_with(node, XDMA)
        assert (await settled(scanner)).devices
        scanner.use_rules(rules())
        assert (await settled(scanner)).devices == ()

    async def test_card_goes_back_to_its_built_in_driver(self, node: SampleNode) -> None:
        card = node.add_card("u250")
        scanner = scanner_with(node, {"name": "lab", "match": {"driver": "xocl"}, "nodes": []})
        assert [each.rule for each in (await settled(scanner)).devices] == ["lab"]
        scanner.use_rules(None)
        [device] = (await settled(scanner)).devices
        assert (device.rule, device.nodes) == (None, card.nodes)

    async def test_rule_takes_what_was_passed_over(self, node: SampleNode) -> None:
        node.add_function("0000:67:00.0", Ids("1234", "9038", "070001"))
        scanner = scanner_with(node)
        assert (await settled(scanner)).devices == ()
        scanner.use_rules(rules({"name": "x", "match": {"vendor": "1234"}, "nodes": []}))
        assert len((await settled(scanner)).devices) == 1
