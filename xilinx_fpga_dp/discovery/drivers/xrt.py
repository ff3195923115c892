"""The back-end for cards driven by XRT: user functions of `xocl`, management functions of `xclmgmt`.

A user function is known by its ``user_pf`` file and its driver link, never by device id, class or function
number: those differ by board, shell and cloud. Sub-devices are found by pattern at every scan, since their
numbers change with releases and resets (XRT xocl_subdev.c).
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery import pci_ids, sysfs
from xilinx_fpga_dp.discovery.backend import REMEDY, Backend, Probe
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.management import Management
from xilinx_fpga_dp.discovery.pci_ids import Role
from xilinx_fpga_dp.discovery.slow_attributes import SlowReadings
from xilinx_fpga_dp.discovery.sysfs import Bus, Function, Unreadable, Wanted
from xilinx_fpga_dp.model import Device, Reason, Shell

USER_DRIVER: Final = "xocl"
"""The user functions' module, and since XRT 2019.1 its driver on the bus."""

MGMT_DRIVER: Final = "xclmgmt"

# The module's drivers up to XRT 2018.3: userpf/common.h XOCL_XDMA_PCI, XOCL_QDMA_PCI
_USER_DRIVERS: Final = frozenset({USER_DRIVER, "xocl_xdma", "xocl_qdma"})

_ROM = re.compile(r"rom\.[um]\.\d+")  # beside it stands the kernel's own file `rom`
_SERIAL = re.compile(r"(xmc|xmc\.u2|hwmon_sdm)\.[um]\.\d+")
_FIREWALL = re.compile(r"firewall\.u\.\d+")
_QDMA = re.compile(r"(?:dma\.qdma\d*|str_dma)\.u\.\d+")
_RENDER_NODE = re.compile(r"renderD\d{1,7}")
_MGMT_NODE = re.compile(r"xclmgmt\d{1,20}")
_QDMA_NODE = re.compile(r"(?:xfpga!dma\.qdma\d*|str_dma)\.u\d{1,20}(?:\.\d{1,3})?")
_UUID = re.compile(r"^\s*([0-9a-f]{32})\s*$", re.MULTILINE)
_TIMESTAMP = re.compile(r"[0-9]{1,20}")  # u64, printed as decimal
_MAX_VBNV = 256
# Cards at AWS are never unplugged: one whose function goes away loads an image, which nothing announces.
_AWS: Final = "aws-"
_AWS_TIMESTAMP: Final = "43981"  # 0xabcd, the same for every shell: subdev/feature_rom.c
_NO_NAME: Final = "shell not loaded yet: the driver gives no name (VBNV is empty)"

# Health attributes that neither wait for the management function nor take a lock in the driver. Never to be
# read: `error` (reading clears it), `mig_cache_update`, and `mailbox`; never to be written: `shutdown`.
_HEALTH = ("shutdown", "dev_offline", "ready", "device_bad_state")


def probes(bus: Bus) -> Iterator[Probe]:
    """Yield a probe for each user function, and for each function that should have one beside it."""
    # A virtual machine has no management functions, nor has AWS.
    mgmt = {function.slot: function for function in bus.functions if _is_management(function)}
    # A function in one of these slots belongs to another one; that holds whatever becomes of a user function.
    users = {function.slot for function in bus.functions if _is_user(function)}
    others = {function.slot for function in bus.functions if function.driver != MGMT_DRIVER}
    for function in bus.functions:
        if _is_user(function):
            beside = mgmt.get(function.slot)
            yield Probe(
                function.address,
                observe=partial(_observe, function, beside, bus),
                unchanged=partial(_is_unchanged, function, bus),
                read_slow=partial(_read_slow, function),
                withheld=partial(_withheld, beside) if beside and beside.driver == MGMT_DRIVER else None,
            )
        elif function.driver == MGMT_DRIVER and function.slot not in others:
            yield Probe(
                function.address,
                partial(_observe_management, function, bus),
                read_slow=partial(_read_serial_of_management, function),
                device=False,
            )
        elif function.driver in _USER_DRIVERS and (_is_f2_management(function) or function.slot not in users):
            yield Probe(function.address, partial(_observe_left_out, function), device=False)


BACKEND: Final = Backend(
    probes, Wanted(drivers=frozenset({*_USER_DRIVERS, MGMT_DRIVER}), listed=_USER_DRIVERS)
)


def _is_user(function: Function) -> bool:
    """Whether it is a user function: the only test that holds for all releases, boards and clouds."""
    has_file = function.driver in _USER_DRIVERS and "user_pf" in function.entries
    return has_file and not _is_f2_management(function)


