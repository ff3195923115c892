"""What may safely be read of a node, as one value: for a bug report from a machine with cards.

Names, links, modes and sizes are taken of everything below a device's directory; they are the kernel's own.
Content is taken only of the attributes in `attributes.py`, of those that wait for firmware or for the
management function only on request, and of a few that the kernel's core answers. Everything has a limit, and
what is not read is named with the reason: a device whose driver hangs costs its own attributes only.
"""

import asyncio
import errno
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from xilinx_fpga_dp.aio.blocking_reader import run_blocking
from xilinx_fpga_dp.discovery import sysfs
from xilinx_fpga_dp.discovery.attributes import TABLE, Attribute, Base, rows_of
from xilinx_fpga_dp.discovery.drivers import ma35d, zocl
from xilinx_fpga_dp.discovery.pci_ids import XILINX, find
from xilinx_fpga_dp.discovery.sysfs import ADDRESS, OutOfDescriptors, Unreadable

# Seconds
_LIST_LIMIT: Final = 20.0  # for all names, which the kernel itself answers
_READ_LIMIT: Final = 3.0  # for one attribute
_SLOW_LIMIT: Final = 30.0  # for one that waits for the management function: 20 s by XRT's mailbox.c
_TOTAL: Final = 60.0
_TOTAL_SLOW: Final = 600.0

_MAX_ENTRIES: Final = 20_000  # of the whole node
_MAX_OF_DIRECTORY: Final = 4096
_DEPTH: Final = 4  # directories below a device's: `<sub-device>/xrt_user/<node>/dev` is the deepest of use
_IN_THE_CORE: Final = re.compile(
    r"class|revision|subsystem_vendor|subsystem_device|(.+/)?(uevent|dev)|hwmon/hwmon\d+/name"
)
_OMITTED: Final = frozenset({"power", "msi_irqs", "iommu", "iommu_group"})
# Class devices of drivers of ours. Of another driver's, as a GPU's, the links alone are taken.
_CLASSES: Final[Mapping[str, re.Pattern[str]]] = {
    **zocl.BACKEND.wanted.classes,
    **ma35d.BACKEND.wanted.classes,
    "ami": re.compile(r"ami.{0,40}"),
}
_NODES: Final = re.compile(
    r"dri/(renderD|card)\d+|dri/by-path/[\w.:-]+|xclmgmt\d+|xfpga/[\w.-]+|ami[\w.:-]*|ama_transcoder\d+"
    r"|accel/accel\d+|str_dma\.u[\d.]+|qdma[\w.-]*|slash_\w+|xdma\w+"
)
_NODE_FOLDERS: Final = ("", "dri", "dri/by-path", "xfpga", "accel")
_SERIAL: Final = re.compile(rb"product serial number\s*=[ \t]*(.*?)[ \t\0]*$", re.IGNORECASE | re.MULTILINE)
_SHORTEST_SERIAL: Final = 4  # of the texts that are replaced wherever they appear


@dataclass(slots=True)
class Capture:
    """What was captured. Paths are below the node's root: ``sys/bus/...``, ``dev/dri/renderD128``."""

    files: dict[str, bytes] = field(default_factory=dict)  # the content; empty if it was not read
    links: dict[str, str] = field(default_factory=dict)  # the target, as it is written in the link
    status: dict[str, dict[str, str | int]] = field(default_factory=dict)  # mode and size of each file
    errors: dict[str, str] = field(default_factory=dict)  # what an attribute answers that can't be read
    unread: dict[str, str] = field(default_factory=dict)  # why an attribute in the table was not read
    serials: set[bytes] = field(default_factory=set)

    def replace_serials(self) -> None:
        """Put a placeholder for each serial number wherever it appears; equal ones stay equal."""
        longest_first = sorted(self.serials, key=lambda each: (-len(each), each))
        placeholders = {each: b"SERIAL%d" % number for number, each in enumerate(longest_first, 1)}
        for serial, placeholder in placeholders.items():
            for path, content in self.files.items():
                if len(serial) >= _SHORTEST_SERIAL or content.strip() == serial:
                    self.files[path] = content.replace(serial, placeholder)
        self.serials = set(placeholders.values())


@dataclass(frozen=True, slots=True)
class _Read:
    """An attribute to read, by its path below the root of sysfs."""

    path: str
    device: str  # attributes of one device are read one after the other
    rows: Sequence[Attribute] = ()  # of the table; empty for what the kernel's core answers

    @property
    def slow(self) -> bool:
        return any(row.slow for row in self.rows)


