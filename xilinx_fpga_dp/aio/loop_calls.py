"""Calls on the loop from threads, for less than ``call_soon_threadsafe`` costs.

asyncio wakes its loop through a socket pair, which it reads twice each time (asyncio/selector_events.py). An
eventfd takes 20 us less. It can go when asyncio uses one.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

Call = Callable[[], object]


class _LoopCalls:
    """The calls from threads to one loop. Its descriptor is open as long as a thread can use it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        # Shared by the loop and the threads: append and popleft are atomic.
        self._calls: deque[Call] = deque()
        self._descriptor = descriptor
        loop.add_reader(descriptor, self._run)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def add(self, call: Call) -> None:
        self._calls.append(call)
        os.eventfd_write(self._descriptor, 1)

    def _run(self) -> None:
        os.eventfd_read(self._descriptor)
        while self._calls:
            self._calls.popleft()()


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopCalls] = WeakKeyDictionary()


def caller(loop: asyncio.AbstractEventLoop) -> Callable[[Call], object]:
    """Return what makes a call on a loop, from any thread. It is to be made on the loop.

    When the loop has ended, calls are lost or raise RuntimeError.
    """
    calls = _of_loops.get(loop)
    if calls is None:
        try:
            descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:  # none is free
            return loop.call_soon_threadsafe
        calls = _of_loops[loop] = _LoopCalls(loop, descriptor)
    return calls.add
