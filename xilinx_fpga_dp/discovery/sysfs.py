"""All reads of sysfs: what the PCI core answers in one go, what a driver answers one attribute at a time.

Everything here blocks and belongs on a worker thread. It knows no driver and judges nothing.
Plain os calls: pathlib costs five times the CPU, aiofiles fifty times.
"""

import itertools
import os
import re
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TypedDict

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
"""``domain:bus:device.function``; a VMD or Azure domain has more than four digits."""

_ROOT_BUS = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
# The kernel hands out at most a page for an attribute (fs/sysfs/file.c); more is not an attribute.
_MAX_ATTRIBUTE = 4096
_MAX_ENTRIES = 4096  # names taken from one directory; a real function has some hundred


class Unreadable(Exception):  # noqa: N818 - what a file answered, not a fault of ours
    """An attribute that is there and cannot be read as text; says its name and why."""


@dataclass(frozen=True, slots=True)
class Function:
    """One PCI function as the PCI core shows it. None: missing or unreadable.

    Attributes:
        path: its directory.
        vendor, device: four hex digits.
        driver: the name behind its ``driver`` link.
        pcie_path: what stands above it, root bus first.
        entries: the names in its directory, sorted; read only for functions whose driver is asked for.
        fault: why its directory could not be listed.
    """

    address: str
    path: str
    vendor: str | None
    device: str | None
    driver: str | None
    numa_node: int | None
    pcie_path: tuple[str, ...]
    entries: tuple[str, ...] = ()
    fault: str | None = None

    @property
    def slot(self) -> str:
        """Domain, bus and device: what the functions of one card share."""
        return self.address.rpartition(".")[0]

    def subdirectories(self, pattern: re.Pattern[str]) -> list[str]:
        """The directories of its sub-devices of that name, as paths; a file of that name is none."""
        names = (name for name in self.entries if ".u." in name)  # spares some fifty matches
        paths = [f"{self.path}/{name}" for name in names if pattern.fullmatch(name)]
        return [path for path in paths if os.path.isdir(path)]


class _Listing(TypedDict):
    entries: tuple[str, ...]
    fault: str | None


@dataclass(frozen=True, slots=True)
class Bus:
    """All PCI functions of a node, ordered by address, and its online NUMA nodes."""

    functions: tuple[Function, ...]
    numa_nodes: tuple[int, ...]


def read_bus(root: str, drivers: Collection[str], vendors: Collection[str]) -> Bus:
    """Read what the PCI core itself answers, for all functions in one go; it never blocks.

    Args:
        root: where sysfs is, ``/sys``.
        drivers: list the directory of functions bound to one of these.
        vendors: leave out functions that are neither of these nor bound to one of those drivers.

    Raises:
        OSError: the bus cannot be listed.
    """
    base = f"{root}/bus/pci/devices"
    functions = []
    for address in sorted(filter(ADDRESS.fullmatch, os.listdir(base))):
        path = f"{base}/{address}"
        driver = _link_name(f"{path}/driver")
        vendor = _hex_id(f"{path}/vendor")
        if driver in drivers or vendor in vendors:
            functions.append(
                Function(
                    address=address,
                    path=path,
                    vendor=vendor,
                    device=_hex_id(f"{path}/device"),
                    driver=driver,
                    numa_node=_numa_node(f"{path}/numa_node"),
                    pcie_path=_pcie_path(path),
                    **_listing(path, driver in drivers),
                )
            )
    return Bus(tuple(functions), _online_nodes(root))


def read_again(root: str, bus: Bus, addresses: Collection[str], drivers: Collection[str]) -> Bus:
    """Read of some of a bus' functions what may have changed: whether they are there, driver, entries.

    Raises:
        OSError: the bus cannot be listed, so nothing is known of what is there.
    """
    there = set(os.listdir(f"{root}/bus/pci/devices"))
    functions = []
    for function in bus.functions:
        if function.address in addresses and function.address in there:
            driver = _link_name(f"{function.path}/driver")
            functions.append(replace(function, driver=driver, **_listing(function.path, driver in drivers)))
    return replace(bus, functions=tuple(functions))


