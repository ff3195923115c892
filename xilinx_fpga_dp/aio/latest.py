"""The one primitive between tasks: a value of which only the newest matters.

There is no queue to fill: a slow reader misses intermediate values, never the current one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Closed(Exception):  # noqa: N818 - the end of the values, not a fault
    """The value is final and the reader has seen it."""


class Latest(Generic[T]):
    """A value that one task sets and any number of tasks wait on."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._closed = False
        self._changed = asyncio.Event()  # replaced at each change; waiters hold the old one

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    def set(self, value: T) -> None:
        """Replace the value and wake the waiters, unless it equals the current one."""
        if self._closed:
            raise RuntimeError("a closed value cannot change")
        if value != self._value:
            self._value = value
            self._wake()

    def close(self) -> None:
        """Declare the value final: every reader sees it once, then `Closed`."""
        self._closed = True
        self._wake()

    async def other_than(self, seen: T | None) -> T:
        """Wait for a value that differs from ``seen``; return at once if it differs now.

        A value that changed and changed back meanwhile does not count.
        """
        return await self.until(lambda value: value != seen)

    async def until(self, holds: Callable[[T], bool]) -> T:
        """Wait for a value for which ``holds`` is true; return at once if it is now.

        Raises:
            Closed: the value was closed before that.
        """
        while not holds(self._value):
            if self._closed:
                raise Closed
            await self._changed.wait()
        return self._value

    async def changes(self, part: Callable[[T], U | None]) -> AsyncIterator[U]:
        """Yield a part of the newest value whenever it differs from the part yielded before. Skip None."""
        seen: U | None = None
        while True:
            seen = part(await self.until(lambda value, seen=seen: part(value) not in (None, seen)))  # type: ignore[misc]
            if seen is not None:
                yield seen

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
