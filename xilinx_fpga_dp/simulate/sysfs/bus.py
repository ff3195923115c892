"""The part of /sys and /dev that the kernel's core creates, whatever the driver.

`Tree` is the /sys and /dev of a node. A `BusDevice` lives on a bus of it: `plug` creates its directory and
the link on the bus, `bind` the links between it and a driver, `add_drm` its drm device with card and
render node; `remove_drm`, `unbind` and `unplug` undo them. Numbers of nodes are assigned lowest first and
can change from one bind to the next, as on a real node. A `PciFunction` lies below its bridges; the tree
creates missing bridges. What a driver adds is in the module of its cards.
Source files in comments are relative to drivers/ of Linux: base/ (core.c, dd.c, devtmpfs.c), gpu/drm/
(drm_drv.c), pci/ (pci-driver.c, pci-sysfs.c, pcie/aer.c).
"""

import itertools
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xilinx_fpga_dp.simulate.sysfs.files import Content, Files, Link, link

_FIRST_RENDER_MINOR = 128  # drm_drv.c drm_minor_alloc
_DRM_MAJOR = 226


class Ids(NamedTuple):
    """The ids and the class of a PCI function, in hex digits without prefix."""

    vendor: str
    device: str
    pci_class: str
    subsystem: tuple[str, str] = ("0000", "0000")


# pci-sysfs.c current_link_speed_show; an example
_LINK = {
    "current_link_speed": "8.0 GT/s PCIe",
    "current_link_width": "16",
    "max_link_speed": "8.0 GT/s PCIe",
    "max_link_width": "16",
}
# pcie/aer.c aer_correctable_error_string, aer_uncorrectable_error_string
_CORRECTABLE = (
    *("RxErr", "BadTLP", "BadDLLP", "Rollover"),
    *("Timeout", "NonFatalErr", "CorrIntErr", "HeaderOF"),
)
_UNCORRECTABLE = (
    *("Undefined", "DLP", "SDES", "TLP", "FCP", "CmpltTO", "CmpltAbrt", "UnxCmplt", "RxOF"),
    *("MalfTLP", "ECRC", "UnsupReq", "ACSViol", "UncorrIntErr", "BlockedTLP"),
    *("AtomicOpBlocked", "TLPBlockedErr", "PoisonTLPBlocked"),
)

_ROOT_PORT = Ids("8086", "2030", "060400")


