"""The attributes and sub-devices of a card by XRT release: tables and pure functions.

The tables follow the branches 2018.3 to 2026.1 of XRT. Source files in comments are relative to
src/runtime_src/core/pcie/driver/linux/xocl there.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias, get_args

from xilinx_fpga_dp.simulate.sysfs import xrt_sensors as sensors
from xilinx_fpga_dp.simulate.sysfs.boards import XrtBoard

BootImage: TypeAlias = Literal["default", "backup", "recovery"]

DRIVER_VERSIONS: Mapping[str, str] = {
    "2018.3": "2.1.0",
    "2019.1": "2.2.0",
    "2019.2": "2.3.0",
    "2019.2_PU1": "2.4.0",
    "2019.2_PU2": "2.5.0",
    "2020.1": "2.6.0",
    "2020.1_PU1": "2.7.0",
    "2020.2": "2.8.0",
    "2020.2_PU1": "2.9.0",
    "2021.1": "2.11.0",
    "2021.2": "2.12.0",
    "2022.1": "2.13.0",
    "2022.2": "2.14.0",
    "2023.1": "2.15.0",
    "2023.2": "2.16.0",
    "2024.1": "2.17.0",
    "2024.2": "2.18.0",
    "2025.1": "2.19.0",
    "2025.2": "2.20.0",
    "2026.1": "2.23.0",
    "XRT-2.21": "2.21.0",
    "XRT-2.22": "2.22.0",
}
"""The version of `xocl` and `xclmgmt` by XRT release (src/CMakeLists.txt) with build number 0.