def _listing(path: str, wanted: bool) -> _Listing:
    try:
        return {"entries": tuple(sorted(_names(path))) if wanted else (), "fault": None}
    except OSError as error:
        return {"entries": (), "fault": f"its directory cannot be listed: {error.strerror}"}


def list_names(path: str) -> list[str]:
    """The names in a directory; none where it is missing or cannot be listed."""
    try:
        return _names(path)
    except OSError:
        return []


def module_version(root: str, driver: str) -> str | None:
    """The version a driver's module tells; None where it is not loaded or tells none. It never blocks."""
    return _core_text(f"{root}/module/{driver.replace('-', '_')}/version") or None


def _names(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in itertools.islice(entries, _MAX_ENTRIES)]


def read_attribute(path: str) -> str | None:
    """One attribute as text, stripped; None where it is missing. May block as long as its driver likes.

    Raises:
        Unreadable: it is there but answers an error, too much, or no text.
    """
    try:
        data = _read(path, os.O_RDONLY)
        text = data.decode("utf-8").strip("\0\n\r\t ")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"{os.path.basename(path)}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise Unreadable(f"{os.path.basename(path)}: not UTF-8 text") from None
    if len(data) > _MAX_ATTRIBUTE:
        raise Unreadable(f"{os.path.basename(path)}: more than {_MAX_ATTRIBUTE} bytes")
    if not text.isprintable() and any(not (char.isprintable() or char in "\n\r\t") for char in text):
        raise Unreadable(f"{os.path.basename(path)}: control characters")
    return text


def first_readable(paths: Iterable[str]) -> str | None:
    """The first of several attributes that has a text, say of several directories of one pattern.

    Raises:
        Unreadable: none has a text and one could not be read.
    """
    unreadable: Unreadable | None = None
    for path in paths:
        try:
            if text := read_attribute(path):
                return text
        except Unreadable as error:
            unreadable = error
    if unreadable:
        raise unreadable
    return None


def node_exists(root: str, node: str) -> bool:
    """Whether a device node, given by its path under /dev, is there. Only looked at, never opened.

    A pod's device cgroup forbids opening it, and in a sample tree it may be a plain file.
    """
    try:
        mode = os.stat(root + node.removeprefix("/dev")).st_mode
    except OSError:
        return False
    return not stat.S_ISDIR(mode)


def _read(path: str, flags: int) -> bytes:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        return os.read(descriptor, _MAX_ATTRIBUTE + 1)
    finally:
        os.close(descriptor)


def _core_text(path: str) -> str | None:
    # O_NONBLOCK changes nothing for sysfs; it keeps whatever else stands there from holding up the bus.
    try:
        return _read(path, os.O_RDONLY | os.O_NONBLOCK)[:_MAX_ATTRIBUTE].decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _hex_id(path: str) -> str | None:
    text = _core_text(path)
    match = re.fullmatch(r"0x([0-9a-f]{4})", text or "")
    return match[1] if match else None


def _numa_node(path: str) -> int | None:
    text = _core_text(path)
    # The kernel has at most 1024 nodes; -1 says that the firmware does not tell.
    return int(text) if text and re.fullmatch(r"[0-9]{1,4}", text) else None


def _link_name(path: str) -> str | None:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


def _pcie_path(path: str) -> tuple[str, ...]:
    """From where its link leads: ``../../../devices/pci0000:60/0000:60:05.0/0000:65:00.1``."""
    try:
        parts = os.readlink(path).split("/")[:-1]
    except OSError:
        return ()
    return tuple(part for part in parts if _ROOT_BUS.fullmatch(part) or ADDRESS.fullmatch(part))


def _online_nodes(root: str) -> tuple[int, ...]:
    """The ranges of ``devices/system/node/online``, ``0-1,4``; empty where it is missing or odd."""
    text = _core_text(f"{root}/devices/system/node/online") or ""
    nodes: set[int] = set()
    for part in text.split(","):
        if not (match := re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)):
            return ()
        nodes.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(nodes))
