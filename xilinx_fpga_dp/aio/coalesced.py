"""Work that many ask for at once and that only has to be done once more for all of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Coalesced(Generic[T]):
    """Gives whoever asks the outcome of a run that began after he asked; those who wait share one.

    One run is under way and one is to come, at most. Whoever gives up waiting cuts no run short: a file
    that it has open would stay open, and what a thread of it returns would be taken for news later.

    Args:
        work: what a run does.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None  # the run that has not begun yet
        self._now: asyncio.Task[T] | None = None  # held on to: the loop forgets tasks that nobody holds

    async def run(self) -> T:
        """The outcome of the next run, or what it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        return await asyncio.shield(self._next)

    async def _run(self) -> T:
        async with self._turn:
            self._now, self._next = self._next, None  # whoever asks from now on is for another run
            return await self._work()
