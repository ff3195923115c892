"""A process without free file descriptors."""

import errno
import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self
from unittest import mock


@contextmanager
def no_descriptors(but: int = 0) -> Iterator[None]:
    """Let this process open at most ``but`` more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    unused = [os.dup(0) for _ in range(but + 1)]
    for each in unused:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused[but], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class CountedOpens:
    """Count the files and directories that this process opens, and refuse some.

    Args:
        refused: called with the number and the path of each; if true, there is no free descriptor for it.
    """

    def __init__(self, refused: Callable[[int, str], bool] = lambda *_: False) -> None:
        self.count = 0
        self._refused = refused
        self._patches = [
            mock.patch.object(os, name, partial(self._open, getattr(os, name)))
            for name in ("open", "listdir", "scandir")
        ]

    def __enter__(self) -> Self:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()

    def _open(self, real: Callable[..., Any], path: Any, *more: Any) -> Any:
        self.count += 1
        if self._refused(self.count, str(path)):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return real(path, *more)


def descriptors() -> int:
    """Count the open file descriptors of this process, after garbage of earlier tests is collected."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
