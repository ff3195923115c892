"""Cards of XRT against data/xrt-drivers.json, which was taken from the sources of the drivers."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import DATA
from tests.support.sysfs import driver, names, read
from xilinx_fpga_dp.simulate.sysfs.boards import XRT_BOARDS
from xilinx_fpga_dp.simulate.sysfs.sample_node import Ids, SampleNode, XrtCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import (
    DRIVER_VERSIONS,
    FIREWALL_CODE,
    ErrorRecord,
    unregistered_in_reset,
    user_driver,
)

SOURCES: dict[str, Any] = json.loads((DATA / "xrt-drivers.json").read_text())
RELEASES: dict[str, dict[str, Any]] = SOURCES["releases"]
BOARDS: dict[str, str] = SOURCES["user_subdevices"]
# Kernel files, links and sub-devices, which the tables of attributes do not have
OTHERS = {"driver", "drm", "hwmon", "root_dev", "subsystem", "uevent", "xrt_mgmt"}


@pytest.fixture
def node(tmp_path: Path) -> SampleNode:
    return SampleNode(tmp_path / "node")


@pytest.fixture
def sensor_node(tmp_path: Path) -> SampleNode:
    return SampleNode(tmp_path / "node", sensors=True)


def xmc_sensors(release: str) -> dict[str, str]:
    """Return the label of each sensor of xmc; a release without entry has those of the one before."""
    return next(
        sensors
        for name in sorted(RELEASES, reverse=True)
        if name <= release and (sensors := RELEASES[name].get("xmc_sensors")) is not None
    )


def test_every_branch_has_its_module_version() -> None:
    versions = {release: entry["version"] for release, entry in RELEASES.items()}
    assert {**versions, "XRT-2.22": "2.22.0"} == DRIVER_VERSIONS


@pytest.mark.parametrize("release", RELEASES)
class TestRelease:
    def test_functions_have_exactly_the_attributes(self, node: SampleNode, release: str) -> None:
        card = node.add_card("u200", release=release)
        kernel = names(node.add_function("0000:b1:00.0", Ids("10ee", "5001", "120000")).path)
        for side, path in (("user", card.user), ("mgmt", card.mgmt)):
            assert path
            own = {name for name in names(path) - kernel - OTHERS if "." not in name}
            assert own == set(RELEASES[release][side].split()), side

    def test_reset_leaves_the_persistent_attributes(self, node: SampleNode, release: str) -> None:
        card = node.add_card("u55c", release=release)
        before = names(card.user)
        card.reset_begin()
        gone = {name for name in before - names(card.user) if "." not in name} - {"drm", "root_dev"}
        removed = set(RELEASES[release]["user"].split()) - set(RELEASES[release]["persistent"].split())
        # xocl_reset_notify calls xocl_fini_sysfs since 2019.2_PU2
        assert gone == (removed if release >= "2019.2_PU2" else set())
        card.reset_end()
        assert names(card.user) == before

    def test_subdevices_count_from_their_place_in_the_enum(self, node: SampleNode, release: str) -> None:
        card = node.add_card("vck5000", "0000:65:00", release=release)
        ids = RELEASES[release].get("subdevice_ids")
        shown = dict(name.split(".u.") for name in names(card.user) if ".u." in name)
        for kind in ("rom", "xmc", "mailbox", "icap", "hwmon_sdm"):
            if ids is None:
                assert shown.get(kind) in ("25857", None)
            else:
                assert shown.get(kind) == (str(ids[kind] << 20) if kind in ids else None)

    def test_user_function_has_the_driver_of_its_engine(self, node: SampleNode, release: str) -> None:
        drivers = RELEASES[release]["user_drivers"].split()
        for board, name in (("u200", drivers[0]), ("v70", drivers[-1])):
            assert user_driver(XRT_BOARDS[board], release) == name
            card = node.add_card(board, release=release)
            assert driver(card.user) == name
            folder = f"{node.sysfs_root}/bus/pci/drivers/{name}"
            assert os.path.basename(os.readlink(f"{folder}/module")) == "xocl"
            assert read(f"{folder}/module/version") == f"{RELEASES[release]['version']}\n"

    def test_sensors_of_xmc(self, sensor_node: SampleNode, release: str) -> None:
        card = sensor_node.add_card("u250", release=release)
        expected = xmc_sensors(release)
        for path, side in ((card.user, "user"), (card.mgmt, "mgmt")):
            found = {name: folder for folder, name in hwmons(path)}
            if not expected:  # before 2019.2: six currents without labels
                assert "curr6_input" in names(found["xclmgmt_microblaze"])
                continue
            folder = found[f"xilinx_u250_xdma_201830_2_{side}"]
            labels = {name for name in names(folder) if name.endswith("_label")}
            assert {name[:-6]: read(f"{folder}/{name}").strip() for name in labels} == expected


def hwmons(path: str | None) -> Iterator[tuple[str, str]]:
    """Yield the directory and the name of each hwmon device of a function."""
    for name in sorted(os.listdir(f"{path}/hwmon")):
        yield f"{path}/hwmon/{name}", read(f"{path}/hwmon/{name}/name").strip()


class TestBoards:
    @pytest.mark.parametrize("name", BOARDS)
    def test_user_function_has_the_subdevices_of_its_table(self, node: SampleNode, name: str) -> None:
        card = node.add_card(name, release="2024.1")
        kinds = {entry.partition(".u.")[0] for entry in names(card.user) if ".u." in entry}
        assert kinds - {"mailbox", "dma.xdma", "dma.qdma"} == set(BOARDS[name].split())

    @pytest.mark.parametrize(
        ("name", "where"), [("vck5000", "hwmon_sdm"), ("rave", "hwmon_sdm"), ("u55c", "xmc")]
    )
    def test_serial_number(self, node: SampleNode, name: str, where: str) -> None:
        card = node.add_card(name, serial="XFL1", release="2024.1")
        assert read(card.path(f"{where}/serial_num")) == "XFL1\n"

    def test_hwmon_sdm_beside_xmc_comes_with_2022_1(self, node: SampleNode) -> None:
        card = node.add_card("vck5000", serial="XFL1", release="2021.2")
        assert read(card.path("xmc/serial_num")) == "XFL1\n"
        card = node.add_card("vck5000", serial="XFL1", release="2022.1")
        assert read(card.path("xmc/serial_num")) == "\n"


class TestFirewall:
    """subdev/firewall.c: get_prop, show_firewall, fw_read_from_peer."""

    @pytest.mark.parametrize(
        ("release", "uncleared"), [("2019.2", True), ("2022.1", True), ("2022.2", False)]
    )
    def test_upper_half_of_level_is_not_cleared(
        self, node: SampleNode, release: str, uncleared: bool
    ) -> None:
        card = node.add_card("u200", release=release)
        level = int(read(card.path("firewall/level")))
        assert level == (0xFFFF9C3F_FFFFFFFF if uncleared else 2**64 - 1)
        assert read(card.path("mgmt/firewall/level")) == f"{2**64 - 1}\n"
        card.firewall_trip()
        assert int(read(card.path("firewall/level"))) == (0xFFFF9C3F_00000002 if uncleared else 2)
        assert read(card.path("firewall/status")) == "524288\n"

    @pytest.mark.parametrize("silence", [XrtCard.mailbox_silent, XrtCard.unbind_mgmt, XrtCard.not_ready])
    def test_silent_peer_gives_zeros(self, node: SampleNode, silence: Any) -> None:
        card = node.add_card("u200", release="2020.1")
        card.upper = 7
        silence(card)
        texts = {name: int(read(card.path(f"firewall/{name}"))) for name in names(card.path("firewall/")[:-1])
                 if name not in ("clear", "inject")}  # fmt: skip
        assert texts == {"status": 0, "level": 7 << 32, "detected_status": 0, "detected_level": 0,
                         "detected_time": 0}  # fmt: skip
        card.bind_mgmt()
        card.mend()
        assert int(read(card.path("firewall/level"))) == 7 << 32 | 0xFFFFFFFF

    def test_later_drivers_answer_without_a_peer(self, node: SampleNode) -> None:
        card = node.add_card("u200", release="2022.2")
        card.firewall_trip()
        card.unbind_mgmt()
        assert read(card.path("firewall/status")) == "524288\n"


class TestErrors:
    """core/include/xclerr_int.h, xrt_error_code.h, userpf/xocl_errors.c."""

    @pytest.mark.parametrize(("release", "size", "record"), [("2021.2", 776, 24), ("2025.1", 1032, 32)])
    def test_trip_is_recorded(self, node: SampleNode, release: str, size: int, record: int) -> None:
        card = node.add_card("u55c", release=release)
        path = Path(card.path("xocl_errors"))
        assert path.read_bytes() == bytes(size)
        card.firewall_trip()
        card.reset_begin()
        assert not path.exists()
        card.reset_end()
        content = path.read_bytes()
        assert len(content) == size
        assert struct.unpack_from("<i4xQQI", content) == (1, FIREWALL_CODE, 1735689600, 0)
        assert content[8 + record :] == bytes(size - 8 - record)
        card.unbind()
        card.bind()
        assert path.read_bytes() == bytes(size)

    def test_code_names_firewall_and_severity(self) -> None:
        assert FIREWALL_CODE & 0xFFFF == 1  # XRT_ERROR_NUM_FIRWWALL_TRIP
        assert FIREWALL_CODE >> 16 & 0xF == 1  # XRT_ERROR_DRIVER_XOCL
        assert FIREWALL_CODE >> 24 & 0xF == 3  # XRT_ERROR_SEVERITY_CRITICAL
        assert FIREWALL_CODE >> 32 & 0xF == 1  # XRT_ERROR_MODULE_FIREWALL
        assert FIREWALL_CODE >> 40 & 0xF == 3  # XRT_ERROR_CLASS_HARDWARE

    def test_ring_drops_the_oldest(self, node: SampleNode) -> None:
        card = node.add_card("u55c", release="2024.1")
        for number in range(40):
            card.record_error(ErrorRecord(13, number, pid=4711))
        content = Path(card.path("xocl_errors")).read_bytes()
        assert struct.unpack_from("<i4xQQI", content) == (32, 13, 8, 4711)

    def test_2021_1_prints_nothing(self, node: SampleNode) -> None:
        card = node.add_card("u55c", release="2021.1")
        card.firewall_trip()
        assert Path(card.path("xocl_errors")).read_bytes() == b""


class TestSensors:
    """subdev/xmc.c, subdev/hwmon_sdm.c, subdev/sysmon.c."""

    def test_units_of_xmc(self, sensor_node: SampleNode) -> None:
        card = sensor_node.add_card("u250")
        assert 20_000 < int(read(card.path("hwmon/temp4_input"))) < 90_000  # m°C
        assert 11_000 < int(read(card.path("hwmon/in0_input"))) < 13_000  # mV
        assert int(read(card.path("hwmon/power1_input"))) > 10**6  # µW
        assert read(card.path("mgmt/hwmon/temp4_label")) == "FPGA TEMP\n"
        present = names(os.path.dirname(card.path("hwmon/name")))
        assert {"temp15_max", "power2_max", "power1_average", "fan1_input", "in18_label"} <= present
        assert not present & {"temp4_max", "power1_max", "fan1_max"}

    def test_silent_peer_gives_zeros_to_the_user_function(self, sensor_node: SampleNode) -> None:
        card = sensor_node.add_card("u250")
        card.mailbox_silent()
        assert read(card.path("hwmon/temp4_input")) == "0\n"
        assert read(card.path("hwmon/temp4_label")) == "FPGA TEMP\n"
        assert read(card.path("mgmt/hwmon/temp4_input")) == "41000\n"
        card.mend()
        assert read(card.path("hwmon/temp4_input")) == "41000\n"

    def test_hwmon_sdm(self, sensor_node: SampleNode) -> None:
        card = sensor_node.add_card("v70", release="2024.1")
        assert [name for _, name in hwmons(card.user)] == ["xilinx_v70_gen5x8_qdma_base_2_hwmon_sdm_user"]
        assert [name for _, name in hwmons(card.mgmt)] == ["xilinx_v70_gen5x8_qdma_base_2_hwmon_sdm_mgmt"]
        assert read(card.path("hwmon/in0_input")) == "12150\n"
        assert read(card.path("hwmon/in0_units")) == "Volts\n"
        assert read(card.path("hwmon/in0_unitm")) == "-3\n"
        assert read(card.path("hwmon/temp1_status")) == "Sensor Present and Valid\n"
        first = read(card.path("hwmon_sdm/voltage_sensors_raw")).splitlines()[0]
        assert first == "12V PEX,12150,12150,12150,1,-3"
        card = sensor_node.add_card("v70", release="2022.1")
        assert not [
            name for name in names(card.path("hwmon/name")[:-5]) if name.endswith(("unitm", "status"))
        ]

    def test_devices_come_and_go_with_their_subdevice(self, sensor_node: SampleNode) -> None:
        cards = [sensor_node.add_card(name) for name in ("u250", "v70", "u2", "vck5000")]
        classes = f"{sensor_node.sysfs_root}/class/hwmon"
        assert len(names(classes)) == sum(
            len([*hwmons(path)]) for card in cards for path in (card.user, card.mgmt)
        )
        for path in names(classes):
            assert os.path.samefile(f"{classes}/{path}/device/hwmon/{path}", f"{classes}/{path}")
        cards[0].reset_begin()
        assert "hwmon" in names(cards[0].user)  # xmc goes offline and stays
        for card in cards:
            card.remove()
        assert names(classes) == set()

    def test_reset_before_2020_1_removes_them(self, sensor_node: SampleNode) -> None:
        card = sensor_node.add_card("u250", release="2019.2")
        assert "xmc" in unregistered_in_reset(card.board, card.release)
        card.reset_begin()
        assert "hwmon" not in names(card.user)
        card.reset_end()
        assert "hwmon" in names(card.user)


class TestBootImage:
    """userpf/xocl_sysfs.c vmr_status_show."""

    def test_backup(self, node: SampleNode) -> None:
        card = node.add_card("v70", release="2023.1")
        assert "BOOT_ON_DEFAULT:1\n" in read(card.path("vmr_status"))
        card.boot("backup")
        text = "HAS_FPT:1\nBOOT_ON_DEFAULT:0\nBOOT_ON_BACKUP:1\nBOOT_ON_RECOVERY:0\n"
        assert read(card.path("vmr_status")) == text
        card.unbind()
        card.bind()
        assert read(card.path("vmr_status")) == text

    def test_first_release_has_three_lines(self, node: SampleNode) -> None:
        card = node.add_card("v70", release="2022.2")
        assert read(card.path("vmr_status")).startswith("BOOT_ON_DEFAULT:1\n")

    @pytest.mark.parametrize(("board", "release"), [("u250", "2024.1"), ("v70", "2022.1")])
    def test_others_show_none(self, node: SampleNode, board: str, release: str) -> None:
        with pytest.raises(ValueError, match="backup"):
            node.add_card(board, release=release).boot("backup")

    def test_name_plugs_a_card_that_booted_its_backup(self, node: SampleNode) -> None:
        [card] = node.plug("v70-backup")
        assert "BOOT_ON_BACKUP:1\n" in read(card.path("vmr_status"))


class TestAwsF2:
    """subdev/feature_rom.c: the constant names, and set_vbnv_name once mpd answers."""

    def test_names_before_and_after_mpd_answers(self, node: SampleNode) -> None:
        card = node.add_card("f2")
        card.unbind()
        seen = [
            (step, read(card.path("rom/VBNV")), names(card.user) & {"user_pf"} and read(card.path("ready")))
            for step in card.binding()
            if step != "driver"
        ]
        first, last = (
            f"xilinx_aws-vu47p-f2_xdma-shell-v{version}_202410_1\n" for version in ("04052421", "10212415")
        )
        assert seen == [
            ("sub-devices", first, set()),
            ("drm", first, set()),
            ("user_pf", first, "0x0\n"),
            ("mpd", last, "0x1\n"),
        ]

    def test_slot_that_waits_for_mpd(self, node: SampleNode) -> None:
        [card] = node.plug("f2-waiting")
        assert isinstance(card, XrtCard)
        assert "v04052421" in read(card.path("rom/VBNV"))
        assert read(card.path("ready")) == "0x0\n"
        card.mpd_answers()
        assert "v10212415" in read(card.path("rom/VBNV"))
        assert read(card.path("ready")) == "0x1\n"

    def test_slot_with_an_image_has_the_name_of_f1_first(self, node: SampleNode) -> None:
        card = node.add_card("f2-afi")
        assert read(card.path("device")) == "0xf010\n"
        assert "vu47p-f2_xdma-shell-v10212415" in read(card.path("rom/VBNV"))
        card.unbind()
        next(steps := card.binding())
        next(steps)
        assert read(card.path("rom/VBNV")) == "xilinx_aws-vu9p-f1_shell-v04261818_201920_3\n"
