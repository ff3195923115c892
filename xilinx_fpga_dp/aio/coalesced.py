"""Work that many callers ask for and that only has to be done once for all of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Coalesced(Generic[T]):
    """Merges concurrent requests.

    A caller gets the result of a run that started after its call; callers that wait for the next run share
    it. At most one run is in progress and one is due. Cancelling a caller does not cancel the run, which may
    have a file open or a thread at work.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work  # makes one run
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None  # the run that has not started
        self._now: asyncio.Task[T] | None = None  # kept, since the loop keeps only weak references

    async def run(self) -> T:
        """Return the result of the next run, or raise what it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        return await asyncio.shield(self._next)

    async def _run(self) -> T:
        async with self._turn:
            self._now, self._next = self._next, None  # later callers share the run after this one
            return await self._work()
