"""The back-end for MA35D media accelerators: their driver makes a misc device of each chip.

Not tested on hardware. The files are those that plugin 1.3.0 read (fpga.go GetAMADevices).
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery import sysfs
from xilinx_fpga_dp.discovery.backend import Backend, Probe, unidentified
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.slow_attributes import SlowReadings
from xilinx_fpga_dp.discovery.sysfs import ADDRESS, Bus, ClassDevice, Function, Unreadable, Wanted
from xilinx_fpga_dp.model import Device, Reason, Shell

DRIVER: Final = "transcoder"

_SHELL: Final = Shell("MA35", None, None)
_SERIAL = re.compile(r"^\s*product serial number\s*=[ \t]*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)


def probes(bus: Bus) -> Iterator[Probe]:
    """Yield a probe for each misc device, and for each function if one of them may have none."""
    devices = bus.classes.get("misc", ())
    functions = [function for function in bus.functions if function.driver == DRIVER]
    for device in devices:
        yield Probe(device.name, partial(_observe, device, bus), read_slow=partial(_read_slow, device))
    if len(devices) < len(functions):
        for function in functions:
            yield Probe(function.address, partial(_without_device, function, devices), device=False)


BACKEND: Final = Backend(
    probes, Wanted(drivers=frozenset({DRIVER}), classes={"misc": re.compile(r"ama_transcoder\d{1,4}")})
)


def _observe(device: ClassDevice, bus: Bus) -> Observation:
    try:
        address = _address(device)
    except Unreadable as error:
        return unidentified(device.name, error)
    if not ADDRESS.fullmatch(address):
        return unidentified(device.name, f"its bus_id is no PCI address ({address[:40]!r})")
    function = next((each for each in bus.functions if each.address == address), None)
    node = f"/dev/{device.name}"
    return Observation(
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
        None if bus.has_node(node) else Reason.NO_NODE,
    )


def _address(device: ClassDevice) -> str:
    return (sysfs.read_attribute(f"{device.path}/bus_id") or "").lower()


def _without_device(function: Function, devices: Iterable[ClassDevice]) -> Observation | None:
    """Report a function without a misc device; None if it has one, or may have one that can't be read."""
    with suppress(Unreadable):
        if function.address not in map(_address, devices):
            why = (
                "its driver shows no ama_transcoder device: "
                "still probing, or its firmware does not run (dmesg)"
            )
            return Observation(function.address, reason=Reason.RESETTING, why=why)
    return None


def _read_slow(device: ClassDevice, serial: str | None) -> SlowReadings:
    if not serial and (match := _SERIAL.search(sysfs.read_optional(f"{device.path}/device_info"))):
        serial = sysfs.as_serial(match[1])
    return SlowReadings(serial)
