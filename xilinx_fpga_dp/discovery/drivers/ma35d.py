"""The back-end for MA35D media accelerators: their driver makes a misc device of each chip.

Nobody has run it on hardware. The files are those that plugin 1.3.0 read (fpga.go GetAMADevices).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery.backend import Probe, odd_answer
from xilinx_fpga_dp.discovery.health import Look
from xilinx_fpga_dp.discovery.slow_attributes import Answers
from xilinx_fpga_dp.discovery.sysfs import (
    ADDRESS,
    Bus,
    ClassDevice,
    Function,
    Unreadable,
    as_serial,
    node_exists,
    read_attribute,
)
from xilinx_fpga_dp.model import Device, Reason, Shell

DRIVER: Final = "transcoder"
DRIVERS: Final = frozenset({DRIVER})
LISTED: Final[frozenset[str]] = frozenset()
CLASSES: Final[Mapping[str, re.Pattern[str]]] = {"misc": re.compile(r"ama_transcoder\d{1,4}")}

_SHELL: Final = Shell("MA35", None, None)


def probes(bus: Bus, dev_root: str) -> Iterator[Probe]:
    """A probe for each misc device; where some function of the driver may have none, for each to say so."""
    devices = bus.classes.get("misc", ())
    by_address = {function.address: function for function in bus.functions}
    functions = [function for function in bus.functions if function.driver == DRIVER]
    for device in devices:
        yield Probe(
            device.name,
            partial(_look, device, by_address, dev_root),
            ask_slowly=partial(_read_slow, device),
        )
    if len(devices) < len(functions):
        for function in functions:
            yield Probe(function.address, partial(_without_device, function, devices), device=False)


def _look(device: ClassDevice, by_address: Mapping[str, Function], dev_root: str) -> Look:
    try:
        address = _address(device)
    except Unreadable as error:
        return odd_answer(device.name, error)
    if not ADDRESS.fullmatch(address):
        return odd_answer(device.name, f"its bus_id is no PCI address ({address[:40]!r})")
    function = by_address.get(address)
    node = f"/dev/{device.name}"
    return Look(
        address,
        Device(
            address=address,
            shell=_SHELL,
            board="ma35d",
            driver=DRIVER,
            experimental=True,
            device_id=function.device if function else None,
            numa_node=function.numa_node if function else None,
            pcie_path=function.pcie_path if function else (),
            node=node,
        ),
        None if node_exists(dev_root, node) else Reason.NO_NODE,
    )


def _address(device: ClassDevice) -> str:
    return (read_attribute(f"{device.path}/bus_id") or "").lower()


def _without_device(function: Function, devices: Iterable[ClassDevice]) -> Look | None:
    """Why a function has no misc device; None: it has one, or one that can't be read may be its."""
    try:
        if function.address in map(_address, devices):
            return None
    except Unreadable:
        return None
    return Look(
        function.address,
        reason=Reason.RESETTING,
        why="its driver shows no ama_transcoder device: still probing, or its firmware does not run (dmesg)",
    )


def _read_slow(device: ClassDevice, serial: str | None) -> Answers:
    return Answers(serial or _serial(device))


def _serial(device: ClassDevice) -> str | None:
    """From the line ``Product serial number = ...``."""
    try:
        lines = (read_attribute(f"{device.path}/device_info") or "").splitlines()
    except Unreadable:
        return None
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip().lower() == "product serial number":
            return as_serial(value.strip())
    return None
