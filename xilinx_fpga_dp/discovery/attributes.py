"""Every file that the product reads below the directory of a device: what it costs, how often it is read.

docs/reference/attributes.md shows the table, made by docs/tools/attributes.py. A test fails if a scan opens
a file that is not in it, or one that a mailbox answers more often than its schedule says. Nothing is ever
written.

Source files of XRT are relative to src/runtime_src/core/pcie/driver/linux/xocl.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from xilinx_fpga_dp.discovery.schedules import (
    BOOT,
    DEVICE_INFO,
    RARELY,
    READY,
    READY_ASKS,
    SERIAL,
    TRIP,
    Schedule,
)
from xilinx_fpga_dp.discovery.sysfs import module_of

NEVER: Final = ("error", "mig_cache_update", "mailbox")
"""Never to be read: a read clears `error` (mgmtpf/mgmt-sysfs.c), lets the driver ask the memory controllers
(`mig_cache_update`, userpf/xocl_sysfs.c), or takes a message out of `mailbox` (subdev/mailbox.c)."""


class Base(StrEnum):
    """The directory that a pattern is relative to, below the root of sysfs."""

    FUNCTION = "bus/pci/devices/*"
    MISC = "class/misc/ama_transcoder*"
    RENDER = "class/drm/renderD*/device"
    SYSFS = ""


class Source(StrEnum):
    """What answers a read."""

    MEMORY = "memory"  # at once
    LOCK = "driver lock"  # after the driver's other work with it
    CARD = "card"  # its registers or config space, in microseconds; all ones if the link is down
    MAILBOX = "mailbox"  # the management function: up to 20 s, and lines in the kernel's log on both sides
    COMMAND = "command"  # the firmware of the card


class When(StrEnum):
    """How often an attribute is read whose read costs nothing."""

    CHECK = "each check"  # every HEALTH_INTERVAL, at wake-ups and before a grant
    SCAN = "each scan"  # every SCAN_INTERVAL, at wake-ups, and at checks of a device with a fault
    NEW = "when the function appears"
    LEFT_OUT = "each scan of a function that is left out"
    SAMPLE = "each sample"  # every TELEMETRY_INTERVAL, while the device answers
    LINK = "when the link has changed"  # found by a sample


class Level(StrEnum):
    """The settings of TELEMETRY with which a row is read."""

    SAFE = "safe"  # costs nothing, and disturbs no application
    ALL = "all"  # waits for the management function, for firmware or for a lock that others need


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute, or several with the same answers.

    Attributes:
        base: where it is.
        pattern: its path below that, as a glob.
        driver: the driver of the function or module; ``pci`` for the PCI core.
        why: why its read is safe, with the source.
        since: the first version of the driver's module with this row, (2, 14) for XRT 2022.2; None: all.
        before: the first version without it.
        binary: its content is no text.
        guarded: to be read only while `ma35d.answers`.
        size: how many bytes are read of it; None: all.
        level: from which setting of TELEMETRY on it is read; None: whatever TELEMETRY says.
    """

    pattern: str
    driver: str
    source: Source
    when: When | Schedule
    why: str
    base: Base = Base.FUNCTION
    since: tuple[int, int] | None = None
    before: tuple[int, int] | None = None
    binary: bool = False
    guarded: bool = False
    size: int | None = None
    level: Level | None = None

    @property
    def slow(self) -> bool:
        """Whether a read may wait for the management function or for firmware."""
        return self.source in (Source.MAILBOX, Source.COMMAND)

    def has(self, path: str) -> bool:
        """Whether it is the attribute with this path below its base. A ``*`` does not match a slash."""
        parts, patterns = path.split("/"), self.pattern.split("/")
        return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))

    def holds_for(self, version: tuple[int, int] | None) -> bool:
        """Whether the row holds for this version of the module; None: it is not known, so any row may."""
        return version is None or (
            (self.since is None or version >= self.since) and (self.before is None or version < self.before)
        )


