"""The drivers beside XRT's: AMI, MA35D's, zocl; and that nothing in one driver's tree disturbs another's."""

import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.mixed_node import PREFIX, Mixed
from tests.support.opened import Openings
from tests.support.scanning import impatient, only_device, only_reason, scanner_for, settled
from xilinx_fpga_dp.discovery.drivers.zocl import board_of, shell_of
from xilinx_fpga_dp.discovery.sysfs import module_version
from xilinx_fpga_dp.model import Device, Reason, Shell
from xilinx_fpga_dp.resources.naming import Naming, name_problem
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.simulate.sysfs.boards import XrtBoard
from xilinx_fpga_dp.simulate.sysfs.files import Link
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard


@pytest.fixture
def mixed(node: SampleNode) -> Mixed:
    return Mixed(node)


class TestAmi:
    async def test_v80_is_a_device(self, node: SampleNode) -> None:
        card = node.add_card("v80", serial="XFL1V80")
        device = await only_device(node)
        assert (device.shell.vbnv, device.shell.timestamp, device.board) == ("xilinx_v80", None, "v80")
        assert (device.address, device.driver, device.serial) == (card.address, "ami", "XFL1V80")
        assert device.nodes == card.nodes == ("/dev/ami1",)
        assert device.shell.logic_uuid
        assert device.healthy
        assert device.experimental

    async def test_its_dma_function_needs_no_word_with_or_without_a_driver(self, node: SampleNode) -> None:
        card = node.add_card("v80")
        card.others[0].unbind()
        assert (await only_device(node)).healthy

    async def test_two_cards_get_their_own_nodes(self, node: SampleNode) -> None:
        first, second = node.add_card("v80"), node.add_card("v80")
        first.remove()
        first.plug()  # numbers are never given twice, so the order of nodes is not the order of cards
        found = {device.address: device.nodes for device in (await settled(scanner_for(node))).devices}
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
    async def test_odd_map_of_nodes_gives_no_node(self, node: SampleNode, lines: str) -> None:
        node.add_card("v80")
        node.files.put(f"{node.sysfs_root}/bus/pci/drivers/ami/devices", lines)
        device = await only_device(node)
        assert device.nodes == ()
        assert device.reason is Reason.NO_NODE

    async def test_without_a_driver_the_reason_names_the_one_that_would_offer_it(
        self, node: SampleNode
    ) -> None:
        card = node.add_card("v80")
        card.unbind()
        node.files.drop(f"{node.sysfs_root}/module/ami")
        assert "no driver: install AVED's or AMR's driver" in await only_reason(node)

    async def test_xrts_own_driver_may_have_it_too(self, node: SampleNode) -> None:
        """The link decides: XRT's tables have the V80's ids as well."""
        aveds = node.add_card("v80")
        xrts = node.add_card(
            XrtBoard(
                vbnv="xilinx_v80",
                user_id=aveds.others[0].ids.device,
                mgmt_id=aveds.board.ids.device,
                source="XRT devices.h",
                seen=False,
            )
        )
        found = await settled(scanner_for(node))
        assert found.left_out == ()
        assert {device.address: (device.driver, *device.nodes) for device in found.devices} == {
            aveds.address: ("ami", *aveds.nodes),
            xrts.address: ("xocl", xrts.render_node),
        }
        assert all(device.healthy for device in found.devices)


class TestAmr:
    """AMR, the successor of AVED, has the same driver and other nodes."""

    def rename(self, node: SampleNode, name: str, minor: int = 1) -> None:
        node.files.drop(f"{node.sysfs_root}/class/ami")
        node.files.drop(f"{node.sysfs_root}/devices/virtual/ami")
        for old in ("/dev/ami0", "/dev/ami1"):
            node.remove_node(old)
        node.add_class_device("ami", "ami0", "/dev/ami0", (509, 0), {})
        node.add_class_device("ami", name, f"/dev/{name}", (509, minor), {})

    @pytest.mark.parametrize("name", ["ami-bdf-65:00.0", "ami1", "ami-65"])
    async def test_class_has_the_name_of_the_node(self, node: SampleNode, name: str) -> None:
        node.add_card("v80", "0000:65:00")
        self.rename(node, name)
        device = await only_device(node)
        assert (device.nodes, device.healthy) == ((f"/dev/{name}",), True)

    @pytest.mark.parametrize(("name", "minor"), [("xami-bdf-65:00.0", 1), ("ami-bdf-65:00.0", 11)])
    async def test_other_entries_are_no_node_of_it(self, node: SampleNode, name: str, minor: int) -> None:
        node.add_card("v80", "0000:65:00")
        self.rename(node, name, minor)
        device = await only_device(node)
        assert (device.nodes, device.reason) == (("/dev/ami1",), Reason.NO_NODE)

    async def test_rave_is_its_board(self, node: SampleNode) -> None:
        node.add_card("v80").write("device", "0x5710")
        device = await only_device(node)
        assert (device.board, device.shell.vbnv, device.healthy) == ("rave", "xilinx_rave", True)

    async def test_note_says_what_the_node_permits(self, node: SampleNode) -> None:
        node.add_card("v80")
        assert "/dev/ami1 also permits to write the card's flash" in ((await only_device(node)).note or "")

    async def test_node_that_the_class_gives_another_card_is_not_taken(self, node: SampleNode) -> None:
        first, second = node.plug("v80-amr")[0], node.plug("v80-amr")[0]
        node.files.drop(f"{node.sysfs_root}/class/ami")
        node.add_class_device("ami", "ami1", "/dev/ami1", (509, 2), {})
        found = {
            each.address: (each.nodes, each.reason) for each in (await settled(scanner_for(node))).devices
        }
        assert found == {first.address: ((), Reason.NO_NODE), second.address: (("/dev/ami1",), None)}