def _is_management(function: Function) -> bool:
    """Whether it is a management function, bound to its driver or not."""
    known = pci_ids.find(function.vendor, function.device)
    return function.driver == MGMT_DRIVER or (known is not None and known.role is Role.MANAGEMENT)


def _is_f2_management(function: Function) -> bool:
    """Whether it is AWS F2's: xocl takes both functions of that (devices.h XOCL_USER_XDMA_PCI_IDS)."""
    known = pci_ids.find(function.vendor, function.device)
    return known is not None and (known.board, known.role) == ("aws-f2", Role.PART)


def _observe(function: Function, mgmt: Function | None, bus: Bus) -> Observation:
    """Observe a user function. Blocks; may never return."""
    node = _render_node(function)
    health = {name: sysfs.read_optional(f"{function.path}/{name}") for name in _HEALTH}
    if "drm" not in function.entries:
        # It was listed in a reset, from which sub-devices return first, then health attributes, then drm
        # (xocl_reset_notify). A trip on record would be missed now and taken for a new one by the next scan.
        function = sysfs.relist(function)
    shell = _read_shell(function)
    if isinstance(shell, Shell) and shell.timestamp == _AWS_TIMESTAMP and _number(health["ready"]) == 0:
        # F2's name is patched once mpd has answered, and a loaded image may show F1's: set_vbnv_name
        why = f"shell {shell.vbnv} not known for sure: not ready; is mpd running?"
        return Observation(function.address, reason=Reason.NOT_READY, why=why)
    reason = reason_of(health, renders=node is not None, node=bus.has_node(node))
    if isinstance(shell, str):
        if reason is not Reason.SHUTDOWN:
            reason = Reason.SHELL_UNKNOWN if function.subdirectories(_ROM) else Reason.RESETTING
        why = f"{shell}; {_why_no_name(mgmt)}" if shell == _NO_NAME else shell
        return Observation(function.address, reason=reason, why=why)
    board = board_of(shell.vbnv)
    latched = _latches_trips(function)
    return Observation(
        function.address,
        Device(
            address=function.address,
            shell=shell,
            board=board,
            driver=USER_DRIVER,
            device_id=function.device,
            numa_node=function.numa_node,
            pcie_path=function.pcie_path,
            node=node,
            mgmt_node=next(filter(bus.has_node, _mgmt_nodes(mgmt)), None),
            qdma_node=next(filter(bus.has_node, _qdma_nodes(function)), None),
        ),
        reason,
        trip=read_trip(function) if latched else None,
        latched=latched,
        # dev_offline reads the drm device, which is removed before the attributes and returns after them
        in_reset=node is None and _number(health["dev_offline"]) == -errno.ENODEV,
        removable=not board.startswith(_AWS),
    )


def reason_of(health: Mapping[str, str | None], *, renders: bool, node: bool) -> Reason | None:
    """Return the fault of a user function; None if it has none. Pure.

    ``health``: the attributes of `_HEALTH`, missing ones None or empty; ``renders``: a ``drm/renderD*`` is in
    its directory; ``node``: the render node is under /dev.
    """
    if _number(health.get("shutdown")) == 1:
        return Reason.SHUTDOWN
    # 1, or -19 (ENODEV) once drm is gone: userpf/xocl_sysfs.c dev_offline_show
    if _number(health.get("dev_offline")) not in (None, 0):
        return Reason.OFFLINE
    if not (renders or health.get("ready") or health.get("dev_offline")):
        # A reset removes drm and these attributes first: userpf/xocl_drv.c xocl_reset_notify
        return Reason.RESETTING
    # Hexadecimal; XRT itself refuses a device that is not ready: pcie/linux/pcidrv.cpp
    if _number(health.get("ready")) == 0:
        return Reason.NOT_READY
    if _number(health.get("device_bad_state")) == 1:
        return Reason.BAD_STATE
    return None if renders and node else Reason.NO_NODE


def _number(text: str | None) -> int | None:
    """Parse a number as the driver prints it, ``1``, ``0x1`` or ``-19``; None if it is missing or invalid."""
    try:
        return int(text or "", 0)
    except ValueError:
        return None


