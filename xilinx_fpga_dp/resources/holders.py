"""The keys of `Held`, and the holders of a device. Pure.

kubelet knows a device of a device plugin by an id, one of a claim by its name in the pool of a DRA driver. An
id begins with the address of its device. A name is made of the address, which only that of a PCI function
can be made of again, so other names are keys as they are.
"""

import re
from typing import Final

from xilinx_fpga_dp.model import Held, Holder
from xilinx_fpga_dp.resources.pool_names import PCI_ADDRESS, address_of, device_names

# An id that names its device whatever the resource: `0000:65:00.1`, a replica's `0000:65:00.1::0`, plugin
# 1.3.0's `0000:65:00.1-0`; zocl's `axi:zyxclmm_drm`
_ID: Final = re.compile(rf"({PCI_ADDRESS.pattern}|[\w.:@-]{{0,48}}zyxclmm_drm)(?:(?:::|-)\d+)?")
_REPLICA: Final = re.compile(r"::\d+$")


def key_of_id(resource: str, device_id: str, prefix: str) -> str | None:
    """Return the address with which an id of a device plugin begins; None if it is not one of ours.

    Args:
        resource: the name of the resource.
        device_id: the id.
        prefix: that of our resources. Class devices of a file of rules have any name, such as ``accel0``,
            which means the same device only there.
    """
    if match := _ID.fullmatch(device_id):
        return match[1]
    return _REPLICA.sub("", device_id) if resource.startswith(prefix) else None


def key_of_name(name: str) -> str:
    """Return the key of a device that a claim has, whichever driver gave it."""
    return address_of(name) or name


def holders_of(held: Held, address: str) -> tuple[Holder, ...]:
    """Return who holds a device, by an id or by a claim."""
    keys = dict.fromkeys((address, *device_names(address)))
    return tuple(holder for key in keys for holder in held.get(key, ()))
