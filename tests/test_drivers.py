"""The drivers beside XRT's: AMI, MA35D's, zocl; and that nothing in one driver's tree disturbs another's."""

import json
import os
import shutil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import settings_for
from tests.double import KubeletDouble
from tests.process import Service, cli
from tests.test_discovery import listed, only_device, only_reason, scanner_for, settled
from tests.test_probes import Probed
from xilinx_fpga_dp.discovery.drivers.zocl import board_of, shell_of
from xilinx_fpga_dp.model import Device, Reason, Shell
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.naming import Naming, name_problem
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.simulate.sysfs.boards import XrtBoard
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard
from xilinx_fpga_dp.simulate.sysfs.sample_node import DAMAGES, SampleNode, XrtCard

PREFIX = "xilinx.com/fpga-"
FIVE = ("u200", "f1", "v80", "ma35d", "zcu102")
"""Boards of four drivers, one of them in two flows, that can stand in one node."""


class Mixed:
    """A node with all of them, and with cards that are none of ours."""

    def __init__(self, node: SampleNode) -> None:
        self.node = node
        node.add_ordinary_devices()
        self.cards = {board: node.plug(board) for board in FIVE}
        for other in ("xdma", "qdma", "npu"):
            node.plug(other)

    def by_address(self) -> dict[str, SampleCard]:
        return {card.address: card for cards in self.cards.values() for card in cards}


@pytest.fixture
def mixed(node: SampleNode) -> Mixed:
    return Mixed(node)


def resources(document: dict[str, Any]) -> dict[str, str]:
    return {row["id"]: row["resource"] for row in document["devices"]}


class TestAmi:
    async def test_a_v80(self, node: SampleNode) -> None:
        card = node.add_card("v80", serial="XFL1V80")
        device = await only_device(node)
        assert (device.shell.vbnv, device.shell.timestamp, device.board) == ("xilinx_v80", None, "v80")
        assert (device.address, device.driver, device.serial) == (card.address, "ami", "XFL1V80")
        assert (device.node,) == card.nodes == ("/dev/ami1",)
        assert device.shell.logic_uuid
        assert device.healthy
        assert device.experimental

    async def test_its_dma_function_needs_no_word_with_or_without_a_driver(self, node: SampleNode) -> None:
        card = node.add_card("v80")
        card._dma.unbind()
        assert (await only_device(node)).healthy

    async def test_two_cards_get_their_own_nodes(self, node: SampleNode) -> None:
        first, second = node.add_card("v80"), node.add_card("v80")
        first.remove()
        first.plug()  # numbers are never given twice, so the order of nodes is not the order of cards
        found = {device.address: (device.node,) for device in (await settled(scanner_for(node))).devices}
        assert found == {first.address: first.nodes, second.address: second.nodes}

    async def test_whose_node_is_whose_may_be_impossible_to_tell(self, node: SampleNode) -> None:
        for domain in ("0000", "0001"):
            node.add_card("v80", f"{domain}:65:00")
        found = await settled(scanner_for(node))
        assert found.devices == ()
        assert ["can't be told" in entry.reason for entry in found.left_out] == [True, True]

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            ("MISSING_INFO", None),
            ("INIT", Reason.NOT_READY),
            ("NO_AMC", Reason.BAD_STATE),
            ("INIT_ERROR", Reason.BAD_STATE),
            ("COMPAT", Reason.BAD_STATE),
            ("SHUTDOWN", Reason.SHUTDOWN),
            ("NO_SUCH_STATE", Reason.BAD_STATE),
        ],
    )
    async def test_states(self, node: SampleNode, state: str, reason: Reason | None) -> None:
        node.add_card("v80").write("dev_state", state)
        assert (await only_device(node)).reason is reason

    async def test_no_node(self, node: SampleNode) -> None:
        card = node.add_card("v80")
        node.remove_node(card.nodes[0])
        assert (await only_device(node)).reason is Reason.NO_NODE

    async def test_still_probing(self, node: SampleNode) -> None:
        card = node.add_card("v80")
        os.unlink(card.path("dev_state"))
        assert "still probing" in await only_reason(node)

    @pytest.mark.parametrize("lines", ["", "1\n", "x\n", "1\n65:00.0\n", "1\n65:00.0 ../../etc 1\n"])
    async def test_an_odd_map_of_nodes_is_no_path(self, node: SampleNode, lines: str) -> None:
        node.add_card("v80")
        node.files.put(f"{node.sysfs_root}/bus/pci/drivers/ami/devices", lines)
        device = await only_device(node)
        assert device.node is None
        assert device.reason is Reason.NO_NODE

    async def test_without_a_driver_the_reason_names_the_one_that_would_offer_it(
        self, node: SampleNode
    ) -> None:
        card = node.add_card("v80")
        card.unbind()
        assert "no driver: install AVED's driver" in await only_reason(node)

    async def test_xrts_own_driver_may_have_it_too(self, node: SampleNode) -> None:
        """The link decides: XRT's tables have the V80's ids as well."""
        aveds = node.add_card("v80")
        xrts = node.add_card(
            XrtBoard(
                vbnv="xilinx_v80",
                user_id=aveds.board.dma_ids.device,
                mgmt_id=aveds.board.ids.device,
                source="XRT devices.h",
                seen=False,
            )
        )
        found = await settled(scanner_for(node))
        assert found.left_out == ()
        assert {device.address: (device.driver, device.node) for device in found.devices} == {
            aveds.address: ("ami", *aveds.nodes),
            xrts.address: ("xocl", xrts.render_node),
        }
        assert all(device.healthy for device in found.devices)


