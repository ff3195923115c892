"""The back-end for MA35D media accelerators: their driver makes a misc device of each chip.

Not tested on hardware. Derived from the driver in the AMA SDK (transcoder.c, hw_monitor.c, pcie.c). It makes
the misc device first, then `hw_err`, then `bus_id`; `device_info` comes when the firmware runs, up to 30 s
later. Its virtual functions have misc devices of their own.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cache, partial
from typing import Final

from xilinx_fpga_dp.discovery import sysfs
from xilinx_fpga_dp.discovery.backend import Backend, Probe, unidentified
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.schedules import DEVICE_INFO
from xilinx_fpga_dp.discovery.slow_attributes import SlowRead
from xilinx_fpga_dp.discovery.sysfs import ADDRESS, Bus, ClassDevice, Function, Unreadable, Wanted
from xilinx_fpga_dp.model import Device, Reason, Shell

DRIVER: Final = "transcoder"

_SHELL: Final = Shell("MA35", None, None)
_FIRMWARE: Final = ("device_info", "uptime_s")  # hw_monitor.c sn_hwm_init makes both
_LINK_DOWN: Final = b"\xff" * 4  # vendor and device id in the config space
_SERIAL = re.compile(r"^\s*product serial number\s*=[ \t]*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)


def probes(bus: Bus) -> Iterator[Probe]:
    """Yield a probe for each misc device, and for each function, which may have none."""
    devices = bus.classes.get("misc", ())
    functions = [function for function in bus.functions if function.driver == DRIVER]
    for device in devices:
        serial = SlowRead(DEVICE_INFO, partial(_read_serial, device, bus))
        yield Probe(device.name, partial(_observe, device, bus), slow={"serial": serial})
    shown = cache(lambda: frozenset(map(_address, devices)))  # read once for all functions
    for function in functions:
        yield Probe(function.address, partial(_without_device, function, shown), device=False)


BACKEND: Final = Backend(
    probes, Wanted(drivers=frozenset({DRIVER}), classes={"misc": re.compile(r"ama_transcoder\d{1,4}")})
)


def _observe(device: ClassDevice, bus: Bus) -> Observation | None:
    """Observe a misc device; None if a rule has its function, or without `bus_id`: that is reported then."""
    try:
        address = _address(device)
    except Unreadable as error:
        return unidentified(device.name, error)
    if not address:
        return None
    if not ADDRESS.fullmatch(address):
        return unidentified(device.name, f"its bus_id is no PCI address ({address[:40]!r})")
    if address in bus.by_rule:
        return None
    function = next((each for each in bus.functions if each.address == address), None)
    node = f"/dev/{device.name}"
    reason = _reason_of(device)
    if reason is not Reason.NOT_READY and (count := _virtual_functions(address, bus)):
        why = (
            f"its codecs belong to its virtual functions ({count}), which are offered where the driver has "
            "them; to offer it as a whole write 0 to its sriov_numvfs"
        )
        return Observation(address, reason=Reason.SHELL_UNKNOWN, why=why)
    return Observation(
        address,
        Device(
            address=address,
            shell=_SHELL,
            board="ma35d",
            driver=DRIVER,
            experimental=True,
            device_id=function.device if function else None,
            numa_node=sysfs.numa_node_of(function) if function else None,
            pcie_path=function.pcie_path if function else (),
            nodes=(node,),
        ),
        reason or (None if bus.has_node(node) else Reason.NO_NODE),
    )


def _reason_of(device: ClassDevice) -> Reason | None:
    if not any(os.path.exists(f"{device.path}/{name}") for name in _FIRMWARE):
        return Reason.NOT_READY
    # 0xdeaddead after a bus error or a timeout; the codecs then refuse work: transcoder.c, hdma.c
    return Reason.BAD_STATE if sysfs.number(sysfs.read_optional(f"{device.path}/hw_err")) else None


def _virtual_functions(address: str, bus: Bus) -> int:
    """Return how many it has enabled: the driver gives them its codecs, pcie.c sn_sriov_configure."""
    return sysfs.number(sysfs.read_optional(f"{bus.root}/bus/pci/devices/{address}/sriov_numvfs")) or 0


def answers(root: str, path: str) -> bool:
    """Whether the card of a misc device, given by its directory, answers. Blocks."""
    address = sysfs.read_optional(f"{path}/bus_id").lower()
    if not ADDRESS.fullmatch(address):
        return False
    return sysfs.read_start(f"{root}/bus/pci/devices/{address}/config", len(_LINK_DOWN)) != _LINK_DOWN


def _address(device: ClassDevice) -> str:
    return (sysfs.read_attribute(f"{device.path}/bus_id") or "").lower()


def _without_device(function: Function, shown: Callable[[], Collection[str]]) -> Observation | None:
    """Report a function without a misc device; None if it has one, or may have one that can't be read."""
    with suppress(Unreadable):
        if function.address not in shown():
            why = (
                "its driver shows no ama_transcoder device: "
                "still probing, or its firmware does not run (dmesg)"
            )
            return Observation(function.address, reason=Reason.RESETTING, why=why)
    return None


def _read_serial(device: ClassDevice, bus: Bus) -> str | None:
    """Read it from the card's memory.

    Raises:
        Unreadable: the firmware does not run yet, or the card does not answer: a text there may have no end.
    """
    if not os.path.exists(f"{device.path}/device_info"):
        raise Unreadable("device_info: missing")
    if not answers(bus.root, device.path):
        raise Unreadable("config: the link is down")
    match = _SERIAL.search(sysfs.read_optional(f"{device.path}/device_info"))
    return sysfs.as_serial(match[1]) if match else None
