"""Limits how often something is done: a burst, then an even rate."""

import asyncio


class RateLimit:
    """Allows ``burst`` times in a row, then one every ``interval`` seconds.

    The first time after a quiet interval is never delayed.
    """

    def __init__(self, burst: int, interval: float) -> None:
        self._interval = interval
        self._span = (burst - 1) * interval
        self._next = 0.0  # when the even rate allows the next one

    async def wait(self) -> None:
        """Wait until one more is allowed, and count it."""
        now = asyncio.get_running_loop().time
        await asyncio.sleep(self._next - self._span - now())
        self._next = max(self._next, now()) + self._interval
