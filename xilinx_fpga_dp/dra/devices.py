"""The devices of the node's pool: from offers to the entries of a ResourceSlice. Pure.

A device of the pool stands for one unit of the offers, however many containers may share it. Its attributes
are an interface of the cluster's users: types and names never change, and an unknown value is left out. What
changes with the workload (xclbin, link, temperature) is not published, since each change is a write that
makes the scheduler look at every waiting pod again.

The limits are those of k8s.io/api v0.37.2, resource/v1/types.go.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from xilinx_fpga_dp.dra.memory import MEMORY
from xilinx_fpga_dp.model import Device, Offers, Reason
from xilinx_fpga_dp.resources.pool_names import PCI_ADDRESS, device_names

MAX_TEXT: Final = 64  # bytes of a string attribute: DeviceAttributeMaxValueLength
_MAX_INT: Final = (1 << 63) - 1
_KUBERNETES: Final = "resource.kubernetes.io"

# https://semver.org, which the API demands of a version; 2.16 has a part too few, 02.1.0 a zero too many
_NUMBER: Final = r"(?:0|[1-9]\d*)"
_SEMVER: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-(?:{_NUMBER}|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:{_NUMBER}|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)

Attribute = Mapping[str, str | int | bool]
"""A value under the name of its type: ``{"string": "u200"}``."""


@dataclass(frozen=True, slots=True)
class PoolDevice:
    """A device of the pool."""

    name: str  # a DNS label, made of the address
    resource: str  # the name that the device plugin gives it
    devices: tuple[Device, ...]  # that are granted together, the first is the one whose address it has
    slots: int = 0  # how many claims may have a share of it; 0: it is exclusive

    @property
    def address(self) -> str:
        return self.devices[0].address

    @property
    def shared(self) -> bool:
        return self.slots > 0

    @property
    def reason(self) -> Reason | None:
        """Why it is Unhealthy, by its first unhealthy device; None if all are Healthy."""
        return next((device.reason for device in self.devices if device.reason), None)


@dataclass(frozen=True, slots=True)
class Stored:
    """Which optional fields the API server stores; it drops the others silently."""

    taints: bool = True
    sharing: bool = True


def pool_devices(offers: Offers) -> tuple[PoolDevice, ...]:
    """Return the devices of the pool, in the order in which they are published.

    That order is by NUMA node, PCIe root, card and address. The scheduler takes the first device that fits,
    so it is all the influence there is on the placement, and it is stable.
    """
    units = Counter(unit.devices for offer in offers.by_resource.values() for unit in offer.units)
    resources = {
        unit.devices: offer.resource for offer in offers.by_resource.values() for unit in offer.units
    }
    found: dict[str, PoolDevice] = {}
    for devices in sorted(units, key=lambda each: each[0].address):
        address = devices[0].address
        name, another = device_names(address)
        if name in found:  # of addresses that differ only in what a name can't have
            name = another
        found[name] = PoolDevice(
            name, resources[devices], devices, units[devices] if units[devices] > 1 else 0
        )
    return tuple(sorted(found.values(), key=_placement))


def as_claimed(device: PoolDevice, shares: Sequence[str | None]) -> PoolDevice:
    """Return a device as it is to be published while it is prepared for claims.

    One that has become shared stays exclusive until its claim is gone. One that has become exclusive stays
    shared, without a free slot, until all its shares are gone: the scheduler would allocate it once more.

    Args:
        device: the device, as it is without claims.
        shares: the share of each result of a claim that has it; None: the whole device.
    """
    if device.shared and not all(shares):
        return replace(device, slots=0)
    if not device.shared and any(shares):
        return replace(device, slots=len(shares))
    return device


def published(
    device: PoolDevice,
    driver: str,
    versions: Mapping[str, str],
    effect: Callable[[PoolDevice, Reason], str],
    stored: Stored = Stored(),
) -> dict[str, Any] | None:
    """Return the entry of a device in a ResourceSlice.

    None if it is Unhealthy and the server stores no taints: it would be allocated as a good one.

    Args:
        device: the device.
        driver: the name of the DRA driver, which is the domain of its taints.
        versions: those of the kernel drivers, as far as they are known.
        effect: returns the effect of the taint for a reason.
        stored: what the server stores.
    """
    reason = device.reason
    if reason and not stored.taints:
        return None
    shared = device.shared and stored.sharing
    capacity = _capacity(device, shared=shared)
    return {
        "name": device.name,
        "attributes": attributes(device, versions, shared=shared),
        **({"capacity": capacity} if capacity else {}),
        **({"allowMultipleAllocations": True} if shared else {}),
        **(
            {"taints": [{"key": taint_key(driver, reason), "effect": effect(device, reason)}]}
            if reason
            else {}
        ),
    }


def taint_key(driver: str, reason: Reason) -> str:
    """Return the key of the taint for a reason."""
    return f"{driver}/{reason}"


def attributes(device: PoolDevice, versions: Mapping[str, str], *, shared: bool) -> dict[str, Attribute]:
    """Return the attributes of a device. Unqualified names are in the domain of the DRA driver."""
    first = device.devices[0]
    prefix, _, name = device.resource.partition("/")
    version = versions.get(first.driver, "")
    number = version.partition(",")[0].strip()  # XRT's modules add a commit: ``2.16.204,f2524a2f...``
    serial = next((each.serial for each in device.devices if each.serial), None)
    root, *_ = first.pcie_path or ("",)
    bridge = first.pcie_path[-1] if len(first.pcie_path) > 1 else None
    strings = {
        "type": "fpga",
        "resourceName": name,
        "resourcePrefix": prefix,
        "board": first.board,
        "shell": first.shell.vbnv,
        "serial": serial,
        "deviceID": f"0x{first.device_id}" if first.device_id else None,
        "driver": first.driver,
        "logicUUID": first.shell.logic_uuid,
        "driverBuild": version,
        "card": serial or bridge,
        f"{_KUBERNETES}/pciBusID": first.address if PCI_ADDRESS.fullmatch(first.address) else None,
        f"{_KUBERNETES}/pcieRoot": root,
    }
    numbers = {
        "timestamp": _integer(first.shell.timestamp),
        "devices": len(device.devices),
        f"{_KUBERNETES}/numaNode": first.numa_node,
    }
    return {
        **{key: {"string": text} for key, text in strings.items() if text and _fits(text)},
        **{key: {"int": number} for key, number in numbers.items() if number is not None},
        **({"driverVersion": {"version": number}} if _SEMVER.fullmatch(number) and _fits(number) else {}),
        "shared": {"bool": shared},
        "experimental": {"bool": any(each.experimental for each in device.devices)},
    }


def _capacity(device: PoolDevice, *, shared: bool) -> dict[str, Any]:
    memory = MEMORY.get(device.devices[0].board)
    if not shared:
        return {"memory": {"value": memory}} if memory else {}
    one = {"default": "1", "validRange": {"min": "1", "step": "1"}}
    # Without a policy, the first claim consumes all of it.
    nothing = {"default": "0", "validRange": {"min": "0"}}
    return {
        "slots": {"value": str(device.slots), "requestPolicy": one},
        **({"memory": {"value": memory, "requestPolicy": nothing}} if memory else {}),
    }


def _placement(device: PoolDevice) -> tuple[bool, int, tuple[str, ...], str]:
    first = device.devices[0]
    # The path ends with the bridge of the card; the serial number would come late.
    return first.numa_node is None, first.numa_node or 0, first.pcie_path, first.address


def _integer(digits: str | None) -> int | None:
    if digits is None or not digits.isascii() or not digits.isdigit() or int(digits) > _MAX_INT:
        return None
    return int(digits)


def _fits(text: str) -> bool:
    return len(text.encode(errors="surrogatepass")) <= MAX_TEXT and text.isprintable()
