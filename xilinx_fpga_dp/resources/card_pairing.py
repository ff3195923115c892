"""Card pairing: which devices are one card. Pure but for its memory; times are passed in.

The two devices of a U30 have one serial number, and one device id at kubelet. A serial number is read late,
or never, and an id must not change when it arrives. So a device waits for its serial number, 30 s at most;
then it is paired without: with the only other device behind the nearest bridge that has others, or with none.
A decision holds until the process ends, also while the devices are gone. A serial number that arrives late
and contradicts a decision is a warning.

A device whose second one is not there is a card of its own, with a warning: half a card still works, and some
virtual machines show neither serial numbers nor bridges. That holds whether the second one was there before
or not, so a service and a single scan say the same of one bus.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from xilinx_fpga_dp.model import Device

WAIT: Final = 30.0
"""Seconds a device waits for its serial number before it is paired without."""

BOARD_OF_TWO: Final = "u30"
"""The board whose cards have two devices."""

_PER_CARD: Final = 2
_HALF: Final = (
    "is half a card: its second device is not on the bus, or shows no serial number to find it by; is the "
    "slot split x4x4 (bifurcation in the BIOS)? It is offered alone; U30_UNIT=device says that this is meant"
)


@dataclass(frozen=True, slots=True)
class CardAssignment:
    """What is decided about the devices of an inventory, all by address."""

    # By each device of a card with two, both; the first is the card's id.
    cards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # The serial numbers that names may use; one that arrived too late is not among them.
    serials: Mapping[str, str] = field(default_factory=dict)
    singles: frozenset[str] = frozenset()  # decided to be a card of their own, also those that are gone
    waiting: frozenset[str] = frozenset()  # not offered before their serial number is known
    warnings: tuple[str, ...] = ()  # what was decided on too little, or is contradicted since


class CardPairing:
    """Decides which devices are one card, and which serial numbers count."""

    def __init__(self, *, pair: bool, wait: float = WAIT) -> None:
        self._pair = pair  # the two devices of a U30 are one card; else every device is a card of its own
        self._wait = wait  # seconds to wait for a serial number
        # Of the present devices alone; `assign` drops the others.
        self._seen: dict[str, float] = {}  # time of the first sight
        self._serials: dict[str, str | None] = {}  # the serial number that counts, once decided
        # Of all devices ever decided, by address.
        self._cards: dict[str, tuple[str, ...]] = {}

    def assign(
        self, devices: Sequence[Device], now: float, by_serial: Callable[[Device], bool] = lambda _: False
    ) -> CardAssignment:
        """Decide what can be decided about all devices of the inventory, which are ordered by address.

        `now` is of the monotonic clock; `by_serial` returns whether a device's name needs its serial number.
        """
        self._seen = {each.address: self._seen.get(each.address, now) for each in devices}
        self._serials = {
            each.address: self._serials.get(each.address, each.serial)
            for each in devices
            if each.address in self._serials or each.serial or self._has_waited(each, now)
        }
        waiting = {each.address for each in devices if each.address not in self._serials and by_serial(each)}
        if self._pair:
            waiting |= self._pair_up(
                [each for each in devices if each.board == BOARD_OF_TWO and not each.rule], now
            )
        serials = {each.address: each.serial for each in devices if each.serial}
        cards = {
            address: card
            for address, card in self._cards.items()
            if len(card) == _PER_CARD and self._seen.keys() >= set(card)
        }
        alone = (self._cards.keys() & self._seen.keys()) - cards.keys()
        shared = Counter(serials.values())
        return CardAssignment(
            cards=cards,
            serials={address: serial for address, serial in self._serials.items() if serial},
            singles=frozenset(address for address, card in self._cards.items() if len(card) == 1),
            waiting=frozenset(waiting),
            warnings=(
                *(f"{each} {_HALF}" for each in sorted(alone) if shared[serials.get(each, "")] != _PER_CARD),
                *self._wrong_pairs(serials),
                *self._missed_pairs(serials),
            ),
        )

    def _pair_up(self, devices: Sequence[Device], now: float) -> set[str]:
        """Pair the devices that can be paired; return those that wait."""
        by_serial: defaultdict[str, list[Device]] = defaultdict(list)
        for device in devices:
            if device.serial:
                by_serial[device.serial].append(device)
        for same in by_serial.values():
            if len(same) == _PER_CARD:  # a serial number of more devices is a placeholder
                self._join(same)
        waiting: set[str] = set()
        undecided = [device for device in devices if device.address not in self._cards]
        for device in undecided:
            if device.address in self._cards:
                continue  # joined by one before it
            # A device with a serial number waits only for one without, which may be the second of its card.
            others = [each for each in undecided if each is not device and each.address not in self._cards]
            waits = not device.serial or any(not each.serial for each in others)
            if waits and not self._has_waited(device, now):
                waiting.add(device.address)
            else:
                self._join([device, *_behind_one_bridge(device, devices)])
        return waiting - self._cards.keys()

    def _join(self, devices: Sequence[Device]) -> None:
        """Make one card of one or two devices, unless that would change an id that is already offered."""
        cards = {self._cards[each.address] for each in devices if each.address in self._cards}
        undecided = sorted(each.address for each in devices if each.address not in self._cards)
        card = (*chain.from_iterable(cards), *undecided)
        if len(cards) <= 1 and len(card) <= _PER_CARD:
            self._cards |= dict.fromkeys(card, card)
        else:
            self._cards |= {address: (address,) for address in undecided}

    def _has_waited(self, device: Device, now: float) -> bool:
        return now - self._seen[device.address] >= self._wait

    def _wrong_pairs(self, serials: Mapping[str, str]) -> Iterable[str]:
        for address, card in sorted(self._cards.items()):
            different = {serials[each] for each in card if each in serials}
            if address == card[0] and len(different) > 1:
                yield (
                    f"{' and '.join(card)} were taken for one card, but their serial numbers differ "
                    f"({', '.join(sorted(different))}); restart the plugin on an idle node to part them"
                )

    def _missed_pairs(self, serials: Mapping[str, str]) -> Iterable[str]:
        ids: defaultdict[str, set[str]] = defaultdict(set)
        for address in serials.keys() & self._cards.keys():
            ids[serials[address]].add(self._cards[address][0])
        for serial, apart in sorted(ids.items()):
            if len(apart) == _PER_CARD:
                yield (
                    f"{' and '.join(sorted(apart))} were taken for different cards, but have one serial "
                    f"number ({serial}); restart the plugin on an idle node to pair them"
                )


def _behind_one_bridge(device: Device, devices: Sequence[Device]) -> Sequence[Device]:
    """Find the other device behind the nearest bridge that has others; empty if there are several."""
    for bridge in reversed(device.pcie_path):
        others = [each for each in devices if each is not device and bridge in each.pcie_path]
        if others:
            differ = device.serial and others[0].serial and device.serial != others[0].serial
            return others if len(others) == 1 and not differ else ()
    return ()