class TestNamesOfOldReleases:
    @pytest.mark.parametrize("driver", ["xocl_xdma", "xocl_qdma"])
    async def test_user_function_is_offered(self, node: SampleNode, driver: str) -> None:
        card = node.add_card("u200", release="2018.3")
        card._user.unbind()
        card._user.bind(driver, "2.1.0", module="xocl")
        watched = scanner_for(node)
        [device] = (await settled(watched)).devices
        assert (device.driver, device.nodes, device.healthy) == ("xocl", (card.render_node,), True)
        assert (await watched.check()).devices == (device,)
        assert await watched.refresh(device) == device
        assert module_version(node.sysfs_root, driver) == "2.1.0"

    async def test_lost_driver_is_a_fault(self, node: SampleNode) -> None:
        card = node.add_card("u200", release="2018.3")
        watched = scanner_for(node)
        await settled(watched)
        card.unbind()
        assert [each.reason for each in (await watched.scan()).devices] == [Reason.NO_DRIVER]


class TestManagementWithoutDriver:
    @pytest.mark.parametrize("driver", [None, "vfio-pci"])
    async def test_user_function_that_waits_for_it_names_it(
        self, node: SampleNode, driver: str | None
    ) -> None:
        card = node.add_card("u280", "0000:65:00")
        card.unbind_mgmt()
        card.not_ready()
        if driver:
            assert card._mgmt
            card._mgmt.bind(driver)
        said = f"its management function 0000:65:00.0 is bound to {driver or 'no driver'}: bind it to xclmgmt"
        device = await only_device(node)
        assert device.reason is Reason.NOT_READY
        assert said in (device.note or "")
        card.shell_unknown()
        assert said in await only_reason(node)

    async def test_healthy_device_needs_no_note(self, node: SampleNode) -> None:
        node.add_card("u280")
        assert (await only_device(node)).note is None


