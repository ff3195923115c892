"""Sample cards of every driver against its source or a real node."""

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.support.paths import DATA
from tests.support.sysfs import driver, names, nodes, read
from xilinx_fpga_dp.simulate.sysfs import sample_node as sample
from xilinx_fpga_dp.simulate.sysfs.boards import (
    ALL_BOARDS,
    AMI_BOARDS,
    BARE_BOARDS,
    MA35D_BOARDS,
    XRT_BOARDS,
    ZOCL_BOARDS,
    Board,
)
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard, is_known, known_boards

MA35D: dict[str, Any] = json.loads((DATA / "ma35d-driver.json").read_text())


@pytest.fixture
def node(tmp_path: Path) -> SampleNode:
    return SampleNode(tmp_path / "node")


def bus(node: SampleNode) -> dict[str, tuple[str, str | None]]:
    """Return the ids and the driver of each PCI function except bridges, by address."""
    folder = Path(node.sysfs_root, "bus/pci/devices")
    functions = {}
    for path in sorted(folder.iterdir()):
        ids = f"{read(f'{path}/vendor').strip()[2:]}:{read(f'{path}/device').strip()[2:]}"
        if driver(str(path)) != "pcieport":
            functions[path.name] = (ids, driver(str(path)))
    return functions


def files(node: SampleNode) -> set[str]:
    return {f"{folder}/{name}" for folder, inner, files in os.walk(node.root) for name in [*inner, *files]}