_XOCL: Final = "xocl"
_MGMT: Final = "xclmgmt"
_AMI: Final = "ami"
_MA35D: Final = "transcoder"
_ZOCL: Final = "zocl-drm"
_PCI: Final = "pci"
_RESOURCE: Final = "printed from the driver's structures without a lock: "

RULES: Final = (
    Attribute(
        "subsystem_vendor", "pci", Source.MEMORY, When.NEW, "cached by the PCI core: drivers/pci/pci-sysfs.c"
    ),
    Attribute(
        "subsystem_device", "pci", Source.MEMORY, When.NEW, "cached by the PCI core: drivers/pci/pci-sysfs.c"
    ),
    Attribute("class", "pci", Source.MEMORY, When.NEW, "cached by the PCI core: drivers/pci/pci-sysfs.c"),
    Attribute("*/*/uevent", "any", Source.MEMORY, When.SCAN, "kept by the kernel: drivers/base/core.c"),
    Attribute(
        "*",
        "any",
        Source.LOCK,
        When.CHECK,
        "what the rule names as health, on the device's own thread; never one of those above, nor a file of "
        "the PCI core that is no text: drivers/pci/pci-sysfs.c",
    ),
)
"""What is read besides of the devices that rules take, and of functions that they may take."""

TABLE: Final = (
    Attribute("vendor", _PCI, Source.MEMORY, When.NEW, "cached by the PCI core: drivers/pci/pci-sysfs.c"),
    Attribute("device", _PCI, Source.MEMORY, When.NEW, "cached by the PCI core: drivers/pci/pci-sysfs.c"),
    Attribute("numa_node", _PCI, Source.MEMORY, When.SCAN, "kept by the core: drivers/pci/pci-sysfs.c"),
    Attribute(
        "class", _PCI, Source.MEMORY, When.LEFT_OUT, "cached by the PCI core: drivers/pci/pci-sysfs.c"
    ),
    # XRT, user function
    Attribute("shutdown", _XOCL, Source.MEMORY, When.CHECK, f"{_RESOURCE}userpf/xocl_sysfs.c"),
    Attribute(
        "dev_offline",
        _XOCL,
        Source.LOCK,
        When.CHECK,
        "a mutex that is held for microseconds: userpf/xocl_sysfs.c",
    ),
    Attribute(
        "ready",
        _XOCL,
        Source.MAILBOX,
        READY,
        "a log line, or a request where the satellite controller's version differs: "
        "userpf/xocl_sysfs.c ready_show",
        since=READY_ASKS[0],
        before=READY_ASKS[1],
    ),
    *(
        Attribute(
            "ready",
            _XOCL,
            Source.MEMORY,
            When.CHECK,
            f"{_RESOURCE}userpf/xocl_sysfs.c",
            since=since,
            before=before,
        )
        for since, before in ((None, READY_ASKS[0]), (READY_ASKS[1], None))
    ),
    Attribute(
        "mailbox_connect_state",
        _XOCL,
        Source.MEMORY,
        When.CHECK,
        "kept by the mailbox: subdev/mailbox.c CHAN_STATE",
        since=READY_ASKS[0],
        before=READY_ASKS[1],
    ),
    Attribute("device_bad_state", _XOCL, Source.MEMORY, When.CHECK, f"{_RESOURCE}userpf/xocl_sysfs.c"),
    Attribute("rom.u.*/VBNV", _XOCL, Source.MEMORY, When.CHECK, f"{_RESOURCE}subdev/feature_rom.c"),
    Attribute("rom.u.*/timestamp", _XOCL, Source.MEMORY, When.SCAN, f"{_RESOURCE}subdev/feature_rom.c"),
    Attribute("logic_uuids", _XOCL, Source.MEMORY, When.SCAN, "the device tree in memory: xocl_fdt.c"),
    *(
        Attribute(
            f"{monitor}.*/serial_num",
            _XOCL,
            Source.MAILBOX,
            SERIAL,
            f"the driver asks for it once a second at most and then keeps it: {source}",
        )
        for monitor, source in (
            ("xmc.u", "subdev/xmc.c"),
            ("xmc.u2.u", "subdev/xmc_u2.c"),
            ("hwmon_sdm.u", "subdev/hwmon_sdm.c"),
        )
    ),
    *(
        Attribute(
            f"firewall.u.*/{name}",
            _XOCL,
            Source.MEMORY,
            When.CHECK if name == "status" else When.SCAN,
            "kept from the message of a trip: subdev/firewall.c request_firewall_status",
            since=(2, 14),
        )
        for name in ("status", "level", "detected_time")
    ),
    *(
        Attribute(
            f"firewall.u.*/{name}",
            _XOCL,
            Source.MAILBOX,
            TRIP,
            "five lines in the kernel's log: subdev/firewall.c fw_read_from_peer; where `xocl_errors` "
            "tells the reason (XRT 2021.2) it is not read",
            before=(2, 14),
        )
        for name in ("status", "level", "detected_time")
    ),
    Attribute(
        "xocl_errors",
        _XOCL,
        Source.MEMORY,
        When.CHECK,
        "copied from memory: userpf/xocl_sysfs.c, core/include/xclerr_int.h",
        binary=True,
    ),
    Attribute("versal", _XOCL, Source.MEMORY, BOOT, f"{_RESOURCE}userpf/xocl_sysfs.c"),
    Attribute(
        "vmr_status",
        _XOCL,
        Source.MEMORY,
        BOOT,
        "the device tree in memory; only of a Versal card, since it costs a log line elsewhere: "
        "userpf/xocl_sysfs.c vmr_status_show",
    ),
    # XRT, management function
    Attribute("rp_program", _MGMT, Source.MEMORY, When.SCAN, f"{_RESOURCE}mgmtpf/mgmt-sysfs.c"),
    *(
        Attribute(name, _MGMT, Source.MEMORY, When.LEFT_OUT, f"{_RESOURCE}subdev/feature_rom.c")
        for name in ("rom.m.*/VBNV", "rom.m.*/timestamp")
    ),
    Attribute("logic_uuids", _MGMT, Source.MEMORY, When.LEFT_OUT, "the device tree in memory: xocl_fdt.c"),
    *(
        Attribute(
            f"{monitor}.*/serial_num", _MGMT, Source.LOCK, SERIAL, f"from memory, or the card: {source}"
        )
        for monitor, source in (
            ("xmc.m", "subdev/xmc.c"),
            ("xmc.u2.m", "subdev/xmc_u2.c"),
            ("hwmon_sdm.m", "subdev/hwmon_sdm.c"),
        )
    ),
    Attribute("mfg", _MGMT, Source.MEMORY, When.LEFT_OUT, f"{_RESOURCE}mgmtpf/mgmt-sysfs.c"),
    Attribute("recovery", _MGMT, Source.MEMORY, When.LEFT_OUT, f"{_RESOURCE}mgmtpf/mgmt-sysfs.c"),
    # AVED, AMR
    Attribute("dev_state", _AMI, Source.MEMORY, When.CHECK, "AVED sw/AMI/driver/ami_sysfs.c"),
    Attribute("logic_uuid", _AMI, Source.MEMORY, When.CHECK, "AVED sw/AMI/driver/ami_sysfs.c"),
    Attribute("board_serial", _AMI, Source.MEMORY, SERIAL, "AVED sw/AMI/driver/ami_sysfs.c"),
    Attribute(
        "bus/pci/drivers/ami/devices",
        _AMI,
        Source.MEMORY,
        When.CHECK,
        "AVED sw/AMI/driver/ami_top.c create_map_str",
        base=Base.SYSFS,
    ),
    Attribute(
        "class/ami/*/dev",
        _AMI,
        Source.MEMORY,
        When.CHECK,
        "kept by the kernel: drivers/base/core.c dev_show",
        base=Base.SYSFS,
    ),
    # MA35D
    Attribute("bus_id", _MA35D, Source.MEMORY, When.CHECK, "AMA SDK pcie.c", base=Base.MISC),
    Attribute("hw_err", _MA35D, Source.MEMORY, When.CHECK, "AMA SDK transcoder.c", base=Base.MISC),
    Attribute(
        "device_info",
        _MA35D,
        Source.CARD,
        DEVICE_INFO,
        "AMA SDK hw_monitor.c: strings from the card's memory, without an end if its link is down",
        base=Base.MISC,
        guarded=True,
    ),
    Attribute(
        "config",
        _MA35D,
        Source.CARD,
        DEVICE_INFO,
        "its first four bytes, all ones if the link is down: drivers/pci/pci-sysfs.c",
        binary=True,
        size=4,
    ),
    Attribute(
        "sriov_numvfs",
        _MA35D,
        Source.LOCK,
        When.CHECK,
        "the lock of the PCI core, which a probe holds: read when that is over; drivers/pci/iov.c",
    ),
    # zocl: the device tree is the kernel's
    *(
        Attribute(
            f"firmware/devicetree/base/{name}",
            _ZOCL,
            Source.MEMORY,
            When.CHECK,
            "kept by the kernel: drivers/of/kobj.c",
            base=Base.SYSFS,
            binary=True,
        )
        for name in ("model", "compatible")
    ),
    *(
        Attribute(
            f"module/{module_of(driver)}/version",
            driver,
            Source.MEMORY,
            When.SCAN if driver == _XOCL else When.NEW,
            "kept by the kernel: kernel/module/sysfs.c; it tells which rows hold",
            base=Base.SYSFS,
        )
        for driver in (_XOCL, _MGMT, _AMI, _MA35D, _ZOCL)
    ),
    Attribute(
        "devices/system/node/online",
        "cpu",
        Source.MEMORY,
        When.SCAN,
        "kept by the kernel: drivers/base/node.c",
        base=Base.SYSFS,
    ),
)  # fmt: skip
"""All attributes that are read."""


