"""The sample node against the sources of XRT and reports from real nodes, file by file."""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.observed_boards import (
    Row,
    all_rows,
    allocatable_rows,
    board_of,
    documented_tree,
    name_of,
    slot_of,
)
from tests.support.sysfs import driver, names, nodes, read
from xilinx_fpga_dp.simulate.sysfs.boards import XRT_BOARDS
from xilinx_fpga_dp.simulate.sysfs.sample_node import DAMAGES, SampleNode, XrtCard

NO_TRIP = "18446744073709551615\n"

# Observed after the collection of data/boards.json; their sources are in simulate/sysfs/boards.py
SEEN_SINCE = {"u50lv", "vck5000-es1", "azure-np"}


def subdevices(card: XrtCard) -> set[str]:
    """Return the kinds of sub-device of the user function: `rom` for `rom.u.0`."""
    return {name.rpartition(".u.")[0] for name in names(card.user) if ".u." in name}


def test_card_shows_only_files_of_the_documented_tree(tmp_path: Path) -> None:
    node = SampleNode(tmp_path, sensors=True)
    node.drm_cards.take(0), node.drm_renders.take(128)
    for _ in range(3):
        node.hwmons.take(0)
    card = node.add_card("u200-2019.1", "0000:04:00")
    above = os.path.dirname(card.user)
    shown = {
        os.path.relpath(f"{folder}/{name}", above)
        for function in ("0000:04:00.0", "0000:04:00.1")
        for folder, directories, files in os.walk(f"{above}/{function}")
        for name in directories + files
    }
    newer = {name for name in shown if "/aer_dev_" in name}  # than its kernel: Linux 4.19
    assert shown - newer <= set(documented_tree())


class TestReleases:
    @pytest.mark.parametrize(
        ("release", "first"),
        [
            ("2019.2", {"rom": 0, "xmc": 11534336, "icap": 15728640, "firewall": 9437184}),
            ("2020.1", {"rom": 0, "xmc": 12582912, "icap": 16777216, "firewall": 10485760}),
            ("2020.2", {"rom": 0, "xmc": 18874368, "icap": 22020096, "firewall": 16777216}),
            ("2021.1", {"rom": 0, "xmc": 19922944, "icap": 23068672, "firewall": 17825792}),
            ("2021.2", {"rom": 0, "xmc": 19922944, "icap": 23068672, "firewall": 17825792}),
            ("2022.1", {"rom": 0, "xmc": 18874368, "icap": 22020096, "firewall": 16777216}),
            ("2026.1", {"rom": 0, "xmc": 18874368, "icap": 22020096, "firewall": 16777216}),
        ],
    )
    def test_subdevices_count_up_from_the_number_of_their_kind(
        self, node: SampleNode, release: str, first: dict[str, int]
    ) -> None:
        for ordinal in range(3):
            card = node.add_card("u250", release=release)
            assert names(card.user) >= {f"{kind}.u.{number + ordinal}" for kind, number in first.items()}

    def test_next_card_gets_the_lowest_free_number(self, node: SampleNode) -> None:
        first, second = node.add_card("u250"), node.add_card("u250")
        first.remove()
        assert os.path.isdir(f"{node.add_card('u250').user}/rom.u.0")
        assert os.path.isdir(f"{second.user}/rom.u.1")

    @pytest.mark.parametrize(
        ("board", "release", "dma"),
        [
            ("u200", "2018.3", {"mm_dma.v5"}),
            ("v70", "2018.3", {"mm_dma.v6", "str_dma"}),
            ("u200", "2019.1", {"dma.xdma"}),
            ("v70", "2022.2", {"dma.qdma"}),
        ],
    )
    def test_dma_directory_follows_the_release(
        self, node: SampleNode, board: str, release: str, dma: set[str]
    ) -> None:
        assert {name for name in subdevices(node.add_card(board, release=release)) if "dma" in name} == dma

    @pytest.mark.parametrize(
        ("release", "qdma"),
        [
            ("2018.3", "str_dma.u25857"),
            ("2019.1", "str_dma.u25857"),
            ("2019.2", "xfpga/dma.qdma.u25857"),
            ("2020.1", "xfpga/dma.qdma.u25857.0"),
            ("2022.1", "xfpga/dma.qdma.u25857.0"),
            ("2022.2", None),  # the directory stays, the node is gone: commit b5a7630221
        ],
    )
    def test_qdma_node_follows_the_release(self, node: SampleNode, release: str, qdma: str | None) -> None:
        card = node.add_card("v70", "0000:65:00", release=release)
        made = {name for name in nodes(node) if "dma" in name}
        assert made == ({qdma} if qdma else set())
        glue = {entry.name: read(f"{entry}/uevent") for entry in Path(card.user).glob("*dma*/xrt_user/*")}
        assert set(glue) == ({qdma.replace("/", "!")} if qdma else set())
        assert all(f"DEVNAME={qdma}\n" in uevent for uevent in glue.values())

    def test_modules_show_the_version_of_the_drivers(self, node: SampleNode) -> None:
        node.add_card("u200", release="2022.2")
        for name in ("xocl", "xclmgmt"):
            assert read(f"{node.sysfs_root}/bus/pci/drivers/{name}/module/version") == "2.14.0\n"
            assert read(f"{node.sysfs_root}/module/{name}/version") == "2.14.0\n"

    @pytest.mark.parametrize(
        ("board", "module"),
        [("u200", "xocl"), ("ma35d", "ama_transcoder"), ("kv260", "zocl"), ("v80", "ami")],
    )
    def test_loaded_modules_are_live(self, node: SampleNode, board: str, module: str) -> None:
        node.plug(board)
        assert read(f"{node.sysfs_root}/module/{module}/initstate") == "live\n"

    def test_unknown_release_or_malformed_slot_is_refused(self, node: SampleNode) -> None:
        with pytest.raises(ValueError, match=r"2017\.4"):
            node.add_card("u200", release="2017.4")
        with pytest.raises(ValueError, match=r"0000:65:00\.1"):
            node.add_card("u200", "0000:65:00.1")


