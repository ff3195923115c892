"""Rules that give devices other names: from the text of their file to the names. Pure. See docs/naming.md."""

import fnmatch
import json
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import yaml

from xilinx_fpga_dp.model import Device
from xilinx_fpga_dp.resources.naming import (
    FIELDS,
    Names,
    fields_of,
    fields_problem,
    full_name,
    render,
    values_of,
)

MAX_BYTES: Final = 65536
"""A larger file is refused; the rules of a whole fleet are a tenth of it."""

_MAX_TEXT = 256  # characters of a glob or a name
_MAX_PROBLEMS = 10
_KEYS = ("match", "name", "share")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})  # how YAML writes it, unquoted
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


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
            wrong(f"match.{str(name)[:_MAX_TEXT]}: ", f"unknown field; known are {', '.join(FIELDS)}")
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


def load(text: bytes) -> Any:
    """The file as lists, mappings and texts. JSON's true and false stay; numbers are taken as written.

    YAML's own guesses are not made: ``0012`` stays that, and so does ``65:00.1``, which would be a number.

    Raises:
        BadRenames: it is neither JSON nor YAML, or has what a file of rules needs not.
    """
    try:
        written = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRenames("is no UTF-8 text") from None
    try:
        return json.loads(written, object_pairs_hook=_once, parse_int=str, parse_float=str)
    except json.JSONDecodeError:
        pass
    except RecursionError:
        raise BadRenames("is nested too deeply") from None
    try:
        node = yaml.compose(written, Loader=yaml.BaseLoader)
        return None if node is None else _value(node, set())
    except RecursionError:
        raise BadRenames("is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadRenames(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise BadRenames(" ".join(str(error).split())) from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, BadRenames):
            raise
        raise BadRenames(f"is no YAML: {error}") from None  # an escape of no character, say


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadRenames(f"{key!r} is there twice in one object; one has to go")
        found[key] = value
    return found


def _value(node: yaml.Node, seen: set[int]) -> Any:
    line = f"line {node.start_mark.line + 1}: "
    if id(node) in seen:
        raise BadRenames(f"{line}anchors and aliases are not understood; write it out")
    seen.add(id(node))
    if node.tag not in _PLAIN_TAGS:
        raise BadRenames(f"{line}the tag {node.tag} is not understood; leave it out")
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, seen) for each in node.value]
    if isinstance(node, yaml.MappingNode):
        return dict(_items(node, seen))
    text = str(node.value)
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return None if plain and text in _NOTHING else text


def _items(node: yaml.MappingNode, seen: set[int]) -> Iterator[tuple[str, Any]]:
    keys: set[str] = set()
    for key, value in node.value:
        line = f"line {key.start_mark.line + 1}: "
        if not isinstance(key, yaml.ScalarNode):
            raise BadRenames(f"{line}a key must be a word")
        if key.value in keys:
            raise BadRenames(f"{line}{key.value!r} is there twice in one mapping; one has to go")
        keys.add(key.value)
        yield str(_value(key, seen)), _value(value, seen)


def _numbers(rules: Iterable[Rule]) -> str:
    numbers = sorted(rule.number for rule in rules)
    return f"rule {numbers[0]}" if len(numbers) == 1 else f"rules {_and(list(map(str, numbers)))}"


def _and(words: Sequence[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1]) if len(words) > 1 else words)
