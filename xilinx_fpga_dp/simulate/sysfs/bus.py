"""The /sys and /dev that any kernel has: buses, bridges, functions, drivers' links, drm, class devices.

It knows what the kernel's core shows; what a driver adds is told by the module of its cards.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xilinx_fpga_dp.simulate.sysfs.files import Content, Files, Link, Numbers, link

_FIRST_RENDER_MINOR = 128  # drm_drv.c drm_minor_alloc
_DRM_MAJOR = 226


class Ids(NamedTuple):
    """What a PCI function says it is: hex digits without prefix."""

    vendor: str
    device: str
    pci_class: str
    subsystem: tuple[str, str] = ("0000", "0000")


_ROOT_PORT = Ids("8086", "2030", "060400")


class Tree:
    """The /sys and /dev of a node in a folder.

    Args:
        root: a new or empty folder.
        numa_nodes: those online, as the kernel prints them.
        device_nodes: make device nodes (as root) instead of plain files. All of them are /dev/null by another
            name: the numbers sysfs shows may belong to a real device of this machine.

    Raises:
        FileExistsError: there is a sample node in ``root`` already.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, numa_nodes: str = "0-1", device_nodes: bool = False
    ) -> None:
        self.root = os.path.abspath(root)
        self.sysfs_root = f"{self.root}/sys"
        self.dev_root = f"{self.root}/dev"
        os.makedirs(self.root, exist_ok=True)
        self.files = Files(f"{self.root}/.aside")
        self.files.put(
            self.sysfs_root,
            {
                "bus": {"pci": {"devices": {}, "drivers": {}}},
                "class": {"drm": {}},
                "devices": {"system": {"node": {"online": numa_nodes}}},
                "module": {},
            },
        )
        self.files.put(self.dev_root, {})
        self.drm_cards, self.drm_renders = Numbers(), Numbers()
        self.subdevices = {"u": Numbers(), "m": Numbers()}  # each driver counts for itself
        self.hwmons = Numbers()
        self._device_nodes = device_nodes

    def add_function(
        self,
        address: str,
        ids: Ids,
        *,
        driver: str | None = None,
        numa_node: int = 0,
        behind: Sequence[str] = (),
    ) -> "PciFunction":
        """Plug any PCI function, with what the PCI core shows of it."""
        function = PciFunction(self, address, ids, self.bus_above(address, behind), numa_node)
        function.plug()
        if driver:
            function.bind(driver)
        return function

    def bus_above(self, address: str, behind: Sequence[str] = ()) -> str:
        """The directory a function belongs in, with the bridges on the way to it.

        Left to itself, a root bus ends in 0, and every other bus has a root port on it; a function on a
        root bus stands beside the ports, as in a virtual machine.
        """
        domain, bus, _ = (behind[0] if behind else address).split(":")
        port = int(bus, 16) % 16
        if not behind and port:
            bus = f"{bus[0]}0"
            behind = [f"{domain}:{bus}:{port:02x}.0"]
        above = f"{self.sysfs_root}/devices/pci{domain}:{bus}"
        os.makedirs(above, exist_ok=True)
        for bridge in behind:
            if not os.path.isdir(f"{above}/{bridge}"):
                function = PciFunction(self, bridge, _ROOT_PORT, above)
                function.plug()
                function.bind("pcieport")
            above = f"{above}/{bridge}"
        return above

    def add_class_device(
        self, kind: str, name: str, node: str, number: tuple[int, int], content: Mapping[str, Content]
    ) -> str:
        """Make a class device without a parent (core.c get_device_parent), and its node; answers its path."""
        path = f"{self.sysfs_root}/devices/virtual/{kind}/{name}"
        folder = f"{self.sysfs_root}/class/{kind}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.makedirs(folder, exist_ok=True)
        self.files.put(
            path, {**device(*number, node), "subsystem": link(f"{path}/subsystem", folder), **content}
        )
        self.files.put(f"{folder}/{name}", link(f"{folder}/{name}", path))
        self.add_node(node)
        return path

    def remove_class_device(self, kind: str, name: str, node: str) -> None:
        """Undo `add_class_device`."""
        self.remove_node(node)
        self.files.drop(f"{self.sysfs_root}/class/{kind}/{name}")
        self.files.drop(f"{self.sysfs_root}/devices/virtual/{kind}/{name}")

    def add_node(self, node: str) -> None:
        """Make a device node, ``/dev/dri/renderD128``."""
        path = self.node_path(node)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if self._device_nodes:
            self.files.put_device(path)
        else:
            self.files.put(path, b"")
            os.chmod(path, 0o666)  # noqa: S103 - as XRT's udev rules want it

    def remove_node(self, node: str) -> None:
        """Take a device node away, and its directory with the last one in it (devtmpfs.c delete_path)."""
        path = self.node_path(node)
        self.files.drop(path)
        directory = os.path.dirname(path)
        if directory != self.dev_root and os.path.isdir(directory) and not os.listdir(directory):
            os.rmdir(directory)

    def node_path(self, node: str) -> str:
        """Where a device node is, by the path it has on a real node."""
        return self.dev_root + node.removeprefix("/dev")