_SENSORS: Final = "a register of the card, under a mutex of the driver: subdev/xmc.c"
_STATIC: Final = "printed from the driver's structures: "
_KDS: Final = "waits while an image is loaded, 50 s and more: "
_ZOCL_MEMORY: Final = "from memory, under a lock that no access to the card holds: "
_ZSP: Final = "a read of BAR4; only while the function answers: AMA SDK hw_monitor.c"
_AMC: Final = (
    "a command to the controller; a value at or above its critical one sends SIGBUS to every application of "
    "the driver, so a sensor that came near to it is left alone for 10 minutes: AVED, AMR "
    "sw/AMI/driver/ami_hwmon.c"
)

TELEMETRY: Final = (
    *(
        Attribute(
            f"{which}_link_{what}",
            _PCI,
            Source.CARD,
            when,
            "a read of the config space: drivers/pci/pci-sysfs.c",
            level=Level.SAFE,
        )
        for which, when in (("current", When.SAMPLE), ("max", When.LINK))
        for what in ("speed", "width")
    ),
    *(
        Attribute(
            f"aer_dev_{severity}",
            _PCI,
            Source.MEMORY,
            When.SAMPLE,
            "counted by the kernel: drivers/pci/pcie/aer.c",
            level=Level.SAFE,
        )
        for severity in ("correctable", "nonfatal", "fatal")
    ),
    Attribute(
        "xocl_errors",
        _XOCL,
        Source.MEMORY,
        When.SAMPLE,
        "copied from memory, also while the card is offline: userpf/xocl_sysfs.c, core/include/xclerr_int.h",
        binary=True,
        level=Level.SAFE,
    ),
    Attribute(
        "hwmon/hwmon*/name",
        _MGMT,
        Source.MEMORY,
        When.SAMPLE,
        f"{_STATIC}subdev/xmc.c; it tells which of these rows hold",
        level=Level.SAFE,
    ),
    Attribute(
        "hwmon/hwmon*/*_label", _MGMT, Source.MEMORY, When.NEW, f"{_STATIC}subdev/xmc.c", level=Level.SAFE
    ),
    *(
        Attribute(
            f"hwmon/hwmon*/{sensor}*_input",
            _MGMT,
            Source.CARD,
            When.SAMPLE,
            f"{_SENSORS}; or a system monitor, where `xmc` shows currents only: subdev/sysmon.c; not where "
            "hwmon_sdm asks the firmware",
            level=Level.SAFE,
        )
        for sensor in ("power1", "temp", "in", "curr", "fan")
    ),
    *(
        Attribute(
            f"hwmon/hwmon*/{sensor}",
            driver,
            Source.COMMAND if sensor.endswith(("_input", "_crit")) else Source.MEMORY,
            RARELY,
            why,
            level=Level.ALL,
        )
        for driver, why, sensors in (
            (
                _MGMT,
                "hwmon_sdm asks the firmware for each sensor, 30 s at most: subdev/hwmon_sdm.c",
                ("*_label", "*_unitm", "temp*_input", "power1_input"),
            ),
            (_AMI, _AMC, ("name", "*_label", "temp*_crit", "power1_crit", "temp*_input", "power1_input")),
        )
        for sensor in sensors
    ),
    *(
        Attribute(
            f"hwmon/hwmon*/{sensor}",
            _XOCL,
            Source.MAILBOX if sensor.endswith("_input") else Source.MEMORY,
            RARELY,
            "one request in a second, 4 lines in the kernel's log, zeros if the management function does not "
            "answer: subdev/xmc.c, subdev/hwmon_sdm.c; only where no management function is beside it",
            level=Level.ALL,
        )
        for sensor in ("name", "*_label", "*_unitm", "power1_input", "temp*_input", "in*_input",
                       "curr*_input", "fan*_input")
    ),
    *(
        Attribute(
            f"hwmon_sdm.{side}.*/{kind}_sensors_raw",
            driver,
            source,
            RARELY,
            f"{why}, for all sensors of the kind; in place of hwmon, but for the power: "
            "subdev/hwmon_sdm.c show_sensors_raw",
            since=(2, 14),
            level=Level.ALL,
        )
        for driver, side, source, why in (
            (_MGMT, "m", Source.COMMAND, "one command to the firmware"),
            (_XOCL, "u", Source.MAILBOX, "one request; only where no management function is beside it"),
        )
        for kind in ("temp", "voltage", "current")
    ),
    Attribute(
        "dev_offline",
        _XOCL,
        Source.LOCK,
        RARELY,
        "a mutex that is held for microseconds; where it is 1, the rows of `all` are not read: "
        "userpf/xocl_sysfs.c",
        level=Level.ALL,
    ),
    *(
        Attribute(name, _XOCL, Source.LOCK, RARELY, f"{_KDS}{source}", binary=binary, level=Level.ALL)
        for name, source, binary in (
            ("kdsstat", "userpf/xocl_sysfs.c, xocl_kds.c", False),
            ("kds_custat_raw", "userpf/xocl_sysfs.c, xocl_kds.c", True),
            ("memstat_raw", "userpf/xocl_sysfs.c xocl_mm_stat", False),
            ("xclbinuuid", "userpf/xocl_sysfs.c, subdev/icap.c", False),
        )
    ),
    *(
        Attribute(
            name,
            _ZOCL,
            Source.LOCK,
            RARELY,
            why,
            base=Base.RENDER,
            binary=name == "kds_custat_raw",
            level=Level.ALL,
        )
        for name, why in (
            ("memstat_raw", f"{_ZOCL_MEMORY}edge/drm/zocl/common/zocl_sysfs.c"),
            ("xclbinid", f"{_ZOCL_MEMORY}edge/drm/zocl/common/zocl_sysfs.c"),
            ("kds_custat_raw", "a mutex of the scheduler: common/drv/kds_core.c show_kds_custat_raw"),
        )
    ),
    *(
        Attribute(
            name, _MA35D, Source.CARD, When.SAMPLE, _ZSP, base=Base.MISC, guarded=True, level=Level.SAFE
        )
        for name in (
            "board_power",
            "board_temp",
            "board_vc",
            "pvt_temperature",
            "pvt_voltage",
            "ddr_error_information",
            "axi_sram_error_information",
            "pcie_error_information",
        )
    ),
    Attribute(
        "bus_id", _MA35D, Source.MEMORY, When.SAMPLE, "AMA SDK pcie.c", base=Base.MISC, level=Level.SAFE
    ),
    Attribute(
        "config",
        _MA35D,
        Source.CARD,
        When.SAMPLE,
        "its first four bytes, all ones if the link is down: drivers/pci/pci-sysfs.c",
        binary=True,
        size=4,
        level=Level.SAFE,
    ),
)  # fmt: skip
"""What TELEMETRY reads of a card, on a thread of its own that neither scans nor scrapes wait for."""

