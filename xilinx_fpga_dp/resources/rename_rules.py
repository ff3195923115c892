"""Rename rules: from the text of their file to the names they give. Pure. See docs/reference/names.md."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from xilinx_fpga_dp.model import Device
from xilinx_fpga_dp.resources import naming
from xilinx_fpga_dp.resources.compat_1_3_0.names import Compat130Names

MAX_BYTES: Final = 65536
"""A larger file is refused; the rules of a whole fleet are a tenth of it."""

_MAX_PROBLEMS = 10
_KEYS = ("match", "name", "share")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    number: int  # its place in the file, from 1
    match: Mapping[str, re.Pattern[str]] = field(hash=False)  # by field; all must match
    name: str  # the template of the part after the prefix
    share: bool = False  # it may merge resources that would have different names without it

    def matches(self, device: Device) -> bool:
        """Return whether the rule is for this device. A field the device does not have is empty text."""
        values = naming.values_of(device)
        return all(pattern.fullmatch(values[name] or "") for name, pattern in self.match.items())


@dataclass(frozen=True, slots=True)
class Renaming:
    """Names by rules, and by `base` for a device that no rule matches."""

    base: naming.Naming | Compat130Names
    rules: tuple[Rule, ...] = ()  # the first that matches counts
    # Set by `among`.
    clashes: frozenset[str] = frozenset()  # names that would merge resources without `share`: not given
    warnings: tuple[str, ...] = ()  # what is wrong with the rules on this node

    @property
    def fields(self) -> frozenset[str]:
        """The fields that names depend on."""
        return self.base.fields.union(
            *(naming.fields_of(rule.name) | rule.match.keys() for rule in self.rules)
        )

    def resource_name(self, device: Device) -> str:
        """Name the resource a device belongs to.

        Raises:
            ValueError: it gets no name, and why.
        """
        _, name = self._by_rule(device)
        return name if name and name not in self.clashes else self._default(self.base, device)

    def among(self, devices: Sequence[Device]) -> Self:
        """Prepare the names for these devices, one of each card.

        Without ``share`` a rule must not merge resources: devices whose default names differ keep those
        names. So the names do not depend on the order of the devices.
        """
        base = self.base.among(devices)
        defaults: set[str] = set()
        # By new name, the replaced names and the rules
        given: defaultdict[str, set[tuple[str, Rule]]] = defaultdict(set)
        nameless: set[str] = set()
        for device in devices:
            try:
                default = self._default(base, device)
            except ValueError:
                default = device.address
            defaults.add(default)
            rule, name = self._by_rule(device)
            if rule and name:
                given[name].add((default, rule))
            elif rule:
                nameless.add(f"rule {rule.number} gives {device.address} no name: its fields are empty")
        clashes: dict[str, str] = {}
        for name, pairs in sorted(given.items()):
            replaced = {default for default, _ in pairs} | defaults.intersection([name])
            rules = {rule for _, rule in pairs}
            if len(replaced) > 1 and not all(rule.share for rule in rules):
                clashes[name] = (
                    f"{_numbers(rules)} would give {name} to what is {_and(sorted(replaced))} without; they "
                    "keep those names: let the rule make different ones, or write `share: true` into it"
                )
        warnings = (*clashes.values(), *sorted(nameless))
        return replace(self, base=base, clashes=frozenset(clashes), warnings=warnings)

    @staticmethod
    def _default(base: naming.Naming | Compat130Names, device: Device) -> str:
        """Name a device by the rule for other devices that it has, or else by the base."""
        if device.rule is not None:
            return naming.full_name(base.prefix, device.shell.vbnv, base.suffix)
        return base.resource_name(device)

    def _by_rule(self, device: Device) -> tuple[Rule | None, str]:
        """Find the rule for a device, None if no rule matches, and the name it gives, "" if it gives none."""
        rule = next((rule for rule in self.rules if rule.matches(device)), None)
        rendered = naming.render(rule.name, device) if rule else ""
        return rule, naming.full_name(self.base.prefix, rendered, self.base.suffix) if rendered else ""


def _numbers(rules: set[Rule]) -> str:
    numbers = [str(number) for number in sorted(rule.number for rule in rules)]
    return f"{'rules' if len(numbers) > 1 else 'rule'} {_and(numbers)}"


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


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
    numbered = list(enumerate(document, 1))
    problems = [f"rule {number}: {problem}" for number, rule in numbered for problem in _problems(rule)]
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        raise BadRuleFile(*problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else []))
    return tuple(_rule(number, rule) for number, rule in numbered)


def _rule(number: int, document: Mapping[str, Any]) -> Rule:
    """Make the rule of a document without problems."""
    match = naming.compile_globs(document["match"], {"device_id"})
    return Rule(number, match, document["name"], _share(document) == "true")


def _share(document: Mapping[str, Any]) -> str:
    return str(document.get("share", False)).lower()


def _problems(document: object) -> Iterator[str]:
    """Explain what is wrong with a rule; nothing if it can be used."""
    if not isinstance(document, dict):
        yield "must be a mapping with match and name"
        return
    for key in document.keys() - set(_KEYS):
        yield f"{str(key)[: naming.MAX_TEXT]!r}: unknown; a rule has {', '.join(_KEYS)}"
    globs = document.get("match")
    if not isinstance(globs, dict):
        yield f"match: must be a mapping of {', '.join(naming.FIELDS)} to globs; {{}} for every device"
        globs = {}
    for name, glob in globs.items():
        if name not in naming.FIELDS:
            shown = naming.in_a_line(str(name)[: naming.MAX_TEXT])
            yield f"match.{shown}: unknown field; known are {', '.join(naming.FIELDS)}"
        elif not isinstance(glob, str):
            yield f'match.{name}: must be a glob in quotes; "" is for devices without the field'
        elif len(glob) > naming.MAX_TEXT:
            yield f"match.{name}: is too long: at most {naming.MAX_TEXT} characters"
    if problem := naming.name_in_rule_problem(document.get("name")):
        yield f"name: {problem}"
    if _share(document) not in ("true", "false"):
        yield "share: must be true or false"
