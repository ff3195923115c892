"""A record of the files that this process opens below a directory, by an audit hook of the interpreter."""

import os
import sys
import threading
from functools import cache
from typing import NamedTuple, Self

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Opening(NamedTuple):
    """A file that was opened.

    Attributes:
        path: relative to the watched directory.
        flags: the flags of open(2).
        thread: the name of the thread that opened it.
    """

    path: str
    flags: int
    thread: str

    @property
    def writing(self) -> bool:
        """Whether it is open for writing."""
        return bool(self.flags & _WRITING)


class Openings(list[Opening]):
    """The files opened below a directory inside the ``with`` block; a second block adds to them."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root = f"{root}/"

    def __enter__(self) -> Self:
        _add_hook()
        _watching.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watching.remove(self)

    def record(self, path: object, flags: object) -> None:
        if isinstance(path, str) and isinstance(flags, int) and path.startswith(self._root):
            self.append(Opening(path.removeprefix(self._root), flags, threading.current_thread().name))


_watching: list[Openings] = []


@cache
def _add_hook() -> None:
    """Add the audit hook once; the interpreter cannot remove a hook."""

    directory = threading.local()  # the last one that a thread opened for openat(2)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if _watching and event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & os.O_PATH:  # it reads nothing
                directory.path = path
                return
            if isinstance(path, str) and not path.startswith("/") and hasattr(directory, "path"):
                path = f"{directory.path}/{path}"
            for each in _watching:
                each.record(path, flags)

    sys.addaudithook(hook)
