"""The pages of the documentation."""

import re

from tests.support.paths import PROJECT

PAGES = sorted(
    str(path.relative_to(PROJECT))
    for path in [
        *PROJECT.glob("*.md"),
        *(PROJECT / "docs").rglob("*.md"),
        *(PROJECT / ".github").rglob("*.md"),
    ]
)


def text(page: str) -> str:
    """Return the text of a page, which is named by its path in the project."""
    return (PROJECT / page).read_text()


def blocks(page: str, kind: str, under: str = "", *, but: str = "") -> list[str]:
    """Return the fenced blocks of a language, also indented ones.

    Args:
        page: the page.
        kind: the language.
        under: the heading of the only section that counts.
        but: leaves out a block below a comment that begins so.
    """
    found = re.findall(
        rf"^(?: *<!-- ([^\n]*) -->\n\n?)?( *)```{kind}\n(.*?)^ *```",
        section(page, under),
        re.MULTILINE | re.DOTALL,
    )
    return [
        re.sub(f"^{indent}", "", block, flags=re.MULTILINE)
        for comment, indent, block in found
        if not (but and comment.startswith(but))
    ]


def section(page: str, heading: str) -> str:
    """Return the text below a heading, with its subsections; without one, the whole page."""
    if not heading:
        return text(page)
    level, _, rest = text(page).partition(f" {heading}\n")
    level = level.rpartition("\n")[2]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def commands(page: str) -> list[str]:
    """Return the commands that a page marks with `$` in a console block, except those of make."""
    return [
        line.removeprefix("$ ")
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ") and not line.startswith("$ make ")
    ]


WITH_COMMANDS = [page for page in PAGES if commands(page)]
