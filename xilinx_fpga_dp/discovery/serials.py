"""Serial numbers: read apart from everything else, kept, and never evidence of anything.

The driver asks the management function for them and may take 20 s to answer (XRT xmc.c, mailbox.c).
"""

import asyncio
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

# An empty answer may mean "not fetched yet" or that the card has none: ask again, ever more rarely.
_RETRY = 2.0
_MAX_RETRY = 300.0


@dataclass(slots=True, eq=False)
class _Entry:
    serial: str | None = None
    reading: bool = True
    retry: float = _RETRY
    due: float = 0.0  # loop time of the next try


class Serials:
    """The serial numbers known so far, by address. Touched on the loop only.

    Args:
        wake: called on the loop when a serial number has come in.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._entries: dict[str, _Entry] = {}

    @property
    def reading(self) -> bool:
        """Whether some answer is still awaited."""
        return any(entry.reading for entry in self._entries.values())

    def get(self, address: str, read: Callable[[], str | None]) -> str | None:
        """The serial number if it is known; else start ``read`` on a thread of its own when it is time."""
        entry = self._entries.get(address)
        if entry is None:
            entry = self._entries[address] = _Entry()
        elif entry.serial or entry.reading or asyncio.get_running_loop().time() < entry.due:
            return entry.serial
        entry.reading = True
        loop = asyncio.get_running_loop()

        def body() -> None:
            serial = read()
            try:
                loop.call_soon_threadsafe(self._store, entry, serial)
            except RuntimeError:  # the loop is closed: the process is ending
                return

        threading.Thread(target=body, name="serial", daemon=True).start()
        return None

    def keep(self, addresses: Collection[str]) -> None:
        """Forget the devices that are gone: another card may come into the slot."""
        for address in self._entries.keys() - set(addresses):
            if not self._entries[address].reading:  # one thread a device, whatever happens to it
                del self._entries[address]

    def _store(self, entry: _Entry, serial: str | None) -> None:
        entry.serial = serial
        entry.reading = False
        entry.due = asyncio.get_running_loop().time() + entry.retry
        entry.retry = min(2 * entry.retry, _MAX_RETRY)
        if serial:
            self._wake()
