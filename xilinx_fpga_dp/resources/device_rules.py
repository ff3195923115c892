"""Rules for other devices: from the text of their file to rules. Pure. See docs/reference/rules.md.

A rule says which PCI functions or class devices are devices, by what name, and with which nodes. It grants
nothing by itself: `discovery/drivers/rules.py` decides which nodes belong to a device.
"""

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from xilinx_fpga_dp.resources import naming
from xilinx_fpga_dp.resources.naming import MAX_TEXT, in_a_line

MAX_BYTES: Final = 65536
"""A larger file is refused."""

PCI_FIELDS: Final = (
    "vendor",
    "device",
    "subsystem_vendor",
    "subsystem_device",
    "class",
    "driver",
    "address",
)
"""The fields that a rule for PCI functions may match."""
CLASS_FIELDS: Final = ("subsystem", "driver", "address")
"""The fields that a rule for class devices may match; ``address`` is the device's name."""
PLACEHOLDERS: Final = ("domain", "bus", "device", "function")
"""The parts of a function's address that a node's glob may have, in braces."""

_MAX_RULES: Final = 256
_MAX_ENTRIES: Final = 32  # of a list in a rule
_MAX_DEPTH: Final = 6  # directories of a node's path, parts of an attribute's
_MAX_PROBLEMS: Final = 20
_KEYS: Final = ("name", "match", "nodes", "mounts", "health")
_HEX: Final = frozenset(PCI_FIELDS[:5])
_CLASS: Final = re.compile(r"[A-Za-z0-9_*?\[\]!-]{1,63}")
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@,-]{0,127}")
# Files of the PCI core that are no text, whose read takes long, or that change the function
_NO_TEXT: Final = re.compile(r"config|rom|vpd|resource\d.*|remove|rescan|reset.*|new_id|enable|uevent")
# A read of one of these changes something or has no end: discovery/attributes.py NEVER, and XRT's mailbox
_UNSAFE: Final = frozenset(
    {"error", "mig_cache_update", "mailbox", "ready", "serial_num", "vmr_status", "device_info"}
)
# The whole address, in the order of its text: only then a name can't be that of another function.
_ADDRESS: Final = re.compile(r"(\{domain\}[:_-]?)?\{bus\}[:_-]?\{device\}[._-]?\{function\}")
# Characters beside it that may be a part of a longer address; a letter before it is of the driver's name.
_NOT_BEFORE: Final = frozenset("0123456789*?[]")
_NOT_AFTER: Final = frozenset("0123456789abcdefABCDEF*?[]{:.")


@dataclass(frozen=True, slots=True)
class NodeGlob:
    """Some nodes of a device."""

    glob: str  # below /dev, with placeholders: ``/dev/qdma{bus}{device}{function}-MM-*``
    slot: bool = False  # also those of the other functions of its slot
    optional: bool = False  # a device without one is Healthy all the same

    @property
    def carries_address(self) -> bool:
        """Whether a name that matches is of one function only."""
        match = _ADDRESS.search(self.glob)
        if match is None:
            return False
        before, after = self.glob[: match.start()][-1:], self.glob[match.end() :][:1]
        return before not in _NOT_BEFORE and after not in _NOT_AFTER

    @property
    def has_domain(self) -> bool:
        """Whether the domain is part of it."""
        return "{domain}" in self.glob

    def for_address(self, address: str) -> str | None:
        """Fill in an address, ``0000:65:00.1``; None if it is none and there is a placeholder."""
        if "{" not in self.glob:
            return self.glob
        parts = re.split("[:.]", address)
        if len(parts) != len(PLACEHOLDERS):
            return None
        return self.glob.format_map(dict(zip(PLACEHOLDERS, parts, strict=True)))


@dataclass(frozen=True, slots=True)
class HealthAttribute:
    """An attribute that tells whether a device may be used."""

    attribute: str  # below the device's directory
    healthy: tuple[str, ...]  # the values of a healthy device


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """One rule."""

    number: int  # its place in the file, from 1
    name: str  # the template of the part after the prefix
    match: Mapping[str, re.Pattern[str]] = field(hash=False)  # by field; all must match
    subsystem: str | None = None  # glob of the class of its devices; None: they are PCI functions
    nodes: tuple[NodeGlob, ...] = ()
    mounts: tuple[str, ...] = ()
    health: tuple[HealthAttribute, ...] = ()

    def matches(self, values: Mapping[str, str | None]) -> bool:
        """Return whether these values match. A field that is not among them is not looked at."""
        return all(
            pattern.fullmatch(values[name] or "") for name, pattern in self.match.items() if name in values
        )


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """The content of a file."""

    rules: tuple[DeviceRule, ...] = ()  # the first that matches a device counts
    problems: tuple[str, ...] = ()  # of the rules that are left out

    def __bool__(self) -> bool:
        return bool(self.rules)


