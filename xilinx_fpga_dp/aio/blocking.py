"""Blocking reads that may never return, kept away from the loop and from each other."""

import asyncio
import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds without one read returning after which a second walker takes up what is left.
_STEP = 0.02
# Seconds the loop is late after which this process is taken for stopped: a debugger, no processor to be had.
_STOPPED = 0.1
# How often that is believed while one waits: a process that is throttled is late all the time.
_STOPS = 3
# Seconds after which an answer that nobody took is too old to be taken: the device may be another one.
_STALE = 10.0
# Threads with nothing to do that are kept: to start one costs more than most reads.
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Pending:
    """A read that has not returned yet."""

    since: float  # time.monotonic() when it was asked for


@dataclass(slots=True, eq=False)
class _Read(Generic[T]):  # touched on the loop only, but for the call
    call: Callable[[], T]
    answer: asyncio.Future[T | Exception]
    since: float
    waiters: int = 0
    returned: float | None = None

    @property
    def stale(self) -> bool:
        return self.returned is not None and time.monotonic() - self.returned > _STALE


_none_left = threading.Event()  # the last thread could not be started, and that was told


def start(run: Callable[[], None], name: str) -> bool:
    """Start a thread that does not keep the process from ending; whether there was one to be had."""
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        if not _none_left.is_set():
            log.warning("out of threads: see the limits of tasks (pids)", extra={"error": str(error)})
        _none_left.set()
        return False
    _none_left.clear()
    return True


class _Worker:
    """A thread that does one job after the other. One that hangs is in nobody's way: nobody else has it."""

    _idle: deque["_Worker"] = deque()  # noqa: RUF012 - everybody's; append and pop are atomic

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()

    @classmethod
    def send(cls, job: Callable[[], None]) -> bool:
        """Let a thread do this, if there is one to be had."""
        try:
            walker = cls._idle.pop()
        except IndexError:
            walker = cls()
            if not start(walker._run, "reads"):
                return False
        walker._jobs.put(job)
        return True

    def _run(self) -> None:
        while True:
            self._jobs.get()()
            if len(self._idle) >= _KEPT:
                return
            self._idle.append(self)


class DaemonExecutor(Executor):
    """Runs what a library wants to run on threads, such as aiofiles, so that what hangs is in nobody's way.

    In asyncio's own executor it would keep others from running, and the process from ending.

    Args:
        most: calls under way at once; more than that are refused: those before have hung.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: set[Future[Any]] = set()

    def submit(self, call: Callable[..., T], /, *arguments: Any, **more: Any) -> Future[T]:
        """Let a thread make this call.

        Raises:
            TimeoutError: too many before it do not return.
            BlockingIOError: there is no thread to be had.
        """
        if len(self._under_way) >= self._most:
            raise TimeoutError
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call(*arguments, **more))
            except BaseException as error:
                future.set_exception(error)

        future.set_running_or_notify_cancel()
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        if not _Worker.send(run):
            self._under_way.discard(future)
            raise BlockingIOError(errno.EAGAIN, "out of threads")
        return future


class BlockingReader(Generic[T]):
    """Reads devices on worker threads, at most one outstanding read a device.

    One thread walks through the devices; one that hangs costs that thread, and another walks on with the
    rest. A hanging read can't be ended (it sleeps in the kernel): its thread is parked until it returns, and
    the device is not asked again before. The threads are daemons of our own: a hung one in the default
    executor would block every other user of it and keep the process from ending.

    Args:
        wake: called on the loop when a read returns that nobody waits for any more.
    """

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self._wake = wake
        self._outstanding: dict[str, _Read[T]] = {}  # touched on the loop only
        # Between the loop and the threads: append and popleft are atomic.
        self._queue: deque[_Read[T]] = deque()
        self._returned: deque[tuple[_Read[T], T | Exception, float]] = deque()  # with the time
        self._watching = 0  # gathers that look by themselves whether something has returned

    async def read_many(
        self, calls: Mapping[str, Callable[[], T]], patience: float
    ) -> dict[str, T | Exception | Pending]:
        """Make the calls, by device, and return what each returned or raised within ``patience`` seconds.

        A call for a device whose last read is outstanding joins it, or takes what it returned meanwhile.
        """
        self._deliver()
        reads: dict[str, _Read[T]] = {}
        for device, call in calls.items():
            if (last := self._outstanding.get(device)) is None or last.stale:
                answer = asyncio.get_running_loop().create_future()
                self._outstanding[device] = _Read(call, answer, time.monotonic())
                self._queue.append(self._outstanding[device])
            reads[device] = self._outstanding[device]
            reads[device].waiters += 1
        try:
            await self._wait(list(reads.values()), patience)
        finally:
            for read in reads.values():
                read.waiters -= 1
        return {device: self._take(device, read) for device, read in reads.items()}

    async def read_fresh(
        self, device: str, call: Callable[[], T], patience: float
    ) -> T | Exception | Pending:
        """What a call that begins now returned or raised, as ``read_many``: no answer is of before.

        It waits for a read of the device that is outstanding, as long as it would for its own.
        """
        while True:
            joined = device in self._outstanding
            answer = (await self.read_many({device: call}, patience))[device]
            if not joined or isinstance(answer, Pending):
                return answer

    async def _wait(self, reads: list[_Read[T]], patience: float) -> None:
        """Wait for the answers, with as many threads through the queue as hanging reads make it take."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        before = len(reads)
        stops = 0
        while reads and (began := loop.time()) < deadline:
            watching = bool(self._queue)
            if watching and len(reads) == before and not _Worker.send(partial(self._walk, loop)):
                for read in list(self._queue):  # nobody has been asked, so nobody is late
                    read.since = began
            before = len(reads)
            self._watching += watching
            until = min(began + _STEP, deadline) if watching else deadline
            try:
                await asyncio.wait([read.answer for read in reads], timeout=until - began)
            finally:
                self._watching -= watching
                self._deliver()
            reads = [read for read in reads if not read.answer.done()]
            # A process that was stopped has not read either, so that time does not count.
            if (now := loop.time()) - until > _STOPPED and stops < _STOPS:
                stops += 1
                deadline += now - began
                for read in reads:  # another who waits for it may have done so already
                    read.since = min(read.since + now - began, now)

    def _walk(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make one call after the other, on a thread.

        The loop is not woken for each, which would cost more than the reads: while there is a queue a gather
        looks by itself after each ``_STEP``. It is woken at the end, for what was late, and if none looks.
        """
        while self._queue:
            try:
                read = self._queue.popleft()
            except IndexError:  # another walker was faster
                return
            try:
                if not self._queue and self._returned:  # this one may hang, and nobody looks any more
                    loop.call_soon_threadsafe(self._deliver)
                began = time.monotonic()
                try:
                    outcome: T | Exception = read.call()
                except Exception as error:  # handed to whoever asked
                    outcome = error
                ended = time.monotonic()
                self._returned.append((read, outcome, ended))
                if not self._queue or not self._watching or ended - began > _STEP:
                    loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed: the process is ending, nobody waits
                return

    def _deliver(self) -> None:
        """Give what has returned to whoever waits for it."""
        forgotten = False
        while self._returned:
            read, outcome, ended = self._returned.popleft()
            read.returned = ended
            read.answer.set_result(outcome)
            forgotten |= not read.waiters
        if forgotten:
            self._wake()

    def _take(self, device: str, read: _Read[T]) -> T | Exception | Pending:
        if not read.answer.done():
            return Pending(read.since)
        if self._outstanding.get(device) is read:
            del self._outstanding[device]
        return read.answer.result()
