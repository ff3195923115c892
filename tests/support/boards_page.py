"""The tables of docs/reference/boards.md."""

import re

from tests.support.paths import PROJECT

PAGE = PROJECT / "docs" / "reference" / "boards.md"
_ROW = re.compile(r"\| (`[^|]+`) \| ([^|]+) \| `([^|]+)` \| ([^|]+) \| (yes|no) \| ([^|]+) \|")


def rows() -> dict[str, tuple[str, list[str]]]:
    """Return the resource and the nodes of each supported board, by name."""
    found = {}
    for names, _, resource, nodes, _, _ in _ROW.findall(PAGE.read_text()):
        for name in names.split(", "):
            found[name.strip("`")] = (resource, re.findall(r"`([^`]+)`", nodes))
    return found
