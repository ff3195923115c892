"""The package, the tests, the documentation and the manifests are written in plain technical English.

The list has words that crept in before. CONTRIBUTING.md describes the manner.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import PROJECT

_VERBS = (
    "answers|asked|asks|came|comes|dials|hears|is told|listens|looks|opens|registers|sends|speaks|waits|"
    "was held|was told|writes"
)
WORDS = re.compile(
    r"\b(?:"
    r"whoever|whomever|nobody|somebody|anew|strangers?"
    r"|to be had|for want of"
    rf"|who (?:{_VERBS})"
    r")\b"
    r"|^ *\w*(?:Error|Failed|Refusal)?: [Aa]s above\b",
    re.IGNORECASE | re.MULTILINE,
)
TESTS = sorted((PROJECT / "tests").rglob("test_*.py"))
LONGEST_NAME = 70  # characters of a test's name
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".tpl", ".txt", ".sh", ".json", ".svg"}


def files() -> Iterator[Path]:
    """Yield the files whose prose is checked: not generated code, not recorded data, not this list."""
    yield from sorted({*(PROJECT / "tests").rglob("*.py")} - {Path(__file__)})
    for folder in ("xilinx_fpga_dp", "docs", "deploy", ".github"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.suffix in SUFFIXES and "rpc/api" not in path.as_posix():
                yield path
    yield from sorted(PROJECT.glob("*.md"))
    yield from (
        PROJECT / name for name in ("Makefile", "Containerfile", "pyproject.toml", ".pre-commit-config.yaml")
    )


def found(text: str) -> list[str]:
    """Return the words of the list in a text, with the number of their line."""
    return [f"{text.count(chr(10), 0, match.start()) + 1}: {match[0]}" for match in WORDS.finditer(text)]


@pytest.mark.parametrize("path", list(files()), ids=lambda path: str(path.relative_to(PROJECT)))
def test_prose_has_no_word_of_the_list(path: Path) -> None:
    assert found(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "Gives whoever asks the outcome",
        "Nobody listens",
        "made anew",
        "not to be had",
        "for want of a descriptor",
        "the instance who speaks last",
        "        Refusal: as above.",
    ],
)
def test_word_of_the_list_is_found(text: str) -> None:
    assert found(text)


@pytest.mark.parametrize("text", ["someone on a whole", "a new file", "renewed", "as described above", "WHO"])
def test_plain_text_is_accepted(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(PROJECT / "tests")))
def test_module_has_short_test_names_and_imports_no_test_module(path: Path) -> None:
    module = list(ast.walk(ast.parse(path.read_text())))
    functions = [each.name for each in module if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [name for name in functions if name.startswith("test_") and len(name) > LONGEST_NAME] == []
    imported = [each.module or "" for each in module if isinstance(each, ast.ImportFrom)]
    imported += [
        alias.name for each in module if isinstance(each, ast.Import | ast.ImportFrom) for alias in each.names
    ]
    assert [name for name in imported if name.rpartition(".")[2].startswith("test_")] == []
