"""The back-end for cards driven by XRT: user functions of `xocl`, management functions of `xclmgmt`.

A user function is known by its ``user_pf`` file and its driver link, never by device id, class or function
number: those differ by board, shell and cloud. Sub-devices are found by pattern at every scan, since their
numbers change with releases and resets (XRT xocl_subdev.c).
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Final

from xilinx_fpga_dp.discovery import pci_ids, sysfs, xocl_errors
from xilinx_fpga_dp.discovery.backend import REMEDY, Backend, Probe
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.management import Management
from xilinx_fpga_dp.discovery.pci_ids import Role
from xilinx_fpga_dp.discovery.schedules import BOOT, READY, READY_ASKS, SERIAL, TRIP
from xilinx_fpga_dp.discovery.slow_attributes import SlowRead
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
_BOOT = re.compile(r"^BOOT_ON_(\w+):([01])$", re.MULTILINE)
_TIMESTAMP = re.compile(r"[0-9]{1,20}")  # u64, printed as decimal
_MAX_VBNV = 256
# Cards at AWS are never unplugged: one whose function goes away loads an image, which nothing announces.
_AWS: Final = "aws-"
_AWS_TIMESTAMP: Final = "43981"  # 0xabcd, the same for every shell: subdev/feature_rom.c
_NO_NAME: Final = "shell not loaded yet: the driver gives no name (VBNV is empty)"

# Health attributes that do not wait for the management function. Never to be written: `shutdown`.
_HEALTH = ("shutdown", "dev_offline", "ready", "device_bad_state")
# The same where `ready` costs a log line a read: what it is made of, if both drivers are in one kernel
_PEER = "mailbox_connect_state"
_HEALTH_BY_PEER = tuple(_PEER if name == "ready" else name for name in _HEALTH)
_PEER_READY, _SAME_DOMAIN = 1, 2  # mailbox_proto.h XCL_MB_PEER_READY, XCL_MB_PEER_SAME_DOMAIN

# What the slow attributes are read for: always, and if the device is offline for a reason not known
_ALWAYS = frozenset({"serial", "warning"})


def probes(bus: Bus) -> Iterator[Probe]:
    """Yield a probe for each user function, and for each function that should have one beside it."""
    # A virtual machine has no management functions, nor has AWS.
    mgmt = {function.slot: function for function in bus.functions if _is_management(function)}
    # A function in one of these slots belongs to another one; that holds whatever becomes of a user function.
    users = {function.address: function.slot for function in bus.functions if _is_user(function)}
    user_slots = set(users.values())
    reported = {function.slot for function in bus.functions if _should_be_user(function)}
    for function in bus.functions:
        if function.address in users:
            beside = mgmt.get(function.slot)
            yield Probe(
                function.address,
                observe=partial(_observe, function, beside, bus),
                unchanged=partial(_is_unchanged, function, bus),
                slow=_slow_reads(function),
                withheld=partial(_withheld, beside) if beside and beside.driver == MGMT_DRIVER else None,
            )
        elif function.driver == MGMT_DRIVER and function.slot not in reported:
            yield Probe(
                function.address,
                partial(_observe_management, function, bus),
                slow={"serial": SlowRead(SERIAL, partial(_read_serial_of_management, function))},
                device=False,
            )
        elif function.driver in _USER_DRIVERS and (
            _is_f2_management(function) or function.slot not in user_slots
        ):
            yield Probe(function.address, partial(_observe_left_out, function), device=False)


@lru_cache(maxsize=256)  # a function that has not changed is the same object at every scan
def _slow_reads(function: Function) -> Mapping[str, SlowRead]:
    return {
        "trip": SlowRead(TRIP, partial(_read_trip_now, function)),
        "ready": SlowRead(READY, partial(_read_ready, function)),
        "serial": SlowRead(SERIAL, partial(_read_serial, function)),
        "warning": SlowRead(BOOT, partial(_read_boot_warning, function)),
    }


BACKEND: Final = Backend(
    probes, Wanted(drivers=frozenset({*_USER_DRIVERS, MGMT_DRIVER}), listed=_USER_DRIVERS)
)


def _is_user(function: Function) -> bool:
    """Whether it is a user function: the only test that holds for all releases, boards and clouds."""
    has_file = function.driver in _USER_DRIVERS and "user_pf" in function.entries
    return has_file and not _is_f2_management(function)


def _should_be_user(function: Function) -> bool:
    """Whether it is a user function, or should be one and is reported for that, by its driver's name."""
    if function.driver in _USER_DRIVERS:
        return True
    known = pci_ids.find(function.vendor, function.device)
    return bool(known and known.role in (Role.PART, Role.USER) and function.driver not in known.drivers)


