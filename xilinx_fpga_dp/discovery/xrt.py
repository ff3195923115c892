"""The back-end for cards driven by XRT: user functions of `xocl`, management functions of `xclmgmt`.

A user function is known by its ``user_pf`` file and its driver link, never by device id, class or
function number: those differ by board, by shell and by cloud. Sub-devices are found by pattern at every
scan, since their numbers change with releases and resets (XRT xocl_subdev.c).
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xilinx_fpga_dp.discovery.health import Look, xrt_reason, xrt_trip
from xilinx_fpga_dp.discovery.slow import Answers
from xilinx_fpga_dp.discovery.sysfs import (
    Function,
    Unreadable,
    first_readable,
    list_names,
    node_exists,
    read_attribute,
)
from xilinx_fpga_dp.model import Device, Reason, Shell

USER_DRIVER = "xocl"
MGMT_DRIVER = "xclmgmt"
DRIVERS = frozenset({USER_DRIVER, MGMT_DRIVER})

# Xilinx, and the makers whose ids stand in XRT's tables: devices.h XOCL_USER_PCI_IDS and its history.
# Amazon's 1d0f is its NVMe and network cards too, so there and with the others the device id counts.
_XILINX = "10ee"
_OTHER_CARDS = {
    "13fe": frozenset({"006c", "0065", "0078", "0077", "806c"}),
    "3475": frozenset({"5010", "5011"}),
    "1d0f": frozenset({"1042", "f000", "f010", "f011", "9048", "9248"}),
}
VENDORS = frozenset({_XILINX, *_OTHER_CARDS})

_ROM = re.compile(r"rom\.u\.\d+")  # beside it stands the kernel's own file `rom`
_SERIAL = re.compile(r"(xmc\.u|xmc\.u2\.u|hwmon_sdm\.u)\.\d+")
_FIREWALL = re.compile(r"firewall\.u\.\d+")
_QDMA = re.compile(r"(?:dma\.qdma\d*|str_dma)\.u\.\d+")
_RENDER_NODE = re.compile(r"renderD\d{1,7}")
_MGMT_NODE = re.compile(r"xclmgmt\d{1,20}")
_QDMA_NODE = re.compile(r"(?:xfpga!dma\.qdma\d*|str_dma)\.u\d{1,20}(?:\.\d{1,3})?")
_UUID = re.compile(r"[0-9a-f]{32}")
_TIMESTAMP = re.compile(r"[0-9]{1,20}")  # u64, printed as decimal
_MAX_VBNV = 256
_MAX_SERIAL = 64

# Health attributes that neither wait for the management function nor take a lock in the driver. Never to be
# read: `error` (reading clears it), `mig_cache_update`, and `mailbox`; never to be written: `shutdown`.
_HEALTH = ("shutdown", "dev_offline", "ready", "device_bad_state")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the driver answered for one function. ``faults`` says what could not be read, and why."""

    vbnv: str | None
    timestamp: str | None
    logic_uuid: str | None
    roms: int
    health: Mapping[str, str | None]
    render_node: str | None
    render_node_exists: bool
    mgmt_node: str | None
    qdma_node: str | None
    trip: str | None
    latched: bool
    faults: Mapping[str, str]


def is_user(function: Function) -> bool:
    """Whether it is a user function: the only test that holds for all releases, boards and clouds."""
    return function.driver == USER_DRIVER and "user_pf" in function.entries


def user_functions(functions: Iterable[Function]) -> list[Function]:
    """The functions to read: each becomes a device or is left out."""
    return [function for function in functions if is_user(function)]


def read(function: Function, mgmt: Function | None, dev_root: str) -> Reading:
    """Ask the driver about a user function. Blocks; may never return."""
    faults: dict[str, str] = {}

    def attribute(*paths: str) -> str | None:
        try:
            return first_readable(paths)
        except Unreadable as error:
            faults[os.path.basename(paths[0])] = str(error)
            return None

    roms = function.subdirectories(_ROM)
    render_node = read_render_node(function)
    latched = latches_trips(function)
    return Reading(
        vbnv=attribute(*(f"{rom}/VBNV" for rom in roms)),
        timestamp=attribute(*(f"{rom}/timestamp" for rom in roms)),
        # EINVAL on single-stage shells and AWS, missing before 2019.2: the device has none then
        logic_uuid=_last_uuid(attribute(f"{function.path}/logic_uuids")),
        roms=len(roms),
        health={name: attribute(f"{function.path}/{name}") for name in _HEALTH},
        render_node=render_node,
        render_node_exists=render_node is not None and node_exists(dev_root, render_node),
        mgmt_node=_existing(dev_root, _mgmt_nodes(mgmt) if mgmt else ()),
        qdma_node=_existing(dev_root, _qdma_nodes(function)),
        trip=read_trip(function) if latched else None,
        latched=latched,
        faults=faults,
    )


