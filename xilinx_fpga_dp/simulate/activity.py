"""What the cards of a sample node do by themselves: their sensors move, and now and then something happens.

The load of a card rises and falls, and its sensors with it. While incidents are on, one begins each quarter
of a minute, in turn: a card runs hot, the PCIe link of one trains down, the firewall of one trips. Each goes
by. `tell` gets a line of text when one begins.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence

from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleCard, XrtCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import Trip

HOT = 2.5
"""The load of a card that runs hot."""

_TICK = 0.5  # seconds between two changes of the sensors
_WAVE = 40.0  # seconds in which the load of a card rises and falls
_PAUSE = 15.0  # seconds between two incidents
_LASTS = 10.0  # seconds of one
_RESET = 2.0  # seconds from a trip to the reset, as the driver waits, and of the reset


def trip(card: XrtCard) -> None:
    """Trip the firewall of a card now."""
    card.firewall_trip(Trip(time=int(time.time())))


class Activity:
    """The activity of some cards.

    Attributes:
        hot: the cards that run hot now.
    """

    def __init__(self, cards: Sequence[SampleCard]) -> None:
        self._cards = cards
        self.hot: set[SampleCard] = set()

    async def move(self) -> None:
        """Let the sensors move. Endless."""
        while True:
            for number, card in enumerate(self._cards):
                wave = math.sin((time.monotonic() / _WAVE + number / len(self._cards)) * math.tau)
                card.work(HOT if card in self.hot else 0.5 + 0.5 * wave)
            await asyncio.sleep(_TICK)

    async def happen(self, tell: Callable[[str], None]) -> None:
        """Let incidents happen. Endless."""
        kinds = (
            ("runs hot", self._run_hot),
            ("has half of its PCIe lanes", self._train_link),
            ("trips its firewall", self._trip),
        )
        for number in itertools.count():
            await asyncio.sleep(_PAUSE - _LASTS)
            turn, kind = divmod(number, len(kinds))
            card = self._cards[(turn + kind) % len(self._cards)]  # each card has each kind in the end
            text, incident = kinds[kind]
            tell(f"The card at {card.address} {text}")
            await incident(card)

    async def _run_hot(self, card: SampleCard) -> None:
        self.hot.add(card)
        await asyncio.sleep(_LASTS)
        self.hot.discard(card)

    async def _train_link(self, card: SampleCard) -> None:
        card.train_link(8)
        await asyncio.sleep(_LASTS)
        card.train_link()

    async def _trip(self, card: SampleCard) -> None:
        if isinstance(card, XrtCard):
            trip(card)
            await asyncio.sleep(_RESET)
            card.reset_begin()
            await asyncio.sleep(_RESET)
            card.reset_end()
            card.mend()
        await asyncio.sleep(_LASTS - 2 * _RESET)