def _is_management(function: Function) -> bool:
    """Whether it is a management function, bound to its driver or not."""
    if function.driver == MGMT_DRIVER:
        return True
    known = pci_ids.find(function.vendor, function.device)
    return known is not None and known.role is Role.MANAGEMENT


def _is_f2_management(function: Function) -> bool:
    """Whether it is AWS F2's: xocl takes both functions of that (devices.h XOCL_USER_XDMA_PCI_IDS)."""
    known = pci_ids.find(function.vendor, function.device)
    return known is not None and (known.board, known.role) == ("aws-f2", Role.PART)


def _observe(function: Function, mgmt: Function | None, bus: Bus) -> Observation:
    """Observe a user function. Blocks; may never return."""
    node = _render_node(function)
    asks = _ready_asks(function, bus)
    # Before dev_offline, which the driver sets after it
    errors = b"" if _has_record(function) else _read_errors(function)
    names = _HEALTH_BY_PEER if asks else _HEALTH
    health: dict[str, str | None] = {name: sysfs.read_optional(f"{function.path}/{name}") for name in names}
    peer = _peer_state(health) if asks else None
    if "drm" not in function.entries:
        # It was listed in a reset, from which sub-devices return first, then health attributes, then drm
        # (xocl_reset_notify). A trip on record would be missed now and taken for a new one by the next scan.
        function = sysfs.relist(function)
    shell = _read_shell(function)
    if isinstance(shell, Shell) and shell.timestamp == _AWS_TIMESTAMP and sysfs.number(health["ready"]) == 0:
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
    firewall = bool(function.subdirectories(_FIREWALL))
    latched = _has_record(function)
    # XRT >= 2021.2 lists firewall trips among other errors: userpf/xocl_drv.c
    listed = not latched and xocl_errors.parse(errors) is not None
    slow = _ALWAYS
    # dev_offline reads the drm device, which is removed before the attributes and returns after them
    drm_gone = sysfs.number(health["dev_offline"]) == -errno.ENODEV
    if firewall and not latched and not listed and reason is Reason.OFFLINE and not drm_gone:
        slow |= {"trip"}
    if asks and sysfs.number(health["ready"]) != 0:
        slow |= {"ready"}
    trip, silent = _read_firewall(function) if latched else (xocl_errors.last_trip(errors), False)
    qdma = list(filter(bus.has_node, _qdma_nodes(function)))[:1]
    waits_for_mgmt = reason is Reason.NOT_READY and mgmt is not None and mgmt.driver != MGMT_DRIVER
    return Observation(
        function.address,
        Device(
            address=function.address,
            shell=shell,
            board=board,
            driver=USER_DRIVER,
            device_id=function.device,
            numa_node=sysfs.numa_node_of(function),
            pcie_path=function.pcie_path,
            nodes=(node, *qdma) if node else (),
            mgmt_node=management_node(mgmt, bus) if mgmt else None,
            note=_why_no_name(mgmt) if waits_for_mgmt else None,
        ),
        reason,
        trip=trip,
        latched=latched or listed,
        names_offline=listed,
        silent=silent,
        slow=slow,
        unready=peer == _PEER_READY,
        in_reset=node is None and drm_gone,
        removable=not board.startswith(_AWS),
    )


def _ready_asks(function: Function, bus: Bus) -> bool:
    """Whether this version of the driver asks the card for its board's data when `ready` is read."""
    if "nodma" in function.entries:  # since XRT 2020.2, 2.8
        return False
    release = sysfs.module_release(bus.root, USER_DRIVER)
    return release is not None and READY_ASKS[0] <= release < READY_ASKS[1]