class TestAmazon:
    async def test_f1_has_its_management_function_in_another_slot_and_no_serial(
        self, node: SampleNode
    ) -> None:
        [card] = node.plug("f1")
        device = await only_device(node)
        assert (device.address, device.serial, device.mgmt_node) == (card.address, None, None)
        assert device.healthy

    @pytest.mark.parametrize("board", ["f1-cleared", "f1", "f2"])
    async def test_no_name_is_offered_before_mpd_has_answered(self, node: SampleNode, board: str) -> None:
        """The driver's constant is patched then, or another image's: subdev/feature_rom.c set_vbnv_name."""
        [card] = node.plug(board)
        assert isinstance(card, XrtCard)
        card.not_ready()
        watched = scanner_for(node)
        found = await settled(watched)
        assert found.devices == ()
        [why] = [entry.reason for entry in found.left_out if entry.function == card.address]
        assert "not ready; is mpd running?" in why
        if board == "f1-cleared":
            card.remove()
            card.plug("f1")
        card.mend()
        assert [each.address for each in (await settled(watched)).devices] == [card.address]

    async def test_device_that_mpd_leaves_keeps_its_name(self, node: SampleNode) -> None:
        card = node.add_card("f1")
        watched = scanner_for(node)
        before = (await settled(watched)).devices[0]
        card.not_ready()
        [after] = (await watched.scan()).devices
        assert (after.shell, after.reason) == (before.shell, Reason.NOT_READY)

    async def test_image_load_changes_the_device_id_at_the_same_address(self, node: SampleNode) -> None:
        card = node.add_card("f1-nodma")
        watched = scanner_for(node)
        before = (await settled(watched)).devices[0]
        card.remove()
        for found in (await watched.check(), await watched.scan()):
            assert [device.reason for device in found.devices] == [Reason.RESETTING]
        card.plug("f1")
        after = (await settled(watched)).devices[0]
        assert (before.device_id, after.device_id) == ("f011", "f010")
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
        node.files.drop(f"{node.sysfs_root}/module")
        assert "AWS F1 slot needs xocl, and mpd" in await only_reason(node)


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
    async def test_ma35d_is_a_device(self, node: SampleNode) -> None:
        card = node.add_card("ma35d", serial="XFL1MA35")
        device = next(d for d in (await settled(scanner_for(node))).devices if d.address == card.address)
        assert (device.shell.vbnv, device.shell.timestamp, device.driver) == ("MA35", None, "transcoder")
        assert device.nodes == card.nodes == ("/dev/ama_transcoder0",)
        assert device.serial == "XFL1MA35"
        assert device.numa_node == 0
        assert device.experimental

    @pytest.mark.parametrize("state", ["0x0", "0", "", "x", None])
    async def test_no_error_of_the_hardware_is_no_fault(self, node: SampleNode, state: str | None) -> None:
        card = node.add_card("ma35d")
        node.files.drop(card.path("hw_err"))
        if state is not None:
            card.write("hw_err", state)
        assert (await self._device(node, card.address)).healthy

    @pytest.mark.parametrize("state", ["0xdeaddead", "0xDEADDEAD", "0x1", "1", "-1"])
    async def test_error_of_the_hardware_is_bad_state(self, node: SampleNode, state: str) -> None:
        card = node.add_card("ma35d")
        card.write("hw_err", state)
        assert (await self._device(node, card.address)).reason is Reason.BAD_STATE

    async def test_is_not_ready_before_its_firmware_runs(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        for name in ("device_info", "uptime_s"):
            node.files.drop(card.path(name))
        assert (await self._device(node, card.address)).reason is Reason.NOT_READY
        node.files.put(card.path("uptime_s"), "12")
        assert (await self._device(node, card.address)).healthy

    async def test_virtual_functions_take_its_place(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        path = os.path.realpath(f"{node.sysfs_root}/bus/pci/devices/{card.address}")
        node.files.put(f"{path}/sriov_numvfs", "2")
        found = await settled(scanner_for(node))
        assert card.address not in {device.address for device in found.devices}
        [why] = [entry.reason for entry in found.left_out if entry.function == card.address]
        assert "belong to its virtual functions (2)" in why
        node.files.put(f"{path}/sriov_numvfs", "0")
        assert (await self._device(node, card.address)).healthy

    async def test_virtual_function_is_a_device(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        path = os.path.realpath(f"{node.sysfs_root}/bus/pci/devices/{card.address}")
        node.files.put(f"{path}/device", "0x5071")
        device = await self._device(node, card.address)
        assert (device.device_id, device.board, device.healthy) == ("5071", "ma35d", True)

    @pytest.mark.parametrize(
        ("config", "serial"),
        [(b"\xff" * 64, None), (b"\xee\x10\x70\x50", "XFL1MA35"), (None, "XFL1MA35")],
        ids=["link down", "answers", "no config"],
    )
    async def test_serial_is_read_once_from_a_card_that_answers(
        self, node: SampleNode, config: bytes | None, serial: str | None
    ) -> None:
        card = node.add_card("ma35d", serial="XFL1MA35")
        path = os.path.realpath(f"{node.sysfs_root}/bus/pci/devices/{card.address}")
        node.files.drop(f"{path}/config")
        if config is not None:
            node.files.put(f"{path}/config", config)
        scanner = scanner_for(node)
        with Openings(node.root) as opened:
            for _ in range(4):
                found = await settled(scanner)
        assert [each.serial for each in found.devices if each.address == card.address] == [serial]
        reads = [each for each in opened if each.path.endswith("transcoder0/device_info")]
        assert len(reads) == (1 if serial else 0)

    async def _device(self, node: SampleNode, address: str) -> Device:
        found = (await settled(scanner_for(node))).devices
        return next(device for device in found if device.address == address)

    async def test_bus_id_that_is_no_address_is_left_out(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        card.write("bus_id", "../../0000:65:00.0")
        found = await settled(scanner_for(node))
        assert card.address not in {device.address for device in found.devices}
        assert any("no PCI address" in entry.reason for entry in found.left_out)

    @pytest.mark.parametrize("bus_id", [None, "", "no address"])
    async def test_device_whose_bus_id_is_gone_keeps_its_place(
        self, node: SampleNode, bus_id: str | None
    ) -> None:
        card, other = node.plug("ma35d")
        watched = scanner_for(node)
        await settled(watched)
        if bus_id is None:
            node.files.drop(card.path("bus_id"))
        else:
            card.write("bus_id", bus_id)
        for found in (await watched.check(), await settled(watched)):
            reasons = {device.address: device.reason for device in found.devices}
            assert reasons == {card.address: Reason.RESETTING, other.address: None}

    async def test_device_without_a_bus_id_yet_has_one_line(self, node: SampleNode) -> None:
        card, _ = node.plug("ma35d")
        node.files.drop(card.path("bus_id"))
        [entry] = (await settled(scanner_for(node))).left_out
        assert entry.function == card.address
        assert "still probing" in entry.reason

    async def test_driver_without_devices_is_reported(self, node: SampleNode) -> None:
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

    async def test_device_that_loses_its_misc_device_is_resetting(self, node: SampleNode) -> None:
        dead, well = node.plug("ma35d")
        watched = scanner_for(node)
        await settled(watched)
        [path] = dead.nodes
        node.remove_class_device("misc", os.path.basename(path), path)
        for found in (await watched.check(), await settled(watched)):
            reasons = {device.address: device.reason for device in found.devices}
            assert reasons == {dead.address: Reason.RESETTING, well.address: None}
        well.hang("bus_id")
        with impatient():
            found = await watched.scan()
        assert {device.address: device.reason for device in found.devices}[well.address] is None
        well.unhang("bus_id")

    async def test_device_that_returns_with_another_number_is_found(self, node: SampleNode) -> None:
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

    async def test_exchanged_numbers_leave_each_device_its_nodes(self, node: SampleNode) -> None:
        """Only the bus_id of a misc device identifies its card, not its number."""
        first, second = node.add_card("ma35d", "0000:65:00"), node.add_card("ma35d", "0000:75:00")
        both = scanner_for(node)
        await settled(both)
        first.unbind()
        second.unbind()
        second.bind()
        first.bind()
        found = {device.address: device.nodes for device in (await settled(both)).devices}
        assert found[first.address] == first.nodes
        assert found[second.address] == second.nodes


class TestZocl:
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
    def test_shell_and_board_follow_from_the_model(self, model: str, shell: str, board: str) -> None:
        assert (shell_of(model), board_of(shell)) == (shell, board)

    @given(st.text(max_size=200))
    def test_any_model_gives_a_name_kubelet_takes_or_none(self, model: str) -> None:
        naming = Naming(PREFIX, "{shell}-{timestamp}")
        if shell := shell_of(model):
            device = Device("axi:zyxclmm_drm", Shell(shell, None, None), board_of(shell), "zocl-drm")
            assert name_problem(naming.resource_name(device)) is None

    async def test_board_without_its_application_is_left_out_with_remedy(self, node: SampleNode) -> None:
        node.add_card("kv260").remove()
        assert "xmutil loadapp" in await only_reason(node)

    async def test_pod_gets_the_links_to_the_nodes_if_the_host_has_them(self, node: SampleNode) -> None:
        node.add_card("kv260")
        watched = scanner_for(node)
        [device] = (await settled(watched)).devices
        assert device.mounts == ("/dev/dri/by-path",)
        shutil.rmtree(node.node_path("/dev/dri/by-path"))
        now = await watched.refresh(device)
        assert now is not None
        assert (now.mounts, now.healthy) == ((), True)

    @pytest.mark.parametrize(
        ("name", "driver", "granted"),
        [
            ("accel0", "amdxdna", True),
            ("accel12", "amdxdna.amdxdna", True),
            ("accel0", "ivpu", False),
            ("accel0", None, False),
            ("accelx", "amdxdna", False),
        ],
    )
    async def test_ai_engines_of_a_versal_gen_2(
        self, node: SampleNode, name: str, driver: str | None, granted: bool
    ) -> None:
        card = node.add_card("vck190")
        parent = {"driver": Link(f"../bus/auxiliary/drivers/{driver}")} if driver else {}
        node.files.put(f"{node.sysfs_root}/devices/xilinx_aie.amdxdna.0", parent)
        device = {"device": Link("../../../devices/xilinx_aie.amdxdna.0")}
        node.files.put(f"{node.sysfs_root}/class/accel", {name: device})
        watched = scanner_for(node)
        assert [each.nodes for each in (await settled(watched)).devices] == [card.nodes]
        node.add_node(f"/dev/accel/{name}")
        more = (f"/dev/accel/{name}",) if granted else ()
        assert [each.nodes for each in (await settled(watched)).devices] == [(*card.nodes, *more)]

    async def test_npu_of_the_processor_is_another_product(self, node: SampleNode) -> None:
        node.plug("npu")
        card = node.add_card("vck190")
        assert (await only_device(node)).nodes == card.nodes

    async def test_board_on_a_machine_without_pci_is_found(self, node: SampleNode) -> None:
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
    async def test_all_are_named_for_kubelet(self, mixed: Mixed) -> None:
        offers = offers_of(await settled(scanner_for(mixed.node)), Naming(PREFIX, "{shell}-{timestamp}"))
        assert offers.left_out == ()
        assert [name for name in offers.by_resource if name_problem(name)] == []