The name is that of the branch. Names compare in the order of the releases; those that begin with XRT are
later than all other releases in the tables below. 2.22 was never a branch; its drivers are those of 2.21.
"""

# Attributes that a release adds, or removes (``-name``): userpf/xocl_sysfs.c, mgmtpf/mgmt-sysfs.c
_USER_ATTRIBUTES = {
    "2018.3": "user_pf xclbinuuid userbar kdsstat memstat memstat_raw p2p_enable "
    "debug_ip_layout ip_layout connectivity mem_topology",
    "2019.1": "ready dev_offline mig_calibration link_width link_speed link_speed_max link_width_max "
    "mailbox_connect_state config_mailbox_channel_switch config_mailbox_comm_id "
    "-debug_ip_layout -ip_layout -connectivity -mem_topology",
    "2019.2": "logic_uuids interface_uuids ulp_uuids mig_cache_update fdt_blob",
    "2019.2_PU2": "shutdown",
    "2020.1_PU1": "-p2p_enable",
    "2020.2": "board_name nodma ert_disable kds_mode kds_echo kds_numcdma kds_stat kds_custat_raw "
    "kds_interrupt",
    "2020.2_PU1": "config_mailbox_channel_disable kds_scustat_raw",
    "2021.1": "xocl_errors device_bad_state",
    "2021.2": "host_mem_size dev_hotplug_done -device_bad_state",
    "2022.1": "kds_numcdmas kds_interval -kds_mode -kds_numcdma",
    "2022.2": "vmr_status versal",
    "2023.1": "kds_cuctx_stat_raw kds_scuctx_stat_raw",
    "2023.2": "device_bad_state",
}
_MGMT_ATTRIBUTES = {
    "2018.3": "instance error userbar version slot link_speed link_width link_speed_max link_width_max "
    "mig_calibration xpr ready mfg mgmt_pf flash_type board_name feature_rom_offset",
    "2019.1": "dev_offline subdev_online subdev_offline config_mailbox_channel_switch config_mailbox_comm_id",
    "2019.2": "rp_program interface_uuids logic_uuids fdt_blob userpf_blob "
    "-feature_rom_offset -subdev_online -subdev_offline",
    "2019.2_PU1": "mgmt_reset",
    "2020.2": "mfg_ver recovery sbr_toggle",
    "2020.2_PU1": "config_mailbox_channel_disable cache_xclbin",
    "2021.1": "config_xclbin_change",
    "2022.2": "versal",
}
# All other attributes are empty.
_TEXTS = {
    "ready": "0x1",
    "dev_offline": "0",
    "shutdown": "0",
    "device_bad_state": "0",
    "mig_calibration": "0x1",
    "mailbox_connect_state": "0x3",  # the peer is ready and in the same domain: mailbox_proto.h
    "config_mailbox_channel_switch": "0x0",
    "config_mailbox_channel_disable": "0x0",
    "link_width": "16",
    "link_width_max": "16",
    "link_speed": "3",
    "link_speed_max": "3",
    "nodma": "0",
    "dev_hotplug_done": "0",
    "host_mem_size": "0",
}
_PERSISTENT = frozenset({"user_pf", "shutdown", "dev_hotplug_done"})
_UUIDS = ("logic_uuids", "interface_uuids")

# The id of a kind of sub-device, at which the numbers of its directories begin: enum subdev_id in
# devices.h. Before 2019.2 a directory has the number of the function.
_SUBDEV_IDS = {
    "2019.2": {"rom": 0, "dma": 3, "firewall": 9, "xmc": 11, "mailbox": 13, "icap": 15, "sysmon": 8},
    "2019.2_PU1": {"rom": 0, "dma": 2, "firewall": 10, "xmc": 12, "mailbox": 15, "icap": 16, "sysmon": 9},
    "2020.1_PU1": {"rom": 0, "dma": 3, "firewall": 12, "xmc": 14, "mailbox": 17, "icap": 18, "sysmon": 11},
    "2020.2": {"rom": 0, "dma": 5, "mailbox": 9, "firewall": 16, "xmc": 18, "icap": 21, "sysmon": 15},
    "2020.2_PU1": {"rom": 0, "dma": 5, "mailbox": 9, "firewall": 17, "xmc": 19, "icap": 22, "sysmon": 16},
    "2022.1": {"rom": 0, "dma": 5, "mailbox": 9, "firewall": 16, "xmc": 18, "icap": 21, "sysmon": 15,
        "hwmon_sdm": 53},
    "2022.2": {"rom": 0, "dma": 5, "mailbox": 9, "firewall": 16, "xmc": 18, "icap": 21, "sysmon": 15,
        "hwmon_sdm": 54},
}  # fmt: skip
_MINORBITS = 20

UNCLEARED = 0xFFFF_9C3F
"""The upper half of a kernel address, as an uncleared u64 may have it; an example."""
_ALL_ONES = 0xFFFF_FFFF


class Trip(NamedTuple):
    """What a firewall sub-device knows of trips (subdev/firewall.c); the numbers of a trip are an example."""

    status: int = 0x80000
    level: int = 2
    time: int = 1_735_689_600  # seconds since 1970


NO_TRIP = Trip(status=0, level=-1, time=0)
SILENCE = Trip(status=0, level=0, time=0)
"""What a user function shows before 2022.2 if the management function does not answer (fw_read_from_peer)."""


class ErrorRecord(NamedTuple):
    """A record of `xocl_errors` (core/include/xclerr_int.h); ``time`` in seconds since 1970."""

    code: int
    time: int
    pid: int = 0


# core/include/xrt_error_code.h XRT_ERROR_CODE_BUILD: number, driver, severity, module and class
FIREWALL_CODE = 1 | 1 << 16 | 3 << 24 | 1 << 32 | 3 << 40
"""The code of a firewall trip (userpf/xocl_drv.c xocl_mailbox_srv)."""
_ERRORS = 32  # XCL_ERROR_CAPACITY


def user_attributes(board: XrtBoard, release: str) -> dict[str, str | None]:
    """Return the attributes that `xocl` adds to a healthy card; None: a read fails with EINVAL."""
    texts: dict[str, str | None] = dict(_TEXTS)
    texts["board_name"] = board.name if board.metadata else "\n"
    texts["versal"] = str(int(board.versal))
    # No xclbin is loaded
    texts["memstat"] = texts["ulp_uuids"] = None
    if board.versal:
        texts["vmr_status"] = vmr_status(release, "default")
    texts.update(_uuid_texts(board))
    if not board.ready:
        texts.update(ready="0x0", mailbox_connect_state="0x0")
    return {name: texts.get(name, "") for name in _attributes(_USER_ATTRIBUTES, release)}


def vmr_status(release: str, image: BootImage) -> str:
    """Return the text of `vmr_status` for a card that booted an image (userpf/xocl_sysfs.c)."""
    has_fpt = "HAS_FPT:1\n" if release >= "2023.1" else ""
    return has_fpt + "".join(f"BOOT_ON_{each.upper()}:{int(each == image)}\n" for each in get_args(BootImage))


def mgmt_attributes(board: XrtBoard, release: str, instance: int) -> dict[str, str | None]:
    """Return the attributes that `xclmgmt` adds to a healthy card; None: a read fails with EINVAL."""
    texts: dict[str, str | None] = dict(_TEXTS)
    texts.update(ready="1", mig_calibration="1", mfg="0", mfg_ver="0", recovery="0", rp_program="0")
    texts.update(instance=str(instance), board_name=board.name, flash_type="spi")
    texts["versal"] = str(int(board.versal))
    texts.update(_uuid_texts(board))
    if board.base_uuid:  # the uuid of the base comes first: mgmt-sysfs.c logic_uuids_show
        texts["logic_uuids"] = f"{board.base_uuid}\n{texts['logic_uuids']}"
    return {name: texts.get(name, "") for name in _attributes(_MGMT_ATTRIBUTES, release)}


def persistent_attributes(release: str) -> frozenset[str]:
    """Return the attributes that a reset keeps: a separate group since 2020.1, all before 2019.2_PU2."""
    if not reset_removes_drm(release):
        return frozenset(_attributes(_USER_ATTRIBUTES, release))
    return _PERSISTENT if release >= "2020.1" else frozenset()


def reset_removes_drm(release: str) -> bool:
    """Return whether a reset removes the drm device and attributes (xocl_drv.c xocl_reset_notify)."""
    return release >= "2019.2_PU2"


def user_driver(board: XrtBoard, release: str) -> str:
    """Return the name of the PCI driver of a user function; its module is `xocl`.

    Up to 2018.3 there are two, by the DMA engine of the shell: userpf/xdma.c, userpf/qdma.c.
    """
    if release > "2018.3":
        return "xocl"
    return "xocl_qdma" if board.dma == "dma.qdma" else "xocl_xdma"


def errors_file(release: str, records: Iterable[ErrorRecord]) -> bytes:
    """Return the content of `xocl_errors`: a count, then a ring of records, the oldest first.

    2021.1 prints nothing; 2025.1 adds a second code to each record (xclerr_int.h).
    """
    if release < "2021.2":
        return b""
    kept = tuple(records)[-_ERRORS:]
    form = "<QQI4xQ" if release >= "2025.1" else "<QQI4x"
    extra = (0,) if release >= "2025.1" else ()
    ring = b"".join(struct.pack(form, *record, *extra) for record in kept)
    return struct.pack("<i4x", len(kept)) + ring.ljust(_ERRORS * struct.calcsize(form), b"\0")


def firewall_files(release: str, trip: Trip, *, mgmt: bool, upper: int) -> dict[str, str]:
    """Return the attributes of a firewall.

    Args:
        release: of XRT.
        trip: the current trip.
        mgmt: whether it is that of the management function.
        upper: the upper 32 bits of ``level`` that a user function prints before 2022.2: its driver writes
            an int into a u64 that it never cleared (firewall.c get_prop, show_firewall).
    """
    uncleared = not mgmt and release < "2022.2"
    level = (upper << 32 | trip.level & _ALL_ONES) if uncleared else trip.level & 2**64 - 1
    detected = {
        "detected_status": trip.status,
        "detected_level": max(trip.level, 0),
        "detected_time": trip.time,
    }
    return {name: str(number) for name, number in {"status": trip.status, "level": level, **detected}.items()}


def user_subdevices(board: XrtBoard, release: str) -> list[str]:
    """Return the sub-devices of a user function without xclbin."""
    dma = [board.dma] if board.dma else []
    if dma and release == "2018.3":
        dma = ["mm_dma.v5"] if board.dma == "dma.xdma" else ["mm_dma.v6", "str_dma"]
    firewall = ["firewall"] if board.firewall and release >= "2019.2" else []
    return ["rom", *dma, "mailbox", "icap", *_monitors(board, release), *firewall]


def mgmt_subdevices(board: XrtBoard, release: str) -> list[str]:
    """Return the sub-devices of a management function that report health.

    A single-stage shell has a system monitor (devices.h MGMT_RES_XBB_DSA52), a Versal no xmc.
    """
    monitors = _monitors(board, release)
    if "hwmon_sdm" in monitors:
        monitors = ["hwmon_sdm"]
    sysmon = ["sysmon"] if not board.metadata and board.monitors else []
    return ["rom", "mailbox", "icap", *sysmon, *monitors, "firewall"]


def unregistered_in_reset(board: XrtBoard, release: str) -> list[str]:
    """Return the sub-devices of a user function that a hot reset unregisters.

    A sub-device that can go offline stays (xocl_subdev.c __xocl_subdev_offline). 2019.1 destroys all of them
    and creates the mailbox again at once; 2018.3 only stops the DMA (userpf/xocl_drv.c xocl_reset_notify,
    userpf/xdma.c user_dev_offline in that branch).
    """
    if release == "2018.3":
        return []
    stay = {"mailbox"}
    if release >= "2019.2":
        stay.add("icap")
    if release >= "2019.2_PU2":
        stay.add("firewall")
    if release >= "2020.1":
        stay |= {"xmc", "xmc.u2"}
    return [name for name in user_subdevices(board, release) if name not in stay]


def first_number(subdevice: str, release: str) -> int | None:
    """Return the first number of a kind of sub-device; None if it has the number of the function."""
    if release < "2019.2":
        return None
    ids = _SUBDEV_IDS[max(since for since in _SUBDEV_IDS if since <= release)]
    kind = subdevice.partition(".")[0]
    return ids[kind] << _MINORBITS


def subdevice_files(
    board: XrtBoard, release: str, subdevice: str, serial: str, load: float = 0.0
) -> dict[str, str]:
    """Return the relevant attributes of a sub-device on a healthy card with this load."""
    modern = release >= "2019.2"
    match subdevice:
        case "rom":
            files = {"VBNV": board.vbnv, "timestamp": str(board.timestamp), "FPGA": "\n"}
            files |= {"ddr_bank_size": "0", "ddr_bank_count_max": "0", "dr_base_addr": "0"}
            uuid = logic_uuid(board) if board.metadata else "0" * 32
            return files | ({"uuid": uuid} if modern else {})
        case "firewall":
            files = {"clear": "", "inject": ""}
            files |= {"detected_trip": ""} if release >= "2021.1" else {}
            return files | ({"detected_level_name": "\n"} if release >= "2022.1" else {})
        case "mailbox":
            return {"connection": "", "mailbox": "", "mailbox_ctl": ""}
        case "icap":
            return {"idcode": "0x14b37093"}
        case "hwmon_sdm":
            return {"serial_num": serial or "\n"} | sensors.raw_files(release, load)
        case _ if subdevice in board.monitors and modern:  # older: no serial number, subdev/xmc.c
            # With hwmon_sdm the management function has no xmc that could answer (mgmt-core.c XCL_BDINFO)
            silent = "hwmon_sdm" in user_subdevices(board, release)
            return {"serial_num": "\n" if silent else serial or "\n"}
    return {}


def subdevice_node(subdevice: str, side: str, instance: int, release: str) -> str | None:
    """Return the node of a sub-device; None if it has none (xocl_subdev.c xocl_subdev_cdev_create).

    ``side`` is `u` for the user, `m` for the management function, ``instance`` its XOCL_DEV_ID.
    """
    stream = "str_dma" if release == "2018.3" else "dma.qdma"
    nodes = {stream} if release <= "2022.1" else set()
    if release >= "2019.1":
        nodes.add("mailbox")
    if subdevice not in nodes:
        return None
    if release >= "2019.2":
        return f"/dev/xfpga/{subdevice}.{side}{instance}{'.0' if release >= '2020.1' else ''}"
    return f"/dev/{'str_dma' if subdevice == stream else subdevice}.{side}{instance}"


def logic_uuid(board: XrtBoard) -> str:
    """Return the uuid of the shell; if it is unknown, a made-up one."""
    return board.logic_uuid or _made_up(board.vbnv)


def _monitors(board: XrtBoard, release: str) -> list[str]:
    return [name for name in board.monitors if name != "hwmon_sdm" or release >= "2022.1"]


def _uuid_texts(board: XrtBoard) -> dict[str, str | None]:
    if not board.metadata:
        return dict.fromkeys(_UUIDS)
    interface = board.interface_uuid or _made_up(f"interface of {board.vbnv}")
    return {"logic_uuids": logic_uuid(board), "interface_uuids": interface}


def _made_up(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _attributes(changes: Mapping[str, str], release: str) -> list[str]:
    """Return the attributes of a release: the changes of all releases up to it."""
    names: dict[str, None] = {}
    for since in sorted(changes):
        if since <= release:
            for name in changes[since].split():
                if name.startswith("-"):
                    del names[name.removeprefix("-")]
                else:
                    names[name] = None
    return list(names)