class Numbers:
    """Numbers that are assigned lowest first, as by the kernel (lib/idr.c)."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, first: int, wanted: int | None = None) -> int:
        """Return the wanted number or, if None, the lowest free number from ``first`` on.

        Raises:
            ValueError: the wanted number is taken.
        """
        if wanted in self._taken:
            raise ValueError(f"number {wanted} is taken")
        free = (number for number in itertools.count(first) if number not in self._taken)
        number = next(free) if wanted is None else wanted
        self._taken.add(number)
        return number

    def free(self, number: int) -> None:
        self._taken.discard(number)


class Tree:
    """The /sys and /dev of a node, in a directory.

    Args:
        root: a new or empty directory.
        numa_nodes: the online NUMA nodes, as the kernel prints them.
        sensors: create the hwmon devices of XRT's cards, about 160 files a function, which few tests read.
        device_nodes: create device nodes, which needs root, instead of regular files. Each of them is the
            null device: the numbers that sysfs shows may belong to a real device of this machine.

    Raises:
        FileExistsError: ``root`` already contains a sample node.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        numa_nodes: str = "0-1",
        sensors: bool = False,
        device_nodes: bool = False,
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
        self.subdevices = {"u": Numbers(), "m": Numbers()}  # each driver has numbers of its own
        self.hwmons = Numbers()
        self.card_numbers: defaultdict[str, Numbers] = defaultdict(Numbers)  # by driver
        self.sensors = sensors
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
        """Plug a PCI function with the attributes of the PCI core; bind its driver, if any."""
        function = PciFunction(self, address, ids, self.bus_above(address, behind), numa_node)
        function.plug()
        if driver:
            function.bind(driver)
        return function

    def bus_above(self, address: str, behind: Sequence[str] = ()) -> str:
        """Return the directory of a function's parent; create the missing bridges.

        By default, a bus whose number ends in 0 is a root bus, and each other bus is behind a root port on
        it. A function on a root bus has no bridge above it, as in a virtual machine.
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
        self,
        kind: str,
        name: str,
        node: str,
        number: tuple[int, int],
        content: Mapping[str, Content],
        *,
        parent: str | None = None,
        mode: int = 0o666,
    ) -> str:
        """Add a class device and its node; return its path.

        It lies below the directory of its parent, or of `virtual` without one (core.c get_device_parent).
        """
        path = f"{parent or f'{self.sysfs_root}/devices/virtual'}/{kind}/{name}"
        folder = f"{self.sysfs_root}/class/{kind}"
        if parent:
            # The kernel's links lead out of the common directory: fs/sysfs/symlink.c sysfs_get_target_path
            content = {**content, "device": Link(f"../../../{os.path.basename(parent)}")}
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.makedirs(folder, exist_ok=True)
        self.files.put(
            path, {**device_files(*number, node), "subsystem": link(f"{path}/subsystem", folder), **content}
        )
        self.files.put(f"{folder}/{name}", link(f"{folder}/{name}", path))
        self.add_node(node, mode)
        return path

    def remove_class_device(self, kind: str, name: str, node: str) -> None:
        """Undo `add_class_device`, if the class device exists."""
        self.remove_node(node)
        shown = f"{self.sysfs_root}/class/{kind}/{name}"
        path = os.path.realpath(shown)
        self.files.drop(shown)
        self.files.drop(path)
        glue = os.path.dirname(path)
        if os.path.isdir(glue) and not os.listdir(glue):
            os.rmdir(glue)

    def add_node(self, node: str, mode: int = 0o666) -> None:
        """Create a device node, ``/dev/dri/renderD128``; by default with the mode of XRT's udev rules."""
        path = self.node_path(node)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if self._device_nodes:
            self.files.put_device(path, mode)
        else:
            self.files.put(path, b"")
            os.chmod(path, mode)

    def remove_node(self, node: str) -> None:
        """Remove a device node, and its directory if that is empty then (devtmpfs.c delete_path)."""
        path = self.node_path(node)
        self.files.drop(path)
        directory = os.path.dirname(path)
        if directory != self.dev_root and os.path.isdir(directory) and not os.listdir(directory):
            os.rmdir(directory)

    def node_path(self, node: str) -> str:
        """Return the path of a device node in this tree."""
        return self.dev_root + node.removeprefix("/dev")


class BusDevice(ABC):
    """A device on a bus.

    Attributes:
        bus: the name of the bus in sysfs.
        name, path: its name on the bus, and its directory.
        driver: the bound driver, None if none.
        drm: the minors of its drm device by name, the card first; empty if it has none.
    """

    bus: str

    def __init__(self, node: Tree, name: str, path: str) -> None:
        self.node = node
        self.name = name
        self.path = path
        self.driver: str | None = None
        self.drm: dict[str, int] = {}

    @abstractmethod
    def uevent(self) -> str:
        """Return the text of its file `uevent`."""

    @abstractmethod
    def plug(self) -> None:
        """Add it to the bus."""

    @abstractmethod
    def unplug(self) -> None:
        """Remove it from the bus."""

    def write(self, name: str, content: Content) -> None:
        """Set the content of a file or directory of it."""
        self.node.files.put(f"{self.path}/{name}", content)

    def drop(self, *names: str) -> None:
        """Remove files or directories of it, if they exist."""
        for name in names:
            self.node.files.drop(f"{self.path}/{name}")

    def bind(self, driver: str, version: str | None = None, *, module: str | None = None) -> None:
        """Link it with a driver, as the kernel does before the driver's probe (dd.c really_probe).

        Args:
            driver: the name of the driver on the bus.
            version: the version of the module; None if the module has none.
            module: the name of the module; None if it is the driver's.
        """
        folder = f"{self.node.sysfs_root}/bus/{self.bus}/drivers/{driver}"
        os.makedirs(folder, exist_ok=True)
        if version or module:
            path = f"{self.node.sysfs_root}/module/{module or driver}"
            # kernel/module/main.c show_initstate
            self.node.files.put(path, {"initstate": "live"} | ({"version": version} if version else {}))
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
        """Its render node, ``/dev/dri/renderD128``; None while it has none."""
        return next((f"/dev/dri/{name}" for name in self.drm if name.startswith("render")), None)

    def add_drm(self, render: int | None = None) -> None:
        """Add a drm device if it has none: the directory first, then the nodes."""
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
        """Remove its drm device, the nodes first, and free the numbers."""
        for name, minor in self.drm.items():
            self.node.remove_node(f"/dev/dri/{name}")
            self.node.files.drop(f"{self.node.sysfs_root}/class/drm/{name}")
            (self.node.drm_cards if name.startswith("card") else self.node.drm_renders).free(minor)
        self.drop("drm")
        self.drm = {}

    def add_hwmon(self, files: Mapping[str, Content]) -> int:
        """Add a hwmon device with these files below it (hwmon/hwmon.c); return its number."""
        number = self.node.hwmons.take(0)
        folder = f"{self.node.sysfs_root}/class/hwmon"
        for directory in (f"{self.path}/hwmon", folder):
            os.makedirs(directory, exist_ok=True)
        self.rewrite_hwmon(number, files)
        shown = f"{folder}/hwmon{number}"
        self.node.files.put(shown, link(shown, f"{self.path}/hwmon/hwmon{number}"))
        return number

    def rewrite_hwmon(self, number: int, files: Mapping[str, Content]) -> None:
        """Set the files of a hwmon device; it is absent for a moment if it existed."""
        path = f"{self.path}/hwmon/hwmon{number}"
        core = {
            "device": Link(f"../../../{self.name}"),
            "subsystem": link(f"{path}/subsystem", f"{self.node.sysfs_root}/class/hwmon"),
            "uevent": "",
        }
        self.node.files.put(path, {**core, **files})

    def remove_hwmon(self, number: int) -> None:
        """Remove a hwmon device and free its number."""
        self.node.files.drop(f"{self.node.sysfs_root}/class/hwmon/hwmon{number}")
        self.drop(f"hwmon/hwmon{number}")
        if not os.listdir(f"{self.path}/hwmon"):
            self.drop("hwmon")
        self.node.hwmons.free(number)

    def _drm_minor(self, name: str) -> Mapping[str, Content]:
        minor = device_files(_DRM_MAJOR, self.drm[name], f"/dev/dri/{name}")
        return {**minor, "device": Link(f"../../../{self.name}")}


