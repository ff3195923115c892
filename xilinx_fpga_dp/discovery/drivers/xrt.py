"""The back-end for cards driven by XRT: user functions of `xocl`, management functions of `xclmgmt`.

A user function is known by its ``user_pf`` file and its driver link, never by device id, class or
function number: those differ by board, by shell and by cloud. Sub-devices are found by pattern at every
scan, since their numbers change with releases and resets (XRT xocl_subdev.c).
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery.backend import ODD_ANSWER, Probe
from xilinx_fpga_dp.discovery.health import Look, number, xrt_reason, xrt_tripped
from xilinx_fpga_dp.discovery.slow_attributes import Answers
from xilinx_fpga_dp.discovery.sysfs import (
    Bus,
    Function,
    Unreadable,
    driver_of,
    first_readable,
    is_there,
    list_names,
    listed_again,
    node_exists,
    read_attribute,
    read_serial,
)
from xilinx_fpga_dp.model import Device, Reason, Shell

USER_DRIVER: Final = "xocl"
MGMT_DRIVER: Final = "xclmgmt"
DRIVERS: Final = frozenset({USER_DRIVER, MGMT_DRIVER})
LISTED: Final = frozenset({USER_DRIVER})
CLASSES: Final[Mapping[str, re.Pattern[str]]] = {}

# xocl takes both functions of an AWS F2 card (devices.h XOCL_USER_PCI_IDS); this is the management function
# (aws-fpga, sdk/userspace/include/hal/fpga_common.h).
_F2_MANAGEMENT: Final = ("1d0f", "9248")

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


def probes(bus: Bus, dev_root: str) -> Iterator[Probe]:
    """A probe for each user function, and for each function of the drivers that should have one beside it."""
    slots = {function.slot for function in bus.functions if function.driver != MGMT_DRIVER}
    users = {f.slot for f in bus.functions if is_user(f) and not _is_f2_management(f)}
    # Not to be seen in a virtual machine, nor on AWS.
    mgmt = {function.slot: function for function in bus.functions if function.driver == MGMT_DRIVER}
    for function in bus.functions:
        if is_user(function):
            yield _user_probe(function, mgmt.get(function.slot), dev_root)
        # The management function of a user function needs no word, whatever becomes of the user function.
        elif (function.driver == USER_DRIVER and function.slot not in users) or (
            function.driver == MGMT_DRIVER and function.slot not in slots
        ):
            yield Probe(function.address, partial(_look_at_stranger, function), device=False)


def is_user(function: Function) -> bool:
    """Whether it is a user function: the only test that holds for all releases, boards and clouds."""
    return function.driver == USER_DRIVER and "user_pf" in function.entries


def _is_f2_management(function: Function) -> bool:
    return (function.vendor, function.device) == _F2_MANAGEMENT


def _user_probe(function: Function, mgmt: Function | None, dev_root: str) -> Probe:
    if _is_f2_management(function):
        return Probe(function.address, partial(_look_at_stranger, function), device=False)
    return Probe(
        function.address,
        ask=lambda: look_at(function, read(function, mgmt, dev_root)),
        same=partial(is_same, function, dev_root),
        ask_slowly=partial(_read_slow, function),
        withheld=partial(_withheld, mgmt) if mgmt else None,
    )


def read(function: Function, mgmt: Function | None, dev_root: str) -> Reading:
    """Ask the driver about a user function. Blocks; may never return."""
    faults: dict[str, str] = {}

    def attribute(*paths: str) -> str | None:
        try:
            return first_readable(paths)
        except Unreadable as error:
            faults[os.path.basename(paths[0])] = str(error)
            return None

    render_node = read_render_node(function)
    health = {name: attribute(f"{function.path}/{name}") for name in _HEALTH}
    if "drm" not in function.entries:
        # It was listed in a reset, from which sub-devices return first, then health attributes, then drm
        # (xocl_reset_notify). A trip on record would be missed now and taken for a new one by the next look.
        function = listed_again(function)
    roms = function.subdirectories(_ROM)
    latched = latches_trips(function)
    return Reading(
        vbnv=attribute(*(f"{rom}/VBNV" for rom in roms)),
        timestamp=attribute(*(f"{rom}/timestamp" for rom in roms)),
        logic_uuid=_read_uuid(function),
        roms=len(roms),
        health=health,
        render_node=render_node,
        render_node_exists=render_node is not None and node_exists(dev_root, render_node),
        mgmt_node=_existing(dev_root, _mgmt_nodes(mgmt) if mgmt else ()),
        qdma_node=_existing(dev_root, _qdma_nodes(function)),
        trip=read_trip(function) if latched else None,
        latched=latched,
        faults=faults,
    )


def is_same(function: Function, dev_root: str, look: Look, *, exact: bool) -> bool:
    """Whether a user function in which a look found no fault has none still. Blocks; may never return.

    Exact, also whether it has the same shell and device nodes: what a pod is told and given.

    Reads every attribute in which a fault shows, if the driver had it when the function was listed. That drm
    is there means that the sub-devices are, but up to XRT 2019.2, whose reset takes only those away.
    """
    device = look.device
    if device is None or device.node is None or "drm" not in function.entries:
        return False
    render_node = f"{function.path}/drm/{os.path.basename(device.node)}"
    if driver_of(function.path) != USER_DRIVER or not is_there(render_node):
        return False
    try:
        health = {
            name: read_attribute(f"{function.path}/{name}") for name in _HEALTH if name in function.entries
        }
        vbnv = first_readable(f"{rom}/VBNV" for rom in function.subdirectories(_ROM))
    except Unreadable:
        return False
    return (
        xrt_reason(health, renders=True, node=node_exists(dev_root, device.node)) is None
        and vbnv == device.shell.vbnv
        and (not look.latched or read_trip(function) == look.trip)
        and (not exact or (_has_nodes_of(device, dev_root) and _has_shell_of(device, function)))
    )


def _has_nodes_of(device: Device, dev_root: str) -> bool:
    return all(node_exists(dev_root, node) for node in (device.mgmt_node, device.qdma_node) if node)


def _has_shell_of(device: Device, function: Function) -> bool:
    """Whether what tells two shells of one name apart is that of a device."""
    try:
        timestamp = first_readable(f"{rom}/timestamp" for rom in function.subdirectories(_ROM))
    except Unreadable:
        return False
    shell = device.shell
    return _plain(timestamp) == shell.timestamp and _read_uuid(function) == shell.logic_uuid


def look_at(function: Function, reading: Reading) -> Look:
    """Make a look of what was read of a user function. Pure."""
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
        numa_node=function.numa_node,
        pcie_path=function.pcie_path,
        node=reading.render_node,
        mgmt_node=reading.mgmt_node,
        qdma_node=reading.qdma_node,
    )
    # dev_offline asks the drm device: between its going and that of the attributes, and in their return
    in_reset = reading.render_node is None and number(reading.health["dev_offline"]) == -errno.ENODEV
    return Look(
        function.address, device, reason, trip=reading.trip, latched=reading.latched, in_reset=in_reset
    )


def _shell_of(reading: Reading) -> Shell | str:
    """The shell that was read, or why there is none."""
    if not reading.roms:
        return "shell not known: it has no rom.u.* directory; is the card being reset?"
    if fault := reading.faults.get("VBNV"):
        return f"shell not known: {fault}; {ODD_ANSWER}"
    if not reading.vbnv:
        return (
            "shell not loaded yet: the driver gives no name (VBNV is empty); "
            "is xclmgmt (on the host) or mpd (in a virtual machine) running, is a shell programmed?"
        )
    if len(reading.vbnv) > _MAX_VBNV or not reading.vbnv.isprintable():
        return f"shell not known: VBNV is no name ({reading.vbnv[:40]!r}); {ODD_ANSWER}"
    timestamp = _plain(reading.timestamp)
    if timestamp is None:
        text = reading.timestamp
        odd = f"{text[:40]!r} is no decimal number" if text else "missing or empty"
        fault = reading.faults.get("timestamp") or f"timestamp: {odd}"
        return f"shell {reading.vbnv} not known for sure: {fault}; {ODD_ANSWER}"
    return Shell(reading.vbnv, timestamp, reading.logic_uuid)


def _plain(timestamp: str | None) -> str | None:
    """A timestamp as it is in a name; None where it is none."""
    return str(int(timestamp)) if timestamp and _TIMESTAMP.fullmatch(timestamp) else None


def board_of(vbnv: str) -> str:
    """The card's type: the second field of its VBNV, lower case; ``emb-plus`` has one field only."""
    fields = vbnv.split("_")
    return (fields[1] if len(fields) > 1 and fields[1] else vbnv).lower()


