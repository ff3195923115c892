"""Cards that no driver of ours has: left out, with what to do about it.

A known id (`pci_ids.py`) with another driver is reported with that driver's name, one without a driver with
advice that depends on whether the module of its own is loaded. An unknown id of vendor 10ee is anybody's
design: one without a driver gets a neutral line, and none where its class says what else it is.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from xilinx_fpga_dp.discovery import pci_ids, sysfs
from xilinx_fpga_dp.discovery.backend import Probe
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.pci_ids import AMAZON, AMI, TRANSCODER, XCLMGMT, XILINX, XOCL, PciId, Role
from xilinx_fpga_dp.discovery.sysfs import Bus, Function, slot_of
from xilinx_fpga_dp.model import Reason


class _Package(NamedTuple):
    maker: str
    load: str  # the modules to load together


_XRT: Final = "XRT's"
_PACKAGES: Final = {
    XOCL: _Package(_XRT, "xocl xclmgmt"),
    XCLMGMT: _Package(_XRT, "xocl xclmgmt"),
    AMI: _Package("AVED's or AMR's", "ami"),
    TRANSCODER: _Package("the AMA SDK's", "ama_transcoder"),
}
# By their names on the bus; Xen's module is `xen-pciback`.
_FOR_MACHINES: Final = frozenset({"vfio-pci", "pci-stub", "pciback", "xen-pciback"})
_OURS: Final = frozenset(_PACKAGES)
# Of a function that had a driver of ours by force (driver_override)
_UNKNOWN: Final = PciId("", Role.USER, (XOCL,))
# PCI classes that speak for themselves: mass storage, network, sound (0401, 0403), bridges
_OTHER_CLASSES: Final = ("01", "02", "0401", "0403", "06")


def probes(
    bus: Bus, taken: Collection[str], lost: Collection[str], reported: Collection[str]
) -> Iterator[Probe]:
    """Yield a probe for each card without a driver that could offer it.

    A card of several functions is reported once for each driver that these have: as XRT's user function, if
    that is among them.

    Args:
        bus: the functions.
        taken: slots of which a driver offers a device: their other functions are part of it.
        lost: addresses of devices that no driver of ours has any more.
        reported: addresses of functions of which a driver says itself why they are no devices.
    """
    slots: defaultdict[str, list[Function]] = defaultdict(list)
    lost_slots = {slot_of(address) for address in lost}
    for function in bus.functions:
        if function.slot in taken or function.address in reported:
            continue
        if function.address in lost:
            pci_id = _id_of(function)
            known = pci_id if pci_id and pci_id.role is not Role.OTHER else _UNKNOWN
            yield _known(bus.root, [(function, known)])
        elif function.slot not in lost_slots:
            slots[function.slot].append(function)
    for functions in slots.values():
        yield from _of_slot(bus.root, functions)


def _of_slot(root: str, functions: Sequence[Function]) -> Iterator[Probe]:
    known = [(each, pci_id) for each in functions if (pci_id := _id_of(each))]
    if not known:
        idle = [each for each in functions if each.vendor == XILINX and each.device and not each.driver]
        if idle:
            yield Probe(idle[0].address, partial(_observe_unknown, idle), device=False)
    if all(pci_id.role in (Role.PART, Role.OTHER) for _, pci_id in known):
        return
    # Which driver a further function needs depends on that of the first one.
    first = [(function, pci_id) for function, pci_id in known if pci_id.role is not Role.PART]
    if not any(function.driver in pci_id.drivers for function, pci_id in first):
        known = first
    by_driver: defaultdict[str | None, list[tuple[Function, PciId]]] = defaultdict(list)
    for function, pci_id in known:
        if pci_id.role is not Role.OTHER and function.driver not in pci_id.drivers:
            by_driver[function.driver].append((function, pci_id))
    for alike in by_driver.values():
        yield _known(root, alike)


def _known(root: str, alike: Sequence[tuple[Function, PciId]]) -> Probe:
    """Make the probe of a card's functions that have the same driver, or none."""
    function, pci_id = max(alike, key=lambda each: (each[1].role.value, each[0].address))
    others = [driver for _, each in alike for driver in each.drivers]
    ours = [driver for driver in dict.fromkeys([*pci_id.drivers, *others]) if driver in _OURS]
    return Probe(function.address, partial(_observe_known, root, function, pci_id, ours), device=False)