class TestAmazon:
    async def test_f1_has_its_management_function_in_another_slot_and_no_serial(
        self, node: SampleNode
    ) -> None:
        [card] = node.plug("f1")
        device = await only_device(node)
        assert (device.address, device.serial, device.mgmt_node) == (card.address, None, None)
        assert device.healthy

    async def test_f1_before_mpd_runs_is_unhealthy_not_absent(self, node: SampleNode) -> None:
        card = node.add_card("f1-cleared")
        card.not_ready()
        device = await only_device(node)
        assert device.reason is Reason.NOT_READY
        assert device.shell.vbnv == "xilinx_aws-vu9p-f1_dynamic-shell"

    async def test_an_image_load_changes_the_device_id_at_the_same_address(self, node: SampleNode) -> None:
        card = node.add_card("f1-cleared")
        watched = scanner_for(node)
        before = (await settled(watched)).devices[0]
        card.remove()
        for found in (await watched.check(), await watched.scan()):
            assert [device.reason for device in found.devices] == [Reason.RESETTING]
        card.plug("f1")
        after = (await settled(watched)).devices[0]
        assert (before.device_id, after.device_id) == ("1042", "f010")
        assert before.address == after.address

    async def test_f2_that_loses_its_driver_files_is_resetting(self, node: SampleNode) -> None:
        [card] = node.plug("f2")
        watched = scanner_for(node)
        await settled(watched)
        assert isinstance(card, XrtCard)
        os.unlink(f"{card.user}/user_pf")
        for found in (await watched.scan(), await watched.check()):
            assert [(each.address, each.reason) for each in found.devices] == [
                (card.address, Reason.RESETTING)
            ]

    async def test_f2_is_offered_once_though_xocl_takes_both_functions(self, node: SampleNode) -> None:
        [card] = node.plug("f2")
        found = await settled(scanner_for(node))
        assert [device.address for device in found.devices] == [card.address]
        assert ["second function of one device" in entry.reason for entry in found.left_out] == [True]

    async def test_f2_in_its_plain_flow_is_left_out_with_the_reason(self, node: SampleNode) -> None:
        node.plug("f2-hdk")
        assert "HDK flow" in await only_reason(node)

    async def test_f1_without_a_driver(self, node: SampleNode) -> None:
        node.plug("f1-cleared-no-driver")
        assert "AWS F1 slot needs xocl, and mpd" in await only_reason(node)

    async def test_vt1s_two_devices_are_one_card(self, node: SampleNode) -> None:
        cards = node.plug("u30-vt1")
        [row] = listed(node)["devices"]
        assert row["id"] == min(card.address for card in cards)
        assert row["nodes"] == [n for card in sorted(cards, key=lambda c: c.address) for n in card.nodes]


