"""The wait for a condition that another thread or process fulfils."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str | Callable[[], str], limit: float = 50.0) -> T:
    """Call the condition until it returns something true, and return that.

    tests/faults and tests/e2e have loops of their own. The first does not count stalls of its process and
    raises nothing; the second accepts 0 and empty results, and waits while a call raises SilentError.

    Raises:
        AssertionError: the condition is not true in time; the message contains ``what``.
    """
    deadline = time.monotonic() + limit
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)
    return found
