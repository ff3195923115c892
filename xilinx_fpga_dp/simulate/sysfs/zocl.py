"""Boards of `zocl`, the driver for the programmable logic of a Zynq MPSoC or a Versal.

Source files in comments are relative to src/runtime_src/core/edge/drm/zocl/common in XRT, those of the
device tree to drivers/ of Linux.
"""

import os
from collections.abc import Mapping

from xilinx_fpga_dp.simulate.sysfs.boards import ZoclBoard
from xilinx_fpga_dp.simulate.sysfs.bus import BusDevice, Tree
from xilinx_fpga_dp.simulate.sysfs.files import Content, Link, link
from xilinx_fpga_dp.simulate.sysfs.sample_card import SampleCard

_DRIVER = "zocl-drm"
_MODULE = "zocl"
_ACCEL_MAJOR = 261  # drm_accel.h ACCEL_MAJOR
_NODE = "zyxclmm_drm"  # its name in the device tree, by which XRT finds it: edge/user/dev.cpp
_DEVICE_TREE = "firmware/devicetree/base"
# zocl_sysfs.c; empty until an xclbin is loaded
_ATTRIBUTES = (
    "xclbinid",
    "kds_numcus",
    "kds_custat_raw",
    "memstat",
    "memstat_raw",
    "errors",
    "graph_status",
    "zocl_reset",
)


class _PlatformDevice(BusDevice):
    """A device of the device tree."""

    bus = "platform"

    def __init__(self, node: Tree, parent: str, compatible: str) -> None:
        # The name of a device without registers begins with its parent: of/platform.c of_device_make_bus_id
        name = f"{parent}:{_NODE}"
        super().__init__(node, name, f"{node.sysfs_root}/devices/platform/{parent}/{name}")
        self._parent = parent
        self._compatible = compatible

    def plug(self) -> None:
        """Add it to the device tree and the bus, as the overlay of an application does."""
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
        """Remove it from the bus and the device tree, as `xmutil unloadapp` does."""
        self.node.files.drop(f"{self.node.sysfs_root}/bus/platform/devices/{self.name}")
        self.node.files.drop(self.path)
        self.node.files.drop(f"{self.node.sysfs_root}/{_DEVICE_TREE}/{self._parent}/{_NODE}")

    def uevent(self) -> str:
        """Return the text for a device of the device tree (of/device.c of_device_uevent)."""
        driver = f"DRIVER={self.driver}\n" if self.driver else ""
        return (
            f"{driver}OF_NAME={_NODE}\nOF_FULLNAME=/{self._parent}/{_NODE}\n"
            f"OF_COMPATIBLE_0={self._compatible}\nOF_COMPATIBLE_N=1\n"
            f"MODALIAS=of:N{_NODE}T(null)C{self._compatible}"
        )