class TestU30:
    def test_one_id_stands_for_both_devices_and_gets_both_nodes(
        self, node: SampleNode, kubelet: KubeletDouble
    ) -> None:
        cards = sorted(node.plug("u30"), key=lambda card: card.address)
        name = f"{PREFIX}xilinx_u30_gen3x4_base_1-0"
        with Service(settings_for(node)):
            kubelet.start()
            kubelet.wait_for(lambda: kubelet.allocatable(name) == 1)
            [container] = kubelet.allocate(name, [cards[0].address]).container_responses
        assert [each.host_path for each in container.devices] == [n for card in cards for n in card.nodes]
        variable = "PCIDEVICE_XILINX_COM_FPGA_XILINX_U30_GEN3X4_BASE_1_0"
        assert container.envs[variable] == ",".join(card.address for card in cards)
        assert list(json.loads(container.envs[f"{variable}_INFO"])) == [card.address for card in cards]

    def test_by_device_if_so_wanted(self, node: SampleNode) -> None:
        cards = node.plug("u30")
        rows = listed(node, U30_UNIT="device")["devices"]
        assert {row["id"] for row in rows} == {card.address for card in cards}

    def test_one_bad_device_makes_its_card_unhealthy_and_no_other(self, node: SampleNode) -> None:
        bad, good = node.plug("u30"), node.plug("u30")
        assert isinstance(bad[1], XrtCard)
        bad[1].offline()
        health = {row["id"]: row["reason"] for row in listed(node)["devices"]}
        assert health == {bad[0].address: "offline", good[0].address: None}

    def test_a_single_scan_pairs_by_bridge_at_once(self, node: SampleNode) -> None:
        for card in (*node.plug("u30"), *node.plug("u30")):
            card.write("xmc/serial_num", "\n")
        assert [row["resource"] for row in listed(node)["devices"]] == [
            f"{PREFIX}xilinx_u30_gen3x4_base_1-0"
        ] * 2

    def test_the_service_waits_for_serials_and_reports_it(self, node: SampleNode) -> None:
        for card in node.plug("u30"):
            card.write("xmc/serial_num", "\n")
        pages = Probed(node)
        with Service(pages.settings) as service:
            reason = "waiting for its serial number; that takes 30 s at most"
            service.logged(Event.LEFT_OUT, function=node.cards[0].address, reason=reason)
            service.logged(Event.SERVING_HTTP)
            addresses = ", ".join(sorted(card.address for card in node.cards))
            # or an update with surge would end the older instance, which does offer it
            assert pages.get("readyz") == (503, f"waiting for the serial number of {addresses}\n")
            for each in node.cards:
                each.write("xmc/serial_num", "XFL1LATE")
            service.logged(Event.DEVICE_FOUND, device=node.cards[1].address)


class TestOtherClouds:
    async def test_azure_shows_the_user_function_only_in_a_domain_of_its_own(self, node: SampleNode) -> None:
        [card] = node.plug("azure-np")
        device = await only_device(node)
        assert not device.address.startswith("0000:")
        assert (device.address, device.mgmt_node, device.healthy) == (card.address, None, True)

    @pytest.mark.parametrize("board", ["advantech", "arista"])
    async def test_other_makers_ids(self, node: SampleNode, board: str) -> None:
        node.plug(board)
        assert (await only_device(node)).healthy
        for card in node.cards:
            card.unbind()
            card.unbind_mgmt()
        assert "no driver" in (await settled(scanner_for(node))).left_out[0].reason


