"""Checks for free file descriptors, before a library that ignores their lack goes on without."""

import os
from contextlib import ExitStack


def require(count: int) -> None:
    """Check that ``count`` descriptors are free now; another thread may take them meanwhile.

    Raises:
        OSError: fewer are free.
    """
    with ExitStack() as spare:
        for _ in range(count):
            spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
