"""Text in columns, safe for a terminal."""

from collections.abc import Sequence


def columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table with aligned columns.

    The last cell of a row with fewer cells than the head takes the room of those that it lacks.
    """
    cells = [head, *[tuple(printable(cell) for cell in row) for row in rows]]
    own = [row if len(row) == len(head) else row[:-1] for row in cells]  # cells of one column
    widths = [max(len(row[index]) for row in own if index < len(row)) for index in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    """Return the text with ``?`` for each character that would control the terminal or start a line."""
    return "".join(char if char.isprintable() else "?" for char in text)
