"""The CDI spec of the node: the text, not the file. Pure.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

import json
from collections.abc import Iterable

from xilinx_fpga_dp.model import Device

KIND = "xilinx.com/fpga"
FILE = "xilinx.com-fpga.json"
_VERSION = "0.6.0"


def qualified(device: Device) -> str:
    """Make the name by which a container runtime finds a device."""
    return f"{KIND}={_name(device)}"


def spec(devices: Iterable[tuple[Device, tuple[str, ...]]]) -> str | None:
    """Write the spec of these devices, each given with its nodes; None if no device has one.

    A device without a node has no edits, and a spec without a device is not valid.
    """
    entries = [
        {
            "name": _name(device),
            "containerEdits": {"deviceNodes": [{"path": node, "permissions": "rw"} for node in nodes]},
        }
        for device, nodes in sorted(devices, key=lambda each: each[0].address)
        if nodes
    ]
    if not entries:
        return None
    return json.dumps({"cdiVersion": _VERSION, "kind": KIND, "devices": entries}, indent=2) + "\n"


def _name(device: Device) -> str:
    """Make a device name of the address. A platform device's may have an ``@``, which a spec forbids."""
    return device.address.replace("@", "_")