def _peer_state(health: dict[str, str | None]) -> int | None:
    """Put `ready` in the place of the state of the mailbox; return that state, None if it is not known.

    With both drivers in one kernel it is all of `ready`; else `ready` may be 0 although the peer is there, if
    mpd does not run: userpf/xocl_sysfs.c ready_show.
    """
    state = sysfs.number(health.pop(_PEER, None))
    health["ready"] = "" if state is None else str(state & _PEER_READY)
    return None if state is None else state & (_PEER_READY | _SAME_DOMAIN)


def reason_of(health: Mapping[str, str | None], *, renders: bool, node: bool) -> Reason | None:
    """Return the fault of a user function; None if it has none. Pure.

    ``health``: the attributes of `_HEALTH`, missing ones None or empty; ``renders``: a ``drm/renderD*`` is in
    its directory; ``node``: the render node is under /dev.
    """
    if sysfs.number(health.get("shutdown")) == 1:
        return Reason.SHUTDOWN
    # 1, or -19 (ENODEV) once drm is gone: userpf/xocl_sysfs.c dev_offline_show
    if sysfs.number(health.get("dev_offline")) not in (None, 0):
        return Reason.OFFLINE
    if not (renders or health.get("ready") or health.get("dev_offline")):
        # A reset removes drm and these attributes first: userpf/xocl_drv.c xocl_reset_notify
        return Reason.RESETTING
    # Hexadecimal; XRT itself refuses a device that is not ready: pcie/linux/pcidrv.cpp
    if sysfs.number(health.get("ready")) == 0:
        return Reason.NOT_READY
    if sysfs.number(health.get("device_bad_state")) == 1:
        return Reason.BAD_STATE
    return None if renders and node else Reason.NO_NODE