class _Engines(BusDevice):
    """The AI engines of a Versal Gen 2: an auxiliary device of `amdxdna` with a node of class `accel`.

    Source: src/driver/amdxdna/amdxdna_aux_drv.c in https://github.com/amd/xdna-driver. The name of the
    driver begins with that of the module (base/auxiliary.c __auxiliary_driver_register).
    """

    bus = "auxiliary"

    def __init__(self, node: Tree) -> None:
        name = "xilinx_aie.amdxdna.0"
        super().__init__(node, name, f"{node.sysfs_root}/devices/platform/axi/axi:xilinx-aie/{name}")
        self._accel = "accel0"

    def uevent(self) -> str:
        """Return the text for an auxiliary device (base/auxiliary.c auxiliary_uevent)."""
        driver = f"DRIVER={self.driver}\n" if self.driver else ""
        return f"{driver}MODALIAS=auxiliary:xilinx_aie.amdxdna"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its node, ``/dev/accel/accel0``; empty while it has no driver."""
        return (f"/dev/accel/{self._accel}",) if self.driver else ()

    def plug(self) -> None:
        """Add it to the bus and bind its driver."""
        shown = f"{self.node.sysfs_root}/bus/auxiliary/devices/{self.name}"
        for path in (self.path, shown):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        bus = link(f"{self.path}/subsystem", f"{self.node.sysfs_root}/bus/auxiliary")
        self.node.files.put(self.path, {"subsystem": bus, "uevent": self.uevent()})
        self.node.files.put(shown, link(shown, self.path))
        self.bind("amdxdna.amdxdna", module="amdxdna")
        node = f"/dev/accel/{self._accel}"
        number = (_ACCEL_MAJOR, 0)
        self.node.add_class_device("accel", self._accel, node, number, {}, parent=self.path)

    def unplug(self) -> None:
        """Unbind its driver and remove it from the bus."""
        if self.driver:
            self.node.remove_class_device("accel", self._accel, f"/dev/accel/{self._accel}")
            self.unbind()
            self.node.files.drop(f"{self.node.sysfs_root}/bus/auxiliary/devices/{self.name}")
            self.node.files.drop(self.path)


class ZoclCard(SampleCard):
    """The programmable logic of a board, and its AI engines if it has such; a board has one.

    An attribute is named by its path in the directory of the platform device, ``xclbinid``, or after
    ``devicetree/`` by its path in the device tree, ``devicetree/model``.
    """

    def __init__(self, node: Tree, board: ZoclBoard) -> None:
        super().__init__(node)
        self.board = board
        self.bus_device = _PlatformDevice(node, board.parent, board.zocl)
        self._engines = _Engines(node) if board.engines else None
        tree = f"{node.sysfs_root}/{_DEVICE_TREE}"
        if os.path.lexists(tree):
            raise ValueError(
                f"a node has one device tree, and this one has that of another board: no {board.model}"
            )
        os.makedirs(os.path.dirname(tree), exist_ok=True)
        compatible = "".join(f"{text}\0" for text in board.compatible).encode()
        node.files.put(tree, {"model": _text(board.model), "compatible": compatible, board.parent: {}})

    @property
    def title(self) -> str:
        """The model of its board."""
        return self.board.model

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its render node and that of its AI engines."""
        if not self.bus_device.render_node:
            return ()
        return (self.bus_device.render_node, *(self._engines.nodes if self._engines else ()))

    def path(self, attribute: str) -> str:
        """Return the path of an attribute."""
        if attribute.startswith("devicetree/"):
            return f"{self.node.sysfs_root}/{_DEVICE_TREE}/{attribute.removeprefix('devicetree/')}"
        return super().path(attribute)

    def plug(self, render: int | None = None) -> None:
        """Load the application whose overlay adds it; bind its driver."""
        if self._engines:
            self._engines.plug()
        self.bus_device.plug()
        self.bind(render)

    def remove(self) -> None:
        """Unload the application; its AI engines lose their driver too."""
        if self._engines:
            self._engines.unplug()
        self.unbind()
        self.bus_device.unplug()

    def bind(self, render: int | None = None) -> None:
        """Bind `zocl-drm` (zocl_drv.c zocl_drm_platform_probe)."""
        self.bus_device.bind(_DRIVER, module=_MODULE)
        self.bus_device.add_drm(render)
        self.mend()
        for kind, node in zip(("card", "render"), self.bus_device.drm, strict=True):
            path = self.node.node_path(self._by_path(kind))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self.node.files.put(path, Link(f"../{node}"))

    def unbind(self) -> None:
        """Unbind `zocl-drm`."""
        if self.bus_device.driver:
            for kind in ("card", "render"):
                self.node.remove_node(self._by_path(kind))
            self.bus_device.remove_drm()
            self.bus_device.drop(*self._attributes())
            self.bus_device.unbind()

    def _attributes(self) -> Mapping[str, Content]:
        return dict.fromkeys(_ATTRIBUTES, "")

    def _by_path(self, kind: str) -> str:
        """Return the link of udev to a node (60-drm.rules), which XRT opens."""
        return f"/dev/dri/by-path/platform-{self.address}-{kind}"


def _text(text: str) -> Content:
    """Return the bytes of a property of the device tree, with the final NUL (of/kobj.c)."""
    return f"{text}\0".encode()