def _withheld(mgmt: Function) -> str | None:
    """Whether a base is still waiting for its shell (DFX-2RP). Asks the management driver.

    ``rp_program`` is 1 from the request for a shell until it is programmed: mgmtpf/mgmt-sysfs.c. A base that
    nobody has asked a shell for cannot be told from a shell in one stage, so it is offered by its name.
    """
    if _is_set(f"{mgmt.path}/rp_program"):
        return "shell not loaded yet: its base waits for the shell (xbmgmt program --shell)"
    return None


def _look_at_stranger(function: Function) -> Look:
    """Why a function of the drivers is no device (now). Asks the management driver."""
    return Look(
        function.address,
        reason=Reason.RESETTING if function.driver == USER_DRIVER else Reason.NO_DRIVER,
        why=_why_left_out(function),
    )


def _why_left_out(function: Function) -> str:
    if function.fault:
        return f"{function.fault}; {ODD_ANSWER}"
    if _is_f2_management(function):
        return (
            "second function of one device: AWS F2's management function, which xocl takes too; "
            "nothing to do, the other one is what programs use"
        )
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


def _read_slow(function: Function, serial: str | None) -> Answers:
    """What may take its driver 20 s (mailbox.c). A serial number that is known is not asked for again."""
    again = not latches_trips(function) and bool(function.subdirectories(_FIREWALL))
    files = (f"{path}/serial_num" for path in function.subdirectories(_SERIAL))
    return Answers(serial or read_serial(files), read_trip(function) if again else None, again)


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
            level = read_attribute(f"{path}/level")
            if xrt_tripped(level):
                status, time = (read_attribute(f"{path}/{name}") for name in ("status", "detected_time"))
                return f"{level}/{status}/{time}"
        except Unreadable:
            continue
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


def _read_uuid(function: Function) -> str | None:
    """The shell's own uuid: a two-stage shell prints its base's before it."""
    try:
        lines = (read_attribute(f"{function.path}/logic_uuids") or "").splitlines()
    except Unreadable:  # EINVAL on single-stage shells and AWS; it is missing before 2019.2
        return None
    uuids = [line.strip() for line in lines if _UUID.fullmatch(line.strip())]
    return uuids[-1] if uuids else None


def _is_set(path: str) -> bool:
    try:
        return read_attribute(path) not in (None, "", "0")
    except Unreadable:
        return False
