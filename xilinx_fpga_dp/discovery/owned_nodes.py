"""Which device nodes belong to a device, for the globs of rules. All calls block.

A rule's glob only chooses among these nodes; it never gives a device what is not its own:

- a node whose class device lies below the device's directory in sysfs: its ``uevent`` has the name and the
  number (drivers/base/core.c dev_uevent);
- a node in /dev whose number, by ``/sys/dev/char/MAJOR:MINOR``, or whose name, by the class device of that
  name, leads there;
- a node that no function owns and whose name carries the function's whole address.

Only character devices count, each by its path without links below /dev. A sample tree without device nodes,
which has no ``/dev/null``, may have plain files in their place.
"""

import fnmatch
import os
import re
import stat
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from xilinx_fpga_dp.discovery import sysfs
from xilinx_fpga_dp.discovery.sysfs import ADDRESS

MAX_NODES: Final = 64
"""Nodes that a device may have."""

_MAX_DIRECTORIES: Final = 256  # listed below one device
_DEPTH: Final = 4  # of them: `<sub-device>/<class>/<name>` is the deepest of use
_MAX_NAMES: Final = 4096  # taken from one directory
_MAX_CANDIDATES: Final = 256  # names in /dev examined for one glob
_OMITTED: Final = frozenset({"power", "msi_irqs", "iommu", "iommu_group", "block", "net"})
_NODE_NAME: Final = re.compile(r"[\w.:+@=,-]+(/[\w.:+@=,-]+){0,6}", re.ASCII)
_NULL: Final = os.makedev(1, 3)  # what the nodes of a sample tree are
_DIGITS: Final = re.compile(r"[0-9]{1,7}")
_GLOB: Final = re.compile(r"[*?\[]")


@dataclass(slots=True)
class Nodes:
    """The device nodes of one scan. Each directory of /dev is listed once."""

    root: str  # of sysfs
    dev_root: str
    addresses: Collection[str]  # of all PCI functions
    _names: dict[str, list[str]] = field(default_factory=dict)
    _tails: Counter[str] = field(default_factory=Counter)  # addresses without their domain
    _real_root: str = ""
    _sample: bool = False

    def find(self, glob: str, places: Collection[str], *, carries: bool = False) -> tuple[str, ...]:
        """Return the nodes of a glob, ``/dev/xdma0_*``, that belong to a device, sorted.

        Args:
            glob: without placeholders.
            places: the directories whose nodes are the device's, without links.
            carries: whether a name that matches the glob can only be that of the device.
        """
        if not self._real_root:
            self._real_root = os.path.realpath(self.dev_root)
            self._sample = not _is_null(f"{self.dev_root}/null")
        parts = glob.split("/")[2:]
        patterns = [re.compile(fnmatch.translate(part)) for part in parts]
        found = {
            node
            for place in places
            for name, number in _below(place)
            if _fits(name, patterns) and (node := self._checked(name, number))
        }
        if not found or carries:
            for name in self._candidates(parts, patterns):
                if node := self._owned(name, places, carries):
                    found.add(node)
        return tuple(sorted(found)[:MAX_NODES])

    def _checked(self, name: str, number: int | None) -> str | None:
        """Return the path of a node below /dev; None if it is no character device, or has another number."""
        path = f"{self._real_root}/{name}"
        try:
            if "/" in name and os.path.realpath(path) != path:
                return None
            status = os.lstat(path)
        except OSError:
            return None
        if stat.S_ISCHR(status.st_mode):
            same = number is None or status.st_rdev in (number, _NULL)
            return f"/dev/{name}" if same else None
        return f"/dev/{name}" if self._sample and stat.S_ISREG(status.st_mode) else None

    def _owned(self, name: str, places: Collection[str], carries: bool) -> str | None:
        """Return the node behind a name in /dev if it is the device's; None if not."""
        path = os.path.realpath(f"{self._real_root}/{name}")
        if not path.startswith(f"{self._real_root}/"):
            return None
        real = path.removeprefix(f"{self._real_root}/")
        if not _NODE_NAME.fullmatch(real) or not (node := self._checked(real, None)):
            return None
        shown = self._class_device(path, real)
        if shown is None:
            return node if carries and real == name else None
        owner, parent = os.path.realpath(shown), _parent(shown)
        if any(_lies_below(owner, place) or parent == place for place in places):
            return node
        others = parent or any(map(ADDRESS.fullmatch, owner.split("/"))) or _node(shown, real) is None
        return node if carries and not others and real == name else None

    def _class_device(self, path: str, name: str) -> str | None:
        """Return the class device of a node by its number, or else by its name; None if there is none."""
        try:
            number = os.stat(path).st_rdev
        except OSError:
            return None
        shown = f"{self.root}/dev/char/{os.major(number)}:{os.minor(number)}"
        if number != _NULL and os.path.lexists(shown):
            return shown
        for each in self._list(f"{self.root}/class"):
            shown = f"{self.root}/class/{each}/{os.path.basename(name)}"
            if os.path.lexists(shown) and (found := _node(shown, name)):
                return shown if number in (0, _NULL) or found[1] in (None, number) else None
        return None

    def is_unique(self, address: str) -> bool:
        """Whether no function of another domain has the same bus, device and function."""
        if not self._tails:
            self._tails = Counter(each.partition(":")[2] for each in self.addresses)
        return self._tails[address.partition(":")[2]] <= 1

    def _candidates(self, parts: list[str], patterns: list[re.Pattern[str]]) -> Iterator[str]:
        """Yield the names in /dev that match a glob, each part of it in turn; a limited number."""
        found = [""]
        for part, pattern in zip(parts, patterns, strict=True):
            below: list[str] = []
            for folder in found:
                if not _GLOB.search(part):
                    below.append(f"{folder}{part}/")
                    continue
                names = self._list(f"{self._real_root}/{folder}")
                start = part[: _first_glob(part)]
                for name in names[bisect_left(names, start) :]:
                    if not name.startswith(start) or len(below) >= _MAX_CANDIDATES:
                        break
                    if pattern.fullmatch(name):
                        below.append(f"{folder}{name}/")
            found = below[:_MAX_CANDIDATES]
        for name in found:
            yield name.removesuffix("/")

    def _list(self, folder: str) -> list[str]:
        if folder not in self._names:
            self._names[folder] = sorted(sysfs.list_names(folder)[:_MAX_NAMES])
        return self._names[folder]


