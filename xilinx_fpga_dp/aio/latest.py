"""The one primitive between tasks: a value of which only the newest matters.

There is no queue to fill: a slow reader misses what was replaced meanwhile, never what is true now.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - the end of the values, not a fault
    """The value will never change again and the reader has seen it."""


class Latest(Generic[T]):
    """A value that one task sets and any number of tasks wait on."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._closed = False
        self._changed = asyncio.Event()  # a fresh one for each change; waiters hold the old one

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    def set(self, value: T) -> None:
        """Replace the value and wake the waiters, unless it is equal to the one there."""
        if self._closed:
            raise RuntimeError("a closed value cannot change")
        if value != self._value:
            self._value = value
            self._wake()

    def close(self) -> None:
        """Let every reader see the value there is, then end."""
        self._closed = True
        self._wake()

    async def other_than(self, seen: T | None) -> T:
        """Wait for a value that differs from the one seen; at once if it differs now.

        A value that went away and came back while nobody looked is not news.

        Raises:
            Closed: the value seen was the last one.
        """
        return await self.until(lambda value: value != seen)

    async def until(self, holds: Callable[[T], bool]) -> T:
        """Wait for a value for which ``holds`` is true; at once if it is now.

        Raises:
            Closed: the value was closed before one came.
        """
        while not holds(self._value):
            if self._closed:
                raise Closed
            await self._changed.wait()
        return self._value

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