class TestMa35d:
    async def test_a_device(self, node: SampleNode) -> None:
        card = node.add_card("ma35d", serial="XFL1MA35")
        device = next(d for d in (await settled(scanner_for(node))).devices if d.address == card.address)
        assert (device.shell.vbnv, device.shell.timestamp, device.driver) == ("MA35", None, "transcoder")
        assert (device.node,) == card.nodes == ("/dev/ama_transcoder0",)
        assert device.serial == "XFL1MA35"
        assert device.numa_node == 0
        assert device.experimental

    async def test_a_bus_id_that_is_no_address(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        card.write("bus_id", "../../0000:65:00.0")
        found = await settled(scanner_for(node))
        assert card.address not in {device.address for device in found.devices}
        assert any("no PCI address" in entry.reason for entry in found.left_out)

    async def test_a_driver_without_devices_is_reported(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        for path in card.nodes:
            node.remove_class_device("misc", os.path.basename(path), path)
        reasons = {entry.function: entry.reason for entry in (await settled(scanner_for(node))).left_out}
        assert "shows no ama_transcoder device" in reasons[card.address]

    async def test_one_of_two_without_its_device_is_reported(self, node: SampleNode) -> None:
        dead, well = node.plug("ma35d")
        [path] = dead.nodes
        node.remove_class_device("misc", os.path.basename(path), path)
        found = await settled(scanner_for(node))
        assert [device.address for device in found.devices] == [well.address]
        [entry] = found.left_out
        assert entry.function == dead.address
        assert "shows no ama_transcoder device" in entry.reason

    async def test_a_device_that_loses_its_own_is_resetting(self, node: SampleNode) -> None:
        dead, well = node.plug("ma35d")
        watched = scanner_for(node)
        await settled(watched)
        [path] = dead.nodes
        node.remove_class_device("misc", os.path.basename(path), path)
        for found in (await watched.check(), await settled(watched)):
            reasons = {device.address: device.reason for device in found.devices}
            assert reasons == {dead.address: Reason.RESETTING, well.address: None}
        well.hang("bus_id")
        reasons = {device.address: device.reason for device in (await watched.scan()).devices}
        assert reasons[well.address] is None
        well.unhang("bus_id")

    async def test_a_device_that_comes_back_under_another_number(self, node: SampleNode) -> None:
        dead, well = node.plug("ma35d")
        watched = scanner_for(node)
        await settled(watched)
        dead.unbind()
        await settled(watched)
        node.add_card("ma35d")  # takes the number
        dead.bind()
        found = await watched.check()
        assert {dead.address, well.address} <= {device.address for device in found.devices}
        assert not found.left_out

    async def test_a_number_that_another_device_got(self, node: SampleNode) -> None:
        """Only the bus_id of a misc device identifies its card, not its number."""
        first, second = node.add_card("ma35d", "0000:65:00"), node.add_card("ma35d", "0000:75:00")
        both = scanner_for(node)
        await settled(both)
        first.unbind()
        second.unbind()
        second.bind()
        first.bind()
        found = {device.address: (device.node,) for device in (await settled(both)).devices}
        assert found[first.address] == first.nodes
        assert found[second.address] == second.nodes


class TestZocl:
    @pytest.mark.parametrize(
        ("board", "shell", "name"),
        [
            ("zcu102", "ZynqMP-ZCU102", "zcu102"),
            ("zcu104", "ZynqMP-ZCU104", "zcu104"),
        ],
    )
    async def test_a_board_is_named_after_its_model(
        self, node: SampleNode, board: str, shell: str, name: str
    ) -> None:
        [card] = node.plug(board)
        device = await only_device(node)
        assert (device.shell.vbnv, device.shell.timestamp, device.board) == (shell, None, name)
        assert (device.address, device.driver) == (card.address, "zocl-drm")
        assert (device.node,) == card.nodes
        assert device.experimental
        assert listed(node)["devices"][0]["resource"] == f"{PREFIX}{shell}"

    @pytest.mark.parametrize(
        ("model", "shell", "board"),
        [
            ("ZynqMP ZCU102 Rev1.0", "ZynqMP-ZCU102", "zcu102"),
            ("ZynqMP ZCU102 RevB", "ZynqMP-ZCU102", "zcu102"),
            ("ZynqMP SMK-K26 Rev1/B/A", "ZynqMP-SMK-K26", "smk-k26"),
            ("ZynqMP SMK-K26 Rev2/1/B/A", "ZynqMP-SMK-K26", "smk-k26"),
            ("ZynqMP KV260 revB (with camera)", "ZynqMP-KV260", "kv260"),
            ("Xilinx Versal vck190 Eval board revA", "Xilinx-Versal-vck190-Eval-board", "vck190-eval-board"),
            ("Reverb board", "Reverb-board", "reverb-board"),
            ("Avnet Ultra96 Rev1", "Avnet-Ultra96", "avnet-ultra96"),
            ("Rev1", "Rev1", "rev1"),
            ("", "", ""),
        ],
    )
    def test_the_rule(self, model: str, shell: str, board: str) -> None:
        assert (shell_of(model), board_of(shell)) == (shell, board)

    @given(st.text(max_size=200))
    def test_any_model_gives_a_name_kubelet_takes_or_none(self, model: str) -> None:
        naming = Naming(PREFIX, "{shell}-{timestamp}")
        if shell := shell_of(model):
            device = Device("axi:zyxclmm_drm", Shell(shell, None, None), board_of(shell), "zocl-drm")
            assert name_problem(naming.resource_name(device)) is None

    async def test_the_reason_for_a_board_without_its_application_has_the_remedy(
        self, node: SampleNode
    ) -> None:
        node.add_card("kv260").remove()
        assert "xmutil loadapp" in await only_reason(node)

    async def test_a_machine_without_pci(self, node: SampleNode) -> None:
        node.add_card("zcu102")
        os.rename(f"{node.sysfs_root}/bus/pci", f"{node.root}/gone")
        assert (await only_device(node)).healthy

    async def test_without_a_model_it_has_no_name(self, node: SampleNode) -> None:
        node.add_card("zcu102").write("devicetree/model", b"\0")
        assert "no model" in await only_reason(node)

    async def test_where_a_runtime_hides_the_device_tree_it_is_said(self, node: SampleNode) -> None:
        node.add_card("zcu102")
        shutil.rmtree(f"{node.sysfs_root}/firmware")
        os.mkdir(f"{node.sysfs_root}/firmware")
        assert "runtimes hide /sys/firmware" in await only_reason(node)


class TestMixedNode:
    def test_every_driver_at_once(self, mixed: Mixed) -> None:
        document = listed(mixed.node)
        assert document["left_out"] == []
        assert {name.removeprefix(PREFIX) for name in resources(document).values()} == {
            "xilinx_u200_xdma_201830_2-1561465320",
            "xilinx_aws-vu9p-f1_shell-v04261818_201920_3-43981",
            "xilinx_v80",
            "MA35",
            "ZynqMP-ZCU102",
        }
        marked = {row["driver"] for row in document["devices"] if "experimental" in row}
        assert marked == {"ami", "transcoder", "zocl-drm"}

    def test_the_table_marks_what_was_not_tested_on_hardware(self, mixed: Mixed) -> None:
        table = cli("list", settings=settings_for(mixed.node)).stdout
        assert "v80 (experimental)" in table
        assert "u200 (experimental)" not in table

    def test_pods_get_each_drivers_node(self, mixed: Mixed, kubelet: KubeletDouble) -> None:
        rows = listed(mixed.node)["devices"]
        cards = mixed.by_address()
        assert {row["id"] for row in rows} == cards.keys()
        with Service(settings_for(mixed.node)):
            kubelet.start()
            kubelet.wait_for(lambda: all(kubelet.allocatable(row["resource"]) for row in rows))
            for row in rows:
                [container] = kubelet.allocate(row["resource"], [row["id"]]).container_responses
                assert [each.host_path for each in container.devices] == list(cards[row["id"]].nodes)
                info = json.loads(next(v for k, v in container.envs.items() if k.endswith("_INFO")))
                assert info[row["id"]]["nodes"] == list(cards[row["id"]].nodes)

    @pytest.mark.parametrize("victim", FIVE)
    async def test_what_happens_to_one_is_not_felt_by_another(self, mixed: Mixed, victim: str) -> None:
        watched = scanner_for(mixed.node)
        before = {device.address: device for device in (await settled(watched)).devices}
        card = mixed.cards[victim][0]
        others = before.keys() - {each.address for each in mixed.cards[victim]}
        attribute = {"v80": "dev_state", "ma35d": "bus_id", "zcu102": "devicetree/model"}.get(
            victim, "rom/VBNV"
        )
        for damage in DAMAGES:
            card.corrupt(attribute, damage)
            after = {device.address: device for device in (await settled(watched)).devices}
            assert {a: after[a] for a in others} == {a: before[a] for a in others}, damage
            card.mend()
        card.mend()
        card.hang(attribute)
        after = {device.address: device for device in (await watched.scan()).devices}
        assert {a: after[a] for a in others} == {a: before[a] for a in others}
        card.unhang(attribute)

    @pytest.mark.parametrize("other", ["u200", "f1", "v80", "ma35d"])
    async def test_a_device_with_the_address_of_another(self, mixed: Mixed, other: str) -> None:
        watched = scanner_for(mixed.node)
        before = {device.address: device for device in (await settled(watched)).devices}
        liar = mixed.cards["ma35d"][-1]
        victim = mixed.cards[other][0].address
        liar.write("bus_id", victim)
        for found in (await settled(watched), await watched.check(), await settled(scanner_for(mixed.node))):
            after = {device.address: device for device in found.devices}
            assert after == {a: device for a, device in before.items() if a != liar.address}
            [entry] = found.left_out
            assert entry.reason.startswith(f"it says that it is {victim}, which is another device")
        assert await watched.refresh(before[victim]) == before[victim]

    async def test_all_are_named_for_kubelet(self, mixed: Mixed) -> None:
        offers = offers_of(await settled(scanner_for(mixed.node)), Naming(PREFIX, "{shell}-{timestamp}"))
        assert offers.left_out == ()
        assert [name for name in offers.by_resource if name_problem(name)] == []