class TestTree:
    def test_bus_links_to_the_path_below_the_bridges(self, node: SampleNode) -> None:
        card = node.add_card("u200", "0000:65:00")
        assert card.address == "0000:65:00.1"
        link = f"{node.sysfs_root}/bus/pci/devices/0000:65:00.1"
        assert os.readlink(link) == "../../../devices/pci0000:60/0000:60:05.0/0000:65:00.1"
        assert os.path.samefile(link, card.user)
        assert driver(f"{node.sysfs_root}/bus/pci/devices/0000:60:05.0") == "pcieport"
        assert os.path.samefile(f"{card.user}/root_dev", os.path.dirname(card.user))
        assert os.path.samefile(f"{node.sysfs_root}/bus/pci/drivers/xocl/0000:65:00.1", card.user)
        assert os.path.samefile(f"{card.user}/subsystem", f"{node.sysfs_root}/bus/pci")

    def test_card_is_below_its_bridges(self, node: SampleNode) -> None:
        """Two devices of a U30 card are behind one switch."""
        switch = ["0000:5d:00.0", "0000:5e:00.0"]
        first = node.add_card("u30", "0000:60:00", serial="XFL1", behind=[*switch, "0000:5f:00.0"])
        other = node.add_card("u30", "0000:61:00", serial="XFL1", behind=[*switch, "0000:5f:01.0"])
        above = f"{node.sysfs_root}/devices/pci0000:5d/0000:5d:00.0/0000:5e:00.0"
        assert first.user == f"{above}/0000:5f:00.0/0000:60:00.1"
        assert os.path.commonpath([first.user, other.user]) == above
        assert os.path.samefile(f"{first.user}/root_dev", os.path.dirname(above))
        assert read(first.path("xmc/serial_num")) == read(other.path("xmc/serial_num")) == "XFL1\n"

    def test_function_has_the_attributes_of_the_pci_core(self, node: SampleNode) -> None:
        card = node.add_card("u2", numa_node=1)
        expected = {
            "vendor": "0x10ee",
            "device": "0x6988",
            "subsystem_vendor": "0x10ee",
            "subsystem_device": "0x1351",
            "class": "0x120000",
            "numa_node": "1",
        }
        assert {name: read(card.path(name)).strip() for name in expected} == expected
        assert Path(card.path("config")).read_bytes().startswith(b"\xee\x10\x88\x69")
        assert read(card.path("uevent")).splitlines() == [
            "DRIVER=xocl",
            "PCI_CLASS=120000",
            "PCI_ID=10EE:6988",
            "PCI_SUBSYS_ID=10EE:1351",
            f"PCI_SLOT_NAME={card.address}",
        ]

    def test_ordinary_devices_have_other_vendors_and_drivers(self, node: SampleNode) -> None:
        node.add_ordinary_devices()
        bus = f"{node.sysfs_root}/bus/pci/devices"
        assert {driver(f"{bus}/{name}") for name in names(bus)} == {
            None,
            "pcieport",
            "nvme",
            "mlx5_core",
            "amdgpu",
        }
        assert all(read(f"{bus}/{name}/vendor") != "0x10ee\n" for name in names(bus))
        assert os.path.isfile(f"{bus}/0000:03:00.0/rom")
        assert nodes(node) == {"dri", "dri/card0", "dri/renderD128"}

    def test_cards_share_the_drm_numbers_with_the_gpu(self, node: SampleNode) -> None:
        node.add_ordinary_devices()
        card = node.add_card("u55c")
        assert card.render_node == "/dev/dri/renderD129"
        assert names(f"{card.user}/drm") == {"card1", "renderD129"}
        assert read(f"{card.user}/drm/renderD129/dev") == "226:129\n"
        assert "DEVNAME=dri/renderD129\n" in read(f"{card.user}/drm/renderD129/uevent")
        link = f"{node.sysfs_root}/class/drm/renderD129"
        assert os.path.samefile(f"{link}/device", card.user)
        assert node.add_card("u55c", render=140).render_node == "/dev/dri/renderD140"
        with pytest.raises(ValueError, match="140"):
            node.add_card("u55c", render=140)

    def test_directory_of_nodes_vanishes_with_the_last_node(self, node: SampleNode) -> None:
        first, second = node.add_card("u55c"), node.add_card("u55c")
        first.remove()
        assert {"dri", "xfpga"} <= nodes(node)
        second.remove()
        assert nodes(node) == set()
        assert names(f"{node.sysfs_root}/class/drm") == set()

    def test_card_can_be_removed_without_its_node(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        assert card.render_node
        node.remove_node(card.render_node)
        assert not os.path.exists(node.node_path(card.render_node))
        assert os.path.isdir(f"{card.user}/drm/renderD128")
        card.remove()  # must not fail

    def test_device_nodes_are_null_devices(self, tmp_path: Path) -> None:
        try:
            os.mknod(tmp_path / "probe", stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root may make device nodes")
        node = SampleNode(tmp_path / "node", device_nodes=True)
        card = node.add_card("u55c")
        for name in (card.render_node, card.mgmt_node):
            assert name
            status = os.stat(node.node_path(name))
            assert stat.S_ISCHR(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o666
            assert status.st_rdev == os.makedev(1, 3)  # /dev/null

    def test_environment_names_existing_directories(self, node: SampleNode) -> None:
        assert node.environment() == {
            "XILINX_FPGA_DP_SYSFS_ROOT": f"{node.root}/sys",
            "XILINX_FPGA_DP_DEV_ROOT": f"{node.root}/dev",
            "XILINX_FPGA_DP_SOCKET_DIR": f"{node.root}/device-plugins",
            "XILINX_FPGA_DP_PLUGINS_DIR": f"{node.root}/plugins",
        }
        assert all(os.path.isdir(path) for path in node.environment().values())
        assert read(f"{node.sysfs_root}/devices/system/node/online") == "0-1\n"

    def test_second_node_in_one_directory_is_refused(self, node: SampleNode) -> None:
        with pytest.raises(FileExistsError):
            SampleNode(node.root)

    def test_each_card_gets_a_free_slot(self, node: SampleNode) -> None:
        assert len({node.add_card("u200").slot for _ in range(20)}) == 20


class TestRecipes:
    """Trees as observed on real nodes."""

    def test_1rp_card_of_2019_1(self, node: SampleNode) -> None:
        card = node.add_card("u200-2019.1", "0000:04:00")
        assert read(card.path("device")) == "0x5001\n"
        assert read(f"{card.user}/rom.u.1025/VBNV") == "xilinx_u200_xdma_201830_2\n"
        assert read(f"{card.user}/rom.u.1025/timestamp") == "1561465320\n"
        assert "uuid" not in names(f"{card.user}/rom.u.1025")
        assert os.path.isdir(f"{card.user}/xmc.u.1025")
        assert "serial_num" not in names(f"{card.user}/xmc.u.1025")
        assert read(card.path("ready")) == "0x1\n"
        assert not names(card.user) & {"logic_uuids", "shutdown", "board_name"}
        assert "firewall" not in subdevices(card)
        assert card.mgmt
        assert read(f"{card.mgmt}/instance") == "1024\n"
        assert names(f"{card.mgmt}/xrt_mgmt") == {"xclmgmt1024"}
        assert "xclmgmt1024" in nodes(node)
        assert "mailbox.u1025" in nodes(node)  # before the prefix xfpga/

    def test_1rp_card_of_2022_2(self, node: SampleNode) -> None:
        card = node.add_card("u250", serial="XFL1RT5PHT31")
        assert read(f"{card.user}/rom.u.0/VBNV") == "xilinx_u250_xdma_201830_2\n"
        assert read(f"{card.user}/rom.u.0/timestamp") == "1561656294\n"
        assert read(f"{card.user}/xmc.u.18874368/serial_num") == "XFL1RT5PHT31\n"
        for name in ("logic_uuids", "interface_uuids"):
            with pytest.raises(IsADirectoryError):  # in place of EINVAL
                read(card.path(name))

    def test_2rp_card(self, node: SampleNode) -> None:
        node.add_ordinary_devices()
        card = node.add_card("u55c")
        assert read(f"{card.user}/rom.u.0/VBNV") == "xilinx_u55c_gen3x16_xdma_base_3\n"
        assert read(f"{card.user}/rom.u.0/timestamp") == "0\n"
        assert read(f"{card.user}/firewall.u.16777216/level") == NO_TRIP
        assert read(card.path("logic_uuids")) == "97088961feaeda9152a21d9dfd63ccef\n"
        assert names(f"{card.user}/drm") == {"card1", "renderD129"}
        assert os.path.isfile(f"{card.user}/rom")
        assert card.path("rom") == f"{card.user}/rom"
        assert card.path("rom/VBNV") == f"{card.user}/rom.u.0/VBNV"

    def test_2rp_card_that_is_not_ready(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        card.shell_unknown()
        assert read(card.path("rom/VBNV")) == "\n"
        assert read(card.path("rom/timestamp")) == "0\n"
        assert read(card.path("ready")) == "0x0\n"
        assert read(card.path("mailbox_connect_state")) == "0x0\n"
        assert card.render_node
        card.mend()
        assert read(card.path("rom/VBNV")) == "xilinx_u55c_gen3x16_xdma_base_3\n"
        assert read(card.path("ready")) == "0x1\n"

    def test_card_in_reset(self, node: SampleNode) -> None:
        card = node.add_card("u55c", release="2024.1")
        card.reset_begin()
        assert names(card.user) >= {"user_pf", "shutdown"}
        assert read(card.path("shutdown")) == "0\n"
        assert subdevices(card) == {"xmc", "firewall", "icap", "mailbox"}
        assert not names(card.user) & {"drm", "ready", "dev_offline", "logic_uuids", "root_dev"}
        assert "dri" not in nodes(node)
        assert card.mgmt
        assert read(f"{card.mgmt}/dev_offline") == "1\n"
        assert os.path.isdir(f"{card.mgmt}/rom.m.0")

    @pytest.mark.parametrize(("release", "latched"), [("2022.1", False), ("2022.2", True)])
    def test_firewall_trip(self, node: SampleNode, release: str, latched: bool) -> None:
        card = node.add_card("u55c", release=release)
        card.firewall_trip()
        assert read(card.path("dev_offline")) == "1\n"
        assert int(read(card.path("firewall/level"))) & 0xFFFFFFFF == 2
        assert read(card.path("firewall/status")) == "524288\n"
        assert read(card.path("mgmt/firewall/status")) == "524288\n"
        card.reset_begin()
        card.reset_end()
        assert read(card.path("dev_offline")) == "0\n"
        assert read(card.path("mgmt/firewall/status")) == "0\n"
        assert read(card.path("firewall/status")) == ("524288\n" if latched else "0\n")
        card.unbind()
        card.bind()
        assert read(card.path("firewall/status")) == "0\n"

    def test_golden_image(self, node: SampleNode) -> None:
        card = node.add_card("u250", image="golden")
        assert not os.path.exists(card.user)
        assert card.mgmt
        assert driver(card.mgmt) == "xclmgmt"
        assert read(f"{card.mgmt}/device") == "0xd004\n"
        assert read(f"{card.mgmt}/mfg") == "1\n"
        card.remove()
        assert not os.path.exists(card.mgmt)

    def test_recovery_image(self, node: SampleNode) -> None:
        card = node.add_card("u55n", image="recovery")
        assert driver(card.user) == "xocl"
        assert not names(card.user) & {"user_pf", "drm", "ready"}
        assert not subdevices(card)
        assert read(card.path("mgmt/recovery")) == "1\n"

    def test_card_of_a_virtual_machine(self, node: SampleNode) -> None:
        card = node.add_card("u250")
        card.vfio()
        assert driver(card.user) == "vfio-pci"
        assert not names(card.user) & {"user_pf", "drm", "ready", "root_dev"}
        assert not subdevices(card)
        assert read(card.path("vendor")) == "0x10ee\n"
        card.unbind()
        card.bind()
        assert driver(card.user) == "xocl"
        assert read(card.path("ready")) == "0x1\n"

    def test_domain_of_five_digits(self, node: SampleNode) -> None:
        card = node.add_card("u250", "10000:e1:00")
        assert card.user == f"{node.sysfs_root}/devices/pci10000:e0/10000:e0:01.0/10000:e1:00.1"
        assert card.mgmt_node == "/dev/xclmgmt57600"  # the driver's number is a C int

    def test_card_returns_from_reset_with_other_numbers(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        card.reset_begin()
        card.reset_end(render=135, suffix=7)
        assert names(f"{card.user}/drm") == {"card0", "renderD135"}
        assert {"rom.u.7", "xmc.u.18874375", "firewall.u.16777223"} <= names(card.user)
        assert not {"rom.u.0", "xmc.u.18874368"} & names(card.user)
        assert nodes(node) >= {"dri/card0", "dri/renderD135"}
        assert "dri/renderD128" not in nodes(node)

    def test_reprogrammed_card_has_another_shell_in_its_slot(self, node: SampleNode) -> None:
        card = node.add_card("u250-base")
        user, device = card.user, read(card.path("device"))
        card.reprogram("u250-2rp")
        assert card.user == user
        assert read(card.path("device")) == device
        assert read(card.path("rom/VBNV")) == "xilinx_u250_gen3x16_xdma_shell_4_1\n"
        uuid = read(card.path("logic_uuids"))
        assert uuid != "38932b102cb9ef9ed81d66f250097e2f\n"
        assert read(card.path("mgmt/logic_uuids")) == f"38932b102cb9ef9ed81d66f250097e2f\n{uuid}"
        assert card.render_node == "/dev/dri/renderD128"

    def test_v70(self, node: SampleNode) -> None:
        card = node.add_card("v70", serial="XFL1")
        assert read(f"{card.user}/hwmon_sdm.u.56623104/serial_num") == "XFL1\n"
        assert subdevices(card) == {"rom", "dma.qdma", "mailbox", "icap", "hwmon_sdm"}

    def test_smartssd_has_another_name_for_its_controller(self, node: SampleNode) -> None:
        card = node.add_card("u2", serial="")
        assert read(f"{card.user}/xmc.u2.u.18874368/serial_num") == "\n"
        assert read(card.path("xmc.u2/serial_num")) == "\n"

    def test_card_has_no_management_function_in_a_virtual_machine(self, node: SampleNode) -> None:
        card = node.add_card("u30-vt1", "0000:00:1f")
        assert card.mgmt is None
        assert card.mgmt_node is None
        assert card.user == f"{node.sysfs_root}/devices/pci0000:00/0000:00:1f.0"
        assert read(card.path("mailbox_connect_state")) == "0x1\n"
        assert os.path.samefile(f"{card.user}/root_dev", card.user)


def seen(card: XrtCard) -> tuple[str, ...]:
    """Return a short summary of the visible state."""
    present = names(card.user)
    offline = read(card.path("dev_offline")).strip() if "dev_offline" in present else "-"
    return (
        f"offline {offline}",
        *(word for word in ("user_pf", "ready", "drm", "driver") if word in present),
        *(kind for kind in ("rom", "xmc", "mailbox", "icap") if kind in subdevices(card)),
    )


class TestSteps:
    ALL = ("user_pf", "ready", "drm", "driver", "rom", "xmc", "mailbox", "icap")

    @staticmethod
    def play(card: XrtCard, steps: Iterator[str]) -> list[tuple[str, tuple[str, ...]]]:
        return [(step, seen(card)) for step in steps]

    def test_reset_since_2020_1(self, node: SampleNode) -> None:
        card = node.add_card("u55c", release="2020.1")
        persistent = ("user_pf", "driver")
        stay = ("xmc", "mailbox", "icap")
        assert self.play(card, card.resetting()) == [
            ("offline", ("offline 1", *self.ALL)),
            ("drm", ("offline -19", "user_pf", "ready", "driver", "rom", *stay)),
            ("attributes", ("offline -", *persistent, "rom", *stay)),
            ("sub-devices", ("offline -", *persistent, *stay)),
            ("management", ("offline -", *persistent, *stay)),
        ]
        assert self.play(card, card.returning()) == [
            ("management", ("offline -", *persistent, *stay)),
            ("sub-devices", ("offline -", *persistent, "rom", *stay)),
            ("attributes", ("offline -19", "user_pf", "ready", "driver", "rom", *stay)),
            ("drm", ("offline 0", *self.ALL)),
        ]

    @pytest.mark.parametrize(("release", "stay"), [("2019.1", ("mailbox",)), ("2019.2", ("mailbox", "icap"))])
    def test_reset_before_2020_1(self, node: SampleNode, release: str, stay: tuple[str, ...]) -> None:
        card = node.add_card("u200", release=release)
        resetting = ("offline 1", "user_pf", "ready", "drm", "driver", *stay)
        render = card.render_node
        assert self.play(card, card.resetting()) == [
            ("offline", ("offline 1", *self.ALL)),
            ("sub-devices", resetting),
            ("management", resetting),
        ]
        assert self.play(card, card.returning()) == [
            ("management", resetting),
            ("sub-devices", ("offline 1", *self.ALL)),
            ("drm", ("offline 0", *self.ALL)),
        ]
        assert card.render_node == render

    def test_reset_in_2018_3_changes_no_file(self, node: SampleNode) -> None:
        card = node.add_card("u200-2018.3")
        before = seen(card)
        assert all(now == before for _, now in self.play(card, card.resetting()))
        assert all(now == before for _, now in self.play(card, card.returning()))

    def test_completed_reset_restores_all_files(self, node: SampleNode) -> None:
        def everything() -> set[str]:
            return {f"{folder}/{name}" for folder, _, files in os.walk(node.root) for name in [*files, ""]}

        card = node.add_card("v70", release="2022.1")
        before = everything()
        card.reset_begin()
        assert "dma.qdma.u25857.0" not in os.listdir(f"{node.dev_root}/xfpga")
        card.reset_end()
        assert everything() == before

    def test_bind_creates_entries_in_the_order_of_the_driver(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        card.unbind()
        assert seen(card) == ("offline -",)
        kinds = ("rom", "xmc", "mailbox", "icap")
        assert self.play(card, card.binding()) == [
            ("driver", ("offline -", "driver")),
            ("sub-devices", ("offline -", "driver", *kinds)),
            ("drm", ("offline -", "drm", "driver", *kinds)),
            ("refresh", ("offline -", "driver", *kinds)),
            ("drm", ("offline 0", "ready", "drm", "driver", *kinds)),
            ("user_pf", ("offline 0", *self.ALL)),
        ]

    def test_bind_of_a_shell_without_metadata_has_no_refresh(self, node: SampleNode) -> None:
        card = node.add_card("u200")
        card.unbind()
        assert list(card.binding()) == ["driver", "sub-devices", "drm", "user_pf"]


class TestEvents:
    def test_shutdown_and_online(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        before = seen(card)
        card.shutdown()
        assert read(card.path("shutdown")) == "1\n"
        assert not names(card.user) & {"drm", "ready", "dev_offline"}
        card.online()
        assert read(card.path("shutdown")) == "0\n"
        assert seen(card) == before

    def test_shutdown_needs_release_2020_1(self, node: SampleNode) -> None:
        with pytest.raises(ValueError, match=r"2019\.2"):
            node.add_card("u200", release="2019.2").shutdown()

    def test_offline_and_online(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        render = card.render_node
        card.offline()
        assert read(card.path("dev_offline")) == "1\n"
        card.online()
        assert read(card.path("dev_offline")) == "0\n"
        assert card.render_node == render

    def test_fault_adds_no_attribute_that_the_release_lacks(self, node: SampleNode) -> None:
        card = node.add_card("u200", release="2018.3")
        before = names(card.user)
        for event in (card.offline, card.bad_state, card.not_ready, card.firewall_trip):
            event()
        assert names(card.user) == before

    @pytest.mark.parametrize(
        ("event", "attribute", "text"),
        [
            (XrtCard.offline, "dev_offline", "1\n"),
            (XrtCard.bad_state, "device_bad_state", "1\n"),
            (XrtCard.not_ready, "ready", "0x0\n"),
            (XrtCard.firewall_trip, "firewall/level", "2\n"),
        ],
    )
    def test_mend_ends_each_fault(
        self, node: SampleNode, event: Callable[[XrtCard], None], attribute: str, text: str
    ) -> None:
        card = node.add_card("u55c", release="2024.1")
        before = read(card.path(attribute))
        event(card)
        assert read(card.path(attribute)) == text
        card.mend()
        assert read(card.path(attribute)) == before

    def test_card_is_not_ready_without_management_driver(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        card.unbind_mgmt()
        assert card.mgmt
        assert driver(card.mgmt) is None
        assert not names(card.mgmt) & {"mgmt_pf", "xrt_mgmt"}
        assert not any(name.startswith("xclmgmt") for name in nodes(node))
        assert read(card.path("ready")) == "0x0\n"
        assert read(card.path("rom/VBNV")) == "xilinx_u55c_gen3x16_xdma_base_3\n"
        card.bind_mgmt()
        assert read(card.path("ready")) == "0x1\n"
        assert f"xclmgmt{0x6500}" in nodes(node)

    def test_card_has_the_same_files_after_a_hot_plug(self, node: SampleNode) -> None:
        bus = f"{node.sysfs_root}/bus/pci/devices"
        card = node.add_card("u55c")
        card.remove()
        assert names(bus) == {"0000:60:05.0"}  # the root port stays
        assert names(f"{node.sysfs_root}/bus/pci/drivers/xocl") == {"module"}
        card.plug(render=130)
        assert names(bus) == {"0000:60:05.0", "0000:65:00.0", "0000:65:00.1"}
        assert card.render_node == "/dev/dri/renderD130"

    def test_card_can_be_plugged_again_as_another_board(self, node: SampleNode) -> None:
        """As after an AFI load: the address stays and the device id changes."""
        card = node.add_card("u250-base")
        card.remove()
        card.plug("u280")
        assert read(card.path("device")) == "0x500d\n"
        assert read(card.path("rom/VBNV")) == "xilinx_u280_gen3x16_xdma_base_1\n"

    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("attribute", ["ready", "rom/VBNV", "mgmt/mfg"])
    def test_mend_ends_each_damage(self, node: SampleNode, attribute: str, damage: str) -> None:
        card = node.add_card("u55c")
        before = read(card.path(attribute))
        card.corrupt(attribute, damage)  # type: ignore[arg-type]
        if damage == "huge":
            assert os.stat(card.path(attribute)).st_size == 1 << 30
            assert os.stat(card.path(attribute)).st_blocks == 0
        elif damage in ("empty", "blank", "binary"):
            expected = {"empty": b"", "blank": b"\n"}.get(damage)
            assert expected is None or Path(card.path(attribute)).read_bytes() == expected
        else:
            with pytest.raises(OSError, match=r"No such file|Is a directory|symbolic links"):
                read(card.path(attribute))
        card.mend()
        assert read(card.path(attribute)) == before

    @pytest.mark.parametrize("gone", [False, True])
    def test_read_hangs_until_unhang(self, node: SampleNode, gone: bool) -> None:
        card = node.add_card("u55c")
        card.hang("rom/VBNV")
        path = card.path("rom/VBNV")
        answers: list[str] = []
        readers = [threading.Thread(target=lambda: answers.append(read(path)), daemon=True) for _ in "ab"]
        for reader in readers:
            reader.start()
        readers[0].join(0.1)
        assert all(reader.is_alive() for reader in readers)
        if gone:
            card.remove()
        card.unhang("rom/VBNV")
        for reader in readers:
            reader.join(30)
        assert not any(reader.is_alive() for reader in readers)
        assert len(answers) == 2
        if not gone:
            assert read(path) == "xilinx_u55c_gen3x16_xdma_base_3\n"

    def test_reader_never_sees_a_partial_change(self, node: SampleNode) -> None:
        card = node.add_card("u55c")
        texts = {"x" * 3000 + "\n", "y" * 2000 + "\n"}
        card.write("ready", "x" * 3000)
        read_back = set()
        done = threading.Event()

        def read_all() -> None:
            while not done.is_set():
                read_back.add(read(card.path("ready")))

        reader = threading.Thread(target=read_all)
        reader.start()
        for _ in range(100):
            for text in texts:
                card.write("ready", text)
        done.set()
        reader.join()
        assert read_back <= texts


class TestBoards:
    @pytest.mark.parametrize("name", [name for name, board in XRT_BOARDS.items() if board.seen])
    def test_seen_board_is_in_the_collected_data(self, name: str) -> None:
        board = XRT_BOARDS[name]
        if name in SEEN_SINCE:
            return
        rows = [row for row in all_rows() if row["vbnv"] == board.vbnv]
        assert any(
            row["timestamp"] == board.timestamp
            and row["device_user"] in (f"0x{board.user_id}", None)  # unknown for the VCU1525
            and (board.mgmt_id is None or row["device_mgmt"] in (f"0x{board.mgmt_id}", None))
            for row in rows
        )
        assert board.logic_uuid in {None, *(board_of(row).logic_uuid for row in rows)}
        assert board.interface_uuid in {None, *(board_of(row).interface_uuid for row in rows)}

    @pytest.mark.parametrize("name", [name for name, board in XRT_BOARDS.items() if not board.seen])
    def test_unseen_board_has_ids_of_the_tables_of_the_driver(self, name: str) -> None:
        board = XRT_BOARDS[name]
        assert "XRT devices.h" in board.source
        if name == "u25":  # only in the table of ids, section C.1
            return
        assert any(
            row["kind"] in ("id-table", "driver-constant")
            and row["vendor"] == f"0x{board.vendor}"
            and row["device_user"] == f"0x{board.user_id}"
            and (board.mgmt_id is None or row["device_mgmt"] == f"0x{board.mgmt_id}")
            for row in all_rows()
        )

    @pytest.mark.parametrize("row", allocatable_rows(), ids=name_of)
    def test_every_allocatable_row_makes_a_card(self, node: SampleNode, row: Row) -> None:
        card = node.add_card(board_of(row), slot_of(row))
        assert row["user_bdf"] in (None, card.address)
        assert read(card.path("rom/VBNV")) == f"{row['vbnv']}\n"
        assert read(card.path("rom/timestamp")) == f"{row['timestamp']}\n"
        assert read(card.path("vendor")) == f"{row['vendor']}\n"
        if row["logic_uuid"]:
            assert read(card.path("logic_uuids")) == f"{board_of(row).logic_uuid}\n"
        if row["mgmt_instance"]:
            assert card.mgmt_node == f"/dev/xclmgmt{row['mgmt_instance']}"

    def test_collected_data_have_the_expected_number_of_rows(self) -> None:
        assert len(allocatable_rows()) == 32

    @pytest.mark.parametrize("name", XRT_BOARDS)
    def test_board_can_be_plugged_and_removed_with_any_release(self, node: SampleNode, name: str) -> None:
        for release in ("2018.3", "2019.2", "2021.1", "2026.1"):
            card = node.add_card(name, release=release)
            card.reset_begin()
            card.reset_end()
            card.remove()
            assert nodes(node) == set()

    def test_base_of_a_shell_in_two_stages(self, node: SampleNode) -> None:
        card = node.add_card("u250-base")
        assert read(card.path("logic_uuids")) == "38932b102cb9ef9ed81d66f250097e2f\n"
        assert read(card.path("mgmt/logic_uuids")) == "38932b102cb9ef9ed81d66f250097e2f\n"