UNREAD: Final[Sequence[tuple[str, str, str]]] = (
    (_MGMT, "hwmon/hwmon*/power1_average", "it is the maximum: subdev/xmc.c"),
    (_MGMT, "hwmon/hwmon*/power2_*, temp15_*", "limits of the clock scaling, and writable: subdev/xmc.c"),
    (_MGMT, "icap.*/clock_freqs, data_retention", "the mailbox answers: subdev/icap.c"),
    (_MGMT, "firewall.m.*/*", "`xocl_errors` has the trips: userpf/xocl_drv.c"),
    (
        _XOCL,
        "firewall.u.*/*",
        "the health checks read it, `xocl_errors` has the trips: subdev/firewall.c, userpf/xocl_drv.c",
    ),
    (_XOCL, "link_speed, link_width", "as they were when the driver was bound: userpf/xocl_drv.c"),
    (_XOCL, "host_mem_size", "a setting, no use of it: userpf/xocl_sysfs.c"),
    (
        _AMI,
        "hwmon/hwmon*/in*_input, curr*_input",
        "a command each, and SIGBUS to every application at the critical value: ami_hwmon.c",
    ),
    (
        _MA35D,
        "link_status",
        "a virtual function asks its device, with an interrupt there: AMA SDK pcie.c",
    ),
    (_MA35D, "ddrbw_*", "a line in the kernel's log where a counter is 0: AMA SDK hw_monitor.c"),
    (_MA35D, "uptime_s, err_code", "no series has it; `hw_err` counts for the health: AMA SDK hw_monitor.c"),
    (_ZOCL, "errors", "one record a class, which a newer one replaces, so none is counted: zocl_error.c"),
    (_ZOCL, "graph_status", "waits for another process to answer: zocl_sysfs.c"),
    (
        _ZOCL,
        "ams, iio, hwmon of the chip",
        "of the board, not of the device; node-exporter reads hwmon: zocl_sysfs.c has no sensor",
    ),
    (_XOCL, "sensors of AWS F1 and F2", "there are none: core/pcie/tools/cloud-daemon/aws/aws_dev.cpp"),
)
"""Other sources of telemetry, by driver, and why none of them is read."""


def rows_of(
    base: Base, path: str, version: tuple[int, int] | None = None, table: Sequence[Attribute] = TABLE
) -> Iterator[Attribute]:
    """Yield the rows of the attribute with this path below its base, for one version of the module."""
    for attribute in table:
        if attribute.base is base and attribute.has(path) and attribute.holds_for(version):
            yield attribute
