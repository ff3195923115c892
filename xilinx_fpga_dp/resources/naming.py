"""Resource names: from what is programmed on a device to a name that kubelet accepts. Pure."""

import fnmatch
import hashlib
import re
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from xilinx_fpga_dp.model import Device

# kubelet refuses a Register with any other name: pkg/apis/core/v1/helper IsExtendedResourceName and
# apimachinery's IsQualifiedName, called by cm/devicemanager/plugin/v1beta1/server.go.
MAX_DOMAIN = 244  # 253 less "requests.", which a quota puts before the name
MAX_NAME = 63
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")

SHARED = ".shared"
"""The suffix of resources whose devices several containers may hold, so that no pod shares one unawares."""

FIELDS = ("shell", "timestamp", "board", "uuid", "device_id", "serial", "address")
DEFAULT_TEMPLATE = "{shell}-{timestamp}"
MAX_TEXT = 256
"""Characters that a glob or a name in a file of rules may have."""
_HASH_DIGITS = 8
_MIN_ROOM = 20  # characters a prefix must leave: a shortened name has to stay readable


def name_problem(name: str, room: int = 0) -> str | None:
    """Explain why kubelet refuses each name of this and ``room`` more characters; None if it accepts one."""
    domain, slash, rest = name.partition("/")
    if not slash:
        return "it needs a domain and a '/', like xilinx.com/fpga-"
    if domain.startswith("requests.") or "kubernetes.io" in domain:
        return f"the domain {domain!r} is reserved by Kubernetes"
    if len(domain) > MAX_DOMAIN:
        return f"the domain has {len(domain)} characters, at most {MAX_DOMAIN} are allowed"
    # Labels of a DNS name have at most 63 characters by the RFC, but kubelet does not check that.
    if not _DOMAIN.fullmatch(domain):
        return f"the domain {domain!r} is not a lower-case DNS name"
    if len(rest) > MAX_NAME - room:
        return f"the part after '/' has {len(rest)} characters, at most {MAX_NAME - room} are allowed"
    if not _NAME.fullmatch(rest + "x" * room):
        return "a name is letters, digits, '-', '_' or '.' after '/', with a letter or digit at both ends"
    return None


def prefix_problem(prefix: str) -> str | None:
    """Explain why no valid resource name can begin with this prefix; None if one can."""
    return name_problem(prefix, _MIN_ROOM)


def template_problem(template: str) -> str | None:
    """Explain why this resource name template cannot be used; None if it can."""
    problem = fields_problem(template)
    if problem is None and not fields_of(template):
        return (
            "it has no field, so every device would get the same name; {shell} is one. If that is meant, a "
            f"rule of RESOURCE_RENAMES does it: {{match: {{}}, name: {in_a_line(template)}, share: true}}"
        )
    return problem


def in_a_line(text: str) -> str:
    """Escape line breaks and control characters, so that a text can stand in a message of one line."""
    return repr(text)[1:-1]


def fields_problem(template: str) -> str | None:
    """Explain why this template, which need not have a field, can't make a name; None if it can."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"{error}; fields are written {{shell}}"
    for _, field, spec, conversion in parts:
        if field is not None and field not in FIELDS:
            return f"unknown field {{{in_a_line(field)}}}; known are {', '.join(FIELDS)}"
        if spec or conversion:
            return f"the field {{{field}}} takes no format or conversion"
    return None


def fields_of(template: str) -> frozenset[str]:
    """List the fields of a template that was checked."""
    return frozenset(field for _, field, _, _ in string.Formatter().parse(template) if field is not None)


def compile_globs(globs: Mapping[str, str], hexadecimal: Collection[str]) -> dict[str, re.Pattern[str]]:
    """Compile what a rule of a file matches, by field; case matters not.

    Fields that are ``hexadecimal`` may begin with ``0x``, as sysfs writes them.
    """
    return {
        name: re.compile(
            fnmatch.translate(re.sub("^0[xX]", "", glob) if name in hexadecimal else glob), re.IGNORECASE
        )
        for name, glob in globs.items()
    }


def name_in_rule_problem(template: object) -> str | None:
    """Explain why this value of a rule's ``name`` can't make a name after the prefix; None if it can."""
    if not isinstance(template, str) or not template:
        return 'must be the text that stands after the prefix, like "u30-{timestamp}"'
    if len(template) > MAX_TEXT:
        return f"is too long: at most {MAX_TEXT} characters"
    if problem := fields_problem(template):
        return problem
    for literal, *_ in string.Formatter().parse(template):
        if odd := NOT_IN_A_NAME.search(literal):
            return (
                f"a resource name can't have {odd[0]!r}: letters, digits, '-', '_' or '.' "
                "stand after the prefix, which is put before"
            )
    return None


@dataclass(frozen=True, slots=True)
class Naming:
    """Names by a template."""

    prefix: str  # as the settings checked it
    template: str  # as the settings checked it
    suffix: str = ""

    @property
    def fields(self) -> frozenset[str]:
        """The fields that names depend on."""
        return fields_of(self.template)

    def among(self, _devices: Sequence[Device]) -> Self:
        """Return the same names: they depend on no other device."""
        return self

    def resource_name(self, device: Device) -> str:
        """Name the resource a device belongs to, always validly.

        Raises:
            ValueError: the template renders to nothing for this device.
        """
        rendered = render(self.template, device)
        if not rendered:
            raise ValueError(
                f"the template {self.template!r} gives no name: its fields are empty; "
                "give RESOURCE_NAME_TEMPLATE another one"
            )
        return full_name(self.prefix, rendered, self.suffix)


def full_name(prefix: str, rendered: str, suffix: str = "") -> str:
    """Make a valid resource name of a prefix that was checked, any text but the empty one, and a suffix.

    Characters that a resource name cannot have become ``-``. A name that lost a character or had to be
    shortened ends in a hash of the original, so that two names never become one by accident.
    """
    domain, _, stem = prefix.partition("/")
    return f"{domain}/{fitting(stem + rendered, MAX_NAME - len(suffix))}{suffix}"


def values_of(device: Device) -> dict[str, str | None]:
    """Return the fields of a device; None for a field that it does not have."""
    return {
        "shell": device.shell.vbnv,
        "timestamp": device.shell.timestamp,
        "board": device.board,
        "uuid": device.shell.logic_uuid,
        "device_id": device.device_id,
        "serial": device.serial,
        "address": device.address,
    }


def render(template: str, device: Device) -> str:
    """Fill a template from a device. A field without a value removes the separator before it.

    So ``{shell}-{timestamp}`` names a device whose driver knows no timestamp by its shell alone. A field
    with nothing before it removes the separator after it.
    """
    values = values_of(device)
    out = ""
    headless = False
    for literal, field, _, _ in string.Formatter().parse(template):
        value = values[field] if field is not None else ""
        text = literal.lstrip("-_.") if headless else literal
        out += text.rstrip("-_.") if value is None else text + value
        headless = not out and (headless or value is None)
    return out


def fitting(name: str, room: int) -> str:
    """Make a valid name of a resource or a label, of at most ``room`` characters.

    One that lost a character or had to be shortened ends in a hash of the original.
    """
    clean = NOT_IN_A_NAME.sub("-", name)
    if clean == name and _NAME.fullmatch(name) and len(name) <= room:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_HASH_DIGITS]
    kept = clean.lstrip("-_.")[: room - _HASH_DIGITS - 1].rstrip("-_.")
    return f"{kept}-{digest}" if kept else digest
