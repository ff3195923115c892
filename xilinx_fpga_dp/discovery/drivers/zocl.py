"""The back-end for embedded boards driven by `zocl`: Zynq UltraScale+, Kria, Versal edge.

Not tested on hardware. The device is a platform device with a drm device: XRT
src/runtime_src/core/edge/drm/zocl/common/zocl_drv.c. There is no PCI function and no shell; the board's
model in the device tree takes its place.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Final

from xilinx_fpga_dp.discovery import sysfs
from xilinx_fpga_dp.discovery.backend import Backend, Probe, unidentified
from xilinx_fpga_dp.discovery.health import Observation
from xilinx_fpga_dp.discovery.sysfs import Bus, ClassDevice, Unreadable, Wanted
from xilinx_fpga_dp.model import Device, Reason, Shell

DRIVER: Final = "zocl-drm"

_TREE: Final = "firmware/devicetree/base"
# From XRT 2025.1 on a program finds its device by udev's links to the nodes alone, before that first:
# core/edge/user/system_linux.cpp, zynq_dev.cpp. They have to be links: read_symlink.
_LINKS: Final = "/dev/dri/by-path"
_AI_ENGINES: Final = "amdxdna"
_MAX_MODEL: Final = 128
# The word with the revision, and all after it: `Rev1.0`, `revA`, `Rev1/B/A`
_REVISION = re.compile(r"[\s,(]+rev[\s.]*(\d[\w.]*|[a-z]\d*)?(/\w+)*\b.*", re.IGNORECASE | re.DOTALL)
_FAMILIES: Final = frozenset({"xilinx", "amd", "zynq", "zynqmp", "versal", "gen", "2"})
_PARTS: Final = ("xlnx,zynqmp", "xlnx,versal")
# As the kernel names platform devices, `axi:zyxclmm_drm`, on Versal `amba_pl@0:zyxclmm_drm`
_PLATFORM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,62}[A-Za-z0-9]")


def probes(bus: Bus) -> Iterator[Probe]:
    """Yield a probe for each render node of the driver; if there is none, one for the board."""
    found = [device for device in bus.classes.get("drm", ()) if device.driver == DRIVER]
    for device in found:
        if device.parent and _PLATFORM_NAME.fullmatch(device.parent):
            yield Probe(device.parent, partial(_observe, device, device.parent, bus))
    if not found and not bus.by_rule:
        yield Probe("zocl", partial(_observe_board, bus), device=False)


BACKEND: Final = Backend(
    probes, Wanted(classes={"drm": re.compile(r"renderD\d{1,7}"), "accel": re.compile(r"accel\d{1,7}")})
)


def _observe(render: ClassDevice, address: str, bus: Bus) -> Observation:
    try:
        name = shell_of(" ".join(sysfs.read_strings(f"{bus.root}/{_TREE}/model")))
    except Unreadable as error:
        return unidentified(address, error)
    if not name:
        why = (
            "the device tree has no model to name it by; give it one, or in a container mount the host's "
            "/sys at another path (SYSFS_ROOT): runtimes hide /sys/firmware"
        )
        return Observation(address, reason=Reason.SHELL_UNKNOWN, why=why)
    node = f"/dev/dri/{render.name}"
    device = Device(
        address,
        Shell(name, None, None),
        board_of(name),
        DRIVER,
        experimental=True,
        nodes=(node, *filter(bus.has_node, _ai_engines(bus))),
        mounts=(_LINKS,) if os.path.isdir(bus.dev_root + _LINKS.removeprefix("/dev")) else (),
    )
    return Observation(address, device, None if bus.has_node(node) else Reason.NO_NODE)


def _ai_engines(bus: Bus) -> list[str]:
    """Return the node of the AI engines of a Versal Gen 2, which is no PCI device and has no other pod.

    XRT takes the first one: xdna-driver, src/shim_ve2/drv_xdna.cpp.
    """
    names = [each.name for each in bus.classes.get("accel", ()) if (each.driver or "").endswith(_AI_ENGINES)]
    return [f"/dev/accel/{min(names, key=lambda name: int(name.removeprefix('accel')))}"] if names else []


def shell_of(model: str) -> str:
    """Return the name of a board: its model without the revision, words joined by ``-``.

    ``ZynqMP ZCU102 Rev1.0`` becomes ``ZynqMP-ZCU102``, ``ZynqMP SMK-K26 Rev1/B/A`` ``ZynqMP-SMK-K26``.
    """
    words = _REVISION.sub("", model[:_MAX_MODEL]).split()
    return "-".join(words).strip("-,._")


def board_of(name: str) -> str:
    """Return the board's own name: the model without the names of maker and family before it."""
    words = name.lower().split("-")
    while len(words) > 1 and words[0] in _FAMILIES:
        words.pop(0)
    return "-".join(words)


def _observe_board(bus: Bus) -> Observation | None:
    """Report a board that could have a device and has none; None if it is no such board."""
    with suppress(Unreadable):
        parts = sysfs.read_strings(f"{bus.root}/{_TREE}/compatible")
        if any(part.startswith(_PARTS) for part in parts):
            why = "no zocl device on this board: load its overlay (xmutil loadapp) and driver (modprobe zocl)"
            return Observation("zocl", reason=Reason.NO_DRIVER, why=why)
    return None