def parse(text: bytes) -> DeviceRules:
    """Read the rules of a file. A rule with a problem is left out.

    Raises:
        BadRuleFile: the file as a whole can't be used.
    """
    # YAML takes a megabyte of memory: it is loaded only if there is a file.
    from xilinx_fpga_dp.resources.rule_file import BadRuleFile, load  # noqa: PLC0415

    document = load(text)
    if isinstance(document, dict) and document.keys() == {"devices"}:
        document = document["devices"]
    if not isinstance(document, list):
        raise BadRuleFile(
            "must be a list of rules, `- {name: ..., match: {...}, nodes: [...]}`, or a mapping with that "
            "list as devices; [] for none"
        )
    if len(document) > _MAX_RULES:
        raise BadRuleFile(f"has {len(document)} rules, at most {_MAX_RULES} are read")
    rules, problems = [], []
    for number, each in enumerate(document, 1):
        if found := list(_problems(each)):
            problems += [f"{_shown(number, each)}: {problem}" for problem in found]
        else:
            rules.append(_rule(number, each))
    if more := problems[_MAX_PROBLEMS:]:
        problems = [*problems[:_MAX_PROBLEMS], f"and {len(more)} more"]
    return DeviceRules(tuple(rules), tuple(problems))


def _shown(number: int, document: object) -> str:
    """Name a rule for people."""
    name = document.get("name") if isinstance(document, dict) else None
    return f"rule {number} ({_quoted(name)})" if isinstance(name, str) and name else f"rule {number}"


def _quoted(text: object) -> str:
    return in_a_line(str(text)[:MAX_TEXT])


def _rule(number: int, document: Mapping[str, Any]) -> DeviceRule:
    """Make the rule of a document without problems."""
    globs = dict(document["match"])
    subsystem = globs.pop("subsystem", None)
    return DeviceRule(
        number,
        document["name"],
        naming.compile_globs(globs, _HEX),
        subsystem,
        tuple(_node(each) for each in document["nodes"]),
        tuple(document.get("mounts", ())),
        tuple(
            HealthAttribute(each["attribute"], tuple(each["healthy"])) for each in document.get("health", ())
        ),
    )


def _node(document: str | Mapping[str, Any]) -> NodeGlob:
    if isinstance(document, str):
        return NodeGlob(document)
    optional = str(document.get("optional", False)).lower() == "true"
    return NodeGlob(document["glob"], document.get("of") == "slot", optional)


def _problems(document: object) -> Iterator[str]:
    """Explain what is wrong with a rule, with the remedy; nothing if it can be used."""
    if not isinstance(document, dict):
        yield "must be a mapping with name, match and nodes"
        return
    for key in document.keys() - set(_KEYS):
        yield f"{_quoted(key)}: unknown; a rule has {', '.join(_KEYS)}"
    yield from _name_problems(document.get("name"))
    yield from _match_problems(document.get("match"))
    if "nodes" not in document:
        yield "nodes: missing; a list of globs below /dev, [] if the device is only counted"
    for key, problems_of in (
        ("nodes", _node_problems),
        ("mounts", _mount_problems),
        ("health", _health_problems),
    ):
        yield from _list_problems(key, document.get(key, []), problems_of)


def _name_problems(name: object) -> Iterator[str]:
    if problem := naming.name_in_rule_problem(name):
        yield f"name: {problem}"
    elif not set(naming.fields_of(str(name))) <= {"device_id", "address"}:
        yield "name: only {device_id} and {address} are known of such a device; take out the other fields"


def _match_problems(match: object) -> Iterator[str]:
    if not isinstance(match, dict) or not match:
        yield (
            f"match: must be a mapping of {', '.join(PCI_FIELDS)} to globs, at least one; "
            "or of subsystem and driver for class devices"
        )
        return
    by_class = "subsystem" in match
    known = CLASS_FIELDS if by_class else PCI_FIELDS
    for name, glob in match.items():
        if name not in known:
            kind = "with subsystem" if by_class else "for PCI functions"
            yield f"match.{_quoted(name)}: unknown field {kind}; known are {', '.join(known)}"
        elif not isinstance(glob, str):
            yield f'match.{name}: must be one glob in quotes; "" is for devices without the field'
        elif len(glob) > MAX_TEXT:
            yield f"match.{name}: is too long: at most {MAX_TEXT} characters"
        elif name == "subsystem" and not _CLASS.fullmatch(glob):
            yield f"match.subsystem: must be a class in /sys/class, like accel (it is {_quoted(glob)!r})"


