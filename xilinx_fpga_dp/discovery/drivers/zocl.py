"""The back-end for embedded boards driven by `zocl`: Zynq UltraScale+, Kria, Versal edge.

Nobody has run it on hardware. The device is a platform device with a drm device of its own: XRT
src/runtime_src/core/edge/drm/zocl/common/zocl_drv.c. There is no PCI function and no shell; the board's
model in the device tree stands for it.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery.backend import Probe, odd_answer
from xilinx_fpga_dp.discovery.health import Look
from xilinx_fpga_dp.discovery.sysfs import Bus, ClassDevice, Unreadable, node_exists, read_strings
from xilinx_fpga_dp.model import Device, Reason, Shell

DRIVER: Final = "zocl-drm"
DRIVERS: Final[frozenset[str]] = frozenset()  # of the PCI bus: none
LISTED = DRIVERS
CLASSES: Final[Mapping[str, re.Pattern[str]]] = {"drm": re.compile(r"renderD\d{1,7}")}

_TREE: Final = "firmware/devicetree/base"
_MAX_MODEL: Final = 128
# The word that says the revision, and all after it: `Rev1.0`, `revA`, `Rev1/B/A`
_REVISION = re.compile(r"[\s,(]+rev[\s.]*(\d[\w.]*|[a-z]\d*)?(/\w+)*\b.*", re.IGNORECASE | re.DOTALL)
_FAMILIES: Final = frozenset({"xilinx", "amd", "zynq", "zynqmp", "versal"})
_PARTS: Final = ("xlnx,zynqmp", "xlnx,versal")
# As the kernel names platform devices, `axi:zyxclmm_drm`, on Versal `amba_pl@0:zyxclmm_drm`
_PLATFORM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,62}[A-Za-z0-9]")


def probes(bus: Bus, dev_root: str) -> Iterator[Probe]:
    """A probe for each render node of the driver; where there is none, one that says so on such a board."""
    found = [device for device in bus.classes.get("drm", ()) if device.driver == DRIVER]
    for device in found:
        if device.parent and _PLATFORM_NAME.fullmatch(device.parent):
            yield Probe(device.parent, partial(_look, device, device.parent, bus.root, dev_root))
    if not found:
        yield Probe("zocl", partial(_look_for_board, bus.root), device=False)


def _look(render: ClassDevice, address: str, root: str, dev_root: str) -> Look:
    try:
        name = shell_of(" ".join(read_strings(f"{root}/{_TREE}/model")))
    except Unreadable as error:
        return odd_answer(address, error)
    if not name:
        why = (
            "the device tree has no model to name it by; give it one, or in a container mount the host's "
            "/sys at another path (SYSFS_ROOT): runtimes hide /sys/firmware"
        )
        return Look(address, reason=Reason.SHELL_UNKNOWN, why=why)
    node = f"/dev/dri/{render.name}"
    device = Device(
        address=address,
        shell=Shell(name, None, None),
        board=board_of(name),
        driver=DRIVER,
        experimental=True,
        node=node,
    )
    return Look(address, device, None if node_exists(dev_root, node) else Reason.NO_NODE)


def shell_of(model: str) -> str:
    """The name of a board: its model without the revision, words joined by ``-``.

    ``ZynqMP ZCU102 Rev1.0`` becomes ``ZynqMP-ZCU102``, ``ZynqMP SMK-K26 Rev1/B/A`` ``ZynqMP-SMK-K26``.
    """
    words = _REVISION.sub("", model[:_MAX_MODEL]).split()
    return "-".join(words).strip("-,._")


def board_of(name: str) -> str:
    """The board's own name: the first word of the model that is no maker's or family's name."""
    words = name.lower().split("-")
    while len(words) > 1 and words[0] in _FAMILIES:
        words.pop(0)
    return "-".join(words)


def _look_for_board(root: str) -> Look | None:
    """What to do on a board that could have a device; None: it is no such board."""
    try:
        parts = read_strings(f"{root}/{_TREE}/compatible")
    except Unreadable:
        return None
    if not any(part.startswith(_PARTS) for part in parts):
        return None
    why = "no zocl device on this board: load its overlay (xmutil loadapp) and driver (modprobe zocl)"
    return Look("zocl", reason=Reason.NO_DRIVER, why=why)
