"""The feature file with the node's labels for node-feature-discovery: the text, not the file. Pure.

Its local source reads ``label=value`` lines: source/local/local.go of kubernetes-sigs/node-feature-discovery.
Board, shell and driver stand in the label's name, so that a node with two of them has a label for each.
"""

from collections import defaultdict
from collections.abc import Mapping

from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.resources.naming import fitting

FILE = "xilinx-fpga-dp"
_DOMAIN = "xilinx.com"
_ROOM = 63  # of a label's name and of its value: apimachinery's IsQualifiedName, IsValidLabelValue
_YES = "true"


def feature_file(offers: Offers, versions: Mapping[str, str]) -> str | None:
    """Write the text for the offered devices; None if there are none.

    No label depends on health: one that comes and goes would move pods. `versions` are those of the drivers,
    as far as they are known.
    """
    found = {device.address: device for device in offers.devices}.values()
    if not found:
        return None
    timestamps = defaultdict(set)
    for device in found:
        timestamps[device.shell.vbnv].add(device.shell.timestamp or _YES)
    labels = {
        "fpga.present": _YES,
        "fpga.count": str(len(found)),
        **{_name("board", device.board): _YES for device in found},
        **{_name("shell", shell): fitting("_".join(sorted(its)), _ROOM) for shell, its in timestamps.items()},
        **{
            _name("driver", device.driver): _version(versions.get(device.driver, ""))
            for device in found
            if device.driver
        },
    }
    return "".join(f"{_DOMAIN}/{name}={value}\n" for name, value in sorted(labels.items()))


def _name(kind: str, what: str) -> str:
    start = f"fpga.{kind}."
    return start + fitting(what, _ROOM - len(start))


def _version(version: str) -> str:
    """Drop the commit that XRT's modules add after a comma: ``2.16.204,f2524a2f...``."""
    number = version.partition(",")[0].strip()
    return fitting(number, _ROOM) if number else _YES