async def capture(sysfs_root: str, dev_root: str, *, slow: bool) -> Capture:
    """Capture a node. With ``slow`` also what waits for firmware or for the management function.

    Raises:
        OSError: the PCI bus cannot be listed.
        TimeoutError: the kernel does not answer what it has in memory.
    """
    found = Capture()
    reads = await run_blocking(partial(_list_sysfs, sysfs_root, found), _LIST_LIMIT)
    await run_blocking(partial(_list_nodes, dev_root, found), _LIST_LIMIT)
    by_device: defaultdict[str, list[_Read]] = defaultdict(list)
    for read in reads:
        if read.slow and not slow:
            found.unread[f"sys/{read.path}"] = "it waits for firmware or another driver; --slow reads it"
        else:
            found.unread[f"sys/{read.path}"] = "no time was left"
            by_device[read.device].append(read)
    try:
        async with asyncio.timeout(_TOTAL_SLOW if slow else _TOTAL):
            await asyncio.gather(*(_read_device(sysfs_root, each, found) for each in by_device.values()))
    except TimeoutError:
        pass
    return found


async def _read_device(root: str, reads: list[_Read], found: Capture) -> None:
    """Read attributes one after the other, until one hangs."""
    hangs = None
    for read in reads:
        path = f"sys/{read.path}"
        if hangs:
            found.unread[path] = f"{hangs} hangs"
            continue
        try:
            limit = _SLOW_LIMIT if read.slow else _READ_LIMIT
            content = await run_blocking(partial(_read, root, read), limit)
        except TimeoutError:
            found.unread[path] = f"no answer for {limit:g} s"
            hangs = read.path
        except (OutOfDescriptors, Unreadable) as error:
            found.unread[path] = str(error)
        except OSError as error:
            del found.unread[path], found.files[path]
            found.errors[path] = error.strerror or repr(error)
        else:
            del found.unread[path]
            found.files[path] = content
            if read.path.endswith(("/serial_num", "/board_serial")) and content.strip():
                found.serials.add(content.strip())
            found.serials |= set(filter(None, _SERIAL.findall(content)))


# All functions below block, for no longer than the kernel itself takes.


def _read(root: str, read: _Read) -> bytes:
    """Read one attribute. Unreadable: its card does not answer, so a read may have no end."""
    path = f"{root}/{read.path}"
    if any(row.guarded for row in read.rows) and not ma35d.answers(root, os.path.dirname(path)):
        raise Unreadable("the card does not answer")
    sizes = [row.size for row in read.rows if row.size]
    return sysfs.read_start(path, min(sizes)) if sizes else sysfs.read_bytes(path)


def _list_sysfs(root: str, found: Capture) -> list[_Read]:
    """Take names, links, modes and sizes of all devices of interest; return what there is to read."""
    lister = _Lister(root, found)
    for address in sorted(filter(ADDRESS.fullmatch, os.listdir(f"{root}/bus/pci/devices"))):
        lister.add_function(address)
    for kind, pattern in _CLASSES.items():
        for name in sorted(filter(pattern.fullmatch, sysfs.list_names(f"{root}/class/{kind}"))):
            lister.add_class_device(kind, name)
    for attribute in TABLE:
        if attribute.base is Base.SYSFS:
            lister.add_file(attribute.pattern, attribute.driver, [attribute])
    for module in sorted({sysfs.module_of(attribute.driver) for attribute in TABLE}):
        lister.add_file(f"module/{module}/initstate", module, ())  # some have no version
    return lister.reads


@dataclass(frozen=True, slots=True)
class _Device:
    """A device whose directory is walked."""

    key: str
    base: Base
    driver: str | None
    release: tuple[int, int] | None  # of its driver's module

    def rows(self, name: str) -> list[Attribute] | None:
        """Return the rows of an attribute; None if it is not to be read."""
        rows = [
            row
            for row in rows_of(self.base, name, self.release)
            if self.driver is None or row.driver == "pci" or _are_one(row.driver, self.driver)
        ]
        return rows if rows or _IN_THE_CORE.fullmatch(name) else None


