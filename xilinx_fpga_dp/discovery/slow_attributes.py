"""Attributes whose read may take 20 s or writes to the kernel's log: `attributes` has when each is read.

XRT's driver asks the management function for them through a mailbox (XRT xmc.c, firewall.c; mailbox.c has
the times). No scan waits for them: it starts the next read when that is due, on a thread, and takes the
newest readings there are.

- A serial number is read until it is known or was asked for often enough: an empty one may mean "not fetched
  yet" or that the card has none. It is never evidence of anything.
- What an observation does not ask for any more is forgotten, but not when it was read last.
- What was given up is tried again when the device has been faulty, at most once a minute.
- A read that found no thread or no file descriptor is repeated soon; the last readings stay.
- A device that is gone is forgotten, since another card may come into its slot; but not while a read of it
  is under way, or devices that come and go could pile up threads that hang.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from xilinx_fpga_dp.aio.daemon_threads import start_thread
from xilinx_fpga_dp.discovery.schedules import Schedule
from xilinx_fpga_dp.discovery.sysfs import OutOfDescriptors, Unreadable

# Seconds
_SOON = 0.2  # after a read that could not be made
_AGAIN = 60.0  # between a read and the first one after a fault, at least


@dataclass(frozen=True, slots=True)
class SlowReadings:
    """The slow attributes of a device as last read; None if not known."""

    serial: str | None = None  # the card's serial number
    trip: str | None = None  # the firewall trip; None also if there is none
    ready: str | None = None  # "0" if it is not ready, another number if it is
    warning: str | None = None  # what is wrong with the card without being a fault, with the remedy


_UNREAD: Final = SlowReadings()


@dataclass(frozen=True, slots=True)
class SlowRead:
    """How to read one of them. ``read`` blocks; Unreadable means that there was nothing to read now."""

    schedule: Schedule
    read: Callable[[], str | None]


@dataclass(slots=True, eq=False)
class _Progress:
    """Of the reads of one attribute."""

    tries: int = 0  # since the first one, or since the last fault
    pause: float = 0.0  # seconds until the next read; 0: as the schedule begins
    due: float = 0.0  # loop time of the next one
    ended: float | None = None  # loop time of the last one, after which it was given up


@dataclass(slots=True, eq=False)
class _Entry:
    readings: SlowReadings = _UNREAD
    reading: bool = False
    well: bool = False  # as last observed
    progress: dict[str, _Progress] = field(default_factory=dict)  # by attribute
    asked: frozenset[str] = frozenset()  # the attributes last asked for
    quiet_until: float = 0.0  # loop time before which none of these is due, if nothing else changes


class SlowAttributes:
    """The slow attributes of all devices, by key. Used on the loop only; calls ``wake`` for new readings."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._entries: dict[str, _Entry] = {}

    @property
    def reading(self) -> bool:
        """Whether a read is under way."""
        return any(entry.reading for entry in self._entries.values())

    def get(self, key: str) -> SlowReadings:
        """Return the last readings of a device; empty ones if it was never read."""
        entry = self._entries.get(key)
        return entry.readings if entry else _UNREAD

    def has_more(self, key: str, serial: str | None) -> bool:
        """Return whether a device with this serial number is being read, or has another one by now."""
        entry = self._entries.get(key)
        return entry is not None and (entry.reading or entry.readings.serial not in (None, serial))

    def refresh(self, key: str, reads: Mapping[str, SlowRead], asked: frozenset[str], *, well: bool) -> None:
        """Start the reads that are due, on one thread.

        Args:
            key: of the device.
            reads: how to read its attributes, by the name in `SlowReadings`.
            asked: the names of those to read.
            well: the device has no fault.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if (entry := self._entries.get(key)) is None:
            entry = self._entries[key] = _Entry()
        if now < entry.quiet_until and (well, asked) == (entry.well, entry.asked):
            return
        _update(entry, asked, now, well=well)
        if entry.reading:
            return
        times = {name: _due(entry, name, read.schedule) for name, read in reads.items() if name in asked}
        due = {name: reads[name] for name, time in times.items() if time <= now}
        if not due:
            entry.quiet_until = min(times.values(), default=math.inf)
            return
        entry.reading = True

        def body() -> None:
            results = {name: _result_of(each.read) for name, each in due.items()}
            try:
                loop.call_soon_threadsafe(self._store, entry, due, results)
            except RuntimeError:  # the loop is closed: the process is ending
                return

        if not start_thread(body, "slow"):
            self._store(entry, due, dict.fromkeys(due, OutOfDescriptors()))

    def retain(self, keys: Collection[str]) -> None:
        """Forget the devices that are gone."""
        for key in self._entries.keys() - set(keys):
            if not self._entries[key].reading:
                del self._entries[key]

    def _store(
        self, entry: _Entry, due: Mapping[str, SlowRead], results: Mapping[str, str | Exception | None]
    ) -> None:
        entry.reading, entry.quiet_until = False, 0.0
        now = asyncio.get_running_loop().time()
        readings = entry.readings
        for name, result in results.items():
            schedule, progress = due[name].schedule, entry.progress[name]
            if isinstance(result, OutOfDescriptors):
                progress.due = now + _SOON
                continue
            pause = progress.pause or schedule.pause
            progress.due = now + pause
            progress.pause = min(pause * schedule.growth, schedule.longest)
            if not isinstance(result, Exception):
                progress.tries += 1
                progress.ended = now if progress.tries == schedule.tries else None
                readings = replace(readings, **{name: result})
        if readings != entry.readings:
            entry.readings = readings
            self._wake()


def _update(entry: _Entry, asked: frozenset[str], now: float, *, well: bool) -> None:
    """Try again what was given up, if the device has recovered, and forget what is not asked for any more."""
    if well and not entry.well:
        for progress in entry.progress.values():
            if progress.ended is not None:
                again = max(now, progress.ended + _AGAIN)
                progress.tries, progress.pause, progress.due, progress.ended = 0, 0.0, again, None
    for name in entry.progress.keys() - asked:
        entry.progress[name].tries, entry.progress[name].ended = 0, None
        entry.readings = replace(entry.readings, **{name: None})
    entry.well, entry.asked = well, asked


def _due(entry: _Entry, name: str, schedule: Schedule) -> float:
    """Return the loop time from which it is to be read; infinite if not again."""
    progress = entry.progress.setdefault(name, _Progress())
    known = schedule.until_known and getattr(entry.readings, name) is not None
    if known or (schedule.tries is not None and progress.tries >= schedule.tries):
        return math.inf
    return progress.due


def _result_of(read: Callable[[], str | None]) -> str | Exception | None:
    try:
        return read()
    except (OutOfDescriptors, Unreadable) as error:
        return error
