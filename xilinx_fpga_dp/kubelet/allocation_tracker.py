"""Tracks which container holds which device, for as long as it matters."""

import asyncio
from collections.abc import Callable

from xilinx_fpga_dp.aio.coalesced import Coalesced
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Held

# Seconds between questions while something is held, or nobody has answered.
_EVERY = 3.0
_SOON = 1.0  # the same as long as devices may be given under other names, too
_SHOWN = 0.5  # seconds for which an answer is good enough to be shown

UnitKeys = frozenset[tuple[str, str]]
"""Pairs of resource name and device id."""


class AllocationTracker:
    """Asks who holds what whenever a device is new under its name, and as long as it matters.

    A device that is free when it gets a new name may be given under the old one in that moment, or later
    while another instance, of other settings, has its endpoint. So it is asked once more, and again for as
    long as there is one.

    Args:
        api: whom to ask.
        wake: called when an answer brought something new.
        others: whether another instance has an endpoint.
    """

    def __init__(self, api: PodResources, wake: Callable[[], None], others: Callable[[], bool]) -> None:
        self._api = api
        self._wake = wake
        self._others = others
        self.held: Held = {}  # the last answer
        self.poll_fast = False  # set by who knows: a device is held elsewhere
        self._answered = True
        self._again = False  # what was answered last may have changed since
        self.vetted: UnitKeys = frozenset()  # of these it was asked who holds them
        self._new: UnitKeys = frozenset()
        self._wanted = asyncio.Event()
        self._asked = asyncio.Event()
        self._showing = Coalesced(self._show)
        self._shown: tuple[Held, float] | None = None  # and when it was asked

    async def confirm(self, names: UnitKeys, patience: float) -> UnitKeys:
        """Which of these names may be offered: it was asked who holds their devices, answered or not.

        Args:
            names: all there are; those that are gone count as new when they come back.
            patience: seconds to wait for an answer about new ones.
        """
        self.vetted &= names
        self._new = names - self.vetted
        if self._new:
            self._asked.clear()
            self._wanted.set()
            try:
                async with asyncio.timeout(patience):
                    await self._asked.wait()
            except TimeoutError:
                pass
        return self.vetted & names

    async def ask(self) -> Held:
        """Who holds what, to be shown; without an answer, what was known last.

        However often a page is asked for, kubelet is not: it would refuse the questions that matter.
        """
        return await self._showing.run()

    async def _show(self) -> Held:
        now = asyncio.get_running_loop().time
        if self._shown is None or now() - self._shown[1] >= _SHOWN:
            held = await self._api.held()
            self._shown = (self.held if held is None else held), now()
        return self._shown[0]

    async def run(self) -> None:
        """Ask whenever it is wanted, for ever."""
        while True:
            try:
                async with asyncio.timeout(_SOON if self._again else _EVERY):
                    await self._wanted.wait()
            except TimeoutError:
                if self._answered and not self.poll_fast and not self._again:
                    continue
            self._wanted.clear()
            new, self._new = self._new, frozenset()
            self._again = bool(new) or self._others()
            held = await self._api.held(insist=bool(new))
            self._answered = held is not None
            news = bool(new) or (held is not None and held != self.held)
            if held is not None:  # without an answer nothing held is freed
                self.held = held
            self.vetted |= new
            self._asked.set()
            if news:
                self._wake()
