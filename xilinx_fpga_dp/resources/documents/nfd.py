"""The labels of the node for node-feature-discovery: the feature file's text, not the file. Pure.

Its local source reads ``label=value`` lines: source/local/local.go of kubernetes-sigs/node-feature-discovery.
What is in a name can be selected whatever else the node has, so a node with two shells has two labels.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from xilinx_fpga_dp.model import Device, Offers
from xilinx_fpga_dp.resources.naming import fitting

FILE = "xilinx-fpga-dp"
_DOMAIN = "xilinx.com"
_ROOM = 63  # of a label's name and of its value: apimachinery's IsQualifiedName, IsValidLabelValue
_YES = "true"


def feature_file(offers: Offers, versions: Mapping[str, str]) -> str | None:
    """The text for what is offered; None where there is nothing to say.

    It says nothing of health: a label that comes and goes with it would move pods about.

    Args:
        offers: what the node advertises.
        versions: of the drivers, where their modules tell them.
    """
    devices = offers.devices
    if not devices:
        return None
    return "".join(
        f"{_DOMAIN}/{name}={value}\n" for name, value in sorted(_labels(devices, versions).items())
    )


def _labels(devices: Iterable[Device], versions: Mapping[str, str]) -> dict[str, str]:
    found = {device.address: device for device in devices}.values()
    timestamps = defaultdict(set)
    for device in found:
        timestamps[device.shell.vbnv].add(device.shell.timestamp or _YES)
    return {
        "fpga.present": _YES,
        "fpga.count": str(len(found)),
        **{_name("board", device.board): _YES for device in found},
        **{_name("shell", shell): fitting("_".join(sorted(its)), _ROOM) for shell, its in timestamps.items()},
        **{_name("driver", device.driver): _version(versions.get(device.driver, "")) for device in found},
    }


def _name(kind: str, what: str) -> str:
    start = f"fpga.{kind}."
    return start + fitting(what, _ROOM - len(start))


def _version(version: str) -> str:
    """Without the commit that XRT's modules name after a comma: ``2.16.204,f2524a2f...``."""
    number = version.partition(",")[0].strip()
    return fitting(number, _ROOM) if number else _YES