class PciFunction(BusDevice):
    """A function on the PCI bus; its directory lies in that of the bridge above it."""

    bus = "pci"

    def __init__(self, node: Tree, address: str, ids: Ids, above: str, numa_node: int = 0) -> None:
        super().__init__(node, address, f"{above}/{address}")
        self.address = address
        self.ids = ids
        self._numa_node = numa_node

    def plug(self) -> None:
        """Add it to the bus."""
        path = f"{self.node.sysfs_root}/bus/pci/devices/{self.address}"
        self.node.files.put(self.path, self._core_attributes())
        self.node.files.put(path, link(path, self.path))

    def unplug(self) -> None:
        """Remove it from the bus."""
        self.node.files.drop(f"{self.node.sysfs_root}/bus/pci/devices/{self.address}")
        self.node.files.drop(self.path)

    def train_link(self, lanes: int | None = None) -> None:
        """Let its link have so many lanes; None: all that it is capable of."""
        self.write("current_link_width", str(lanes or _LINK["max_link_width"]))

    @property
    def root_port(self) -> str:
        """The directory of the root port above it; its own directory if it is on a root bus."""
        sysfs, devices, below = self.path.rpartition("/devices/")
        return f"{sysfs}{devices}{'/'.join(below.split('/')[:2])}"

    def uevent(self) -> str:
        """Return the text that the PCI core prints (pci-driver.c pci_uevent)."""
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
            **_LINK,
            **{f"aer_dev_{each}": aer_text(each) for each in ("correctable", "nonfatal", "fatal")},
            "config": bytes.fromhex(vendor)[::-1] + bytes.fromhex(device_id)[::-1] + bytes(60),
            "resource": "",
            "subsystem": link(f"{self.path}/subsystem", f"{self.node.sysfs_root}/bus/pci"),
            "uevent": self.uevent(),
        }


def aer_text(severity: str, count: int = 0) -> str:
    """Return the text of `aer_dev_*` with so many errors of the first type (aer.c aer_stats_dev_attr)."""
    types = _CORRECTABLE if severity == "correctable" else _UNCORRECTABLE
    total = {"correctable": "COR", "nonfatal": "NONFATAL", "fatal": "FATAL"}[severity]
    counts = {**dict.fromkeys(types, 0), types[0]: count, f"TOTAL_ERR_{total}": count}
    return "".join(f"{name} {number}\n" for name, number in counts.items())


def device_files(major: int, minor: int, node: str) -> dict[str, Content]:
    """Return the files of a device that has a device node."""
    uevent = f"MAJOR={major}\nMINOR={minor}\nDEVNAME={node.removeprefix('/dev/')}"
    return {"dev": f"{major}:{minor}", "uevent": uevent}