def look_at(function: Function, reading: Reading, slow: Answers) -> Look:
    """Make a look of what was read of a user function, at once and slowly. Pure."""
    reason = xrt_reason(
        reading.health,
        renders=reading.render_node is not None,
        node=reading.render_node_exists,
    )
    shell = _shell_of(reading)
    if isinstance(shell, str):
        lost = Reason.SHELL_UNKNOWN if reading.roms else Reason.RESETTING
        return Look(
            function.address, reason=Reason.SHUTDOWN if reason is Reason.SHUTDOWN else lost, why=shell
        )
    device = Device(
        address=function.address,
        shell=shell,
        board=board_of(shell.vbnv),
        driver=USER_DRIVER,
        device_id=function.device,
        serial=slow.serial,
        numa_node=function.numa_node,
        pcie_path=function.pcie_path,
        node=reading.render_node,
        mgmt_node=reading.mgmt_node,
        qdma_node=reading.qdma_node,
    )
    return Look(function.address, device, reason, trip=reading.trip or slow.trip, latched=reading.latched)


def _shell_of(reading: Reading) -> Shell | str:
    """The shell that was read, or why there is none."""
    if not reading.roms:
        return "shell not known: it has no rom.u.* directory; is the card being reset?"
    if fault := reading.faults.get("VBNV"):
        return f"shell not known: {fault}"
    if not reading.vbnv:
        return (
            "shell not loaded yet: the driver gives no name (VBNV is empty); "
            "is xclmgmt (on the host) or mpd (in a virtual machine) running, is a shell programmed?"
        )
    if len(reading.vbnv) > _MAX_VBNV or not reading.vbnv.isprintable():
        return f"shell not known: VBNV is no name ({reading.vbnv[:40]!r})"
    timestamp = reading.timestamp or ""
    if not _TIMESTAMP.fullmatch(timestamp):
        odd = f"{timestamp[:40]!r} is no decimal number" if timestamp else "missing or empty"
        fault = reading.faults.get("timestamp") or f"timestamp: {odd}"
        return f"shell {reading.vbnv} not known for sure: {fault}"
    return Shell(reading.vbnv, str(int(timestamp)), reading.logic_uuid)


def board_of(vbnv: str) -> str:
    """The card's type: the second field of its VBNV, lower case; ``emb-plus`` has one field only."""
    fields = vbnv.split("_")
    return (fields[1] if len(fields) > 1 and fields[1] else vbnv).lower()


def management_function(user: Function, functions: Iterable[Function]) -> Function | None:
    """The management function in the same slot, if it is visible: not in a VM, not on AWS."""
    return next((f for f in functions if f.driver == MGMT_DRIVER and f.slot == user.slot), None)


def bystanders(functions: Iterable[Function]) -> list[Function]:
    """Functions that are ours to speak of and are no device (now): each is left out with a reason.

    The management function of a user function is not one of them, whatever becomes of the user function.
    """
    everything = list(functions)
    users = {f.slot for f in user_functions(everything)}
    slots = {f.slot for f in everything if f.driver != MGMT_DRIVER}
    return [
        f
        for f in everything
        if f.slot not in users
        and (f.driver in DRIVERS or (f.driver in (None, "vfio-pci") and is_card(f)))
        and not (f.driver == MGMT_DRIVER and f.slot in slots)
    ]


NO_SHELL_YET = "shell not loaded yet: its base waits for the shell (xbmgmt program --shell)"


def is_programming(mgmt: Function) -> bool:
    """Whether a base is still waiting for its shell (DFX-2RP). Asks the management driver, so it blocks.

    ``rp_program`` is 1 from the request for a shell until it is programmed: mgmtpf/mgmt-sysfs.c. A base that
    nobody has asked a shell for cannot be told from a shell in one stage, so it is offered by its name.
    """
    try:
        return read_attribute(f"{mgmt.path}/rp_program") not in (None, "", "0")
    except Unreadable:
        return False


def is_card(function: Function) -> bool:
    """Whether vendor and device id say that this is an FPGA card."""
    return function.vendor == _XILINX or function.device in _OTHER_CARDS.get(function.vendor or "", ())


def look_at_bystander(function: Function) -> Look:
    """Why a bystander is no device (now). Asks the management driver, so it blocks."""
    return Look(
        function.address,
        reason=Reason.RESETTING if function.driver == USER_DRIVER else Reason.NO_DRIVER,
        why=_why_left_out(function),
    )


