"""A file of rules as lists, mappings and texts, be it JSON or YAML. It knows nothing of what rules say."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from xilinx_fpga_dp.resources.rename_rules import BadRenames

_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})  # how YAML writes it, unquoted
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


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
