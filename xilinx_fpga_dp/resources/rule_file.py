"""Reads a file of rules, JSON or YAML, as lists, mappings and texts, whatever the rules mean."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import yaml

_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})  # how YAML writes it, unquoted
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


class BadRuleFile(ValueError):  # noqa: N818 - the user's, not ours
    """A file of rules that can't be used. Its arguments are a message for each problem."""


def load(text: bytes) -> Any:
    """Read the file as lists, mappings and texts. JSON's true and false stay; numbers stay as written.

    YAML's scalars all stay as written: ``0012`` keeps its zeros, ``65:00.1`` becomes no number.

    Raises:
        BadRuleFile: it is neither JSON nor YAML, or has YAML features that rules do not need.
    """
    try:
        written = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRuleFile("is no UTF-8 text") from None
    try:
        with suppress(json.JSONDecodeError):
            return json.loads(written, object_pairs_hook=_once, parse_int=str, parse_float=str)
        node = yaml.compose(written, Loader=yaml.BaseLoader)
        return None if node is None else _value(node, set())
    except RecursionError:
        raise BadRuleFile("is nested too deeply") from None
    except BadRuleFile:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadRuleFile(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise BadRuleFile(" ".join(str(error).split())) from None
    except (ValueError, OverflowError) as error:  # an escape of no character, say
        raise BadRuleFile(f"is no YAML: {error}") from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadRuleFile(f"{key!r} is there twice in one object; one has to go")
        found[key] = value
    return found


def _value(node: yaml.Node, seen: set[int]) -> Any:
    line = f"line {node.start_mark.line + 1}: "
    if id(node) in seen:
        raise BadRuleFile(f"{line}anchors and aliases are not understood; write it out")
    seen.add(id(node))
    if node.tag not in _PLAIN_TAGS:
        raise BadRuleFile(f"{line}the tag {node.tag} is not understood; leave it out")
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
            raise BadRuleFile(f"{line}a key must be a word")
        if key.value in keys:
            raise BadRuleFile(f"{line}{key.value!r} is there twice in one mapping; one has to go")
        keys.add(key.value)
        yield str(_value(key, seen)), _value(value, seen)
