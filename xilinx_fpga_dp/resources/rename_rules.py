"""Rename rules: from the text of their file to the names they give. Pure. See docs/reference/names.md."""

import fnmatch
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from xilinx_fpga_dp.model import Device
from xilinx_fpga_dp.resources.naming import (
    FIELDS,
    Names,
    fields_of,
    fields_problem,
    full_name,
    in_a_line,
    render,
    values_of,
)

MAX_BYTES: Final = 65536
"""A larger file is refused; the rules of a whole fleet are a tenth of it."""

_MAX_TEXT = 256  # characters of a glob or a name
_MAX_PROBLEMS = 10
_KEYS = ("match", "name", "share")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        number: its place in the file, from 1.
        match: a pattern by field; all must match.
        name: the template of the part after the prefix.
        share: it may merge resources that would have different names without it.
    """

    number: int
    match: Mapping[str, re.Pattern[str]] = field(hash=False)
    name: str
    share: bool = False

    def matches(self, device: Device) -> bool:
        """Return whether the rule is for this device. A field the device does not have is empty text."""
        values = values_of(device)
        return all(pattern.fullmatch(values[name] or "") for name, pattern in self.match.items())


@dataclass(frozen=True, slots=True)
class Renaming:
    """Names by rules, and by `base` for a device that no rule matches.

    Attributes:
        base: how devices are named without rules.
        prefix, suffix: of every name.
        rules: the first that matches counts.
        clashes: names that would merge resources without `share`, and so are not given. Set by `among`.
        warnings: what is wrong with the rules on this node. Set by `among`.
    """

    base: Names
    prefix: str
    suffix: str = ""
    rules: tuple[Rule, ...] = ()
    clashes: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    @property
    def fields(self) -> frozenset[str]:
        """The fields that names depend on."""
        return self.base.fields.union(*(fields_of(rule.name) | rule.match.keys() for rule in self.rules))

    def resource_name(self, device: Device) -> str:
        """Name the resource a device belongs to.

        Raises:
            ValueError: it gets no name, and why.
        """
        _, name = self._by_rule(device)
        return name if name and name not in self.clashes else self.base.resource_name(device)

    def among(self, devices: Sequence[Device]) -> Self:
        """Prepare the names for these devices, one of each card.

        Without ``share`` a rule must not merge resources: devices whose default names differ keep those
        names. So the names do not depend on the order of the devices.
        """
        base = self.base.among(devices)
        sources: defaultdict[str, set[str]] = defaultdict(set)
        givers: defaultdict[str, set[Rule]] = defaultdict(set)
        defaults: set[str] = set()
        nameless: set[str] = set()
        for device in devices:
            plain = _default_name(base, device)
            defaults.add(plain)
            rule, name = self._by_rule(device)
            if rule and name:
                sources[name].add(plain)
                givers[name].add(rule)
            elif rule:
                nameless.add(f"rule {rule.number} gives {device.address} no name: its fields are empty")
        for name in sources.keys() & defaults:
            sources[name].add(name)
        clashes = {
            name: sorted(plain)
            for name, plain in sources.items()
            if len(plain) > 1 and not all(rule.share for rule in givers[name])
        }
        warnings = [
            f"{_numbers(givers[name])} would give {name} to what is {_and(plain)} without; they keep those "
            "names: let the rule make different ones, or write `share: true` into it"
            for name, plain in sorted(clashes.items())
        ]
        return replace(self, base=base, clashes=frozenset(clashes), warnings=(*warnings, *sorted(nameless)))

    def _by_rule(self, device: Device) -> tuple[Rule | None, str]:
        """Find the rule for a device, None if no rule matches, and the name it gives, "" if it gives none."""
        rule = next((rule for rule in self.rules if rule.matches(device)), None)
        rendered = render(rule.name, device) if rule else ""
        return rule, full_name(self.prefix, rendered, self.suffix) if rendered else ""


def _default_name(base: Names, device: Device) -> str:
    try:
        return base.resource_name(device)
    except ValueError:
        return device.address


def parse(text: bytes) -> tuple[Rule, ...]:
    """Read the rules of a file.

    Raises:
        BadRuleFile: a rule has a mistake, so none is used.
    """
    # YAML takes a megabyte of memory: it is loaded only if there is a file.
    from xilinx_fpga_dp.resources.rule_file import BadRuleFile, load  # noqa: PLC0415

    document = load(text)
    if not isinstance(document, list):
        raise BadRuleFile(
            "must be a list of rules, `- {match: {shell: ...}, name: ...}`, or [] for none; "
            "a NameCustomize.json of plugin 1.3.0 is read only with COMPAT=1.3.0"
        )
    problems: list[str] = []
    rules = [_rule(number, each, problems) for number, each in enumerate(document, 1)]
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        raise BadRuleFile(*problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else []))
    return tuple(rules)


def _rule(number: int, document: object, problems: list[str]) -> Rule:
    def wrong(where: str, what: str) -> None:
        problems.append(f"rule {number}: {where}{what}")

    if not isinstance(document, dict):
        wrong("", "must be a mapping with match and name")
        return Rule(number, {}, "")
    for key in document.keys() - set(_KEYS):
        wrong(f"{str(key)[:_MAX_TEXT]!r}: ", f"unknown; a rule has {', '.join(_KEYS)}")
    match = _match(document.get("match"), wrong)
    template = document.get("name")
    if problem := _name_problem(template):
        wrong("name: ", problem)
    share = str(document.get("share", False)).lower()
    if share not in ("true", "false"):
        wrong("share: ", "must be true or false")
    return Rule(number, match, str(template), share=share == "true")


def _match(globs: object, wrong: Callable[[str, str], None]) -> dict[str, re.Pattern[str]]:
    match: dict[str, re.Pattern[str]] = {}
    if not isinstance(globs, dict):
        wrong("match: ", f"must be a mapping of {', '.join(FIELDS)} to globs; {{}} for every device")
        return match
    for name, glob in globs.items():
        if name not in FIELDS:
            shown = in_a_line(str(name)[:_MAX_TEXT])
            wrong(f"match.{shown}: ", f"unknown field; known are {', '.join(FIELDS)}")
        elif not isinstance(glob, str):
            wrong(f"match.{name}: ", 'must be a glob in quotes; "" is for devices without the field')
        elif len(glob) > _MAX_TEXT:
            wrong(f"match.{name}: ", f"is too long: at most {_MAX_TEXT} characters")
        else:
            match[name] = _pattern(name, glob)
    return match


def _pattern(name: str, glob: str) -> re.Pattern[str]:
    if name == "device_id":
        glob = re.sub("^0x", "", glob, flags=re.IGNORECASE)  # as sysfs writes it
    return re.compile(fnmatch.translate(glob), re.IGNORECASE)


def _name_problem(template: object) -> str | None:
    if not isinstance(template, str) or not template:
        return 'must be the text that stands after the prefix, like "u30-{timestamp}"'
    if len(template) > _MAX_TEXT:
        return f"is too long: at most {_MAX_TEXT} characters"
    if problem := fields_problem(template):
        return problem
    for literal, *_ in string.Formatter().parse(template):
        if odd := _NOT_IN_NAMES.search(literal):
            return (
                f"a resource name can't have {odd[0]!r}: letters, digits, '-', '_' or '.' "
                "stand after the prefix, which is put before"
            )
    return None


def _numbers(rules: Iterable[Rule]) -> str:
    numbers = sorted(rule.number for rule in rules)
    return f"rule {numbers[0]}" if len(numbers) == 1 else f"rules {_and(list(map(str, numbers)))}"


def _and(words: Sequence[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1]) if len(words) > 1 else words)
