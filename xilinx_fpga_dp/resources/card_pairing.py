"""Which devices are one card: the two of a U30 have one serial number, and one device id at kubelet.

A serial number may come late or never, and an id must not change when it comes. So what was decided without
one stays, for the life of the process. Pure but for that memory; times are handed in.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from xilinx_fpga_dp.model import Device

WAIT: Final = 30.0
"""Seconds a device waits for its serial number before it is decided without."""

BOARD_OF_TWO: Final = "u30"
"""The board whose cards have two devices."""

_PER_CARD: Final = 2


@dataclass(frozen=True, slots=True)
class CardAssignment:
    """What is decided about the devices there are.

    Attributes:
        cards: by each device of a card with several, the addresses of all; the first is the card's id.
        serials: serial numbers as names may use them; one that came too late is not among them.
        singles: addresses of devices that were seen to be no part of such a card, those that are gone too.
        waiting: devices that can't be offered before their serial number is known.
        warnings: where a serial number that came late contradicts what was decided.
    """

    cards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    serials: Mapping[str, str] = field(default_factory=dict)
    singles: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


def unpaired(devices: Iterable[Device]) -> CardAssignment:
    """Make every device a card of its own, named by the serial number that it has now."""
    return CardAssignment(serials={each.address: each.serial for each in devices if each.serial})


class CardPairing:
    """Decides which devices are one card and which serial numbers count.

    Args:
        pair: the two devices of a U30 are one card; else every device stands alone.
        wait: seconds to wait for a serial number.
    """

    def __init__(self, *, pair: bool, wait: float = WAIT) -> None:
        self._pair = pair
        self._wait = wait
        self._seen: dict[str, float] = {}  # since when the devices there are have been there
        self._serials: dict[str, str | None] = {}  # decided, of the devices there are
        self._cards: dict[str, tuple[str, ...]] = {}  # decided, by device; a lone one may still get its other

    def assign(
        self, devices: Sequence[Device], now: float, by_serial: Callable[[Device], bool] = lambda _: False
    ) -> CardAssignment:
        """What is decided about these devices, all there are.

        Args:
            devices: ordered by address.
            now: seconds of the monotonic clock.
            by_serial: whether a device can't be named before its serial number is known.
        """
        there = {device.address: device for device in devices}
        self._seen = {address: self._seen.get(address, now) for address in there}
        self._serials = {address: each for address, each in self._serials.items() if address in there}
        for device in devices:
            if device.address not in self._serials and (device.serial or self._waited(device, now)):
                self._serials[device.address] = device.serial
        waiting = {a for a in there.keys() - self._serials.keys() if by_serial(there[a])}
        if self._pair:
            waiting |= self._pair_up([device for device in devices if device.board == BOARD_OF_TWO], now)
        return CardAssignment(
            cards={address: card for address, card in self._cards.items() if len(card) > 1},
            serials={address: serial for address, serial in self._serials.items() if serial},
            singles=frozenset(address for address, card in self._cards.items() if len(card) == 1),
            waiting=frozenset(waiting),
            warnings=tuple(self._contradictions(there)),
        )

    def _pair_up(self, devices: list[Device], now: float) -> set[str]:
        """Decide what can be decided; which devices wait."""
        open_ = [device for device in devices if device.address not in self._cards]
        for mates in self._by_serial(devices):
            self._join(mates)
        waiting = set()
        for device in open_:
            if device.address in self._cards:
                continue
            # With a serial number it waits only for one without, which may be the card's other device.
            others = [each for each in open_ if each is not device and each.address not in self._cards]
            if not self._waited(device, now) and (
                not device.serial or any(not each.serial for each in others)
            ):
                waiting.add(device.address)
            else:
                self._join([device, *(self._behind_one_bridge(device, devices))])
        return waiting - self._cards.keys()

    def _by_serial(self, devices: Iterable[Device]) -> Iterable[list[Device]]:
        """The devices of each card that serial numbers alone tell."""
        groups: defaultdict[str, list[Device]] = defaultdict(list)
        for device in devices:
            if device.serial:
                groups[device.serial].append(device)
        # A serial number that more than two have is a placeholder.
        return [group for group in groups.values() if len(group) == _PER_CARD]

    def _behind_one_bridge(self, device: Device, devices: Sequence[Device]) -> list[Device]:
        """The other device behind the nearest bridge that has any other; none if it has more than one."""
        for bridge in reversed(device.pcie_path):
            others = [each for each in devices if each is not device and bridge in each.pcie_path]
            if others:
                same = len(others) == 1 and (
                    not device.serial or not others[0].serial or device.serial == others[0].serial
                )
                return others if same else []
        return []

    def _join(self, devices: Sequence[Device]) -> None:
        """Make one card of devices, unless that would take away an id that is already offered."""
        decided = {self._cards[each.address] for each in devices if each.address in self._cards}
        if not decided:
            card = tuple(sorted(each.address for each in devices))
        else:
            fresh = [each.address for each in devices if each.address not in self._cards]
            if len(decided) > 1 or len(max(decided)) >= _PER_CARD:
                for address in fresh:
                    self._cards[address] = (address,)
                return
            card = (*max(decided), *fresh)
        for address in card:
            self._cards[address] = card

    def _waited(self, device: Device, now: float) -> bool:
        return now - self._seen[device.address] >= self._wait

    def _contradictions(self, there: Mapping[str, Device]) -> Iterable[str]:
        serials = {address: device.serial for address, device in there.items() if device.serial}
        for address, card in sorted(self._cards.items()):
            told = {serials[each] for each in card if each in serials}
            if address == card[0] and len(told) > 1:
                yield (
                    f"{' and '.join(card)} were taken for one card, but their serial numbers differ "
                    f"({', '.join(sorted(told))}); restart the plugin on an idle node to part them"
                )
        units: defaultdict[str, set[str]] = defaultdict(set)
        for address in serials.keys() & self._cards.keys():
            units[serials[address]].add(self._cards[address][0])
        for serial, apart in sorted(units.items()):
            if len(apart) > 1 and len(apart) <= _PER_CARD:
                yield (
                    f"{' and '.join(sorted(apart))} were taken for different cards, but have one serial "
                    f"number ({serial}); restart the plugin on an idle node to pair them"
                )
