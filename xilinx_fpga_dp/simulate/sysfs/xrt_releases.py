"""The attributes and sub-devices of a card by XRT release: tables and pure functions.

The tables follow the branches 2018.3 to 2026.1 of XRT. Source files in comments are relative to
src/runtime_src/core/pcie/driver/linux/xocl there.
"""

import hashlib
from collections.abc import Mapping

from xilinx_fpga_dp.simulate.sysfs.boards import XrtBoard

DRIVER_VERSIONS: Mapping[str, str] = {
    "2018.3": "2.1.0",
    "2019.1": "2.2.0",
    "2019.2": "2.3.0",
    "2020.1": "2.6.0",
    "2020.2": "2.8.0",
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
}
"""The version of `xocl` and `xclmgmt` by XRT release (src/CMakeLists.txt) with build number 0."""


# Attributes that a release adds, or removes (``-name``): userpf/xocl_sysfs.c, mgmtpf/mgmt-sysfs.c
_USER_ATTRIBUTES = {
    "2018.3": "user_pf xclbinuuid userbar kdsstat memstat memstat_raw p2p_enable "
    "debug_ip_layout ip_layout connectivity mem_topology",
    "2019.1": "ready dev_offline mig_calibration link_width link_speed link_speed_max link_width_max "
    "mailbox_connect_state config_mailbox_channel_switch config_mailbox_comm_id "
    "-debug_ip_layout -ip_layout -connectivity -mem_topology",
    "2019.2": "logic_uuids interface_uuids ulp_uuids mig_cache_update fdt_blob",
    "2020.1": "shutdown",
    "2020.2": "board_name nodma ert_disable kds_mode kds_echo kds_numcdma kds_stat kds_custat_raw "
    "kds_interrupt -p2p_enable",
    "2021.1": "xocl_errors config_mailbox_channel_disable kds_scustat_raw device_bad_state",
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
    "2020.1": "mgmt_reset",
    "2020.2": "mfg_ver recovery sbr_toggle",
    "2021.1": "config_mailbox_channel_disable cache_xclbin config_xclbin_change",
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
    "2019.2": {"rom": 0, "dma": 3, "firewall": 9, "xmc": 11, "mailbox": 13, "icap": 15},
    "2020.1": {"rom": 0, "dma": 2, "firewall": 10, "xmc": 12, "mailbox": 15, "icap": 16},
    "2020.2": {"rom": 0, "dma": 5, "mailbox": 9, "firewall": 16, "xmc": 18, "icap": 21},
    "2021.1": {"rom": 0, "dma": 5, "mailbox": 9, "firewall": 17, "xmc": 19, "icap": 22},
    "2022.1": {"rom": 0, "dma": 5, "mailbox": 9, "firewall": 16, "xmc": 18, "icap": 21, "hwmon_sdm": 53},
    "2022.2": {"rom": 0, "dma": 5, "mailbox": 9, "firewall": 16, "xmc": 18, "icap": 21, "hwmon_sdm": 54},
}  # fmt: skip
_MINORBITS = 20

NO_TRIP = {"status": "0", "level": str(2**64 - 1), "detected_status": "0", "detected_level": "0"}
"""The attributes of a firewall without trip: level -1, printed as u64 (subdev/firewall.c)."""
TRIP = {"status": "524288", "level": "2", "detected_status": "524288", "detected_level": "2"}
"""The attributes of a firewall after a trip; the numbers are an example."""


def user_attributes(board: XrtBoard, release: str) -> dict[str, str | None]:
    """Return the attributes that `xocl` adds to a healthy card; None: a read fails with EINVAL."""
    texts: dict[str, str | None] = dict(_TEXTS)
    texts["board_name"] = board.name if board.metadata else "\n"
    texts["versal"] = str(int(board.versal))
    # No xclbin is loaded
    texts["memstat"] = texts["ulp_uuids"] = None
    if board.versal:
        texts["vmr_status"] = "HAS_FPT:1\nBOOT_ON_DEFAULT:1\nBOOT_ON_BACKUP:0\nBOOT_ON_RECOVERY:0\n"
    texts.update(_uuid_texts(board))
    if not board.ready:
        texts.update(ready="0x0", mailbox_connect_state="0x0")
    return {name: texts.get(name, "") for name in _attributes(_USER_ATTRIBUTES, release)}


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
    """Return the attributes that a reset keeps: a separate group since 2020.1, all before."""
    return _PERSISTENT if release >= "2020.1" else frozenset(_attributes(_USER_ATTRIBUTES, release))


def user_subdevices(board: XrtBoard, release: str) -> list[str]:
    """Return the sub-devices of a user function without xclbin."""
    dma = [board.dma] if board.dma else []
    if dma and release == "2018.3":
        dma = ["mm_dma.v5"] if board.dma == "dma.xdma" else ["mm_dma.v6", "str_dma"]
    firewall = ["firewall"] if board.firewall and release >= "2019.2" else []
    return ["rom", *dma, "mailbox", "icap", *_monitor(board, release), *firewall]


def mgmt_subdevices(board: XrtBoard, release: str) -> list[str]:
    """Return the sub-devices of a management function that report health."""
    return ["rom", "mailbox", "icap", *_monitor(board, release), "firewall"]


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
    if release >= "2020.1":
        stay |= {"firewall", "xmc", "xmc.u2"}
    return [name for name in user_subdevices(board, release) if name not in stay]


def first_number(subdevice: str, release: str) -> int | None:
    """Return the first number of a kind of sub-device; None if it has the number of the function."""
    if release < "2019.2":
        return None
    ids = _SUBDEV_IDS[max(since for since in _SUBDEV_IDS if since <= release)]
    kind = subdevice.partition(".")[0]
    return ids[kind] << _MINORBITS


def subdevice_files(board: XrtBoard, release: str, subdevice: str, serial: str) -> dict[str, str]:
    """Return the relevant attributes of a sub-device on a healthy card."""
    modern = release >= "2019.2"
    match subdevice:
        case "rom":
            files = {"VBNV": board.vbnv, "timestamp": str(board.timestamp), "FPGA": "\n"}
            files |= {"ddr_bank_size": "0", "ddr_bank_count_max": "0", "dr_base_addr": "0"}
            uuid = logic_uuid(board) if board.metadata else "0" * 32
            return files | ({"uuid": uuid} if modern else {})
        case "firewall":
            files = NO_TRIP | {"detected_time": "0", "clear": "", "inject": ""}
            files |= {"detected_trip": ""} if release >= "2021.1" else {}
            return files | ({"detected_level_name": "\n"} if release >= "2022.1" else {})
        case "mailbox":
            return {"connection": "", "mailbox": "", "mailbox_ctl": ""}
        case "icap":
            return {"idcode": "0x14b37093"}
        case _ if subdevice == board.monitor and modern:  # older: no serial number, subdev/xmc.c
            return {"serial_num": serial or "\n"}
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


def _monitor(board: XrtBoard, release: str) -> list[str]:
    if board.monitor is None or (board.monitor == "hwmon_sdm" and release < "2022.1"):
        return []
    return [board.monitor]


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