class _Lister:
    """Walks over sysfs; what it finds goes into the capture."""

    def __init__(self, root: str, found: Capture) -> None:
        self.reads: list[_Read] = []
        self._root = root
        self._found = found
        self._drivers = {row.driver for row in TABLE}

    def add_function(self, address: str) -> None:
        """Add a PCI function of a vendor or driver of interest; of any other one nothing is taken."""
        link = f"bus/pci/devices/{address}"
        path = self._add_link(link)
        driver = sysfs.driver_of(f"{self._root}/{link}")
        vendor, device = (
            sysfs.core_text(f"{self._root}/{link}/{name}").removeprefix("0x") for name in ("vendor", "device")
        )
        if path and (vendor == XILINX or find(vendor, device) or driver in self._drivers):
            self._walk(path, "", self._device(address, Base.FUNCTION, driver))
            self._add_link(f"bus/pci/drivers/{driver}/{address}")
        else:
            self._found.links.pop(f"sys/{link}", None)

    def add_class_device(self, kind: str, name: str) -> None:
        """Add a class device, with its attributes if a driver of ours made it."""
        path = self._add_link(f"class/{kind}/{name}")
        if path is None:
            return
        parent = self._add_link(f"{path}/device")
        driver = sysfs.driver_of(f"{self._root}/{path}/device")
        if parent and driver:
            self._add_link(f"{parent}/driver")
        if kind in ("misc", "ami") or driver in self._drivers:  # these two have no parent
            self._walk(path, "", self._device(name, Base.MISC, driver))

    def add_file(self, path: str, device: str, rows: Sequence[Attribute] | None) -> None:
        """Add a file, if it is there. With ``rows`` None it is not read."""
        try:
            status = os.lstat(f"{self._root}/{path}")
        except OSError:
            return
        # A pipe is a sample node's attribute that hangs.
        if (
            stat.S_IFMT(status.st_mode) in (stat.S_IFREG, stat.S_IFIFO)
            and f"sys/{path}" not in self._found.files
        ):
            self._found.files[f"sys/{path}"] = b""
            self._found.status[f"sys/{path}"] = {"mode": _mode(status), "size": status.st_size}
            if rows is not None:
                self.reads.append(_Read(path, device, rows))

    def _add_link(self, path: str) -> str | None:
        """Add a link; return the path of its target below the root, None if it is no link or leads out."""
        try:
            target = os.readlink(f"{self._root}/{path}")
        except OSError:
            return None
        resolved = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if os.path.isabs(target) or resolved.startswith(".."):
            return None
        self._found.links[f"sys/{path}"] = target
        return resolved

    def _device(self, key: str, base: Base, driver: str | None) -> "_Device":
        return _Device(key, base, driver, sysfs.module_release(self._root, driver) if driver else None)

    def _walk(self, top: str, below: str, device: "_Device") -> None:
        try:
            with os.scandir(f"{self._root}/{top}/{below}") as entries:
                found = sorted(entries, key=lambda each: each.name)
        except OSError:  # it has gone away
            return
        # Files that are not read come last, so that a limit omits them first.
        found.sort(key=lambda each: not each.is_dir() and device.rows(f"{below}{each.name}") is None)
        for number, entry in enumerate(found):
            name = f"{below}{entry.name}"
            if number >= _MAX_OF_DIRECTORY or len(self._found.status) >= _MAX_ENTRIES:
                why = (
                    f"more than {_MAX_OF_DIRECTORY} entries, or {_MAX_ENTRIES} of the node: some are omitted"
                )
                self._found.unread[f"sys/{top}/{below}".rstrip("/")] = why
                break
            if not entry.name.isprintable():
                continue
            if entry.is_symlink():
                self._add_link(f"{top}/{name}")
            elif entry.is_dir() and device.rows(name):  # a sample node's attribute that answers an error
                self._found.errors[f"sys/{top}/{name}"] = os.strerror(errno.EISDIR)
            elif entry.is_dir():
                omitted = entry.name in _OMITTED or ADDRESS.fullmatch(entry.name)
                if not omitted and name.count("/") < _DEPTH:
                    self._walk(top, f"{name}/", device)
            else:
                self.add_file(f"{top}/{name}", device.key, device.rows(name))


def _are_one(driver: str, other: str) -> bool:
    """Whether two drivers are of one module, as `xocl` and `xocl_xdma`."""
    return sysfs.module_of(driver) == sysfs.module_of(other)


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _list_nodes(dev_root: str, found: Capture) -> None:
    """Take the device nodes of the drivers, by lstat: a node is never opened."""
    for path in _node_paths(dev_root):
        full = f"{dev_root}/{path}"
        try:
            status = os.lstat(full)
            target = os.readlink(full) if stat.S_ISLNK(status.st_mode) else None
        except OSError:
            continue
        if target is not None:
            found.links[f"dev/{path}"] = target
        elif not stat.S_ISDIR(status.st_mode) and not stat.S_ISBLK(status.st_mode):
            found.files[f"dev/{path}"] = b""
            found.status[f"dev/{path}"] = {
                "mode": _mode(status),
                "owner": status.st_uid,
                "group": status.st_gid,
                "device": f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}",
            }


def _node_paths(dev_root: str) -> Iterator[str]:
    for folder in _NODE_FOLDERS:
        for name in sorted(sysfs.list_names(f"{dev_root}/{folder}")):
            path = f"{folder}/{name}" if folder else name
            if _NODES.fullmatch(path):
                yield path
