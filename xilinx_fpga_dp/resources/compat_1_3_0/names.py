"""The environment variables of plugin 1.3.0, the names and ids that it gave, and its file of names. Pure.

Its Go sources are https://github.com/Xilinx/FPGA_as_a_Service, folder k8s-device-plugin; a rule that comes
from one of them names it. Inputs that crashed that plugin, and names that kubelet rejected, need no
compatibility.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from xilinx_fpga_dp.model import Device, Offer, Offers, Unit
from xilinx_fpga_dp.resources.naming import full_name

VARIABLES: Final = ("U30NameConvention", "U30AllocUnit", "DeviceNameCustomize", "VirtualDev", "VirtualNum")
PREFIX: Final = "amd.com/"
NAME_CUSTOMIZE: Final = "/opt/xilinx/device-plugin-configmap/NameCustomize.json"
MAX_VIRTUAL: Final = 1000
"""The most ids of a device, as SHARED_REPLICAS allows; that plugin was limited by memory alone."""

U30: Final = "xilinx_u30"  # fpga.go VtShell; compared with case
U30_COMMON: Final = "ama_u30"  # fpga.go U30CommonShell
MA35: Final = "MA35"
UUID_END: Final = 6
_MAX_NAME = 60  # bytes; server.go getModifiedDSAtype
_KEY_PARTS = 3
_FIELDS = ("index", "shellVer", "deviceType", "uuid", "timestamp", "DBDF", "deviceID", "Healthy", "SN")


@dataclass(frozen=True, slots=True)
class Compat130Settings:
    """The values of that plugin's variables."""

    exact: bool = False  # U30 cards are named by their shells as others are, instead of all alike
    cards: bool = True  # U30 devices with one serial number are one unit
    customize: bool = False  # names come from NameCustomize.json if it has one
    virtual: int = 0  # the number of ids of a device; 0: each has one, its address

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables as main.go does: case does not matter, and an unknown value is the default."""

        def has(variable: str, value: str) -> bool:
            return _equal_fold(environment.get(variable, ""), value)

        number = environment.get("VirtualNum", "")
        wanted = int(number[:20]) if re.fullmatch(r"[+-]?[0-9]+", number, re.ASCII) else 1
        return cls(
            exact=has("U30NameConvention", "ExactName"),
            cards=not has("U30AllocUnit", "Device"),
            customize=has("DeviceNameCustomize", "True"),
            virtual=min(max(wanted, 1), MAX_VIRTUAL) if has("VirtualDev", "True") else 0,
        )

    def settings(self) -> dict[str, object]:
        """Return our settings that mean the same, as far as there are any."""
        same: dict[str, object] = {"resource_prefix": PREFIX, "u30_unit": "card" if self.cards else "device"}
        if self.virtual:
            same |= {"shared_replicas": self.virtual, "shared_grant": "all"}
        if self.customize:
            same["resource_renames"] = NAME_CUSTOMIZE
        return same


@dataclass(frozen=True, slots=True)
class NameEntry:
    """One key of NameCustomize.json, which has three parts, and its name."""

    card: str
    shell: str
    build: str
    parts: tuple[tuple[str, str], ...]  # of the name, each a field or a text: ``("", "u30-")``

    def matches(self, values: Mapping[str, str]) -> bool:
        """Compare as server.go getMatchKey does."""
        if not (_fits(self.card, values["deviceType"]) and _fits(self.shell, values["shellVer"])):
            return False
        ends_alike = len(self.build.encode()) == UUID_END and _equal_fold(self.build, values["uuid"])
        return ends_alike or _fits(self.build, values["timestamp"])


@dataclass(frozen=True, slots=True)
class NameCustomize:
    """NameCustomize.json: its entries in the file's order, and the problems of those that can't be used."""

    entries: tuple[NameEntry, ...]
    problems: tuple[str, ...] = ()

    def has(self, *fields: str) -> bool:
        """Return whether a name has one of these fields."""
        return any(kind in fields for entry in self.entries for kind, _ in entry.parts)


def parse(text: bytes) -> NameCustomize:
    """Read NameCustomize.json.

    The first key that matches counts, as that plugin's documentation says (the Go map lost the order). A key
    without three parts and a name of unknown fields crashed that plugin: here they are left out.

    Raises:
        ValueError: the text is no JSON object.
    """
    try:
        written = text.decode(errors="replace")
        document = json.loads(written, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ValueError(  # noqa: TRY004 - a mistake in the file, not in the call
            "is no JSON object of names, as plugin 1.3.0 had it: see to quotes and commas"
        )
    entries = []
    problems = []
    for key, value in document.items():
        key_parts = key.split("-")
        parts = _parts(value) if isinstance(value, str) else None
        if len(key_parts) != _KEY_PARTS:
            problems.append(f"{key!r} is left out: it must have three parts, DeviceType-ShellName-X")
        elif parts is None:
            problems.append(
                f"the name of {key!r} is left out: it must be parts joined by '+', each a text in single "
                f"quotes or one of {' '.join(_FIELDS)}"
            )
        else:
            entries.append(NameEntry(key_parts[0], key_parts[1], key_parts[2], parts))
    return NameCustomize(tuple(entries), tuple(problems))


def _parts(value: str) -> tuple[tuple[str, str], ...] | None:
    """Split as server.go getModifiedDSAtype does: a quote anywhere makes a text of all but the ends.

    None if a part is neither a text nor a field.
    """
    found: list[tuple[str, str]] = []
    for part in value.split("+"):
        if "'" in part and part != "'":
            found.append(("", part[1:-1]))
        elif part in _FIELDS:
            found.append((part, ""))
        else:
            return None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Compat130Names:
    """The names that plugin gave."""

    prefix: str
    settings: Compat130Settings
    customize: NameCustomize | None = None  # None if there is no such file, or it is not used
    places: Mapping[str, int] = field(default_factory=dict)  # by address, see `among`
    suffix: str = ""

    @property
    def fields(self) -> frozenset[str]:
        """The fields that names depend on, of those that may become known late."""
        return frozenset({"serial"} if self.customize and self.customize.has("SN") else ())

    def among(self, devices: Sequence[Device]) -> Self:
        """Prepare the names for these devices: one may contain a device's place among those of its driver."""
        places: dict[str, int] = {}
        before: Counter[str] = Counter()
        for device in sorted((each for each in devices if each.rule is None), key=_listing_order):
            places[device.address] = before[device.driver]
            before[device.driver] += 1
        return replace(self, places=places)

    def resource_name(self, device: Device, replica: int = 0) -> str:
        """Name the resource of one of a device's ids, always validly.

        A name that that plugin could not register ends in a hash, as our own do.
        """
        return full_name(self.prefix, self._stem(self._values(device, replica)), self.suffix)

    def _stem(self, values: Mapping[str, str]) -> str:
        """Make the name as server.go NewFPGADevicePlugin does."""
        shell = values["shellVer"]
        default = f"{shell}-{values['timestamp']}" if values["timestamp"] else shell
        if not self.settings.exact and U30_COMMON in shell:
            return shell
        if not (self.settings.customize or self.customize):
            return shell if _equal_fold(shell, MA35) else default
        for entry in self.customize.entries if self.customize else ():
            if entry.matches(values):
                name = "".join(text or values.get(kind, "") for kind, text in entry.parts)
                return name if 0 < len(name.encode(errors="surrogatepass")) <= _MAX_NAME else default
        return default

    def _values(self, device: Device, replica: int) -> dict[str, str]:
        """Make the fields of a device as fpga.go GetAlveoDevices and GetAMADevices do."""
        shell = device.shell.vbnv
        ma35 = _equal_fold(shell, MA35)
        if not self.settings.exact and U30 in shell:
            shell = U30_COMMON
        fields = shell.split("_")
        index = self.places.get(device.address, 0) * max(self.settings.virtual, 1) + replica + 1
        return {
            "index": str(index),
            "shellVer": shell,
            "deviceType": shell if ma35 else fields[1] if len(fields) > 1 else "",
            "uuid": "ma35" if ma35 else (device.shell.logic_uuid or "")[-UUID_END:],
            "timestamp": device.shell.timestamp or ("0" if ma35 else ""),
            "DBDF": self.unit_id(device.address, replica),
            "deviceID": f"0x{device.device_id}" if device.device_id else "",
            "Healthy": "Healthy",
            "SN": device.serial or ("F1-Node" if "aws" in shell.lower() else ""),
        }

    def unit_id(self, address: str, replica: int) -> str:
        """Make the device id that kubelet sees."""
        return f"{address}-{replica}" if self.settings.virtual else address


