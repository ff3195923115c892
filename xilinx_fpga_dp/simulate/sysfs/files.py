"""Atomic changes to the files of a sample node, with blocking calls.

A driver creates and removes sysfs entries in one step, so a reader never sees half of an entry. `Files`
does the same: it creates new content under another name in a directory of its own, on the same file
system, and renames it into place. To remove a path, it renames the path into that directory first and
deletes it there. A rename cannot replace a file by a directory or a directory by anything but an empty
directory, so `Files` removes the old entry first in that case; the path is absent for a moment, as while a
driver binds again.
"""

import itertools
import os
import shutil
import stat
from collections.abc import Mapping
from typing import TypeAlias


class Link(str):
    """The target of a symbolic link, as the content of a path."""

    __slots__ = ()


# None stands for an attribute whose read fails. A regular file cannot fail with EINVAL, so the path is a
# directory, whose read fails with EISDIR.
Content: TypeAlias = "str | bytes | Mapping[str, Content] | None"


class Files:
    """Creates, replaces and removes paths atomically.

    Args:
        aside: a new directory for entries that are not yet, or no longer, in place.

    Raises:
        FileExistsError: ``aside`` exists.
    """

    def __init__(self, aside: str) -> None:
        os.mkdir(aside)
        self._aside = (f"{aside}/{number}" for number in itertools.count())

    def put(self, path: str, content: Content) -> None:
        """Create a path with this content, or replace it."""
        aside = next(self._aside)
        _create(aside, content)
        self._place(aside, path)

    def put_pipe(self, path: str) -> str:
        """Replace a path by a pipe, whose readers block; return a second name of the pipe."""
        pipe, aside = next(self._aside), next(self._aside)
        os.mkfifo(pipe)
        os.link(pipe, aside)
        self._place(aside, path)
        return pipe

    def put_device(self, path: str, mode: int) -> None:
        """Create a device node; whatever its name, it is the null device."""
        aside = next(self._aside)
        os.mknod(aside, stat.S_IFCHR, os.makedev(1, 3))
        os.chmod(aside, mode)
        self._place(aside, path)

    def drop(self, path: str) -> None:
        """Remove a file or a directory tree, if it exists."""
        aside = next(self._aside)
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return
        if _is_directory(aside):
            shutil.rmtree(aside)
        else:
            os.unlink(aside)

    def _place(self, aside: str, path: str) -> None:
        if _is_directory(path) or (_is_directory(aside) and os.path.lexists(path)):
            self.drop(path)
        os.rename(aside, path)


def link(path: str, target: str) -> Link:
    """Return the relative link that leads from ``path`` to ``target``."""
    return Link(os.path.relpath(target, os.path.dirname(path)))


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _create(path: str, content: Content) -> None:
    if isinstance(content, Link):
        os.symlink(content, path)
    elif isinstance(content, str):
        # The kernel ends a text with a newline; an attribute without text is empty.
        text = content if content.endswith("\n") or not content else f"{content}\n"
        _create(path, text.encode())
    elif isinstance(content, bytes):
        with open(path, "wb") as file:
            file.write(content)
    else:
        os.mkdir(path)
        for name, inner in (content or {}).items():
            _create(f"{path}/{name}", inner)
