"""All reads of sysfs: of the kernel's core in one go, of a driver an attribute at a time.

Everything here blocks and belongs on a worker thread. It judges nothing. Any read can raise OutOfDescriptors;
other errors are a result like any other.
Plain os calls: pathlib costs five times the CPU, aiofiles fifty times.
"""

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
"""``domain:bus:device.function``; a VMD or Azure domain has more than four digits."""

_ROOT_BUS = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
# The kernel hands out at most a page for an attribute (fs/sysfs/file.c); more is not an attribute.
_MAX_ATTRIBUTE = 4096
_MAX_SERIAL = 64
_MAX_NUMBER = 32
_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})\b")
# Of the drivers that are not called like their modules: XRT 2018.3 userpf/common.h, edge zocl_drv.c; AMA SDK
_MODULES = {
    "xocl_xdma": "xocl",
    "xocl_qdma": "xocl",
    "zocl-drm": "zocl",
    "transcoder": "ama_transcoder",
}
_ANY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,62}")  # of a class device that a rule may take
_BLOCKING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
# O_NONBLOCK changes nothing for sysfs; it keeps any other kind of file from holding up the bus.
_AT_ONCE = _BLOCKING | os.O_NONBLOCK
_MAX_ENTRIES = 4096  # names taken from one directory; a real function has some hundred


class Unreadable(Exception):  # noqa: N818 - what a file answered, not a fault of ours
    """An attribute exists and cannot be read as text. Carries its name and why."""


class OutOfDescriptors(Exception):  # noqa: N818 - a state of the process
    """No file descriptor was free for a path. It is no OSError, since it is no result of the read."""


@dataclass(frozen=True, slots=True)
class Function:
    """One PCI function as the PCI core shows it. None: missing or unreadable."""

    address: str
    path: str  # its directory
    vendor: str | None  # four hex digits, as the device id
    device: str | None
    pcie_path: tuple[str, ...]  # the bridges above it, root bus first
    # Differs for one that took its place; None if one of the above is missing
    identity: tuple[int, int] | None
    driver: str | None = None
    entries: frozenset[str] = frozenset()  # the names in its directory; empty if they are not wanted
    sub_devices: tuple[str, ...] = ()  # those of them that are XRT sub-devices, sorted
    fault: str | None = None  # why its directory could not be listed
    # Four hex digits each, and six; None also if they are not wanted
    subsystem_vendor: str | None = None
    subsystem_device: str | None = None
    pci_class: str | None = None

    @property
    def slot(self) -> str:
        """Domain, bus and device: what the functions of one card share."""
        return slot_of(self.address)

    def subdirectories(self, pattern: re.Pattern[str]) -> list[str]:
        """Return the paths of its sub-devices with such a name."""
        return [f"{self.path}/{name}" for name in _matching(self.sub_devices, pattern)]


@lru_cache(maxsize=1024)  # the same few names and patterns at every check
def _matching(names: tuple[str, ...], pattern: re.Pattern[str]) -> tuple[str, ...]:
    return tuple(filter(pattern.fullmatch, names))


@dataclass(frozen=True, slots=True)
class ClassDevice:
    """A device of a class, one that a driver made beside the PCI bus or without it."""

    name: str  # `renderD128`, `ama_transcoder0`
    path: str  # its directory in the class
    parent: str | None  # the name of the device it belongs to; None if there is none
    driver: str | None  # the parent's; None if that is a PCI function, whose driver is known