class Device(ABC):
    """A device on a bus: its directory, its driver, its drm device."""

    bus: str

    def __init__(self, node: Tree, name: str, path: str) -> None:
        self.node = node
        self.name = name
        self.path = path
        self.driver: str | None = None
        self.drm: dict[str, int] = {}  # its minors by name, the card first

    @abstractmethod
    def uevent(self) -> str:
        """The text of its file `uevent`."""

    def write(self, name: str, content: Content) -> None:
        """Let a file in its directory hold this."""
        self.node.files.put(f"{self.path}/{name}", content)

    def drop(self, *names: str) -> None:
        """Take files or directories of it away, if they are there."""
        for name in names:
            self.node.files.drop(f"{self.path}/{name}")

    def bind(self, driver: str, version: str | None = None, *, module: str | None = None) -> None:
        """Link it with a driver, which comes before the driver looks at it (dd.c really_probe).

        Args:
            driver: its name on the bus.
            version: of its module, where the module tells one.
            module: its name; None: the driver's.
        """
        folder = f"{self.node.sysfs_root}/bus/{self.bus}/drivers/{driver}"
        os.makedirs(folder, exist_ok=True)
        if version or module:
            path = f"{self.node.sysfs_root}/module/{module or driver}"
            self.node.files.put(path, {"version": version} if version else {})
            self.node.files.put(f"{folder}/module", link(f"{folder}/module", path))
        self.node.files.put(f"{folder}/{self.name}", link(f"{folder}/{self.name}", self.path))
        self.write("driver", link(f"{self.path}/driver", folder))
        self.driver = driver
        self.write("uevent", self.uevent())

    def unbind(self) -> None:
        """Undo `bind`."""
        self.drop("driver")
        self.node.files.drop(f"{self.node.sysfs_root}/bus/{self.bus}/drivers/{self.driver}/{self.name}")
        self.driver = None
        self.write("uevent", self.uevent())

    @property
    def render_node(self) -> str | None:
        """Its render node, ``/dev/dri/renderD128``, while it has one."""
        return next((f"/dev/dri/{name}" for name in self.drm if name.startswith("render")), None)

    def add_drm(self, render: int | None = None) -> None:
        """Give it a drm device if it has none: its directory first, then its nodes."""
        if self.drm:
            return
        card = self.node.drm_cards.take(0)
        minor = self.node.drm_renders.take(_FIRST_RENDER_MINOR, render)
        self.drm = {f"card{card}": card, f"renderD{minor}": minor}
        self.write("drm", {name: self._drm_minor(name) for name in self.drm})
        for name in self.drm:
            path = f"{self.node.sysfs_root}/class/drm/{name}"
            self.node.files.put(path, link(path, f"{self.path}/drm/{name}"))
            self.node.add_node(f"/dev/dri/{name}")

    def remove_drm(self) -> None:
        """Take its drm device away, the nodes first; others can get its numbers then."""
        numbers = (self.node.drm_cards, self.node.drm_renders)
        for (name, minor), kind in zip(self.drm.items(), numbers, strict=False):
            self.node.remove_node(f"/dev/dri/{name}")
            self.node.files.drop(f"{self.node.sysfs_root}/class/drm/{name}")
            kind.free(minor)
        self.drop("drm")
        self.drm = {}

    def _drm_minor(self, name: str) -> Mapping[str, Content]:
        minor = device(_DRM_MAJOR, self.drm[name], f"/dev/dri/{name}")
        return {**minor, "device": Link(f"../../../{self.name}")}


class PciFunction(Device):
    """One function on the PCI bus, its directory under a bridge."""

    bus = "pci"

    def __init__(self, node: Tree, address: str, ids: Ids, above: str, numa_node: int = 0) -> None:
        super().__init__(node, address, f"{above}/{address}")
        self.address = address
        self.ids = ids
        self._numa_node = numa_node

    def plug(self) -> None:
        """Let the bus show it."""
        path = f"{self.node.sysfs_root}/bus/pci/devices/{self.address}"
        self.node.files.put(self.path, self._core_attributes())
        self.node.files.put(path, link(path, self.path))

    def unplug(self) -> None:
        """Let the bus forget it."""
        self.node.files.drop(f"{self.node.sysfs_root}/bus/pci/devices/{self.address}")
        self.node.files.drop(self.path)

    @property
    def root_port(self) -> str:
        """The directory of the bridge at the root that it is behind; its own, if there is none."""
        sysfs, devices, way = self.path.rpartition("/devices/")
        return f"{sysfs}{devices}{'/'.join(way.split('/')[:2])}"

    def uevent(self) -> str:
        """What the PCI core says of it (pci-driver.c pci_uevent)."""
        vendor, device_id, pci_class, subsystem = self.ids
        driver = f"DRIVER={self.driver}\n" if self.driver else ""
        ids = f"PCI_CLASS={pci_class}\nPCI_ID={vendor}:{device_id}\nPCI_SUBSYS_ID={':'.join(subsystem)}"
        return f"{driver}{ids.upper()}\nPCI_SLOT_NAME={self.address}"

    def _core_attributes(self) -> Mapping[str, Content]:
        first = 16 * max(self._numa_node, 0)
        cpus = "0-31" if self._numa_node < 0 else f"{first}-{first + 15}"
        vendor, device_id, pci_class, (subvendor, subdevice) = self.ids
        return {
            "vendor": f"0x{vendor}",
            "device": f"0x{device_id}",
            "subsystem_vendor": f"0x{subvendor}",
            "subsystem_device": f"0x{subdevice}",
            "class": f"0x{pci_class}",
            "revision": "0x00",
            "numa_node": str(self._numa_node),
            "local_cpulist": cpus,
            "enable": "1",
            "irq": "0",
            "driver_override": "(null)",
            "config": bytes.fromhex(vendor)[::-1] + bytes.fromhex(device_id)[::-1] + bytes(60),
            "resource": "",
            "subsystem": link(f"{self.path}/subsystem", f"{self.node.sysfs_root}/bus/pci"),
            "uevent": self.uevent(),
        }


def device(major: int, minor: int, node: str) -> dict[str, Content]:
    """What a device with a node shows."""
    uevent = f"MAJOR={major}\nMINOR={minor}\nDEVNAME={node.removeprefix('/dev/')}"
    return {"dev": f"{major}:{minor}", "uevent": uevent}
