"""Plugin 1.3.0 in our own words: its variables, its file of names, the names and ids it gave. Pure.

Its Go sources are https://github.com/Xilinx/FPGA_as_a_Service, folder k8s-device-plugin; where a rule comes
from one of them, it is named. What ended that plugin, or what kubelet refused, gave no name to be true to.
"""

import glob
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from xilinx_fpga_dp.model import Device, Offer, Offers, Unit
from xilinx_fpga_dp.resources.naming import full_name

VARIABLES: Final = ("U30NameConvention", "U30AllocUnit", "DeviceNameCustomize", "VirtualDev", "VirtualNum")
PREFIX: Final = "amd.com/"
NAME_CUSTOMIZE: Final = "/opt/xilinx/device-plugin-configmap/NameCustomize.json"
MAX_VIRTUAL: Final = 1000
"""Ids a device at most, as SHARED_REPLICAS; that plugin had no limit but memory."""

_U30 = "xilinx_u30"  # fpga.go VtShell; looked for with case
_U30_COMMON = "ama_u30"  # fpga.go U30CommonShell
_MA35 = "MA35"
_MAX_NAME = 60  # bytes; server.go getModifiedDSAtype
_UUID_END = 6
_KEY_PARTS = 3
_FIELDS = ("index", "shellVer", "deviceType", "uuid", "timestamp", "DBDF", "deviceID", "Healthy", "SN")


@dataclass(frozen=True, slots=True)
class Compat130Settings:
    """What that plugin's variables say.

    Attributes:
        exact: U30 cards are named by their shell as others are, not all alike.
        cards: U30 devices with one serial number are one.
        customize: names come from NameCustomize.json where it has one.
        virtual: ids a device; 0: each has one, its address.
    """

    exact: bool = False
    cards: bool = True
    customize: bool = False
    virtual: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """As main.go reads them: case matters not, anything unknown is the default."""
        number = environment.get("VirtualNum", "")
        wanted = int(number[:20]) if re.fullmatch(r"[+-]?[0-9]+", number, re.ASCII) else 1
        return cls(
            exact=_equal(environment.get("U30NameConvention", ""), "ExactName"),
            cards=not _equal(environment.get("U30AllocUnit", ""), "Device"),
            customize=_equal(environment.get("DeviceNameCustomize", ""), "True"),
            virtual=min(max(wanted, 1), MAX_VIRTUAL)
            if _equal(environment.get("VirtualDev", ""), "True")
            else 0,
        )

    def settings(self) -> dict[str, object]:
        """Our settings that say the same, as far as they can."""
        same: dict[str, object] = {
            "resource_prefix": PREFIX,
            "u30_unit": "card" if self.cards else "device",
        }
        if self.virtual:
            same |= {"shared_replicas": self.virtual, "shared_grant": "all"}
        if self.customize:
            same["resource_renames"] = NAME_CUSTOMIZE
        return same


def advice(
    old: Compat130Settings, environment: Mapping[str, str], *, own_prefix: bool = False
) -> list[tuple[str, str]]:
    """What is used of that plugin's ways, each with what to write now.

    Args:
        old: what its variables say.
        environment: where they stand.
        own_prefix: RESOURCE_PREFIX is set and comes first.
    """
    told = [] if own_prefix else [("its prefix", f"XILINX_FPGA_DP_RESOURCE_PREFIX={PREFIX}")]
    told.append(
        ("U30NameConvention=ExactName", "nothing: names are exact")
        if old.exact
        else (
            "U30NameConvention=CommonName" + ("" if "U30NameConvention" in environment else ", its default"),
            f"into the file that XILINX_FPGA_DP_RESOURCE_RENAMES names: {_COMMON_RULE}",
        )
    )
    if "U30AllocUnit" in environment:
        told.append(
            ("U30AllocUnit=Card", "nothing: XILINX_FPGA_DP_U30_UNIT=card is the default")
            if old.cards
            else ("U30AllocUnit=Device", "XILINX_FPGA_DP_U30_UNIT=device")
        )
    if "DeviceNameCustomize" in environment:
        told.append(
            ("DeviceNameCustomize=True", "rules into a file, and XILINX_FPGA_DP_RESOURCE_RENAMES=its path")
            if old.customize
            else ("DeviceNameCustomize=False", "nothing")
        )
    if old.virtual:
        write = f"XILINX_FPGA_DP_SHARED_REPLICAS={old.virtual} and XILINX_FPGA_DP_SHARED_GRANT=all"
        differs = "" if old.virtual == 1 else " (names then end in .shared, ids in ::0)"
        told.append((f"VirtualDev=True, VirtualNum={old.virtual}", write + differs))
    elif "VirtualDev" in environment or "VirtualNum" in environment:
        told.append(("VirtualDev=False", "nothing"))
    return told


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of NameCustomize.json and its name.

    Attributes:
        card, shell, build: the three parts of the key.
        parts: of the name, each a field or a text: ``("", "u30-")``.
    """

    card: str
    shell: str
    build: str
    parts: tuple[tuple[str, str], ...]

    def matches(self, values: Mapping[str, str]) -> bool:
        """As server.go getMatchKey compares."""
        if not (_fits(self.card, values["deviceType"]) and _fits(self.shell, values["shellVer"])):
            return False
        ends_alike = len(self.build.encode()) == _UUID_END and _equal(self.build, values["uuid"])
        return ends_alike or _fits(self.build, values["timestamp"])


@dataclass(frozen=True, slots=True)
class Customize:
    """NameCustomize.json: its entries in the file's order, and what of it can't be used."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()

    @property
    def by_index(self) -> bool:
        """Whether a name counts devices."""
        return any(kind in ("index", "DBDF") for entry in self.entries for kind, _ in entry.parts)


