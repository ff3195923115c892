"""A terminal with a program in it: a pseudo-terminal, and what its screen would show."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.support.process import clean_environment

_TOKEN = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+|\x1b")


class Terminal:
    """Runs a program as the foreground process of a terminal, and interprets what it writes.

    Only what the program may use is known: new lines, cursor home, clearing of a line and of what is below.
    """

    def __init__(
        self, command: Sequence[str], settings: Mapping[str, str], *, columns: int = 120, lines: int = 24
    ) -> None:
        self.columns, self.lines = columns, lines
        self._rows: list[str] = [""] * lines
        self._row = self._column = 0
        self.wrapped: list[str] = []  # texts that went over the right edge
        self.scrolled: list[str] = []  # lines that left at the top
        self._rest = ""
        self._lock = threading.Lock()
        self._end, other = pty.openpty()
        self._set_size()
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, start_new_session=True,
            env=clean_environment(settings) | {"TERM": "xterm"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call
        )  # fmt: skip
        os.close(other)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        os.close(self._end)

    def shown(self) -> list[str]:
        """Return the lines on the screen, without the empty ones at its end."""
        with self._lock:
            text = "\n".join(row.rstrip() for row in self._rows).rstrip()
        return text.splitlines()

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the terminal; the kernel signals its foreground process."""
        with self._lock:
            self.columns, self.lines = columns, lines
            self._rows = ([row[:columns] for row in self._rows] + [""] * lines)[:lines]
            self._row, self._column = min(self._row, lines - 1), min(self._column, columns - 1)
        self._set_size()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._end, b"\x03")

    def _set_size(self) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", self.lines, self.columns, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._end, 4096)
            except OSError:  # the program has ended
                return
            with self._lock:
                self._interpret(self._rest + data.decode(errors="replace"))

    def _interpret(self, text: str) -> None:
        # An escape sequence may have been cut by the read
        cut = text.rfind("\x1b")
        if cut >= 0 and not re.match(r"\x1b\[[0-9;]*[A-Za-z]", text[cut:]):
            text, self._rest = text[:cut], text[cut:]
        else:
            self._rest = ""
        for token in _TOKEN.finditer(text):
            match token[2] or token[0]:
                case "H":
                    self._row = self._column = 0
                case "K":
                    self._rows[self._row] = self._rows[self._row][: self._column]
                case "J":
                    self._rows[self._row] = self._rows[self._row][: self._column]
                    self._rows[self._row + 1 :] = [""] * (self.lines - self._row - 1)
                case "\r":
                    self._column = 0
                case "\n" if self._row == self.lines - 1:
                    self.scrolled.append(self._rows[0])
                    self._rows = [*self._rows[1:], ""]
                case "\n":
                    self._row += 1
                case plain:
                    self._put(plain)

    def _put(self, text: str) -> None:
        if self._column + len(text) > self.columns:
            self.wrapped.append(text)
        row = self._rows[self._row].ljust(self._column)
        end = self._column + len(text)
        self._rows[self._row] = (row[: self._column] + text + row[end:])[: self.columns]
        self._column = end
