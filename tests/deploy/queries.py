"""Parses PromQL as far as needed to find the metrics and labels of a query."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = r"[A-Za-z_:][A-Za-z0-9_:]*"
_TOKEN = re.compile(
    rf"""
    (?P<text> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
  | (?P<duration> \[ [^\]]* \] )
  | (?P<matchers> \{{ (?: "(?:\\.|[^"\\])*" | [^}}"] )* \}} )
  | (?P<grouping> \b(?:by|without|on|ignoring|group_left|group_right)\s*\( [^)]* \) )
  | (?P<offset> \boffset\s+\S+?(?=[\s)]|$) )
  | (?P<word> {_NAME} )
  | (?P<number> [0-9][0-9.eE]* )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPERATORS = {"and", "or", "unless", "bool", "group_left", "group_right", "inf", "nan"}
_MATCHER = re.compile(rf'({_NAME})\s*(=~|!~|!=|=)\s*"((?:\\.|[^"\\])*)"')


@dataclass(frozen=True)
class Selector:
    """A metric of a query, with its matchers: label, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()


def selectors(query: str) -> list[Selector]:
    """Return the metrics of a query with their matchers, in order."""
    tokens = [(str(match.lastgroup), match[0]) for match in _TOKEN.finditer(query) if match[0].strip()]
    found = []
    for (kind, text), (next_kind, next_text) in zip(tokens, [*tokens[1:], ("end", "")], strict=True):
        if kind != "word" or text in _OPERATORS or next_text == "(" or _is_aggregation(next_kind, next_text):
            continue
        matchers = _MATCHER.findall(next_text) if next_kind == "matchers" else []
        found.append(Selector(text, tuple(matchers)))
    return found


def grouping(query: str) -> Iterator[str]:
    """Yield the labels that a query groups or joins by."""
    for match in _TOKEN.finditer(query):
        if match["grouping"]:
            yield from re.findall(_NAME, match["grouping"].partition("(")[2])


def _is_aggregation(kind: str, text: str) -> bool:
    return kind == "grouping" and text.startswith(("by", "without"))
