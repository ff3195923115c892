"""Devices, offers and an allocator for tests."""

import dataclasses

from xilinx_fpga_dp.model import Device, Inventory, Offer, Shell
from xilinx_fpga_dp.resources.allocator import Allocator
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.offers import offers_of

NAMING = Naming("xilinx.com/fpga-", "{shell}-{timestamp}")


def device(address: str = "0000:65:00.1", **other: object) -> Device:
    """Return a healthy U200, with other values if given."""
    plain = Device(
        address,
        Shell("xilinx_u200_xdma_201830_2", "1561465320", None),
        "u200",
        "xocl",
        numa_node=0,
        nodes=("/dev/dri/renderD128",),
    )
    return dataclasses.replace(plain, **other)  # type: ignore[arg-type]


def offer(*devices: Device) -> Offer:
    """Return the offer of the only resource of these devices."""
    [only] = offers_of(Inventory(devices), NAMING).by_resource.values()
    return only


async def unchanged(device: Device) -> Device:
    """Refresh a device without a change."""
    return device


PLAIN = Allocator(refresh=unchanged, time_limit=1)
