"""Boards driven by `zocl`: the programmable logic of a Zynq MPSoC or a Versal, from the processor beside it.

The source named with a step is relative to src/runtime_src/core/edge/drm/zocl/common in XRT.
"""

import os
from typing import Literal

from xilinx_fpga_dp.simulate.sysfs.boards import ZoclBoard
from xilinx_fpga_dp.simulate.sysfs.bus import Device, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content, Link, link
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard

_DRIVER = "zocl-drm"
_MODULE = "zocl"
_NODE = "zyxclmm_drm"  # the device tree's name for it, which XRT looks for: edge/user/dev.cpp
_DEVICE_TREE = "firmware/devicetree/base"
# zocl_sysfs.c; nothing is loaded yet, so they are empty
_ATTRIBUTES = ("xclbinid", "kds_numcus", "kds_custat_raw", "memstat", "memstat_raw", "errors", "graph_status")


class _PlatformDevice(Device):
    """A device that the device tree tells of."""

    bus = "platform"

    def __init__(self, node: Tree, parent: str, compatible: str) -> None:
        # Without registers of its own it is named after its parents: of/platform.c of_device_make_bus_id
        name = f"{parent}:{_NODE}"
        super().__init__(node, name, f"{node.sysfs_root}/devices/platform/{parent}/{name}")
        self._parent = parent
        self._compatible = compatible

    def plug(self) -> None:
        """Let the bus show it, as an overlay does that an application brings."""
        of_node = f"{self.node.sysfs_root}/{_DEVICE_TREE}/{self._parent}/{_NODE}"
        shown = f"{self.node.sysfs_root}/bus/platform/devices/{self.name}"
        for path in (self.path, of_node, shown):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        self.node.files.put(
            of_node,
            {"name": _text(_NODE), "compatible": _text(self._compatible), "status": _text("okay")},
        )
        self.node.files.put(
            self.path,
            {
                "of_node": link(f"{self.path}/of_node", of_node),
                "subsystem": link(f"{self.path}/subsystem", f"{self.node.sysfs_root}/bus/platform"),
                "driver_override": "(null)",
                "modalias": f"of:N{_NODE}T(null)C{self._compatible}",
                "uevent": self.uevent(),
            },
        )
        self.node.files.put(shown, link(shown, self.path))

    def unplug(self) -> None:
        """Let the bus forget it, as `xmutil unloadapp` does."""
        self.node.files.drop(f"{self.node.sysfs_root}/bus/platform/devices/{self.name}")
        self.node.files.drop(self.path)
        self.node.files.drop(f"{self.node.sysfs_root}/{_DEVICE_TREE}/{self._parent}/{_NODE}")

    def uevent(self) -> str:
        """What the device tree says of it (of/device.c of_device_uevent)."""
        driver = f"DRIVER={self.driver}\n" if self.driver else ""
        return (
            f"{driver}OF_NAME={_NODE}\nOF_FULLNAME=/{self._parent}/{_NODE}\n"
            f"OF_COMPATIBLE_0={self._compatible}\nOF_COMPATIBLE_N=1\n"
            f"MODALIAS=of:N{_NODE}T(null)C{self._compatible}"
        )


class ZoclCard(SampleCard):
    """The programmable logic of a board, one to a board.

    An attribute is named by its path in the platform device's directory; with ``devicetree/`` before it in
    that of the board's device tree: ``xclbinid``, ``devicetree/model``.
    """

    def __init__(self, node: Tree, board: ZoclBoard) -> None:
        super().__init__(node)
        self.board = board
        self._device = _PlatformDevice(node, board.parent, board.zocl)
        tree = f"{node.sysfs_root}/{_DEVICE_TREE}"
        if os.path.lexists(tree):
            raise ValueError(
                f"a node has one device tree, and this one has that of a board: no {board.model}"
            )
        os.makedirs(os.path.dirname(tree), exist_ok=True)
        compatible = "".join(f"{text}\0" for text in board.compatible).encode()
        node.files.put(tree, {"model": _text(board.model), "compatible": compatible, board.parent: {}})

    @property
    def title(self) -> str:
        """The model of its board."""
        return self.board.model

    @property
    def address(self) -> str:
        """Of the platform device, ``axi:zyxclmm_drm``."""
        return self._device.name

    @property
    def user(self) -> str:
        """The directory of the platform device."""
        return self._device.path

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its render node."""
        return (self._device.render_node,) if self._device.render_node else ()

    def path(self, attribute: str) -> str:
        """The path of an attribute."""
        if attribute.startswith("devicetree/"):
            return f"{self.node.sysfs_root}/{_DEVICE_TREE}/{attribute.removeprefix('devicetree/')}"
        return f"{self._device.path}/{attribute}"

    def plug(self, render: int | None = None) -> None:
        """Load the application whose overlay brings it; the driver takes it."""
        self._device.plug()
        self.bind(render)

    def remove(self) -> None:
        """Unload the application."""
        self.unbind()
        self._device.unplug()

    def bind(self, render: int | None = None) -> None:
        """Let `zocl-drm` take it (zocl_drv.c zocl_drm_platform_probe)."""
        self._device.bind(_DRIVER, module=_MODULE)
        self._device.add_drm(render)
        self.mend()
        for kind, node in zip(("card", "render"), self._device.drm, strict=True):
            self._by_path(kind, Link(f"../{node}"))

    def unbind(self) -> None:
        """Let `zocl-drm` go."""
        if self._device.driver:
            self._by_path("card", None)
            self._by_path("render", None)
            self._device.remove_drm()
            self._device.drop(*_ATTRIBUTES, "zocl_reset")
            self._device.unbind()

    def mend(self) -> None:
        """Let every attribute say what it does on a healthy board."""
        for name in (*_ATTRIBUTES, "zocl_reset"):
            self.write(name, "")

    def _by_path(self, kind: Literal["card", "render"] | str, target: Link | None) -> None:
        """The name udev gives a node (60-drm.rules), which XRT opens."""
        path = self.node.node_path(f"/dev/dri/by-path/platform-{self.address}-{kind}")
        if target is None:
            self.node.remove_node(f"/dev/dri/by-path/platform-{self.address}-{kind}")
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self.node.files.put(path, target)


def _text(text: str) -> Content:
    """A property of a device tree: its bytes, the NUL at the end with them (of/kobj.c)."""
    return f"{text}\0".encode()
