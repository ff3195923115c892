"""The CDI spec of the node: the document, not the file. Pure.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

import json
from collections.abc import Iterable

from xilinx_fpga_dp.model import Device

VENDOR = "xilinx.com"
CLASS = "fpga"
KIND = f"{VENDOR}/{CLASS}"
FILE = f"{VENDOR}-{CLASS}.json"
_VERSION = "0.6.0"


def qualified(device: Device) -> str:
    """The name under which a runtime finds a device."""
    return f"{KIND}={_name(device)}"


def spec(devices: Iterable[tuple[Device, tuple[str, ...]]]) -> str | None:
    """The document for these devices, each with its nodes; None where there is nothing to say.

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
    document = {
        "cdiVersion": _VERSION,
        "kind": KIND,
        "devices": entries,
    }
    return json.dumps(document, indent=2) + "\n"


def _name(device: Device) -> str:
    """The address; a spec takes no ``@`` in a name, which platform devices can have in theirs."""
    return device.address.replace("@", "_")
