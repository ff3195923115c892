"""What is opened below a folder, by whatever thread and call: the interpreter itself tells."""

import os
import sys
import threading
from functools import cache
from typing import NamedTuple, Self

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Opening(NamedTuple):
    """A file that was opened.

    Attributes:
        path: below the folder that is watched.
        flags: as of open(2).
        thread: the name of the one that did.
    """

    path: str
    flags: int
    thread: str

    @property
    def writing(self) -> bool:
        """Whether it can be written to."""
        return bool(self.flags & _WRITING)


class Openings(list[Opening]):
    """What is opened below a folder while this is entered; once more adds to it."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root = f"{root}/"

    def __enter__(self) -> Self:
        _listen()
        _watching.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watching.remove(self)

    def hear(self, path: object, flags: object) -> None:
        if isinstance(path, str) and isinstance(flags, int) and path.startswith(self._root):
            self.append(Opening(path.removeprefix(self._root), flags, threading.current_thread().name))


_watching: list[Openings] = []


@cache
def _listen() -> None:
    """Let the interpreter tell; it can't be told to stop."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if _watching and event == "open":
            path, _, flags = arguments
            for each in _watching:
                each.hear(path, flags)

    sys.addaudithook(hook)
