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


def blocks(page: str, kind: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the commands that a page marks with `$` in a console block, except those of make."""
    return [
        line.removeprefix("$ ")
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ") and not line.startswith("$ make ")
    ]


WITH_COMMANDS = [page for page in PAGES if commands(page)]
