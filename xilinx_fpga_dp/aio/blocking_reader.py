"""Blocking reads that may never return, kept off the loop and apart from each other.

A read of sysfs can hang in a driver for good, and a thread that hangs in the kernel cannot be ended. So reads
are made per key (a device), at most one at a time for each. One worker makes the queued reads; when none
returns for 20 ms, a second worker continues with the rest. A worker whose read hangs stays parked until the
read returns, and its key is not read again before that.

A caller waits for a limited time and gets `Pending` for a read that has not returned. A later call for the
same key joins that read, or takes its result if it has returned meanwhile. Time in which the whole process
was stopped does not count against a read.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar, cast

from xilinx_fpga_dp.aio import loop_calls
from xilinx_fpga_dp.aio.daemon_threads import Worker

T = TypeVar("T")

_STEP = 0.02  # seconds without any result after which a second worker continues with the rest of the queue
_STOPPED = 0.1  # seconds of delay of the loop that count as a stopped process (a debugger, a busy machine)
_MAX_STOPS = 3  # stops that extend one wait: a throttled process is late all the time
_STALE = 10.0  # seconds after which an unclaimed result is too old: the device may be another one by then


@dataclass(frozen=True, slots=True)
class Pending:
    """A read that has not returned; ``since`` is the time.monotonic() of its start."""

    since: float


@dataclass(slots=True, eq=False)
class _Wait:  # used on the loop only
    """A wait for several reads. Waiting for a future a read would cost more than most reads."""

    missing: int  # reads that have not returned
    ended: asyncio.Future[None]  # when all have, or at the end of a step

    def returned(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.end()

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    async def until(self, time: float) -> None:
        """Wait until a time of the loop at most."""
        timer = None if time == math.inf else self.ended.get_loop().call_at(time, self.end)
        try:
            await self.ended
        finally:
            if timer:
                timer.cancel()


@dataclass(slots=True, eq=False)
class _Read(Generic[T]):  # used on the loop only, but for the call
    call: Callable[[], T]
    since: float
    waiters: int = 0
    waits: list[_Wait] = field(default_factory=list)  # of the waiters; none between two steps
    outcome: T | Exception | None = None  # once it has returned
    returned: float = math.inf  # the time.monotonic() of its end


async def run_blocking(call: Callable[[], T], time_limit: float) -> T:
    """Make one call on a worker. Raise TimeoutError if it has not returned in time; its thread stays parked.

    For calls that repeat use a `BlockingReader`, which does not start another while one hangs.
    """
    return await BlockingReader[T]().read(call, time_limit)


class BlockingReader(Generic[T]):
    """Makes reads by key on workers, at most one outstanding read a key."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self._wake = wake  # called on the loop when a read returns that no caller waits for any more
        self._outstanding: dict[str, _Read[T]] = {}  # used on the loop only
        # Shared by the loop and the workers: append and popleft are atomic.
        self._queue: deque[_Read[T]] = deque()
        self._returned: deque[tuple[_Read[T], T | Exception, float]] = deque()  # with the time
        self._watching = 0  # waits that check the results themselves after each step

    async def read_many(
        self, calls: Mapping[str, Callable[[], T]], patience: float
    ) -> dict[str, T | Exception | Pending]:
        """Make the calls, by key, and return what each returned or raised within ``patience`` seconds.

        A call for a key whose last read is outstanding joins that read, or takes what it returned meanwhile.
        """
        self._deliver()
        now = time.monotonic()
        reads: dict[str, _Read[T]] = {}
        for key, call in calls.items():
            if (read := self._outstanding.get(key)) is None or now - read.returned > _STALE:
                read = _Read(call, now)
                self._outstanding[key] = read
                self._queue.append(read)
            read.waiters += 1
            reads[key] = read
        try:
            await self._wait(reads.values(), patience)
        finally:
            for read in reads.values():
                read.waiters -= 1
        return {key: self._take(key, read) for key, read in reads.items()}

    async def read_fresh(self, key: str, call: Callable[[], T], patience: float) -> T | Exception | Pending:
        """Make a call that starts now, and return its outcome as ``read_many`` does.

        It first waits for an outstanding read of the key, as long as it would for its own.
        """
        while True:
            joined = key in self._outstanding
            outcome = (await self.read_many({key: call}, patience))[key]
            if not joined or isinstance(outcome, Pending):
                return outcome

    async def read(self, call: Callable[[], T], time_limit: float) -> T:
        """Make a call that starts now, for a reader with a single key. Return or raise its outcome.

        Raises:
            TimeoutError: it has not returned within ``time_limit`` seconds, or the one before it has not.
        """
        outcome = await self.read_fresh("", call, time_limit)
        if isinstance(outcome, Pending):
            raise TimeoutError(f"no answer within {time_limit:g} s")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _wait(self, reads: Iterable[_Read[T]], patience: float) -> None:
        """Wait for the results, with as many workers on the queue as hanging reads make necessary."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        reads = _outstanding(reads)
        before = len(reads)
        stops = 0
        while reads and (began := loop.time()) < deadline:
            queued = len(self._queue)
            starts = queued > 0 and len(reads) == before
            # A single read gets a worker of its own, so it cannot be left behind one that hangs.
            watching = queued > 1 or (queued == 1 and not starts)
            self._watching += watching  # before a worker starts, which would wake the loop for each result
            before = len(reads)
            wait = _Wait(before, loop.create_future())
            for read in reads:
                read.waits.append(wait)
            try:
                # At the end: the thread that wakes needs the interpreter, which this one is about to release.
                started = not starts or self._start_worker(loop, began)
                until = min(began + _STEP, deadline) if watching or not started else deadline
                await wait.until(until)
            finally:
                self._watching -= watching
                for read in reads:
                    read.waits.remove(wait)
                self._deliver()
            reads = _outstanding(reads)
            # A stopped process does not read either, so that time does not count.
            if (now := loop.time()) - until > _STOPPED and stops < _MAX_STOPS:
                stops += 1
                deadline += now - began
                for read in reads:  # another wait for the same read may have moved it already
                    read.since = min(read.since + now - began, now)

    def _start_worker(self, loop: asyncio.AbstractEventLoop, now: float) -> bool:
        if Worker.send(partial(self._work, loop_calls.caller(loop))):
            return True
        for read in list(self._queue):  # not started, so not late
            read.since = now
        return False

    def _work(self, call_on_loop: Callable[[Callable[[], None]], object]) -> None:
        """Make one call after another, on a worker.

        The loop is not woken for each result, which would cost more than the reads: while there is a queue,
        ``_wait`` checks after each step. It is woken at the end, for a late result, and if no wait checks.
        """
        # Ends when the queue is empty, or when the loop is closed as the process ends.
        with suppress(IndexError, RuntimeError):
            while True:
                read = self._queue.popleft()
                if not self._queue and self._returned:  # this call may hang, and no wait checks any more
                    call_on_loop(self._deliver)
                began = time.monotonic()
                try:
                    outcome: T | Exception = read.call()
                except Exception as error:  # passed on to the caller
                    outcome = error
                ended = time.monotonic()
                self._returned.append((read, outcome, ended))
                if not self._queue or not self._watching or ended - began > _STEP:
                    call_on_loop(self._deliver)

    def _deliver(self) -> None:
        """Pass results on to the callers that wait for them."""
        unclaimed = False
        while self._returned:
            read, outcome, ended = self._returned.popleft()
            read.outcome, read.returned = outcome, ended
            for wait in read.waits:
                wait.returned()
            unclaimed |= not read.waiters
        if unclaimed:
            self._wake()

    def _take(self, key: str, read: _Read[T]) -> T | Exception | Pending:
        if read.returned == math.inf:
            return Pending(read.since)
        if self._outstanding.get(key) is read:
            del self._outstanding[key]
        return cast("T | Exception", read.outcome)


def _outstanding(reads: Iterable[_Read[T]]) -> list[_Read[T]]:
    return [read for read in reads if read.returned == math.inf]
