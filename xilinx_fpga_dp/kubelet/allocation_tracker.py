"""Tracks which container holds which device.

kubelet counts devices by resource name and id, so it takes a device that appears under another name for free.
Every unit is therefore confirmed before it is offered: podresources has been asked since it was new. kubelet
may still allocate a device under its old name right after a rename, or while another instance with other
settings serves that name. So the tracker asks once more after each new unit, and keeps polling while another
instance has an endpoint, a device is held under another name, or kubelet has not answered. Without an answer
nothing counts as held, nothing held is freed, and new units are confirmed all the same.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from xilinx_fpga_dp.aio.coalesced import Coalesced
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Held

_INTERVAL = 3.0  # seconds between polls while a device is held elsewhere or kubelet has not answered
_FAST_INTERVAL = 1.0  # the same after a new unit, and while another process may allocate one
_MAX_AGE = 0.5  # seconds for which an answer is new enough for display

UnitKeys = frozenset[tuple[str, str]]
"""Pairs of resource name and device id."""


class AllocationTracker:
    """Asks podresources whenever a unit is new, and polls while it matters."""

    def __init__(
        self, api: PodResources, wake: Callable[[], None], others_allocate: Callable[[], bool]
    ) -> None:
        self._api = api
        self._wake = wake  # called when an answer has changed something
        self._others_allocate = others_allocate  # returns whether another process may allocate a unit
        self.held: Held = {}  # the newest answer
        self.confirmed: UnitKeys = frozenset()
        self.held_elsewhere = False  # a device is held under another name; set by the snapshot builder
        self._answered = False
        self.has_answered = asyncio.Event()  # kubelet has answered at least once
        self._poll_fast = False  # the newest answer may be outdated soon
        self._new: UnitKeys = frozenset()
        self._wanted = asyncio.Event()
        self._asked = asyncio.Event()
        self._reads = Coalesced(self._read)
        self._questions = Coalesced(self._ask)
        self._last_read: tuple[Held, float] | None = None  # with its time

    async def confirm(self, units: UnitKeys, patience: float) -> UnitKeys:
        """Return which of all units may be offered: podresources has been asked since they were new.

        Wait at most ``patience`` seconds for that. A unit that is gone counts as new when it comes back.
        """
        self.confirmed &= units
        self._new = units - self.confirmed
        if self._new:
            self._asked.clear()
            self._wanted.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._asked.wait()
        return self.confirmed & units

    async def recent_holders(self) -> Held:
        """Return the holders, for display; the newest known answer if kubelet does not answer.

        Ask twice a second at most, for any number of callers: kubelet would refuse the calls that matter.
        """
        return await self._reads.run()

    async def holders_now(self) -> Held:
        """Return the holders as kubelet knows them now; the newest known answer if it does not answer."""
        return await self._questions.run()

    async def offered_by_plugins(self) -> frozenset[str] | None:
        """Return the addresses of the devices that device plugins offer; None if kubelet does not answer."""
        return await self._api.offered()

    async def _read(self) -> Held:
        now = asyncio.get_running_loop().time
        if self._last_read is None or now() - self._last_read[1] >= _MAX_AGE:
            held = await self._api.held()
            self._last_read = (self.held if held is None else held), now()
        return self._last_read[0]

    async def _ask(self) -> Held:
        held = await self._api.held(insist=True)
        return self.held if held is None else held

    async def run(self) -> None:
        """Ask whenever it is needed. Endless."""
        while True:
            try:
                async with asyncio.timeout(_FAST_INTERVAL if self._poll_fast else _INTERVAL):
                    await self._wanted.wait()
            except TimeoutError:
                if self._answered and not self.held_elsewhere and not self._poll_fast:
                    continue
            self._wanted.clear()
            new, self._new = self._new, frozenset()
            self._poll_fast = bool(new) or self._others_allocate()
            held = await self._api.held(insist=bool(new))
            self._answered = held is not None
            if self._answered:
                self.has_answered.set()
            changed = bool(new) or held not in (None, self.held)
            self.held = self.held if held is None else held
            self.confirmed |= new
            self._asked.set()
            if changed:
                self._wake()
