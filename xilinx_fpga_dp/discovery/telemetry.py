"""Telemetry: what the sensors and counters of each card show, read on a clock of its own.

Neither a scan, nor a health check, nor a scrape waits for it. Once in an interval one thread reads the
sources that are due, one card after the other, and the loop takes the results at the end: to wake a thread
and the loop for each card would cost more than the reads.

- A read that hangs keeps its thread until it returns. Its sensor has no value meanwhile and is not read
  again; the card's others and the other cards go on with another thread. If one more of the same source
  hangs, the driver does, and none of that source is read.
- Nothing is read of a card that is offline, in a reset or does not answer: a read that hangs delays a reset,
  since an attribute is removed when its last reader has left (fs/kernfs/dir.c kernfs_drain). Only the record
  of errors is, which the driver copies from memory: it tells why the card is offline.
- A card that is gone is forgotten, but not while a read of it hangs: cards that come and go could pile up
  threads. One that is back meanwhile is read as a new card when that read has ended.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from xilinx_fpga_dp.aio.daemon_threads import Worker
from xilinx_fpga_dp.discovery.card_sources import CardSource, Sample, sources_of
from xilinx_fpga_dp.discovery.sensor_texts import Value
from xilinx_fpga_dp.discovery.sysfs import OutOfDescriptors
from xilinx_fpga_dp.discovery.xocl_errors import ErrorRecord
from xilinx_fpga_dp.model import Device, Reason

_STEP: Final = 0.02  # seconds without a card read after which `once` sends another worker
_TICK: Final = 1.0  # seconds between two looks at a read that may hang, and between two samples at least
# The second samples of the cards are spread into so many parts of an interval, with so many cards in each
# before the next is used: 16 cards are read in 4 ms
_PHASES: Final = 16
_TOGETHER: Final = 16
# Reads of a source whose files may hang one by one: after two it is the driver that hangs
_MOST_HANGING: Final = 2
_READABLE: Final = frozenset({None, Reason.HELD, Reason.NO_NODE})
_OFFLINE: Final = frozenset({Reason.OFFLINE, Reason.FIREWALL})

OnErrors = Callable[[str, Sequence[ErrorRecord]], None]
"""Takes the address of a device and the errors that its driver has recorded since the last sample."""


@dataclass(slots=True, eq=False)
class SourceState:
    """What is known of one source of a card. Changed on the loop only.

    Attributes:
        values: those of the last read; empty if that failed, hangs, or is not to be made now.
        success: whether the last read succeeded; None if the card has no such source.
        good_at: the time.monotonic() of the last one that did; None if none has.
        seconds: how long the last read took.
    """

    source: CardSource
    values: Sequence[Value] = ()
    success: bool | None = None
    good_at: float | None = None
    seconds: float = 0.0
    due: float = 0.0
    hanging: int = 0  # reads of it

    @property
    def pending(self) -> bool:
        """Whether it has never been read."""
        return self.success is None and not self.due

    @property
    def readable(self) -> bool:
        """Whether it can be read in spite of reads that hang."""
        return self.hanging < (_MOST_HANGING if self.source.apart else 1)

    def fail(self) -> None:
        """Drop the values. A source that has never been there is not missed."""
        self.values = ()
        if self.success is not None:
            self.success = False


@dataclass(slots=True, eq=False)
class _Job:
    """The reads of one card on one thread. The thread appends results and sets what it reads now."""

    sources: Sequence[CardSource]
    stop: Callable[[], bool]
    results: deque[tuple[str, Sample | Exception | None, float, float]] = field(default_factory=deque)
    reading: str = ""  # the name of the source
    since: float = field(default_factory=time.monotonic)  # of that read
    hanging: str = ""  # the name of the source whose read hangs; the job ends with that

    def run(self) -> None:
        for source in self.sources:
            if self.hanging or (self.stop() and not source.offline):
                return
            self.since = began = time.monotonic()
            self.reading = source.name
            try:
                outcome: Sample | Exception | None = source.read(self.stop)
            except Exception as error:  # a source that fails is a result
                outcome = error
            self.results.append((source.name, outcome, began, time.monotonic() - began))


@dataclass(slots=True, eq=False)
class CardState:
    """What is known of one card. Changed on the loop only."""

    device: Device
    sources: dict[str, SourceState]
    phase: float  # the part of an interval after the first sample at which the second one is due
    present: bool = True  # False for good: a card that is back has a new state
    due: float = 0.0  # the time.monotonic() before which none of its sources is due
    job: _Job | None = None
    hanging: list[_Job] = field(default_factory=list)

    def values(self) -> Iterator[Value]:
        """Yield the values of all sources."""
        for state in self.sources.values():
            yield from state.values


class Telemetry:
    """Samples all cards. Used on the loop only.

    Args:
        root: where sysfs is.
        devices: returns the devices there are now, with their health.
        everything: as TELEMETRY=all, else as TELEMETRY=safe.
        interval: seconds between two samples of a card.
        on_errors: called with new errors.
        pause: waits for so many seconds, or until the devices have changed.
    """

    def __init__(
        self,
        root: str,
        devices: Callable[[], Iterable[Device]],
        *,
        everything: bool,
        interval: float,
        on_errors: OnErrors = lambda _address, _errors: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._root = root
        self._devices = devices
        self._everything = everything
        self._interval = interval
        self._tick = min(_TICK, interval)
        self._on_errors = on_errors
        self._pause = pause
        self._cards: dict[str, CardState] = {}  # by address
        self._count = 0
        # Shared by the loop and the workers: append and popleft are atomic
        self._queue: deque[tuple[CardState, _Job]] = deque()
        self._done: deque[tuple[CardState, _Job]] = deque()

    @property
    def cards(self) -> Mapping[str, CardState]:
        """The cards there are, by address."""
        return {address: card for address, card in self._cards.items() if card.present}

    async def run(self) -> None:
        """Sample. Endless."""
        while True:
            self.sample()
            await self._pause(self._rest())

    def _rest(self) -> float:
        """Return the seconds until the next look: at reads in progress soon, else when a source is due."""
        cards = self._cards.values()
        if any(card.job or card.hanging for card in cards):
            return self._tick
        due = min((card.due for card in cards), default=math.inf) + self._tick / 2
        return max(self._tick, min(due - time.monotonic(), self._interval))

    async def once(self, limit: float) -> None:
        """Sample once what is due, and wait at most ``limit`` seconds for it."""
        deadline = time.monotonic() + limit
        self.sample()
        while any(card.job for card in self._cards.values()) and time.monotonic() < deadline:
            queued = len(self._queue)
            await asyncio.sleep(_STEP)
            if queued and len(self._queue) == queued:
                self._send_worker()
        for card in self._cards.values():
            self._give_up(card, time.monotonic())

    def sample(self) -> None:
        """Start the reads that are due, and give up those that hang."""
        now = time.monotonic()
        devices = {device.address: device for device in self._devices()}
        for address, card in list(self._cards.items()):
            device = devices.get(address)
            # Another node (MA35D) is another directory
            if device is None or (device.driver, device.nodes[:1]) != (
                card.device.driver,
                card.device.nodes[:1],
            ):
                self._give_up(card, now)
                card.present = False
            if not card.present and card.job is None and not card.hanging:
                del self._cards[address]
        for address, device in devices.items():
            found = self._cards.get(address)
            if found is None:
                found = self._cards[address] = self._new(device)
            if found.present:
                if device.reason != found.device.reason:
                    found.due = 0.0
                found.device = device
                self._sample(found, now)
        if self._queue:  # with jobs of an earlier time in it, another worker takes them: a read takes long
            self._send_worker()

    def _new(self, device: Device) -> CardState:
        sources = sources_of(self._root, device, everything=self._everything)
        phase = (self._count // _TOGETHER % _PHASES + 1) / _PHASES
        self._count += 1
        return CardState(device, {each.name: SourceState(each) for each in sources}, phase)

    def _sample(self, card: CardState, now: float) -> None:
        reason = card.device.reason
        if now < card.due and card.job is None and reason in _READABLE:
            return
        self._give_up(card, now)
        readable = [
            state
            for state in card.sources.values()
            if reason in _READABLE or (reason in _OFFLINE and state.source.offline)
        ]
        for state in card.sources.values():
            if state not in readable:
                state.fail()
        due = [state.source for state in readable if state.due <= now and state.readable]
        if card.job is not None:
            return
        if not due:
            card.due = min((state.due for state in readable if state.readable), default=math.inf)
            return
        card.due = 0.0
        job = card.job = _Job(
            due,
            lambda: bool(job.hanging) or card.device.reason not in _READABLE or not card.present,
        )
        self._queue.append((card, job))

    def _send_worker(self) -> None:
        Worker.send(partial(self._work, asyncio.get_running_loop()))

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one job after another, on a worker."""
        # Ends when the queue is empty, or when the loop is closed as the process ends
        with suppress(IndexError, RuntimeError):
            while True:
                card, job = self._queue.popleft()
                job.run()
                self._done.append((card, job))
                if not self._queue or job.hanging:
                    loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._done:
            self._ended(*self._done.popleft())

    def _give_up(self, card: CardState, now: float) -> None:
        """Take what a job has read so far, and leave it alone if its read hangs."""
        if (job := card.job) is None:
            return
        self._store(card, job)
        state = card.sources.get(job.reading)
        if state and now - job.since >= state.source.late:
            job.hanging = state.source.name
            state.hanging += 1
            state.success, state.values = False, ()
            card.hanging.append(job)
            card.job = None

    def _ended(self, card: CardState, job: _Job) -> None:
        """Take the results of a job that has ended."""
        if job in card.hanging:
            card.hanging.remove(job)
            card.sources[job.hanging].hanging -= 1
            card.due = card.sources[job.hanging].due = 0.0
            job.results.clear()  # a newer sample may be there
        if card.job is job:
            card.job = None
        self._store(card, job)

    def _store(self, card: CardState, job: _Job) -> None:
        while job.results:
            name, outcome, began, seconds = job.results.popleft()
            state = card.sources[name]
            if isinstance(outcome, OutOfDescriptors):
                continue  # it says nothing of the card; at the next tick again
            pause = max(self._interval, state.source.pause)
            # Half a tick early: what is due within a tick is read together
            state.due = began + pause * (1 if state.due else card.phase) - self._tick / 2
            state.seconds = seconds
            if isinstance(outcome, Exception):
                state.values, state.success = (), False
            elif outcome is None:
                state.values, state.success = (), None
            else:
                state.values, state.success = outcome.values, not state.hanging
                state.good_at = time.monotonic()
                if outcome.errors:
                    self._on_errors(card.device.address, outcome.errors)
            if card.device.reason not in _READABLE and not state.source.offline:
                state.fail()