def parse(text: bytes) -> Customize | None:
    """What NameCustomize.json says; None: the text is no JSON object.

    The first key that matches counts, as the documentation has it (the Go map lost the order). A key without
    three parts and a name of unknown fields ended that plugin sooner or later: here they are left out.
    """
    try:
        document = json.loads(
            text.decode(errors="replace"), parse_int=str, parse_float=str, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
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
            entries.append(Entry(key_parts[0], key_parts[1], key_parts[2], parts))
    return Customize(tuple(entries), tuple(problems))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _parts(value: str) -> tuple[tuple[str, str], ...] | None:
    """As server.go getModifiedDSAtype takes it apart: a quote anywhere makes a text of all but the ends."""
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
    """The names that plugin gave. Say first among which devices: a name may count them.

    Attributes:
        prefix, suffix: of every name.
        old: its variables.
        customize: its file of names, if it is to be heeded and is there.
        places: how many devices of its driver stand before a device, by address.
    """

    prefix: str
    old: Compat130Settings
    customize: Customize | None = None
    places: Mapping[str, int] = field(default_factory=dict)
    suffix: str = ""

    @property
    def fields(self) -> frozenset[str]:
        """The fields that names depend on; of them only a serial number may come late."""
        entries = self.customize.entries if self.customize else ()
        return frozenset("serial" for entry in entries for kind, _ in entry.parts if kind == "SN")

    def among(self, devices: Iterable[Device]) -> Self:
        """These names where these devices are."""
        places: dict[str, int] = {}
        before: Counter[str] = Counter()
        for device in sorted(devices, key=_listing_order):
            places[device.address] = before[device.driver]
            before[device.driver] += 1
        return replace(self, places=places)

    def resource_name(self, device: Device, replica: int = 0) -> str:
        """The resource of one of a device's ids; always a name that kubelet takes.

        What that plugin could not register gets the hash that ends our own such names.
        """
        return full_name(self.prefix, self._stem(self._values(device, replica)), self.suffix)

    def _stem(self, values: Mapping[str, str]) -> str:
        """server.go NewFPGADevicePlugin."""
        shell = values["shellVer"]
        default = f"{shell}-{values['timestamp']}" if values["timestamp"] else shell
        if not self.old.exact and _U30_COMMON in shell:
            return shell
        if not (self.old.customize or self.customize):
            return shell if _equal(shell, _MA35) else default
        for entry in self.customize.entries if self.customize else ():
            if entry.matches(values):
                name = "".join(text or values.get(kind, "") for kind, text in entry.parts)
                return name if 0 < len(name.encode(errors="surrogatepass")) <= _MAX_NAME else default
        return default

    def _values(self, device: Device, replica: int) -> dict[str, str]:
        """fpga.go GetAlveoDevices, GetAMADevices."""
        shell = device.shell.vbnv
        ma35 = _equal(shell, _MA35)
        if not self.old.exact and _U30 in shell:
            shell = _U30_COMMON
        fields = shell.split("_")
        index = self.places.get(device.address, 0) * max(self.old.virtual, 1) + replica + 1
        return {
            "index": str(index),
            "shellVer": shell,
            "deviceType": shell if ma35 else fields[1] if len(fields) > 1 else "",
            "uuid": "ma35" if ma35 else (device.shell.logic_uuid or "")[-_UUID_END:],
            "timestamp": device.shell.timestamp or ("0" if ma35 else ""),
            "DBDF": self.unit_id(device.address, replica),
            "deviceID": f"0x{device.device_id}" if device.device_id else "",
            "Healthy": "Healthy",
            "SN": device.serial or ("F1-Node" if "aws" in shell.lower() else ""),
        }

    def unit_id(self, address: str, replica: int) -> str:
        """What kubelet knows a device by."""
        return f"{address}-{replica}" if self.old.virtual else address


def is_u30(device: Device) -> bool:
    """Whether the plugin took it for a device of a U30 (fpga.go VtShell, U30CommonShell)."""
    return _U30 in device.shell.vbnv or _U30_COMMON in device.shell.vbnv


def as_listed(offers: Offers, names: Compat130Names, serials: Mapping[str, str], *, cards: bool) -> Offers:
    """The offers with the ids and, where names count devices, the names that plugin listed them under.

    Args:
        offers: as we would make them.
        names: its names, among these devices.
        serials: the serial numbers that count, by address.
        cards: of U30 devices with one serial number only the first id is listed, however many replicas
            (server.go sendDevices), and stands for all.
    """
    groups: defaultdict[str, list[Unit]] = defaultdict(list)
    for resource, offer in offers.by_resource.items():
        for unit in offer.units:
            address, _, number = unit.id.partition("::")
            replica = int(number or 0)
            name = resource
            if names.customize and names.customize.by_index:
                first = unit.devices[0]
                name = names.resource_name(replace(first, serial=serials.get(first.address)), replica)
            groups[name].append(
                replace(unit, id=names.unit_id(address, replica)) if names.old.virtual else unit
            )
    return replace(
        offers,
        by_resource={
            name: Offer(name, tuple(_whole_cards(units, names.old, serials) if cards else units))
            for name, units in sorted(groups.items())
        },
    )


def _whole_cards(units: Sequence[Unit], old: Compat130Settings, serials: Mapping[str, str]) -> list[Unit]:
    whole: dict[str, Unit] = {}
    listed: dict[tuple[str, str], str] = {}  # ids, by serial number
    for unit in units:
        first = unit.devices[0]
        number = serials.get(first.address)
        serial = (number or unit.id, "" if old.virtual else unit.id.partition("::")[2])
        if is_u30(first) and serial in listed:
            card = whole[listed[serial]]
            devices = {each.address: each for each in (*card.devices, *unit.devices)}
            near = tuple(sorted({*card.numa_nodes, *unit.numa_nodes}))
            whole[card.id] = Unit(card.id, tuple(devices.values()), near)
        else:
            listed.setdefault(serial, unit.id)
            whole[unit.id] = unit
    return list(whole.values())


def as_rules(customize: Customize, old: Compat130Settings) -> list[str]:
    """Our rules, a line of YAML each, that give the names of NameCustomize.json as far as rules can.

    A rule knows no ``index`` and of a uuid only the whole; where a name has one of them, it is another.
    """
    rules = [] if old.exact else [_COMMON_RULE]
    for entry in customize.entries:
        match = {
            name: glob.escape(text)
            for name, text in (("board", entry.card), ("shell", entry.shell))
            if text != "*"
        }
        # Its MA35D had a timestamp and a uuid made up, ours has neither.
        if entry.matches({"shellVer": _MA35, "deviceType": _MA35, "uuid": "ma35", "timestamp": "0"}):
            rules.append(_line({"shell": _MA35}, _name(entry, _OURS_MA35)))
        if len(entry.build.encode()) == _UUID_END:
            rules.append(_line({**match, "uuid": "*" + glob.escape(entry.build)}, _name(entry, _OURS)))
        if len(entry.build.encode()) != _UUID_END or entry.build.isdecimal():
            build = {} if entry.build == "*" else {"timestamp": glob.escape(entry.build)}
            rules.append(_line({**match, **build}, _name(entry, _OURS)))
    return [*rules, _line({"shell": _MA35}, f"{_MA35}-0")]


_OURS = {
    "index": "{address}",
    "shellVer": "{shell}",
    "deviceType": "{board}",
    "uuid": "{uuid}",
    "timestamp": "{timestamp}",
    "DBDF": "{address}",
    "deviceID": "0x{device_id}",
    "Healthy": "Healthy",
    "SN": "{serial}",
}


_OURS_MA35 = {**_OURS, "deviceType": _MA35, "uuid": "ma35", "timestamp": "0"}


def _name(entry: Entry, ours: Mapping[str, str]) -> str:
    braced = ((kind, text.replace("{", "{{").replace("}", "}}")) for kind, text in entry.parts)
    return "".join(ours[kind] if kind else text for kind, text in braced)


def _line(match: Mapping[str, str], name: str) -> str:
    globs = ", ".join(f"{field}: {json.dumps(value)}" for field, value in match.items())
    return f"- {{match: {{{globs}}}, name: {json.dumps(name)}, share: true}}"


_COMMON_RULE = _line({"shell": f"*{_U30}*"}, _U30_COMMON)


def _fits(wanted: str, value: str) -> bool:
    return wanted == "*" or _equal(wanted, value)


def _equal(one: str, other: str) -> bool:
    """As Go's strings.EqualFold: letter by letter."""
    return len(one) == len(other) and all(
        a.casefold() == b.casefold() for a, b in zip(one, other, strict=True)
    )


def _listing_order(device: Device) -> tuple[str, str]:
    """In which that plugin's directory listings had them: PCI devices by address, MA35D by name in /dev."""
    return (device.node or "" if _equal(device.shell.vbnv, _MA35) else "", device.address)
