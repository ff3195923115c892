"""A process without free file descriptors."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


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