def is_u30(device: Device) -> bool:
    """Return whether that plugin took it for a device of a U30 (fpga.go VtShell, U30CommonShell)."""
    return device.rule is None and (U30 in device.shell.vbnv or U30_COMMON in device.shell.vbnv)


def apply(offers: Offers, names: Compat130Names, serials: Mapping[str, str], *, cards: bool) -> Offers:
    """Change ids, units and, where names contain a replica's number or id, names to those of that plugin.

    In our offers each device is a unit or several replicas. `serials` are those that count, by address. With
    `cards` only the first id of U30 devices with one serial number is listed, however many replicas there
    are (server.go sendDevices), and stands for all.
    """
    groups: defaultdict[tuple[str, str, str], list[Unit]] = defaultdict(list)
    for resource, offer in offers.by_resource.items():
        for unit in offer.units:
            name, unit_id, first = resource, unit.id, unit.devices[0]
            address, _, number = unit.id.partition("::")
            replica, serial = int(number or 0), serials.get(first.address)
            if names.customize and names.customize.has("index", "DBDF") and first.rule is None:
                name = names.resource_name(replace(first, serial=serial), replica)
            if names.settings.virtual:
                unit_id, number = names.unit_id(address, replica), ""
            # Our own replicas, if not the ids of VirtualNum, stay apart.
            card = serial if cards and is_u30(first) else None
            groups[name, card or unit_id, number].append(replace(unit, id=unit_id))
    by_name: defaultdict[str, list[Unit]] = defaultdict(list)
    for (name, _, _), units in groups.items():
        devices = dict.fromkeys(device for unit in units for device in unit.devices)
        nodes = {node for unit in units for node in unit.numa_nodes}
        by_name[name].append(Unit(units[0].id, tuple(devices), tuple(sorted(nodes))))
    by_resource = {name: Offer(name, tuple(units)) for name, units in sorted(by_name.items())}
    return replace(offers, by_resource=by_resource)


def _equal_fold(one: str, other: str) -> bool:
    """Compare as Go's strings.EqualFold does, letter by letter."""
    return list(map(str.casefold, one)) == list(map(str.casefold, other))


def _fits(wanted: str, value: str) -> bool:
    return wanted == "*" or _equal_fold(wanted, value)


def _listing_order(device: Device) -> tuple[str, str]:
    """Order as in that plugin's directory listings: PCI devices by address, MA35D by name in /dev."""
    return ("".join(device.nodes[:1]) if _equal_fold(device.shell.vbnv, MA35) else "", device.address)