def _first_glob(part: str) -> int:
    match = _GLOB.search(part)
    return match.start() if match else len(part)


def _is_null(path: str) -> bool:
    try:
        return os.stat(path).st_rdev == _NULL
    except OSError:
        return False


def _fits(name: str, patterns: list[re.Pattern[str]]) -> bool:
    parts = name.split("/")
    return len(parts) == len(patterns) and all(
        pattern.fullmatch(part) for part, pattern in zip(parts, patterns, strict=True)
    )


def _below(path: str) -> Iterator[tuple[str, int | None]]:
    """Yield name and number of the nodes of the class devices below a device's directory."""
    todo, listed = [(path, 0)], 0
    while todo and listed < _MAX_DIRECTORIES:
        folder, depth = todo.pop()
        listed += 1
        try:
            with os.scandir(folder) as entries:
                found = [each for _, each in zip(range(_MAX_NAMES), entries, strict=False)]
        except OSError:
            continue
        names = {each.name for each in found}
        if "uevent" in names and ("dev" in names or depth > 1) and (node := _node(folder)):
            yield node
        if depth < _DEPTH:
            todo += [
                (each.path, depth + 1)
                for each in found
                if each.name not in _OMITTED
                and not ADDRESS.fullmatch(each.name)
                and each.is_dir(follow_symlinks=False)
            ]


def _node(path: str, wanted: str | None = None) -> tuple[str, int | None] | None:
    """Return the name below /dev and the number of a class device's node; None if it has none, or a disk's.

    The number is None if it is not known. With a name that is wanted, None also if it has another one.
    """
    with suppress(OSError):
        if os.readlink(f"{path}/subsystem").endswith("/block"):
            return None
    values = dict(
        re.findall(r"^(DEVNAME|MAJOR|MINOR)=(.+)$", sysfs.core_text(f"{path}/uevent"), re.MULTILINE)
    )
    name = values.get("DEVNAME", "").removeprefix("/dev/")
    if (
        wanted not in (None, name)
        or not _NODE_NAME.fullmatch(name)
        or not {".", ".."}.isdisjoint(name.split("/"))
    ):
        return None
    major, minor = values.get("MAJOR", ""), values.get("MINOR", "")
    known = _DIGITS.fullmatch(major) and _DIGITS.fullmatch(minor)
    return name, os.makedev(int(major), int(minor)) if known else None


def _parent(path: str) -> str | None:
    device = f"{path}/device"
    return os.path.realpath(device) if os.path.lexists(device) else None


def _lies_below(path: str, above: str) -> bool:
    """Whether a directory is below another, with no PCI function in between."""
    if path != above and not path.startswith(f"{above}/"):
        return False
    return not any(map(ADDRESS.fullmatch, path[len(above) :].split("/")))
