"""Rules that give devices other names: from the text of their file to the names. Pure. See docs/naming.md."""

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


class BadRenames(ValueError):  # noqa: N818 - the user's, not ours
    """A file of rules that can't be used: one sentence a problem."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        number: its place in the file, from 1.
        match: a pattern by field; all must match.
        name: the template of what stands after the prefix.
        share: devices that would have different names without it may have this one together.
    """

    number: int
    match: Mapping[str, re.Pattern[str]] = field(hash=False)
    name: str
    share: bool = False

    def matches(self, device: Device) -> bool:
        """Whether it is for this device. A field the device does not have is empty text."""
        values = values_of(device)
        return all(pattern.fullmatch(values[name] or "") for name, pattern in self.match.items())


@dataclass(frozen=True, slots=True)
class Renaming:
    """Names by rules, and for what no rule is for, by ``base``. Say first among which devices.

    Attributes:
        base: how devices are named without rules.
        prefix, suffix: of every name.
        rules: the first that matches counts.
        clashes: names that rules give and must not.
        warnings: what is wrong with the rules on this node.
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
        """The resource a device belongs to.

        Raises:
            ValueError: it gets no name, and why.
        """
        _, name = self._by_rule(device)
        return name if name and name not in self.clashes else self.base.resource_name(device)

    def among(self, devices: Iterable[Device]) -> Self:
        """These names where these devices are: two names become one only if the rules say so.

        What would have different names without rules keeps those where a rule without ``share`` would give
        them one. So it does not depend on an order which device is named how.
        """
        sources: defaultdict[str, set[str]] = defaultdict(set)
        givers: defaultdict[str, set[Rule]] = defaultdict(set)
        before: set[str] = set()
        nameless: set[str] = set()
        for device in devices:
            plain = self._plain(device)
            before.add(plain)
            rule, name = self._by_rule(device)
            if rule and name:
                sources[name].add(plain)
                givers[name].add(rule)
            elif rule:
                nameless.add(f"rule {rule.number} gives {device.address} no name: its fields are empty")
        for name in sources.keys() & before:
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
        return replace(self, clashes=frozenset(clashes), warnings=(*warnings, *sorted(nameless)))

    def _plain(self, device: Device) -> str:
        try:
            return self.base.resource_name(device)
        except ValueError:
            return device.address

    def _by_rule(self, device: Device) -> tuple[Rule | None, str]:
        """The rule for a device and the name it gives, which may be none."""
        rule = next((rule for rule in self.rules if rule.matches(device)), None)
        rendered = render(rule.name, device) if rule else ""
        return rule, full_name(self.prefix, rendered, self.suffix) if rendered else ""


def parse(text: bytes) -> tuple[Rule, ...]:
    """The rules of a file.

    Raises:
        BadRenames: there is something wrong with one, so none is taken.
    """
    from xilinx_fpga_dp.resources.rule_file import load  # noqa: PLC0415 - a megabyte, where there is a file

    document = load(text)
    if not isinstance(document, list):
        raise BadRenames(
            "must be a list of rules, `- {match: {shell: ...}, name: ...}`, or [] for none; "
            "a NameCustomize.json of plugin 1.3.0 is read only with COMPAT=1.3.0"
        )
    problems: list[str] = []
    rules = [_rule(number, each, problems) for number, each in enumerate(document, 1)]
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        raise BadRenames(*problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else []))
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