def _why_left_out(function: Function) -> str:
    if function.fault:
        return function.fault
    if function.driver is None:
        return "no driver: install XRT's driver or load it (modprobe xocl xclmgmt)"
    if function.driver == "vfio-pci":
        return "bound to vfio-pci, for a virtual machine; bind it to xocl to offer it here"
    if function.driver == USER_DRIVER:
        return (
            "no user_pf: a recovery image, or xocl is still probing; "
            "program a shell (xbmgmt program --base) and cold-boot if it stays so"
        )
    if _is_set(f"{function.path}/mfg"):
        return "golden image: management function only, program a shell first (xbmgmt program --base)"
    if _is_set(f"{function.path}/recovery"):
        return "recovery image: management function only, program a shell first (xbmgmt program --base)"
    return "management function only: its user function is not there; program a shell, rescan the bus"


def read_slow(function: Function, serial: str | None) -> Answers:
    """What may take its driver 20 s (mailbox.c). Blocks.

    Args:
        function: the user function.
        serial: its serial number, if it was read before: it is not asked for again.
    """
    again = not latches_trips(function) and bool(function.subdirectories(_FIREWALL))
    return Answers(serial or _serial(function), read_trip(function) if again else None, again)


def _serial(function: Function) -> str | None:
    try:
        serial = first_readable(f"{path}/serial_num" for path in function.subdirectories(_SERIAL))
    except Unreadable:
        return None
    return serial if serial and serial.isprintable() and len(serial) <= _MAX_SERIAL else None


def latches_trips(function: Function) -> bool:
    """Whether its driver answers for the firewall at once, and keeps a trip on record: XRT >= 2022.2.

    Older ones ask the management function through the mailbox, which may take 20 s. `vmr_status` came in the
    same release; only its presence is looked at, since each read of it writes a line to the kernel's log.
    """
    return "vmr_status" in function.entries or "versal" in function.entries


def read_trip(function: Function) -> str | None:
    """Its firewall trip on record; None if there is none, or no firewall to read (V70, XRT <= 2019.1)."""
    for path in function.subdirectories(_FIREWALL):
        try:
            level, status, time = (
                read_attribute(f"{path}/{name}") for name in ("level", "status", "detected_time")
            )
        except Unreadable:
            continue
        if trip := xrt_trip(level, status, time):
            return trip
    return None


def read_render_node(function: Function) -> str | None:
    """Its render node as a path under /dev. The drm core answers, so this does not block.

    The directory is missing while the card is probed, reset or shut down, and the number may be
    another one afterwards.
    """
    names = sorted(filter(_RENDER_NODE.fullmatch, list_names(f"{function.path}/drm")))
    return f"/dev/dri/{names[0]}" if names else None


def _mgmt_nodes(mgmt: Function) -> Iterable[str]:
    for name in list_names(f"{mgmt.path}/xrt_mgmt"):
        if _MGMT_NODE.fullmatch(name):
            yield f"/dev/{name}"
    yield f"/dev/xclmgmt{_instance(mgmt.address)}"


def _qdma_nodes(function: Function) -> Iterable[str]:
    # The directory outlives the node, which only XRT <= 2022.1 makes; str_dma without a folder before 2019.2.
    for path in function.subdirectories(_QDMA):
        for name in list_names(f"{path}/xrt_user"):
            if _QDMA_NODE.fullmatch(name):
                yield f"/dev/{name.replace('!', '/')}"
        kind = os.path.basename(path).partition(".u.")[0]
        yield f"/dev/xfpga/{kind}.u{_instance(function.address)}.0"


def _existing(dev_root: str, nodes: Iterable[str]) -> str | None:
    return next((node for node in nodes if node_exists(dev_root, node)), None)


def _instance(address: str) -> int:
    """The number in the names of a function's nodes: xocl_drv.h XOCL_DEV_ID."""
    domain, bus, slot, function = (int(part, 16) for part in re.split("[:.]", address))
    return (domain << 16 | bus << 8 | slot << 3 | function) & 0xFFFF_FFFF  # a C int: 10000:... wraps


def _last_uuid(text: str | None) -> str | None:
    """The shell's own uuid: a two-stage shell prints its base's before it."""
    uuids = [line.strip() for line in (text or "").splitlines() if _UUID.fullmatch(line.strip())]
    return uuids[-1] if uuids else None


def _is_set(path: str) -> bool:
    try:
        return read_attribute(path) == "1"
    except Unreadable:
        return False