class TestAmi:
    """Source: sw/AMI/driver in Xilinx/AVED."""

    def test_functions_and_drivers(self, node: SampleNode) -> None:
        card = node.add_card("v80", "0000:c1:00")
        assert bus(node) == {"0000:c1:00.0": ("10ee:50b4", "ami"), "0000:c1:00.1": ("10ee:50b5", "qdma-pf")}
        assert card.address == "0000:c1:00.0"
        assert read(card.path("subsystem_device")) == "0x000e\n"  # the driver matches it

    def test_attributes(self, node: SampleNode) -> None:
        card = node.add_card("v80", serial="XFL1ABCDEFGH")
        assert read(card.path("dev_state")) == "READY\n"
        assert read(card.path("logic_uuid")) == "109f3b56e8a83949b9058b25400de946\n"
        # cut to the length in the EEPROM, so without newline: ami_sysfs.c read_mfg_field
        assert read(card.path("product_name")) == read(card.path("dev_name")) == "ALVEO V80"
        assert read(card.path("board_serial")) == "XFL1ABCDEFGH"
        assert not names(card.user) & {"user_pf", "drm", "mgmt_pf", "ready"}
        assert read(card.path("hwmon/hwmon0/name")) == "Alveo\n"

    def test_driver_lists_the_nodes_of_its_cards(self, node: SampleNode) -> None:
        """The format is that of the comment on create_map_str."""
        node.hwmons.take(0)
        first = node.add_card("v80", "0000:21:00")
        second = node.add_card("v80", "0000:c1:00")
        folder = f"{node.sysfs_root}/bus/pci/drivers/ami"
        assert read(f"{folder}/devices") == "2\n21:00.0 1 1\nc1:00.0 2 2\n"
        assert read(f"{folder}/version") == "2.4.0 +0 *0\n"
        assert (first.nodes, second.nodes) == (("/dev/ami1",), ("/dev/ami2",))
        assert nodes(node) == {"ami0", "ami1", "ami2"}  # ami0 belongs to no card

    def test_class_device_has_no_parent(self, node: SampleNode) -> None:
        node.add_card("v80")
        path = f"{node.sysfs_root}/class/ami/ami1"
        assert os.readlink(path) == "../../devices/virtual/ami/ami1"
        assert names(path) == {"dev", "uevent", "subsystem"}
        assert read(f"{path}/uevent") == "MAJOR=510\nMINOR=1\nDEVNAME=ami1\n"

    def test_node_number_is_never_reused(self, node: SampleNode) -> None:
        card = node.add_card("v80", "0000:c1:00")
        card.remove()
        assert bus(node) == {}
        assert nodes(node) == {"ami0"}
        assert read(f"{node.sysfs_root}/bus/pci/drivers/ami/devices") == "0\n"
        card.plug()
        assert card.nodes == ("/dev/ami2",)
        assert read(f"{node.sysfs_root}/bus/pci/drivers/ami/devices") == "1\nc1:00.0 2 0\n"

    def test_amr_names_nodes_by_address(self, node: SampleNode) -> None:
        """ami_top.c create_pf_dev_data; the map of the driver still has the minors."""
        cards = [node.add_card("v80-amr", "0000:c1:00"), node.add_card("rave-amr", "0000:21:00")]
        assert [card.nodes for card in cards] == [("/dev/ami-bdf-c1:00.0",), ("/dev/ami-bdf-21:00.0",)]
        assert nodes(node) == {"ami0", "ami-bdf-c1:00.0", "ami-bdf-21:00.0"}
        assert read(f"{node.sysfs_root}/bus/pci/drivers/ami/devices") == "2\n21:00.0 2 1\nc1:00.0 1 0\n"
        assert read(f"{node.sysfs_root}/class/ami/ami-bdf-c1:00.0/dev") == "510:1\n"
        assert read(f"{node.sysfs_root}/bus/pci/drivers/ami/module/version") == "3.0.0\n"
        assert bus(node)["0000:21:00.0"] == ("10ee:5710", "ami")
        cards[0].unbind()
        assert nodes(node) == {"ami0", "ami-bdf-21:00.0"}
        cards[0].bind()
        assert read(f"{node.sysfs_root}/class/ami/ami-bdf-c1:00.0/dev") == "510:3\n"

    def test_slash_has_misc_devices_below_its_functions(self, node: SampleNode) -> None:
        """Source: driver/slash_config.h, slash_ctldev.c, slash_qdma.c in Xilinx/SLASH."""
        node.add_card("v80-slash", "0000:21:00")
        card = node.add_card("v80-slash", "0000:c1:00")
        assert {name: each for name, each in bus(node).items() if name.startswith("0000:c1")} == {
            "0000:c1:00.0": ("10ee:50b4", "ami"),
            "0000:c1:00.1": ("10ee:50b5", "slash_qdma"),
            "0000:c1:00.2": ("10ee:50b6", "slash_ctl"),
        }
        assert card.slash_nodes == ("/dev/slash_qdma_ctl1", "/dev/slash_ctl1")
        shown = f"{node.sysfs_root}/class/misc/slash_ctl_0000:c1:00.2"
        assert os.path.samefile(f"{shown}/device", f"{node.sysfs_root}/bus/pci/devices/0000:c1:00.2")
        assert os.path.realpath(shown).endswith("/0000:c1:00.2/misc/slash_ctl_0000:c1:00.2")
        assert "DEVNAME=slash_ctl1\n" in read(f"{shown}/uevent")
        assert os.stat(node.node_path("/dev/slash_ctl1")).st_mode & 0o777 == 0o600
        card.remove()
        assert {name for name in nodes(node) if name.startswith("slash")} == {"slash_qdma_ctl0", "slash_ctl0"}
        card.plug()
        assert card.slash_nodes == ("/dev/slash_qdma_ctl1", "/dev/slash_ctl1")

    def test_sensors_have_the_units_of_the_kernel(self, node: SampleNode) -> None:
        card = node.add_card("v80")
        hwmon = f"{card.user}/hwmon/hwmon0"
        assert int(read(f"{hwmon}/temp1_input")) < int(read(f"{hwmon}/temp1_crit")) == 85000
        assert read(f"{hwmon}/power1_label") == "Total_Power\n"
        assert os.path.samefile(f"{node.sysfs_root}/class/hwmon/hwmon0/device", card.user)

    def test_states(self, node: SampleNode) -> None:
        card = node.add_card("v80")
        card.enter("NO_AMC")
        assert read(card.path("dev_state")) == "NO_AMC\n"
        card.mend()
        assert read(card.path("dev_state")) == "READY\n"

    def test_without_its_driver(self, node: SampleNode) -> None:
        card = node.add_card("v80")
        card.unbind()
        card.unbind()
        assert not card.nodes
        assert not names(card.user) & {"driver", "dev_state", "board_serial", "hwmon"}
        card.bind()
        assert card.nodes == ("/dev/ami2",)


