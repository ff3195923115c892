"""A terminal whose content is redrawn in place.

It has no state to restore: what was on the screen scrolls away before the first text, and the last text stays
with the cursor below it, whatever ends the process.
"""

import os
from collections.abc import Callable
from typing import Final, TextIO

_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"  # from the cursor on
_CLEAR_BELOW: Final = "\x1b[J"
_NO_SIZE: Final = os.terminal_size((80, 24))  # of a terminal that does not know its own


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream, None if it is closed, is a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


class Screen:
    """The screen of a terminal.

    Args:
        stream: the terminal.
        size: returns its columns and lines.
    """

    def __init__(self, stream: TextIO, size: Callable[[], os.terminal_size] | None = None) -> None:
        self._stream = stream
        self._size = size or (lambda: _size_of(stream))
        self._drawn = False

    def draw(self, text: str) -> None:
        """Show a text in place of the one before, cut to what the terminal has room for now."""
        size = self._size()
        if not self._drawn:
            self._stream.write("\n" * size.lines)
        self._drawn = True
        body = "".join(f"{line}{_CLEAR_LINE}\r\n" for line in fitted(text, size))
        self._stream.write(f"{_HOME}{body}{_CLEAR_BELOW}")
        self._stream.flush()

    def leave(self) -> None:
        """Begin a line below the text, which the cursor may have been moved on by ``^C``."""
        self._stream.write("\n")


def fitted(text: str, size: os.terminal_size) -> list[str]:
    """Return the lines of a text as a terminal has room for them, without the line of the cursor.

    A line that would wrap is cut, and ends in ``>``; the last line tells how many more there are.
    """
    lines = text.splitlines()
    room = max(1, size.lines - 1)
    if len(lines) > room:
        lines = [*lines[: room - 1], f"... {len(lines) - room + 1} more lines"]
    return [line if len(line) <= size.columns else f"{line[: max(0, size.columns - 1)]}>" for line in lines]


def _size_of(stream: TextIO) -> os.terminal_size:
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return _NO_SIZE
    return size if size.columns and size.lines else _NO_SIZE