def _is_unchanged(function: Function, bus: Bus, last: Observation, exact: bool) -> bool:
    """Check that a user function without a fault still has none. Blocks; may never return.

    With ``exact``, also that its shell and device nodes are the same, which a pod is given.

    It reads every attribute that shows a fault, if the driver had it when the function was listed. If drm is
    there, so are the sub-devices, except up to XRT 2019.2, whose reset removes only those.
    """
    device = last.device
    if device is None or device.node is None or "drm" not in function.entries:
        return False
    render_node = f"{function.path}/drm/{os.path.basename(device.node)}"
    if sysfs.driver_of(function.path) != function.driver or not os.path.exists(render_node):
        return False
    present = [name for name in _HEALTH if name in function.entries]
    try:
        health = {name: sysfs.read_attribute(f"{function.path}/{name}") for name in present}
        if exact:
            same_shell = _read_shell(function) == device.shell
        else:
            same_shell = _rom_attribute(function, "VBNV") == device.shell.vbnv
    except Unreadable:
        return False
    return (
        same_shell
        and reason_of(health, renders=True, node=bus.has_node(device.node)) is None
        and (not last.latched or read_trip(function) == last.trip)
        and (not exact or all(bus.has_node(node) for node in (device.mgmt_node, device.qdma_node) if node))
    )


def _read_shell(function: Function) -> Shell | str:
    """Return its shell, or why it is not known."""
    if not function.subdirectories(_ROM):
        return "shell not known: it has no rom.u.* directory; is the card being reset?"
    try:
        vbnv = _rom_attribute(function, "VBNV")
    except Unreadable as error:
        return f"shell not known: {error}; {REMEDY}"
    if not vbnv:
        return _NO_NAME
    if len(vbnv) > _MAX_VBNV or not vbnv.isprintable():
        return f"shell not known: VBNV is no name ({vbnv[:40]!r}); {REMEDY}"
    try:
        timestamp = _rom_attribute(function, "timestamp")
    except Unreadable as error:
        return f"shell {vbnv} not known for sure: {error}; {REMEDY}"
    if not timestamp or not _TIMESTAMP.fullmatch(timestamp):
        odd = f"{timestamp[:40]!r} is no decimal number" if timestamp else "missing or empty"
        return f"shell {vbnv} not known for sure: timestamp: {odd}; {REMEDY}"
    # Since 2019.2: a user function prints its shell's (userpf/xocl_sysfs.c logic_uuids_show), a management
    # function that of the base before it (mgmtpf/mgmt-sysfs.c); EINVAL on single-stage shells and AWS.
    uuids = _UUID.findall(sysfs.read_optional(f"{function.path}/logic_uuids"))
    return Shell(vbnv, str(int(timestamp)), uuids[-1] if uuids else None)


def _why_no_name(mgmt: Function | None) -> str:
    if mgmt is None or mgmt.driver == MGMT_DRIVER:
        return "is xclmgmt (on the host) or mpd (in a virtual machine) running, is a shell programmed?"
    return (
        f"its management function {mgmt.address} is bound to {mgmt.driver or 'no driver'}: "
        f"bind it to {MGMT_DRIVER} (dmesg says why a probe failed)"
    )


def _rom_attribute(function: Function, name: str) -> str | None:
    texts = (sysfs.read_attribute(f"{rom}/{name}") for rom in function.subdirectories(_ROM))
    return next(filter(None, texts), None)


def board_of(vbnv: str) -> str:
    """Return the card's type: the second field of its VBNV, lower case; ``emb-plus`` has one field only."""
    fields = vbnv.split("_")
    return (fields[1] if len(fields) > 1 and fields[1] else vbnv).lower()


def _withheld(mgmt: Function) -> str | None:
    """Return why a base that waits for its shell (DFX-2RP) cannot be offered; None if it can.

    ``rp_program`` is 1 from the request for a shell until it is programmed: mgmtpf/mgmt-sysfs.c. A base for
    which no shell was requested looks like a shell in one stage, so it is offered by its name.
    """
    if _is_set(f"{mgmt.path}/rp_program"):
        return "shell not loaded yet: its base waits for the shell (xbmgmt program --shell)"
    return None


def _observe_management(function: Function, bus: Bus) -> Observation:
    """Observe a management function that is alone in its slot. Reads attributes of its driver."""
    management = None
    if isinstance(shell := _read_shell(sysfs.relist(function)), Shell):
        node = next(filter(bus.has_node, _mgmt_nodes(function)), None)
        management = Management(function.address, shell, node=node)
    why = _why_left_out(function)
    return Observation(function.address, reason=Reason.NO_DRIVER, why=why, management=management)


def _observe_left_out(function: Function) -> Observation:
    """Observe a function of the user functions' driver that is no device (now)."""
    return Observation(function.address, reason=Reason.RESETTING, why=_why_left_out(function))