@dataclass(frozen=True, slots=True)
class Bus:
    """The devices as the kernel's core shows them."""

    root: str  # where this sysfs is, `/sys`
    dev_root: str  # where its device nodes are, `/dev`, or the host's at `/host/dev`
    functions: tuple[Function, ...] = ()  # the wanted PCI functions, ordered by address
    numa_nodes: tuple[int, ...] = ()  # those online
    classes: Mapping[str, tuple[ClassDevice, ...]] = field(default_factory=dict)  # the wanted ones
    others: Mapping[str, int] = field(default_factory=dict)  # inode numbers of other vendors' functions
    # The addresses of functions and names of class devices that rules take from the drivers' back-ends
    by_rule: frozenset[str] = frozenset()

    def near(self, address: str) -> "Bus":
        """Return the bus with no functions but those in an address' slot; a class device has no address."""
        if not ADDRESS.fullmatch(address):
            return self
        slot = slot_of(address)
        return replace(self, functions=tuple(f for f in self.functions if f.slot == slot))

    def has_node(self, node: str | None) -> bool:
        """Whether a device node, given by its path under /dev, is there.

        It is never opened: a pod's device cgroup forbids that. In a sample tree it may be a plain file.
        """
        if node is None:
            return False
        try:
            return not stat.S_ISDIR(os.stat(self.dev_root + node.removeprefix("/dev")).st_mode)
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read of a node."""

    drivers: frozenset[str] = frozenset()  # PCI functions bound to one of these
    listed: frozenset[str] = frozenset()  # those of them whose functions' directories are listed too
    vendors: frozenset[str] = frozenset()  # PCI functions of one of these, whatever driver they have
    classes: Mapping[str, re.Pattern[str]] = field(default_factory=dict)  # class devices with such names
    # What rules want besides: PCI functions, by all but the driver, and classes with such names
    takes: Callable[[Function], bool] | None = None
    class_globs: tuple[str, ...] = ()


def read_bus(before: Bus, wanted: Wanted) -> Bus:
    """Read what the kernel's core itself answers, all in one go; it never blocks.

    What cannot change while a function is there is taken from the bus as last read. One that took its place
    has another inode number (fs/kernfs/dir.c counts them up; before Linux 4.14 it may use one again, and a
    card in the place of another maker's function is seen once its driver has it).

    Raises:
        OSError: the PCI bus cannot be listed.
        OutOfDescriptors: not all of it can be read now.
    """
    root = before.root
    classes = _class_devices(root, wanted)
    parents: set[str] = set()
    if wanted.class_globs:
        parents = {each.parent for found in classes.values() for each in found if each.parent}
    known = {(function.address, function.identity): function for function in before.functions}
    # A driver's directory lists what it is bound to (dd.c driver_sysfs_add): one listing for all functions.
    bound = {name for driver in wanted.drivers for name in list_names(f"{root}/bus/pci/drivers/{driver}")}
    bound |= parents
    functions = []
    others = {}
    for address, inode in sorted(_pci_inodes(root).items()):
        if address not in bound and before.others.get(address) == inode:
            others[address] = inode
            continue
        path = f"{root}/bus/pci/devices/{address}"
        driver = driver_of(path)
        identity = identity_of(path)
        function = known.get((address, identity))
        vendor = function.vendor if function else _hex_id(f"{path}/vendor")
        ours = driver in wanted.drivers or vendor in wanted.vendors or address in parents
        if ours or (vendor and wanted.takes):
            function = function or _function(address, path, vendor, identity, more=bool(wanted.takes))
            ours = ours or bool(wanted.takes and wanted.takes(function))
        if ours and function:
            functions.append(_renew(function, driver, listed=driver in wanted.listed))
        elif vendor:
            others[address] = inode
    return Bus(root, before.dev_root, tuple(functions), _online_nodes(root), classes, others)


def _function(
    address: str, path: str, vendor: str | None, identity: tuple[int, int] | None, *, more: bool
) -> Function:
    """Read what does not change while the function is there; with ``more``, what only rules ask for too."""
    device = _hex_id(f"{path}/device")
    pcie_path = _pcie_path(path)
    complete = vendor and device and pcie_path
    function = Function(address, path, vendor, device, pcie_path, identity if complete else None)
    if not more:
        return function
    return replace(
        function,
        subsystem_vendor=_hex_id(f"{path}/subsystem_vendor"),
        subsystem_device=_hex_id(f"{path}/subsystem_device"),
        pci_class=_hex_id(f"{path}/class", 6),
    )


def identity_of(path: str) -> tuple[int, int] | None:
    """Return the inode number and time of a link or directory; None if it is missing.

    Those of another one in its place differ, even where numbers are used again. The time is when the kernel's
    cache took it in: where it differs for the same one, what was read of it is read again.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def refresh_bus(bus: Bus, wanted: Wanted, addresses: Collection[str]) -> Bus:
    """Read again what may change of some functions (presence, driver, entries), and the class devices.

    Raises:
        OSError: the PCI bus cannot be listed, so nothing is known of its functions.
        OutOfDescriptors: not all of it can be read now.
    """
    functions = []
    for function in bus.functions:
        if function.address not in addresses:
            functions.append(function)
        # If the whole bus is away, even for a moment, listing it fails.
        elif os.path.lexists(function.path) or function.address in _pci_inodes(bus.root):
            driver = driver_of(function.path)
            functions.append(_renew(function, driver, listed=driver in wanted.listed))
    return replace(bus, functions=tuple(functions), classes=_class_devices(bus.root, wanted))


def _pci_inodes(root: str) -> dict[str, int]:
    """Return the inode number of each function's link, by address."""
    try:
        with os.scandir(f"{root}/bus/pci/devices") as entries:
            return {entry.name: entry.inode() for entry in entries if ADDRESS.fullmatch(entry.name)}
    except FileNotFoundError:
        # An embedded board's kernel may have no PCI at all; a sysfs without any bus is not one to believe.
        if os.path.isdir(f"{root}/bus") and not os.path.lexists(f"{root}/bus/pci"):
            return {}
        raise


def _class_devices(root: str, wanted: Wanted) -> dict[str, tuple[ClassDevice, ...]]:
    classes = dict(wanted.classes)
    if wanted.class_globs:
        names = list_names(f"{root}/class")
        classes |= {name: _ANY_NAME for glob in wanted.class_globs for name in fnmatch.filter(names, glob)}
    return {
        name: tuple(_class_device(f"{root}/class/{name}/{each}") for each in found)
        for name, pattern in classes.items()
        if (found := sorted(filter(pattern.fullmatch, list_names(f"{root}/class/{name}"))))
    }


def _class_device(path: str) -> ClassDevice:
    parent = _link_name(f"{path}/device")
    driver = driver_of(f"{path}/device") if parent and not ADDRESS.fullmatch(parent) else None
    return ClassDevice(os.path.basename(path), path, parent, driver)


def relist(function: Function) -> Function:
    """Return the function with the names that are in its directory now."""
    return _renew(function, function.driver, listed=True)


def _renew(function: Function, driver: str | None, *, listed: bool) -> Function:
    """Return the function with this driver and, if listed, its directory's names; itself if unchanged."""
    names: list[str] = []
    fault = None
    if listed:
        try:
            names = os.listdir(function.path)[:_MAX_ENTRIES]
        except OSError as error:
            _raise_if_out_of_descriptors(error)
            fault = f"its directory cannot be listed: {error.strerror}"
    entries = frozenset(names)
    if (entries, driver, fault) == (function.entries, function.driver, function.fault):
        return function
    # xocl_subdev.c: those of a user and those of a management function
    sub_devices = tuple(sorted([name for name in names if ".u." in name or ".m." in name]))
    return replace(function, driver=driver, entries=entries, sub_devices=sub_devices, fault=fault)


def list_names(path: str) -> list[str]:
    """Return the names in a directory; empty if it is missing or cannot be listed."""
    try:
        return os.listdir(path)[:_MAX_ENTRIES]
    except OSError as error:
        _raise_if_out_of_descriptors(error)
        return []


def slot_of(address: str) -> str:
    """Return an address without the function number."""
    return address.rpartition(".")[0]


def driver_of(path: str) -> str | None:
    """Return the name of the driver that a device, given by its directory, is bound to; None if unbound."""
    return _link_name(f"{path}/driver")


def module_version(root: str, driver: str) -> str | None:
    """Read the version of a driver's module; None if it is not loaded or shows none. It never blocks."""
    return core_text(f"{root}/module/{module_of(driver)}/version") or None


def module_release(root: str, driver: str) -> tuple[int, int] | None:
    """Return the first two numbers of the version of a driver's module; None if it is not known."""
    match = _RELEASE.match(module_version(root, driver) or "")
    return (int(match[1]), int(match[2])) if match else None


def module_of(driver: str) -> str:
    """Return the name of a driver's module."""
    return _MODULES.get(driver, driver.replace("-", "_"))


def read_attribute(path: str) -> str | None:
    """Read one attribute as text, stripped; None if it is missing. May block as long as its driver likes.

    Raises:
        Unreadable: it exists but answers an error, too much, or no text.
    """
    return _text(path, "\n\r\t")


def read_strings(path: str) -> list[str]:
    """Read the strings of a device tree's property, each ended by a zero byte; empty if it is missing.

    Raises:
        Unreadable: it exists but answers an error, too much, or no text.
    """
    return [part for part in (_text(path, "\0") or "").split("\0") if part]


def _text(path: str, allowed: str) -> str | None:
    """Read one attribute, stripped; None if it is missing. Allowed: control characters inside it."""
    try:
        data = read_bytes(path, _BLOCKING)
        text = data.decode("utf-8").strip("\0\n\r\t ")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise Unreadable(f"{os.path.basename(path)}: {why}") from error
    if len(data) > _MAX_ATTRIBUTE:
        raise Unreadable(f"{os.path.basename(path)}: more than {_MAX_ATTRIBUTE} bytes")
    if not text.isprintable() and any(not (char.isprintable() or char in allowed) for char in text):
        raise Unreadable(f"{os.path.basename(path)}: control characters")
    return text


def number(text: str | None) -> int | None:
    """Parse a number as drivers print it, ``1``, ``0x1`` or ``-19``; None if it is missing or invalid."""
    try:
        return int(text or "", 0)
    except ValueError:
        return None


def read_optional(path: str) -> str:
    """Read one attribute that may as well be missing, as text, stripped; empty if it cannot be read."""
    try:
        return read_attribute(path) or ""
    except Unreadable:
        return ""


def read_start(path: str, size: int) -> bytes:
    """Read the first bytes of an attribute that may as well be missing; empty if it cannot be read."""
    try:
        return read_bytes(path, size=size)
    except OSError:
        return b""


def as_serial(text: str) -> str | None:
    """Return a text that can be a serial number; None for any other."""
    return text if text and text.isprintable() and len(text) <= _MAX_SERIAL else None


def read_bytes(path: str, flags: int = _BLOCKING, size: int = _MAX_ATTRIBUTE + 1) -> bytes:
    """Read one attribute, and at most a byte more than one may have. May block as its driver likes.

    Raises:
        OSError: it is missing or answers an error.
    """
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        _raise_if_out_of_descriptors(error)
        raise
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


@contextmanager
def opened(directory: str) -> Iterator[int]:
    """Open a directory for `read_integer`.

    Raises:
        OSError: it is missing.
    """
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        _raise_if_out_of_descriptors(error)
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_integer(directory: int, name: str) -> int | None:
    """Read a number in an open directory; None if there is none. May block as its driver likes.

    It takes two thirds of the time of `read_bytes`, which looks the whole path up.
    """
    try:
        descriptor = os.open(name, _BLOCKING, dir_fd=directory)
    except OSError as error:
        _raise_if_out_of_descriptors(error)
        return None
    try:
        return int(os.read(descriptor, _MAX_NUMBER))
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


def _raise_if_out_of_descriptors(error: OSError) -> None:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise OutOfDescriptors(f"{error.filename}: {error.strerror}") from None


def core_text(path: str) -> str:
    """Read what the kernel's core answers, stripped; empty if it is missing or no text. It never blocks."""
    try:
        return read_bytes(path, _AT_ONCE)[:_MAX_ATTRIBUTE].decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _hex_id(path: str, digits: int = 4) -> str | None:
    match = re.fullmatch(rf"0x([0-9a-f]{{{digits}}})", core_text(path))
    return match[1] if match else None


def numa_node_of(function: Function) -> int | None:
    """Read its NUMA node, which root may set at any time; None where the firmware has none for it."""
    text = core_text(f"{function.path}/numa_node")
    # The kernel has at most 1024 nodes; -1: none.
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None


def _link_name(path: str) -> str | None:
    try:
        return os.readlink(path).rpartition("/")[2]
    except OSError:
        return None


def _pcie_path(path: str) -> tuple[str, ...]:
    """Read it from the target of the link: ``../../../devices/pci0000:60/0000:60:05.0/0000:65:00.1``."""
    try:
        parts = os.readlink(path).split("/")[:-1]
    except OSError:
        return ()
    return tuple(part for part in parts if _ROOT_BUS.fullmatch(part) or ADDRESS.fullmatch(part))


def _online_nodes(root: str) -> tuple[int, ...]:
    """Return the numbers in ``devices/system/node/online``, ``0-1,4``; empty if it is missing or invalid."""
    nodes: set[int] = set()
    for part in core_text(f"{root}/devices/system/node/online").split(","):
        if not (match := re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)):
            return ()
        nodes.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(nodes))
