"""Seeing that file descriptors are there before a library that does not say so goes without."""

import os
from contextlib import ExitStack


def require(count: int) -> None:
    """See that so many are to be had now; another thread may be faster.

    Raises:
        OSError: there are not.
    """
    with ExitStack() as spare:
        for _ in range(count):
            spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
