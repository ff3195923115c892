"""What a driver asks the management function for: it may take 20 s, so it is read apart and never waited for.

The serial number is never evidence of anything. XRT xmc.c, firewall.c; mailbox.c has the times.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from xilinx_fpga_dp.aio.daemon_threads import start_thread
from xilinx_fpga_dp.discovery.sysfs import OutOfDescriptors

# An empty serial number may mean "not fetched yet" or that the card has none: ask again, ever more rarely.
_RETRY = 2.0
_MAX_RETRY = 300.0
# Seconds until what nobody was asked, for want of a thread or a descriptor, is asked.
_SOON = 0.2
# Seconds between looks at a firewall of which the driver keeps no record.
_TRIP_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known so far. None: nothing.

    Attributes:
        serial: the card's serial number.
        trip: the firewall's trip.
        again: the trip has to be asked for again and again.
    """

    serial: str | None = None
    trip: str | None = None
    again: bool = False


@dataclass(slots=True, eq=False)
class _Entry:
    answers: Answers = Answers()
    reading: bool = False
    retry: float = _RETRY
    due: float = 0.0  # loop time of the next try


class SlowAttributes:
    """The slow answers known so far, by address. Touched on the loop only.

    Args:
        wake: called on the loop when an answer has brought something new.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._entries: dict[str, _Entry] = {}

    @property
    def reading(self) -> bool:
        """Whether some answer is still awaited."""
        return any(entry.reading for entry in self._entries.values())

    def known(self, address: str) -> Answers | None:
        """What is known of a device; None: it was never asked."""
        entry = self._entries.get(address)
        return entry.answers if entry else None

    def ask(self, address: str, read: Callable[[str | None], Answers]) -> None:
        """Start ``read`` on a thread of its own, if it is time.

        Args:
            address: of the device.
            read: is given the serial number that is known already; its result replaces what is known.
        """
        loop = asyncio.get_running_loop()
        entry = self._entries.setdefault(address, _Entry())
        if not entry.reading and loop.time() >= entry.due:
            entry.reading = True
            known = entry.answers

            def body() -> None:
                try:
                    answers: Answers | None = read(known.serial)
                except OutOfDescriptors:  # nobody was asked
                    answers = None
                try:
                    loop.call_soon_threadsafe(self._store, entry, answers)
                except RuntimeError:  # the loop is closed: the process is ending
                    return

            if not start_thread(body, "slow"):
                self._store(entry, None)

    def keep(self, addresses: Collection[str]) -> None:
        """Forget the devices that are gone: another card may come into the slot."""
        for address in self._entries.keys() - set(addresses):
            if not self._entries[address].reading:  # one thread a device, whatever happens to it
                del self._entries[address]

    def _store(self, entry: _Entry, answers: Answers | None) -> None:
        entry.reading = False
        if answers is None:
            entry.due = asyncio.get_running_loop().time() + _SOON
            return
        news = answers != entry.answers
        entry.answers = answers
        wait = _TRIP_EVERY if answers.again else float("inf")
        if answers.serial is None:
            wait = min(wait, entry.retry)
            entry.retry = min(2 * entry.retry, _MAX_RETRY)
        entry.due = asyncio.get_running_loop().time() + wait
        if news:
            self._wake()