class TestTranscoder:
    """Source: the kernel module of the SDK, transcoder.c, pcie.c and hw_monitor.c."""

    def test_card_has_two_devices(self, node: SampleNode) -> None:
        cards = node.plug("ma35d")
        assert [card.address for card in cards] == ["0000:65:00.0", "0000:66:00.0"]
        assert bus(node) == {card.address: ("10ee:5070", "transcoder") for card in cards}
        assert [card.nodes for card in cards] == [("/dev/ama_transcoder0",), ("/dev/ama_transcoder1",)]
        assert read(f"{node.sysfs_root}/bus/pci/devices/0000:65:00.0/class") == "0x048000\n"
        assert os.path.basename(os.readlink(f"{node.sysfs_root}/bus/pci/drivers/transcoder/module")) == (
            "ama_transcoder"
        )

    def test_misc_device_is_virtual(self, node: SampleNode) -> None:
        node.add_card("ma35d", "0000:03:00")
        path = f"{node.sysfs_root}/class/misc/ama_transcoder0"
        assert os.readlink(path) == "../../devices/virtual/misc/ama_transcoder0"
        assert names(path) >= {"dev", "uevent", "subsystem"}
        assert read(f"{path}/dev").startswith("10:")

    @pytest.mark.parametrize("virtual", [False, True])
    def test_misc_device_has_the_attributes(self, node: SampleNode, virtual: bool) -> None:
        """The groups of attributes, of which a virtual function has those for all devices."""
        card = node.add_card("ma35d", "0000:03:00", serial="XFL1")
        if virtual:
            [card] = card.enable_vfs()
        for groups in MA35D["attributes"].values():
            assert names(card.path("")) >= set(groups["all"].split())
            for name in groups["pf"].split():
                assert (name in names(card.path(""))) != virtual

    def test_texts(self, node: SampleNode) -> None:
        card = node.add_card("ma35d", "0000:03:00", serial="XFL1")
        for name, text in MA35D["texts"].items():
            assert read(card.path(name)) == text, name

    def test_attributes_appear_in_the_order_of_the_probe(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        card.unbind()
        watched = ("hw_err", "bus_id", "link_status", "device_info", "uptime_s", "perf")
        seen = [
            (step, {name for name in watched if os.path.exists(card.path(name))}, bool(nodes(node)))
            for step in card.binding()
        ]
        assert seen == [
            ("driver", set(), False),
            ("node", set(), True),
            ("hw_err", {"hw_err"}, True),
            ("bus_id", {"hw_err", "bus_id", "link_status"}, True),
            ("device_info", set(watched) - {"perf"}, True),
            ("codecs", set(watched), True),
        ]

    def test_failed_probe_takes_the_node_away(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        card.unbind()
        for step in card.binding():
            if step == "bus_id":
                card.unbind()
                break
        assert nodes(node) == set()
        assert bus(node) == {card.address: ("10ee:5070", None)}

    def test_hardware_error(self, node: SampleNode) -> None:
        card = node.add_card("ma35d")
        assert read(card.path("hw_err")) == "0x0\n"
        card.hw_error()
        assert read(card.path("hw_err")) == "0xdeaddead\n"
        card.mend()
        assert read(card.path("hw_err")) == "0x0\n"

    def test_virtual_functions_take_the_codecs(self, node: SampleNode) -> None:
        cards = node.plug("ma35d-vf")
        assert bus(node) == {
            "0000:65:00.0": ("10ee:5070", "transcoder"),
            "0000:65:00.1": ("10ee:5071", "transcoder"),
            "0000:66:00.0": ("10ee:5070", "transcoder"),
            "0000:66:00.1": ("10ee:5071", "transcoder"),
        }
        functions = f"{node.sysfs_root}/bus/pci/devices"
        assert read(f"{functions}/0000:65:00.0/sriov_numvfs") == "1\n"
        assert os.path.samefile(f"{functions}/0000:65:00.0/virtfn0", f"{functions}/0000:65:00.1")
        assert os.path.samefile(f"{functions}/0000:65:00.1/physfn", f"{functions}/0000:65:00.0")
        assert [card.nodes for card in cards] == [
            (),
            ("/dev/ama_transcoder1",),
            (),
            ("/dev/ama_transcoder3",),
        ]
        assert "ama_transcoder0" in nodes(node)  # it stays
        assert read(cards[1].path("bus_id")) == "0000:65:00.1\n"
        cards[0].unbind()
        assert "0000:65:00.1" not in bus(node)
        cards[0].bind()
        assert cards[0].nodes == ("/dev/ama_transcoder0",)
        assert read(f"{functions}/0000:65:00.0/sriov_numvfs") == "0\n"

    def test_without_its_driver(self, node: SampleNode) -> None:
        card, other = node.add_card("ma35d"), node.add_card("ma35d")
        card.unbind()
        card.unbind()
        assert nodes(node) == {"ama_transcoder1"}
        assert names(f"{node.sysfs_root}/class/misc") == {"ama_transcoder1"}
        assert bus(node)[card.address] == ("10ee:5070", None)
        card.bind()
        assert card.nodes == ("/dev/ama_transcoder0",)
        other.remove()
        assert nodes(node) == {"ama_transcoder0"}


class TestZocl:
    """Sources: src/runtime_src/core/edge in XRT and a report from a KR260."""

    def test_platform_device_has_the_kernel_links(self, node: SampleNode) -> None:
        card = node.add_card("zcu102")
        drm = f"{node.sysfs_root}/class/drm/renderD128"
        assert os.path.samefile(f"{drm}/device", card.user)
        assert driver(f"{drm}/device") == "zocl-drm"
        assert read(f"{drm}/device/uevent").splitlines()[:5] == [
            "DRIVER=zocl-drm",
            "OF_NAME=zyxclmm_drm",
            "OF_FULLNAME=/axi/zyxclmm_drm",
            "OF_COMPATIBLE_0=xlnx,zocl",
            "OF_COMPATIBLE_N=1",
        ]
        platform = f"{node.sysfs_root}/bus/platform"
        assert os.path.samefile(f"{platform}/devices/axi:zyxclmm_drm", card.user)
        assert os.path.samefile(f"{platform}/drivers/zocl-drm/axi:zyxclmm_drm", card.user)
        assert bus(node) == {}

    def test_board_has_a_render_node_and_the_link_of_udev(self, node: SampleNode) -> None:
        assert node.add_card("kv260").nodes == ("/dev/dri/renderD128",)
        by_path = node.node_path("/dev/dri/by-path/platform-axi:zyxclmm_drm-render")
        assert os.readlink(by_path) == "../renderD128"
        assert os.path.samefile(by_path, node.node_path("/dev/dri/renderD128"))

    @pytest.mark.parametrize("name", ZOCL_BOARDS)
    def test_device_tree_texts_end_with_nul(self, node: SampleNode, name: str) -> None:
        board = ZOCL_BOARDS[name]
        node.plug(name)
        tree = Path(node.sysfs_root, "firmware/devicetree/base")
        assert (tree / "model").read_bytes() == board.model.encode() + b"\0"
        assert (tree / "compatible").read_bytes() == b"".join(
            text.encode() + b"\0" for text in board.compatible
        )
        assert (tree / board.parent / "zyxclmm_drm/compatible").read_bytes() == board.zocl.encode() + b"\0"

    def test_ai_engines_are_an_auxiliary_device(self, node: SampleNode) -> None:
        """Sources: amdxdna_aux_drv.c in amd/xdna-driver, drv_xdna.cpp in it for what XRT reads."""
        card = node.add_card("vek385")
        assert card.nodes == ("/dev/dri/renderD128", "/dev/accel/accel0")
        accel = f"{node.sysfs_root}/class/accel/accel0"
        assert "amdxdna" in os.readlink(f"{accel}/device/driver")
        assert os.path.samefile(
            f"{accel}/device", f"{node.sysfs_root}/bus/auxiliary/devices/xilinx_aie.amdxdna.0"
        )
        assert read(f"{accel}/dev") == "261:0\n"
        assert "DEVNAME=accel/accel0\n" in read(f"{accel}/uevent")
        assert (
            os.readlink(node.node_path("/dev/dri/by-path/platform-axi:zyxclmm_drm-render")) == "../renderD128"
        )
        card.remove()
        assert nodes(node) == set()
        assert names(f"{node.sysfs_root}/class/accel") == set()
        card.plug()
        assert card.nodes == ("/dev/dri/renderD128", "/dev/accel/accel0")

    def test_application_can_be_unloaded_and_loaded(self, node: SampleNode) -> None:
        card = node.add_card("kv260")
        before = files(node)
        card.remove()
        assert nodes(node) == set()
        assert names(f"{node.sysfs_root}/class/drm") == set()
        assert read(card.path("devicetree/model")) == "ZynqMP KV260 revB\0"
        card.plug()
        assert {name for name in files(node) ^ before if ".aside" not in name} == set()

    def test_node_refuses_a_second_board_with_device_tree(self, node: SampleNode) -> None:
        node.add_card("kv260")
        with pytest.raises(ValueError, match="ZCU102"):
            node.add_card("zcu102")


class TestClouds:
    def test_f1(self, node: SampleNode) -> None:
        """The management function is in the next slot, without a driver; no serial number."""
        card = node.add_card("f1")
        assert bus(node) == {"0000:00:1d.0": ("1d0f:f010", "xocl"), "0000:00:1e.0": ("1d0f:1041", None)}
        assert card.mgmt is None
        assert read(card.path("rom/timestamp")) == "43981\n"
        assert not [name for name in names(card.user) if name.startswith(("xmc", "firewall"))]
        with pytest.raises(IsADirectoryError):  # in place of EINVAL
            read(card.path("logic_uuids"))

    def test_f1_is_not_ready_before_the_load_of_an_image(self, node: SampleNode) -> None:
        card = node.add_card("f1-cleared")
        assert bus(node)["0000:00:1d.0"] == ("1d0f:1042", "xocl")
        assert read(card.path("ready")) == "0x0\n"
        card.mend()
        assert read(card.path("ready")) == "0x0\n"
        card.remove()
        assert bus(node) == {}
        card.plug("f1", render=131)
        assert card.address == "0000:00:1d.0"
        assert bus(node)["0000:00:1d.0"] == ("1d0f:f010", "xocl")
        assert read(card.path("ready")) == "0x1\n"
        assert card.nodes == ("/dev/dri/renderD131",)

    def test_eight_f1_cards_use_the_slots_of_an_instance(self, node: SampleNode) -> None:
        slots = [node.add_card("f1").slot for _ in range(8)]
        assert slots == [f"0000:00:{slot:02x}" for slot in (0x1D, 0x1B, 0x19, 0x17, 0x15, 0x13, 0x11, 0x0F)]

    def test_f2_has_two_functions_of_xocl(self, node: SampleNode) -> None:
        (card,) = node.plug("f2")
        assert bus(node) == {"0000:34:00.0": ("1d0f:9048", "xocl"), "0000:34:00.1": ("1d0f:9248", "xocl")}
        other = f"{node.sysfs_root}/bus/pci/devices/0000:34:00.1"
        assert "user_pf" in names(other)
        assert "renderD129" in names(f"{other}/drm")
        card.remove()
        assert bus(node) == {}
        assert nodes(node) == set()

    def test_f2_without_xrt(self, node: SampleNode) -> None:
        node.plug("f2-hdk")
        assert bus(node) == {"0000:34:00.0": ("1d0f:9048", None), "0000:34:00.1": ("1d0f:9248", None)}

    def test_vt1(self, node: SampleNode) -> None:
        cards = node.plug("vt1")
        assert bus(node) == {"0000:00:1e.0": ("10ee:513d", "xocl"), "0000:00:1f.0": ("10ee:513d", "xocl")}
        assert len({read(card.path("xmc/serial_num")) for card in cards}) == 1

    def test_azure(self, node: SampleNode) -> None:
        first, second = node.plug("azure-np") + node.plug("azure-np")
        assert first.address.endswith(":00:00.0")
        assert "0000" not in {card.address.split(":")[0] for card in (first, second)}
        assert len({card.address for card in (first, second)}) == 2
        assert len(bus(node)) == 2


class TestWholeCards:
    def test_u30_is_two_devices_behind_one_switch(self, node: SampleNode) -> None:
        first, second = node.plug("u30")
        other = node.plug("u30")
        assert isinstance(first, XrtCard)
        assert isinstance(second, XrtCard)
        assert first.serial == second.serial != ""
        above = os.path.commonpath([first.user, second.user])
        assert {name for name in os.listdir(above) if name.startswith("0000:")} == {
            "0000:66:00.0",
            "0000:66:01.0",
        }
        assert all(above not in card.path("ready") for card in other)

    def test_names_with_a_state_plug_cards_in_that_state(self, node: SampleNode) -> None:
        node.plug("u250-golden")
        node.plug("u55n-recovery")
        node.plug("u50-vfio")
        node.plug("u200-no-driver")
        node.plug("v80-no-driver")
        assert bus(node) == {
            "0000:65:00.0": ("10ee:d004", "xclmgmt"),
            "0000:66:00.0": ("10ee:5058", "xclmgmt"),
            "0000:66:00.1": ("10ee:5059", "xocl"),
            "0000:67:00.0": ("10ee:5020", "xclmgmt"),
            "0000:67:00.1": ("10ee:5021", "vfio-pci"),
            "0000:68:00.0": ("10ee:5000", None),
            "0000:68:00.1": ("10ee:5001", None),
            "0000:69:00.0": ("10ee:50b4", None),
            "0000:69:00.1": ("10ee:50b5", "qdma-pf"),
        }
        assert "user_pf" not in names(f"{node.sysfs_root}/bus/pci/devices/0000:66:00.1")

    @pytest.mark.parametrize(
        ("name", "mgmt_ids"),
        [
            ("u2", ["e987"]),
            ("vck190-pcie", ["e098"]),
            ("advantech", ["806c"]),
            ("u50", ["d020"]),
            ("u30", ["d03c", "d03c"]),
        ],
    )
    def test_golden_images_have_separate_ids(self, node: SampleNode, name: str, mgmt_ids: list[str]) -> None:
        node.plug(f"{name}-golden")
        assert [ids.split(":")[1] for ids, _ in bus(node).values()] == mgmt_ids

    @pytest.mark.parametrize("name", ["", "u1000", "v80-golden", "u250-broken", "golden"])
    def test_unknown_name_is_refused(self, node: SampleNode, name: str) -> None:
        assert not is_known(name)
        with pytest.raises(KeyError):
            node.plug(name)

    def test_name_types_match_the_tables(self) -> None:
        for names_of, boards in (
            (sample.AmiName, AMI_BOARDS),
            (sample.Ma35dName, MA35D_BOARDS),
            (sample.ZoclName, ZOCL_BOARDS),
            (sample.BareName, BARE_BOARDS),
        ):
            assert set(get_args(names_of)) == set(boards)

    @pytest.mark.parametrize("name", ALL_BOARDS)
    def test_every_board_can_be_plugged_and_removed(self, node: SampleNode, name: str) -> None:
        cards = node.plug(name)
        for card in cards:
            for path in card.nodes:
                assert os.path.exists(node.node_path(path))
            card.unbind()
            assert card.nodes == ()
            card.bind()
            card.mend()
            card.remove()
        assert bus(node) == {}
        assert nodes(node) <= {"ami0"}

    def test_every_board_has_a_name_and_a_source(self) -> None:
        assert {
            "u200",
            "f1",
            "f2",
            "f2-hdk",
            "vt1",
            "azure-np",
            "v80",
            "ma35d",
            "zcu102",
            "kv260",
            "vck190",
        } <= set(known_boards())
        boards: list[Board] = list(ALL_BOARDS.values())
        assert all(len(board.source) > 5 for board in boards)
        assert not XRT_BOARDS["u26z"].seen


class TestMixed:
    def test_cards_of_five_drivers_are_independent(self, node: SampleNode) -> None:
        """The files of a card do not depend on cards of other drivers."""
        node.add_ordinary_devices()
        for name in ("u200", "v80", "ma35d", "zcu102", "npu", "xdma", "qdma"):
            node.plug(name)
        drivers = {driver for _, driver in bus(node).values()}
        assert drivers == {
            None, "nvme", "mlx5_core", "amdgpu",
            "xocl", "xclmgmt", "ami", "qdma-pf", "transcoder", "amdxdna", "xdma",
        }  # fmt: skip
        assert driver(f"{node.sysfs_root}/class/drm/renderD130/device") == "zocl-drm"
        users = [
            address
            for address in bus(node)
            if "user_pf" in names(f"{node.sysfs_root}/bus/pci/devices/{address}")
        ]
        assert users == ["0000:65:00.1"]
        assert nodes(node) >= {"ami1", "ama_transcoder0", "ama_transcoder1", "accel/accel0", "xdma0_user"}
