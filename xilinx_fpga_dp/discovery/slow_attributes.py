"""Attributes that take a driver up to 20 s: serial numbers, and firewalls before XRT 2022.2.

XRT's driver asks the management function for them through a mailbox (XRT xmc.c, firewall.c; mailbox.c has
the times). No scan waits for them. Every device has at most one read under way, on a thread of its own. A
scan starts the next read when it is due and takes the newest readings there are:

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

# Seconds: between reads of a serial number, at first and at most; after a read that could not be made;
# between reads of a trip.
_RETRY = 2.0
_MAX_RETRY = 300.0
_SOON = 0.2
_TRIP_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class SlowReadings:
    """The slow attributes of a device as last read.

    Attributes:
        serial: the card's serial number; None if not known.
        trip: the firewall trip; None if there is none.
        poll_trip: the driver does not latch trips, so they have to be polled.
    """

    serial: str | None = None
    trip: str | None = None
    poll_trip: bool = False


@dataclass(slots=True, eq=False)
class _Entry:
    readings: SlowReadings = SlowReadings()
    reading: bool = False
    retry: float = _RETRY
    due: float = 0.0  # loop time of the next read


class SlowAttributes:
    """The slow attributes of all devices, by key. Used on the loop only.

    Args:
        wake: called on the loop when a read has brought something new.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._entries: dict[str, _Entry] = {}

    @property
    def reading(self) -> bool:
        """Whether a read is under way."""
        return any(entry.reading for entry in self._entries.values())

    def get(self, key: str) -> SlowReadings | None:
        """Return the last readings of a device; None if it was never read."""
        entry = self._entries.get(key)
        return entry.readings if entry else None

    def refresh(self, key: str, read: Callable[[str | None], SlowReadings]) -> None:
        """Start a read if one is due.

        Args:
            key: of the device.
            read: takes the serial number if it is known; runs on a thread.
        """
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
        news = readings != entry.readings
        entry.readings = readings
        wait = _TRIP_EVERY if readings.poll_trip else float("inf")
        if readings.serial is None:
            wait = min(wait, entry.retry)
            entry.retry = min(2 * entry.retry, _MAX_RETRY)
        entry.due = now + wait
        if news:
            self._wake()