def _list_problems(key: str, entries: object, problems_of: Any) -> Iterator[str]:
    if not isinstance(entries, list):
        yield f"{key}: must be a list, [] for none"
        return
    if len(entries) > _MAX_ENTRIES:
        yield f"{key}: has {len(entries)} entries, at most {_MAX_ENTRIES} are allowed"
        return
    for index, entry in enumerate(entries):
        for problem in problems_of(entry):
            yield f"{key}[{index}]{problem}"


def _node_problems(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        if problem := _glob_problem(entry):
            yield f": {problem}"
        return
    if not isinstance(entry, dict):
        yield ': must be a glob like "/dev/xdma*", or a mapping {glob: ..., of: slot, optional: true}'
        return
    for key in entry.keys() - {"glob", "of", "optional"}:
        yield f".{_quoted(key)}: unknown; a node has glob, of and optional"
    if problem := _glob_problem(entry.get("glob")):
        yield f".glob: {problem}"
    if entry.get("of", "function") not in ("slot", "function"):
        yield ".of: must be slot, for the nodes of every function of its slot; or leave it out"
    if str(entry.get("optional", False)).lower() not in ("true", "false"):
        yield ".optional: must be true or false"


def _glob_problem(glob: object) -> str | None:
    if not isinstance(glob, str) or not glob:
        return 'must be a glob below /dev in quotes, like "/dev/xdma*"'
    if len(glob) > MAX_TEXT:
        return f"is too long: at most {MAX_TEXT} characters"
    parts = glob.split("/")
    if not glob.isprintable() or not glob.startswith("/dev/"):
        return f"must begin with /dev/ (it is {in_a_line(glob)!r})"
    if any(part in ("", ".", "..") for part in parts[2:]):
        return f"must have no empty part, no '.' and no '..' (it is {in_a_line(glob)!r})"
    if len(parts) - 2 > _MAX_DEPTH:
        return f"has too many parts: at most {_MAX_DEPTH} after /dev"
    try:
        fields = [(name, spec or conversion) for _, name, spec, conversion in string.Formatter().parse(glob)]
    except ValueError as error:
        return f"{error}; placeholders are written {{bus}}"
    for name, format_spec in fields:
        if name is not None and (name not in PLACEHOLDERS or format_spec):
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            return f"unknown placeholder {{{in_a_line(name)}}}; known are {known}"
    return None


def _mount_problems(entry: object) -> Iterator[str]:
    if not isinstance(entry, str) or not entry.startswith("/") or not entry.isprintable():
        yield ': must be an absolute path of the host, like "/run/vrtd.sock"'
    elif len(entry) > MAX_TEXT:
        yield f": is too long: at most {MAX_TEXT} characters"
    elif any(part in ("", ".", "..") for part in entry.split("/")[1:]):
        yield f": must have no empty part, no '.' and no '..' (it is {in_a_line(entry)!r})"


def _health_problems(entry: object) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield ': must be a mapping {attribute: ..., healthy: ["READY"]}'
        return
    for key in entry.keys() - {"attribute", "healthy"}:
        yield f".{_quoted(key)}: unknown; it has attribute and healthy"
    if problem := _attribute_problem(entry.get("attribute")):
        yield f".attribute: {problem}"
    values = entry.get("healthy")
    if (
        not isinstance(values, list)
        or not values
        or len(values) > _MAX_ENTRIES
        or any(not isinstance(each, str) or len(each) > MAX_TEXT for each in values)
    ):
        yield f'.healthy: must be a list of 1 to {_MAX_ENTRIES} texts in quotes, like ["READY"]'


def _attribute_problem(attribute: object) -> str | None:
    if not isinstance(attribute, str) or not attribute:
        return "must be the name of a file in the device's directory, like dev_state"
    parts = attribute.split("/")
    if len(parts) > _MAX_DEPTH or not all(map(_PART.fullmatch, parts)):
        return f"must be a path below the device's directory, without '..' (it is {_quoted(attribute)!r})"
    if parts[-1] in _UNSAFE or _NO_TEXT.fullmatch(parts[-1]):
        return f"{parts[-1]} is never read: that waits, changes something or gives no text; take another one"
    return None