def _is_unchanged(function: Function, bus: Bus, last: Observation, exact: bool) -> bool:
    """Check that a user function without a fault still has none. Blocks; may never return.

    With ``exact``, also that its shell and device nodes are the same, which a pod is given.

    It reads every attribute that shows a fault, if the driver had it when the function was listed. If drm is
    there, so are the sub-devices, except up to XRT 2019.2, whose reset removes only those.
    """
    device = last.device
    if device is None or not device.nodes or "drm" not in function.entries:
        return False
    render_node = f"{function.path}/drm/{os.path.basename(device.nodes[0])}"
    if sysfs.driver_of(function.path) != function.driver or not os.path.exists(render_node):
        return False
    asks = "ready" in last.slow
    present = [name for name in (_HEALTH_BY_PEER if asks else _HEALTH) if name in function.entries]
    try:
        health = {name: sysfs.read_attribute(f"{function.path}/{name}") for name in present}
        if exact:
            same_shell = _read_shell(function) == device.shell
        else:
            same_shell = _rom_attribute(function, "VBNV") == device.shell.vbnv
    except Unreadable:
        return False
    if asks and (_peer_state(health) == _PEER_READY) is not last.unready:
        return False
    return (
        same_shell
        and reason_of(health, renders=True, node=bus.has_node(device.nodes[0])) is None
        and (not last.latched or _trip_on_record(function, last.names_offline) == last.trip)
        and (not exact or all(map(bus.has_node, device.nodes[1:])))
        and (not exact or device.mgmt_node is None or bus.has_node(device.mgmt_node))
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
        management = Management(function.address, shell, node=management_node(function, bus))
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


def _read_serial(function: Function) -> str | None:
    """Read the card's serial number; the driver may ask its management function for it (20 s, mailbox.c)."""
    texts = (sysfs.read_optional(f"{path}/serial_num") for path in function.subdirectories(_SERIAL))
    return sysfs.as_serial(next(filter(None, texts), ""))


def _read_serial_of_management(function: Function) -> str | None:
    """Read it from the card's own registers: a management function asks no other."""
    return _read_serial(sysfs.relist(function))


def _read_ready(function: Function) -> str | None:
    state = sysfs.number(sysfs.read_optional(f"{function.path}/ready"))
    return None if state is None else str(state)


def _read_boot_warning(function: Function) -> str | None:
    """Return what is wrong with the image that a Versal card booted; None if nothing is known to be."""
    # On any other card a read of it costs a line in the kernel's log: userpf/xocl_sysfs.c vmr_status_show
    if sysfs.number(sysfs.read_optional(f"{function.path}/versal")) != 1:
        return None
    booted = dict(_BOOT.findall(sysfs.read_optional(f"{function.path}/vmr_status")))
    for image in ("RECOVERY", "BACKUP"):
        if booted.get(image) == "1":
            return (
                f"it booted its {image.lower()} image, so its default image is not what runs; program that "
                "again (xbmgmt program --base) and cold-boot it"
            )
    return None


def _latches_trips(function: Function) -> bool:
    """Whether its driver answers for the firewall at once, and keeps a trip on record: XRT >= 2022.2.

    Older ones ask the management function through the mailbox, which may take 20 s and costs lines in the
    kernel's log. `vmr_status` and `versal` came with the same release.
    """
    return "vmr_status" in function.entries or "versal" in function.entries


def _has_record(function: Function) -> bool:
    """Whether it has a firewall of a driver that latches trips."""
    return _latches_trips(function) and bool(function.subdirectories(_FIREWALL))


def _last_listed_trip(function: Function) -> str | None:
    return xocl_errors.last_trip(_read_errors(function))


def _read_errors(function: Function) -> bytes:
    return sysfs.read_start(f"{function.path}/xocl_errors", xocl_errors.SIZE + 1)


def _trip_on_record(function: Function, listed: bool) -> str | None:
    return _last_listed_trip(function) if listed else read_trip(function)


def read_trip(function: Function) -> str | None:
    """Read its firewall trip; None if there is none, or no firewall to read (V70, XRT <= 2019.1)."""
    for path in function.subdirectories(_FIREWALL):
        if sysfs.number(status := sysfs.read_optional(f"{path}/status")):
            return _trip(path, status)
    return None


def _trip(path: str, status: str) -> str:
    level, time = (sysfs.read_optional(f"{path}/{name}") for name in ("level", "detected_time"))
    return f"{level_of(level)}/{status}/{time}"


def _read_firewall(function: Function) -> tuple[str | None, bool]:
    """Read its firewall trip, and whether a firewall without one does not show that there is none.

    Its level is -1 then, and all of it zero if the management function gave no answer.
    """
    silent = False
    for path in function.subdirectories(_FIREWALL):
        status = sysfs.read_optional(f"{path}/status")
        if number := sysfs.number(status):
            return _trip(path, status), False
        silent |= number is None or sysfs.number(sysfs.read_optional(f"{path}/level")) == 0
    return None, silent


def _read_trip_now(function: Function) -> str | None:
    """Read it from a driver that asks for it. The sub-device may have come back with another number."""
    return read_trip(sysfs.relist(function))


def level_of(text: str) -> int | None:
    """Return the level of a firewall; -1: none has tripped; None if it is no number.

    Up to XRT 2022.1 only its lower half is set, the other one is whatever was in memory: subdev/firewall.c
    get_prop writes an int where show_firewall prints 64 bits.
    """
    level = sysfs.number(text)
    return None if level is None else (level & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000


def _render_node(function: Function) -> str | None:
    """Read its render node, a path under /dev, from the drm core, which does not block.

    None while the card is probed, reset or shut down; the number may be another one afterwards.
    """
    names = sorted(filter(_RENDER_NODE.fullmatch, sysfs.list_names(f"{function.path}/drm")))
    return f"/dev/dri/{names[0]}" if names else None


def management_node(function: Function, bus: Bus) -> str | None:
    """Find the node of a management function; None if it has none."""
    return next(filter(bus.has_node, _mgmt_nodes(function)), None)


def _mgmt_nodes(mgmt: Function) -> Iterable[str]:
    if mgmt.driver != MGMT_DRIVER:
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
