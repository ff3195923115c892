"""The back-end for Versal cards driven by AMI, the driver of AVED and of AMR, its successor: V80, RAVE.

Not tested on hardware. Derived from sw/AMI/driver of both: ami_top.c, ami_sysfs.c, ami_cdev.c.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery import pci_ids, sysfs
from xilinx_fpga_dp.discovery.backend import Backend, Probe, unidentified
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.schedules import SERIAL
from xilinx_fpga_dp.discovery.slow_attributes import SlowRead
from xilinx_fpga_dp.discovery.sysfs import Bus, Function, Unreadable, Wanted
from xilinx_fpga_dp.model import Device, Reason, Shell

DRIVER: Final = "ami"

# ami_top.h; any other state is bad. In MISSING_INFO the card may be used; NO_AMC is also what a lost
# heartbeat of its controller leads to (ami_top.c amc_event_cb): the driver does not recover from that.
_REASONS: Final[Mapping[str, Reason | None]] = {
    "READY": None,
    "MISSING_INFO": None,
    "INIT": Reason.NOT_READY,
    "SHUTDOWN": Reason.SHUTDOWN,
}
_UUID = re.compile(r"[0-9a-f]{32}")
# The name of a node: `ami1`, with AMR `ami-bdf-c1:00.0`
_NODE = re.compile(r"ami[0-9a-z:._-]{1,60}")
_ENTRY = re.compile(r"^\s*([0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) (\d{1,7}) -?\d+\s*$", re.MULTILINE)


def probes(bus: Bus) -> Iterator[Probe]:
    """Yield a probe for each function of the driver."""
    for function in bus.functions:
        if function.driver == DRIVER:
            observe = partial(_observe, function, bus)
            serial = SlowRead(SERIAL, partial(_read_serial, function))
            yield Probe(function.address, observe, slow={"serial": serial})


BACKEND: Final = Backend(probes, Wanted(drivers=frozenset({DRIVER})))


def _observe(function: Function, bus: Bus) -> Observation:
    # The driver's map of nodes leaves out the domain (ami_top.c create_map_str).
    tails = [_tail(each) for each in bus.functions if each.driver == DRIVER]
    alone = tails.count(_tail(function)) == 1
    try:
        state = sysfs.read_attribute(f"{function.path}/dev_state")
        node = _node(function, bus) if alone else None
    except Unreadable as error:
        return unidentified(function.address, error)
    if state is None:
        why = "no dev_state: ami is still probing it; if that does not end, dmesg says why"
        return Observation(function.address, reason=Reason.RESETTING, why=why)
    if not alone:
        why = (
            f"two cards of the driver end in {_tail(function)}: which /dev/ami* is whose can't be told; "
            "put one into another slot"
        )
        return Observation(function.address, reason=Reason.NO_NODE, why=why)
    uuid = sysfs.read_optional(f"{function.path}/logic_uuid").lower().replace("-", "")
    # The driver takes every function of subsystem 10ee:000e.
    known = pci_ids.find(function.vendor, function.device)
    board = (known and known.board) or function.device or "unknown"
    device = Device(
        address=function.address,
        shell=Shell(f"xilinx_{board}", None, uuid if _UUID.fullmatch(uuid) else None),
        board=board,
        driver=DRIVER,
        experimental=True,
        device_id=function.device,
        numa_node=sysfs.numa_node_of(function),
        pcie_path=function.pcie_path,
        nodes=(node,) if node else (),
        # The node is all that the driver has, and it asks no right of its holder: ami_cdev.c
        # AMI_IOC_DOWNLOAD_PDI, cap_override.
        note=f"{node} also permits to write the card's flash: grant it to trusted pods only"
        if node
        else None,
    )
    reason = _REASONS.get(state, Reason.BAD_STATE)
    if reason is None and not bus.has_node(node):
        reason = Reason.NO_NODE
    return Observation(function.address, device, reason)


def management_node(function: Function, bus: Bus) -> str | None:
    """Find the node that manages a card of which another function is the device; None if it has none."""
    if [_tail(each) for each in bus.functions if each.driver == DRIVER].count(_tail(function)) != 1:
        return None
    with suppress(Unreadable):
        return next(filter(bus.has_node, [_node(function, bus)]), None)
    return None


def _node(function: Function, bus: Bus) -> str | None:
    """Find its node by the minor in the driver's map: a count, then ``c1:00.0 1 3`` a card (and hwmon3).

    The class has the name: AMR's is not made of the minor (ami_top.c pcie_device_probe).
    """
    minors = dict(_ENTRY.findall(sysfs.read_attribute(f"{bus.root}/bus/pci/drivers/{DRIVER}/devices") or ""))
    if not (text := minors.get(_tail(function))):
        return None
    minor, shown = int(text), f"{bus.root}/class/{DRIVER}"
    names = sorted(filter(_NODE.fullmatch, sysfs.list_names(shown)))
    for name in names:
        if sysfs.read_optional(f"{shown}/{name}/dev").partition(":")[2] == str(minor):
            return f"/dev/{name}"
    usual = f"ami{minor}"
    return None if usual in names else f"/dev/{usual}"  # one in the class has another minor


def _read_serial(function: Function) -> str | None:
    return sysfs.as_serial(sysfs.read_optional(f"{function.path}/board_serial"))


def _tail(function: Function) -> str:
    """Return the address without its domain."""
    return function.address.partition(":")[2]
