"""Attributes that take a driver up to 20 s: serial numbers, and firewalls before XRT 2022.2.

XRT's driver asks the management function for them through a mailbox (XRT xmc.c, firewall.c; mailbox.c has
the times). No scan waits for them: it starts the next read when that is due, on a thread, and takes the
newest readings there are.

- A serial number is read until it is known: an empty one may mean "not fetched yet" or that the card has
  none, so the pauses double. It is never evidence of anything.
- A trip that the driver does not latch is polled.
- A read that found no thread or no file descriptor is repeated soon; the last readings stay.
- A device that is gone is forgotten, since another card may come into its slot; but not while a read of it
  is under way, or devices that come and go could pile up threads that hang.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from xilinx_fpga_dp.aio.daemon_threads import start_thread
from xilinx_fpga_dp.discovery.sysfs import OutOfDescriptors

# Seconds
_RETRY = 2.0  # between reads of a serial number, at first
_MAX_RETRY = 300.0  # at most
_SOON = 0.2  # after a read that could not be made
_TRIP_EVERY = 10.0  # between reads of a trip


@dataclass(frozen=True, slots=True)
class SlowReadings:
    """The slow attributes of a device as last read."""

    serial: str | None = None  # the card's serial number; None if not known
    trip: str | None = None  # the firewall trip; None if there is none
    poll_trip: bool = False  # the driver does not latch trips, so they have to be polled


@dataclass(slots=True, eq=False)
class _Entry:
    readings: SlowReadings = SlowReadings()
    reading: bool = False
    retry: float = _RETRY
    due: float = 0.0  # loop time of the next read


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
        return self._entries.get(key, _Entry()).readings

    def refresh(self, key: str, read: Callable[[str | None], SlowReadings]) -> None:
        """Start a read, on a thread, if one is due. It takes the serial number if that is known."""
        loop = asyncio.get_running_loop()
        entry = self._entries.setdefault(key, _Entry())
        if entry.reading or loop.time() < entry.due:
            return
        entry.reading = True
        serial = entry.readings.serial

        def body() -> None:
            try:
                readings: SlowReadings | None = read(serial)
            except OutOfDescriptors:
                readings = None
            try:
                loop.call_soon_threadsafe(self._store, entry, readings)
            except RuntimeError:  # the loop is closed: the process is ending
                return

        if not start_thread(body, "slow"):
            self._store(entry, None)

    def retain(self, keys: Collection[str]) -> None:
        """Forget the devices that are gone."""
        for key in self._entries.keys() - set(keys):
            if not self._entries[key].reading:
                del self._entries[key]

    def _store(self, entry: _Entry, readings: SlowReadings | None) -> None:
        entry.reading = False
        now = asyncio.get_running_loop().time()
        if readings is None:
            entry.due = now + _SOON
            return
        wait = _TRIP_EVERY if readings.poll_trip else float("inf")
        if readings.serial is None:
            wait = min(wait, entry.retry)
            entry.retry = min(2 * entry.retry, _MAX_RETRY)
        entry.due = now + wait
        if readings != entry.readings:
            entry.readings = readings
            self._wake()
