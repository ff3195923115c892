"""Cards that no driver of ours has: known by vendor and device id, left out with what to do about it.

A function with any other driver (plain xdma or qdma, a VFIO user's own) is left to its user without a word,
unless it was a device before.
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery.backend import Probe
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.sysfs import Bus, Function, slot_of
from xilinx_fpga_dp.model import Reason

# Xilinx, and the makers whose ids stand in XRT's tables: devices.h XOCL_USER_PCI_IDS and its history.
# Amazon's 1d0f is its NVMe and network cards too, so there and with the others the device id counts.
_XILINX: Final = "10ee"
_AMAZON: Final = "1d0f"
_F1: Final = frozenset({"1042", "f000", "f010", "f011"})
_F2: Final = frozenset({"9048"})  # 9248, its management function, is not reported without it
_OTHERS: Final = {
    "13fe": frozenset({"006c", "0065", "0078", "0077", "806c"}),  # Advantech
    "3475": frozenset({"5010", "5011"}),  # Arista
    _AMAZON: _F1 | _F2,
}
VENDORS: Final = frozenset({_XILINX, *_OTHERS})

_XRT: Final = ("xocl", "XRT's driver or load it (modprobe xocl xclmgmt)")
# The driver, and how to get it, of Xilinx' cards that XRT does not drive, or not alone: ami_pcie.h, and the
# MA35D's only id
_OTHER_DRIVERS: Final = {
    "50b4": ("ami", "AVED's driver or load it (modprobe ami), or XRT's for its shells"),
    "50bc": ("ami", "AVED's driver or load it (modprobe ami)"),
    "5070": ("transcoder", "the AMA SDK's driver or load it (modprobe ama_transcoder)"),
}
# Drivers by their names on the bus; Xen's module is `xen-pciback`
_FOR_MACHINES: Final = frozenset({"vfio-pci", "pci-stub", "pciback"})


def probes(bus: Bus, taken: Collection[str], lost: Collection[str]) -> Iterator[Probe]:
    """Yield a probe for each card without a driver that could offer it.

    A card of several functions is reported once for each reason: as its last function, which is XRT's user
    function, or as the device that it was. ``taken`` are slots of which a driver offers a device: their other
    functions are part of it. ``lost`` are addresses of devices that no driver of ours has any more.
    """
    lost_slots = {slot_of(address) for address in lost}
    cards = []
    for function in bus.functions:
        is_card = function.vendor == _XILINX or function.device in _OTHERS.get(function.vendor or "", ())
        idle = function.driver in (None, *_FOR_MACHINES) and function.slot not in lost_slots
        if is_card and (idle or function.address in lost) and function.slot not in taken:
            cards.append(function)
    others = {function.slot for function in cards if function.device in _OTHER_DRIVERS}
    reported = {
        (function.address if function.address in lost else function.slot, _why(function)): function.address
        for function in cards
        # A V80's second function is part of it, and is not XRT's.
        if function.slot not in others or function.device in _OTHER_DRIVERS
    }
    for (_, why), address in reported.items():
        yield Probe(address, partial(Observation, address, reason=Reason.NO_DRIVER, why=why), device=False)


def _why(function: Function) -> str:
    driver, install = _OTHER_DRIVERS.get(function.device or "", _XRT)
    if function.driver is not None:
        purpose = ", for a virtual machine" if function.driver in _FOR_MACHINES else ""
        return f"bound to {function.driver}{purpose}; bind it to {driver} to offer it here"
    if function.vendor == _AMAZON and function.device in _F2:
        return (
            "no driver: AWS F2 in its HDK flow, which has none and can't be offered "
            "(programs map its BARs as root); for an XRT shell load xocl"
        )
    if function.vendor == _AMAZON:
        return "no driver: an AWS F1 slot needs xocl, and mpd to load its first image"
    return f"no driver: install {install}"
