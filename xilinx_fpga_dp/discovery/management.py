"""Which management function belongs to which device, where their slots do not tell. Pure.

On a host they are two functions of one slot. A virtual machine may show each in a slot of its own, in any
order (Xilinx/AVED#24, XRT PR#2828). There a management function belongs to the only device without one that
has the same shell, of several the one with the same serial number. Without that it belongs to none: the node
of another card's management function would let a pod program that card.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

from xilinx_fpga_dp.model import Device, Inventory, Shell

_UNCLEAR: Final = "management function without a user function in its slot:"


@dataclass(frozen=True, slots=True)
class Management:
    """A management function without a user function in its slot, as its driver shows it."""

    address: str
    shell: Shell  # of the card
    serial: str | None = None  # of the card; None if not known
    node: str | None = None  # path under /dev; None if it is not there

    def may_manage(self, device: Device) -> bool:
        """Whether nothing that both show differs."""
        different_serials = self.serial and device.serial and self.serial != device.serial
        return self.shell == device.shell and not different_serials


def pair(found: Inventory, managements: Iterable[Management], alone: Collection[str]) -> Inventory:
    """Give devices their management functions.

    Args:
        found: what a scan found; management functions without a device beside them are left out there.
        managements: those of them whose card has a shell.
        alone: the addresses of the devices that have no management function in their slot.
    """
    managements = list(managements)
    candidates = [device for device in found.devices if device.address in alone]
    fitting = [(each, device) for each in managements for device in candidates if each.may_manage(device)]
    certain = [(each, device) for each, device in fitting if each.serial and each.serial == device.serial]
    nodes: dict[str, str | None] = {}  # by address of the device
    reasons: dict[str, str] = {}  # by address of the management function; empty for a paired one

    def pairs_of(side: int, one: Management | Device) -> list[tuple[Management, Device]]:
        """Return the pairs that one may be in, those of equal serial numbers alone if there are any."""
        own = [each for each in certain if each[side] is one]
        return own or [each for each in fitting if each[side] is one]

    for each in managements:
        own = pairs_of(0, each)
        if not own:
            continue
        device = own[0][1]
        if own == pairs_of(1, device):
            nodes[device.address], reasons[each.address] = each.node, ""
        else:
            which = ", ".join(device.address for _, device in own)
            reasons[each.address] = f"{_UNCLEAR} which of {which} it manages can't be told"
    return replace(
        found,
        devices=tuple(
            replace(each, mgmt_node=nodes[each.address]) if each.address in nodes else each
            for each in found.devices
        ),
        left_out=tuple(
            replace(entry, reason=reasons.get(entry.function) or entry.reason)
            for entry in found.left_out
            if reasons.get(entry.function) != ""
        ),
    )