def _id_of(function: Function) -> PciId | None:
    return pci_ids.find(function.vendor, function.device)


# All functions below read files.


def _observe_known(root: str, function: Function, pci_id: PciId, drivers: Sequence[str]) -> Observation:
    if pci_id.role is Role.GOLDEN:
        why = f"golden image: program a shell first (xbmgmt program --base); {_named(function, pci_id)}"
        if not _is_loaded(root, XCLMGMT):
            why += f"; {_install(XCLMGMT)}"
    elif pci_id.role is Role.RECOVERY:
        why = f"recovery image: program its own image again and cold-boot; {_named(function, pci_id)}"
    elif function.driver in _FOR_MACHINES:
        why = f"bound to {function.driver}, for a virtual machine; bind it to {drivers[0]} to offer it here"
    elif function.driver:
        other = "" if function.driver in _OURS else f", not {_PACKAGES[drivers[0]].maker}"
        why = f"bound to {function.driver}{other}; bind it to {drivers[0]} to offer it here"
    else:
        why = f"no driver: {_without_driver(root, function, pci_id, drivers)}"
    return Observation(function.address, reason=Reason.NO_DRIVER, why=why)


def _without_driver(root: str, function: Function, pci_id: PciId, drivers: Sequence[str]) -> str:
    advice = []
    if loaded := [driver for driver in drivers if _is_loaded(root, driver)]:
        verb = "are" if len(loaded) > 1 else "is"
        names = " and ".join(map(sysfs.module_of, loaded))
        advice.append(f"{names} {verb} loaded and did not take it: dmesg says why (failed probe)")
        if pci_id.until:
            advice.append(f"XRT takes this card up to release {pci_id.until}")
    if drivers[0] not in loaded:
        advice.append(_amazon(function) or _install(drivers[0]))
        if drivers[0] == AMI and XCLMGMT in drivers and not loaded:
            advice[-1] += ", or XRT's for its shells"
    return "; ".join(advice)


def _amazon(function: Function) -> str | None:
    if function.vendor != AMAZON:
        return None
    if function.device == "9048":
        return (
            "AWS F2 in its HDK flow, which has none and can't be offered "
            "(programs map its BARs as root); for an XRT shell load xocl"
        )
    if function.device in ("f000", "f010"):
        return (
            "an AWS slot (F1 or F2) with an image; one of XRT's needs xocl and mpd, any other has no driver"
        )
    return "an AWS F1 slot needs xocl, and mpd to load its first image"


def _install(driver: str) -> str:
    package = _PACKAGES[driver]
    return f"install {package.maker} driver or load it (modprobe {package.load})"


def _is_loaded(root: str, driver: str) -> bool:
    return os.path.isdir(f"{root}/module/{sysfs.module_of(driver)}")


def _named(function: Function, pci_id: PciId) -> str:
    return f"{function.vendor}:{function.device} is that of a {pci_id.board}"


def _observe_unknown(functions: Sequence[Function]) -> Observation | None:
    """Observe the functions of a slot, of which none has a known id or a driver."""
    for function in functions:
        kind = sysfs.read_optional(f"{function.path}/class").removeprefix("0x")
        # A virtual function is its physical function's business.
        if not kind.startswith(_OTHER_CLASSES) and not os.path.lexists(f"{function.path}/physfn"):
            why = (
                f"{function.vendor}:{function.device} is no id of XRT's, AVED's, AMR's or the AMA SDK's: "
                "a design of its own, or a factory image; program a shell if it should be offered"
            )
            return Observation(function.address, reason=Reason.NO_DRIVER, why=why)
    return None