def _why_left_out(function: Function) -> str:
    if function.fault:
        return f"{function.fault}; {REMEDY}"
    if _is_f2_management(function):
        return (
            "second function of one device: AWS F2's management function, which xocl takes too; "
            "nothing to do, the other one is what programs use"
        )
    if function.driver in _USER_DRIVERS:
        return (
            "no user_pf: a recovery image, or xocl is still probing; "
            "program a shell (xbmgmt program --base) and cold-boot if it stays so"
        )
    known = pci_ids.find(function.vendor, function.device)
    golden = known is not None and known.role is Role.GOLDEN
    for attribute, image in (("mfg", "golden"), ("recovery", "recovery")):
        if _is_set(f"{function.path}/{attribute}") or (golden and attribute == "mfg"):
            return f"{image} image: management function only, program a shell first (xbmgmt program --base)"
    return "management function only: its user function is not there; program a shell, rescan the bus"


def _read_slow(function: Function, serial: str | None) -> SlowReadings:
    """Read what may take the driver 20 s (mailbox.c), but a serial number that is known."""
    if not serial:
        texts = (sysfs.read_optional(f"{path}/serial_num") for path in function.subdirectories(_SERIAL))
        serial = sysfs.as_serial(next(filter(None, texts), ""))
    poll_trip = not _latches_trips(function) and bool(function.subdirectories(_FIREWALL))
    return SlowReadings(serial, read_trip(function) if poll_trip else None, poll_trip)


def _read_serial_of_management(function: Function, serial: str | None) -> SlowReadings:
    """Read it from the card's own registers, once: a management function asks no other."""
    return _read_slow(sysfs.relist(function), serial)


def _latches_trips(function: Function) -> bool:
    """Whether its driver answers for the firewall at once, and keeps a trip on record: XRT >= 2022.2.

    Older ones ask the management function through the mailbox, which may take 20 s. `vmr_status` came with
    the same release; it is never read, since each read writes a line to the kernel's log.
    """
    return "vmr_status" in function.entries or "versal" in function.entries


def read_trip(function: Function) -> str | None:
    """Read its firewall trip; None if there is none, or no firewall to read (V70, XRT <= 2019.1)."""
    for path in function.subdirectories(_FIREWALL):
        level = sysfs.read_optional(f"{path}/level")
        if is_trip(level):
            status, time = (sysfs.read_optional(f"{path}/{name}") for name in ("status", "detected_time"))
            return f"{level}/{status}/{time}"
    return None


def is_trip(level: str | None) -> bool:
    """Whether ``firewall.u.*/level`` shows a trip; without one it is -1 as an unsigned: subdev/firewall.c."""
    return _number(level) not in (None, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF, -1)


def _render_node(function: Function) -> str | None:
    """Read its render node, a path under /dev, from the drm core, which does not block.

    None while the card is probed, reset or shut down; the number may be another one afterwards.
    """
    names = sorted(filter(_RENDER_NODE.fullmatch, sysfs.list_names(f"{function.path}/drm")))
    return f"/dev/dri/{names[0]}" if names else None


def _mgmt_nodes(mgmt: Function | None) -> Iterable[str]:
    if mgmt is None or mgmt.driver != MGMT_DRIVER:
        return
    for name in sysfs.list_names(f"{mgmt.path}/xrt_mgmt"):
        if _MGMT_NODE.fullmatch(name):
            yield f"/dev/{name}"
    yield f"/dev/xclmgmt{_instance(mgmt.address)}"


def _qdma_nodes(function: Function) -> Iterable[str]:
    # The directory outlives the node, which only XRT <= 2022.1 makes; str_dma without a folder before 2019.2.
    for path in function.subdirectories(_QDMA):
        for name in sysfs.list_names(f"{path}/xrt_user"):
            if _QDMA_NODE.fullmatch(name):
                yield f"/dev/{name.replace('!', '/')}"
        kind = os.path.basename(path).partition(".u.")[0]
        yield f"/dev/xfpga/{kind}.u{_instance(function.address)}.0"


def _instance(address: str) -> int:
    """Return the number in the names of a function's nodes: xocl_drv.h XOCL_DEV_ID."""
    domain, bus, slot, function = (int(part, 16) for part in re.split("[:.]", address))
    return (domain << 16 | bus << 8 | slot << 3 | function) & 0xFFFF_FFFF  # a C int: 10000:... wraps


def _is_set(path: str) -> bool:
    return sysfs.read_optional(path) not in ("", "0")
