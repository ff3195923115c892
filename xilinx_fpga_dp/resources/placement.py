"""Choose the ids that suit a container best from those that kubelet may give. Pure.

A policy is a list of costs, the weightiest first: of all choices those with the lowest first cost remain, of
these those with the lowest second one, and so on. Up to `MOST_CHOICES` choices are compared, which is exact;
devices of one card that are used alike are interchangeable and count as one. Beyond that ids are added one at
a time, each the best next one. That is greedy. Over random small nodes it misses the best choice in a
quarter of the questions, mostly by what it leaves free, and in one of 20 it draws on one more NUMA node
(`test_how_often_greedy_is_worse`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from xilinx_fpga_dp.model import Offer, Unit

T = TypeVar("T")

MOST_CHOICES: Final = 2000
"""The most choices that are all compared."""

_Path = tuple[Hashable, ...]
"""The place of a card: its NUMA nodes, root bus, root port, and itself."""

_LEVELS: Final = 4


class _Candidate(NamedTuple):
    """A device that may be chosen: its lowest free id, its groups, and how many of its ids are in use.

    Each group is a bit: of its NUMA nodes, of its root bus, of its root port and of its card.
    """

    id: str
    groups: tuple[int, ...]
    card: int  # the last of the groups
    used: int


_Choice = tuple[_Candidate, ...]


class _Question:
    """One question of kubelet: the candidates, and what a choice of them costs. Lower is better."""

    def __init__(self, offer: Offer, free: set[str], must: set[str]) -> None:
        self.candidates: list[_Candidate] = []
        self._included = 0  # groups of the ids that must be included
        self._load: Counter[int] = Counter()  # by card, how many ids are in use or must be included
        self._bits: dict[_Path, int] = {}
        self._levels = [0] * _LEVELS  # the groups of each level
        # A device of unknown NUMA node is offered without nodes, or with all nodes if another knows its own.
        everywhere = tuple(sorted({node for unit in offer.units for node in unit.numa_nodes}))
        self._anywhere = self._bit(((),)) | self._bit((everywhere,))
        for path, units in _by_card(offer.units):
            groups = tuple(self._bit(path[: level + 1]) for level in range(_LEVELS))
            free_ids = [unit.id for unit in units if unit.id in free]
            included = sum(unit.id in must for unit in units)
            # An unhealthy unit is not available either, and may well be unused.
            used = sum(unit.reason is None and unit.id not in free and unit.id not in must for unit in units)
            self._load[groups[-1]] += used + included
            if included:
                self._included |= sum(groups)
            elif free_ids:
                self.candidates.append(_Candidate(min(free_ids), groups, groups[-1], used))
        self.candidates.sort()
        self._free = Counter(group for each in self.candidates for group in each.groups)

    def _bit(self, group: _Path) -> int:
        bit = self._bits.setdefault(group, 1 << len(self._bits))
        self._levels[len(group) - 1] |= bit
        return bit

    def distance(self, choice: _Choice) -> list[int]:
        """Count NUMA nodes, buses, ports and cards. A device near to every node needs none of its own."""
        groups = self._included
        for candidate in choice:
            groups |= sum(candidate.groups)
        groups &= ~self._anywhere
        return [max(1, (groups & level).bit_count()) for level in self._levels]

    def left(self, choice: _Choice) -> list[object]:
        """Keep devices that are near to every node, then large groups, for the next container."""
        left = self._free.copy()
        for candidate in choice:
            for group in candidate.groups:
                left[group] -= 1
        sizes = [sorted(-size for group, size in left.items() if group & level) for level in self._levels]
        return [sum(each.groups[0] & self._anywhere > 0 for each in choice), *sizes]

    def used(self, choice: _Choice) -> int:
        """Avoid devices with ids in use."""
        return sum(each.used for each in choice)

    def unused(self, choice: _Choice) -> list[int]:
        """Avoid devices without ids in use, then cards without."""
        return [-self.used(choice), -sum(self._load[each.card] > 0 for each in choice)]

    def crowding(self, choice: _Choice) -> list[int]:
        """Avoid cards with ids in use or chosen, then few cards."""
        chosen = Counter(each.card for each in choice)
        crowd = sum(sum(range(self._load[card], self._load[card] + n)) for card, n in chosen.items())
        return [crowd, -self.distance(choice)[-1]]

    def ids(self, choice: _Choice) -> list[str]:
        """Prefer low ids."""
        return sorted(each.id for each in choice)


_Cost = Callable[[_Question, _Choice], object]
_NUMA: Final = (_Question.distance, _Question.left, _Question.used, _Question.ids)
_POLICIES: Final[Mapping[str, tuple[_Cost, ...]]] = {
    "packed": (_Question.unused, *_NUMA),
    "spread": (_Question.used, _Question.crowding, *_NUMA),
}


def preferred(
    offer: Offer, available: Sequence[str], must_include: Sequence[str], size: int, policy: str = "numa"
) -> list[str]:
    """Choose ``size`` ids: all that must be included, in their order, then the best others, sorted.

    Of ids that share a device at most one is added. Fewer than ``size`` are returned if no more are left;
    kubelet then decides by itself.

    Args:
        offer: what the plugin advertises.
        available: what kubelet may give. Ids that the offer does not know are chosen last.
        must_include: what the result must hold, even if that is too much or a bad choice.
        size: how many ids kubelet wants.
        policy: ``numa``: near to each other; ``packed``: what is in use already first, then as ``numa``;
            ``spread``: what is least in use first, and on many cards. Any other counts as ``numa``.
    """
    must = list(dict.fromkeys(must_include))
    wanted = size - len(must)
    if wanted <= 0:
        return must
    free = set(available).difference(must)
    question = _Question(offer, free, set(must))
    chosen = _choose(question, min(wanted, len(question.candidates)), _POLICIES.get(policy, _NUMA))
    # Allocate refuses an id that the offer does not know.
    unknown = sorted(free.difference([unit.id for unit in offer.units]))
    return [*must, *question.ids(chosen), *unknown[: wanted - len(chosen)]]


def _choose(question: _Question, wanted: int, costs: Sequence[_Cost]) -> _Choice:
    alike: defaultdict[Hashable, list[_Candidate]] = defaultdict(list)
    for candidate in question.candidates:
        alike[candidate.card, candidate.used].append(candidate)
    choices = list(islice(_choices(list(alike.values()), wanted), MOST_CHOICES + 1))
    if len(choices) <= MOST_CHOICES:
        return _cheapest(question, choices, costs)
    chosen: _Choice = ()
    while len(chosen) < wanted:
        rest = [each for each in question.candidates if each not in chosen]
        chosen = _cheapest(question, [(*chosen, each) for each in rest], costs)
    return chosen


def _choices(alike: Sequence[Sequence[_Candidate]], wanted: int) -> Iterator[_Choice]:
    """Yield the choices of so many candidates that differ in more than interchangeable ones."""
    if not alike:
        yield ()
        return
    first, *rest = alike
    others = sum(map(len, rest))
    for count in range(max(0, wanted - others), min(wanted, len(first)) + 1):
        for choice in _choices(rest, wanted - count):
            yield (*first[:count], *choice)


def _cheapest(question: _Question, choices: list[_Choice], costs: Sequence[_Cost]) -> _Choice:
    for cost in costs:
        if len(choices) > 1:
            values = [cost(question, choice) for choice in choices]
            lowest = min(values)  # type: ignore[type-var]
            choices = [choice for choice, value in zip(choices, values, strict=True) if value == lowest]
    return choices[0]


def _by_card(units: Sequence[Unit]) -> Iterator[tuple[_Path, Sequence[Unit]]]:
    """Group the units that share devices; each comes with its card.

    Devices in one slot or with one serial number are on one card. A card below two root ports counts as below
    the first.
    """
    for card in _grouped(_grouped(units, _addresses), _card_marks):
        paths = [device.pcie_path for units in card for device in units[0].devices if device.pcie_path]
        port = min(paths, default=())[:2]
        for same in card:
            yield (same[0].numa_nodes, port[:1], port, card[0][0].id), same


def _addresses(unit: Unit) -> list[Hashable]:
    return [device.address for device in unit.devices] or [unit.id]


def _card_marks(units: Sequence[Unit]) -> list[Hashable]:
    # With the NUMA nodes: whatever the host says, no card is on two of them.
    first = units[0]
    slots = [(first.numa_nodes, "slot", device.address.rpartition(".")[0]) for device in first.devices]
    serials = [(first.numa_nodes, "serial", device.serial) for device in first.devices if device.serial]
    return [*slots, *serials] or [first.id]


def _grouped(items: Sequence[T], marks_of: Callable[[T], Sequence[Hashable]]) -> list[list[T]]:
    """Group the items that share a mark, directly or through others, in the order of their first items."""
    by_mark: dict[Hashable, list[T]] = {}
    for item in items:
        marks = marks_of(item)
        group = by_mark.setdefault(marks[0], [])
        for mark in marks[1:]:
            if (other := by_mark.setdefault(mark, group)) is not group:
                group += other
                by_mark |= {each: group for each, same in by_mark.items() if same is other}
        group.append(item)
    return list({id(group): group for group in by_mark.values()}.values())
