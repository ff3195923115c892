"""Which of the available ids a container is best given. Pure.

What is free is seen as groups within groups: NUMA node, root bus, root port, card. All that a choice is
judged by adds up over the groups it draws upon. So one whole number holds it all, the weightier terms in the
higher bits, and the best choice of n from a group follows from the best choices of 0 to n from each of its
parts. The answer is the optimum at any size, and nothing is searched.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from operator import add

from xilinx_fpga_dp.model import Offer, Unit


class _Term(Enum):
    """What a choice is judged by."""

    NODES = auto()  # how many NUMA nodes it is on; a device whose node is unknown is near to any other
    BUSES = auto()  # how many root buses it is below
    PORTS = auto()  # how many root ports it is below
    CARDS = auto()  # how many cards it is on
    USED = auto()  # how many replicas of the chosen devices are in use
    SETTLED = auto()  # how many of the chosen devices are on cards that are in use
    CROWDED = auto()  # for each chosen device, how much of its card is in use or chosen before it
    ANYWHERE = auto()  # how many chosen devices fit beside any other, their node being unknown
    FREE_BY_NODE = auto()  # how much is left free of the largest group, then of the second largest, and so on
    FREE_BY_BUS = auto()
    FREE_BY_PORT = auto()
    FREE_BY_CARD = auto()


_LEVELS = (
    (_Term.NODES, _Term.FREE_BY_NODE),
    (_Term.BUSES, _Term.FREE_BY_BUS),
    (_Term.PORTS, _Term.FREE_BY_PORT),
    (_Term.CARDS, _Term.FREE_BY_CARD),
)
_NODE, _CARD = 0, 3

# The weightiest term first; 1: the less the better, -1: the more the better. The order of ids comes last.
_NEAR = dict.fromkeys((drawn for drawn, _ in _LEVELS), 1)
_WHOLE = {_Term.ANYWHERE: 1, **dict.fromkeys((free for _, free in _LEVELS), -1)}
_NUMA = {**_NEAR, **_WHOLE, _Term.USED: 1}
_PACKED = {_Term.USED: -1, _Term.SETTLED: -1, **_NEAR, **_WHOLE}
_SPREAD = {_Term.USED: 1, _Term.CROWDED: 1, _Term.CARDS: -1} | {
    term: sign for term, sign in (_NEAR | _WHOLE).items() if term is not _Term.CARDS
}
_POLICIES = {"numa": _NUMA, "packed": _PACKED, "spread": _SPREAD}

_COUNT_BITS = 40  # more than any of the counts needs

_Path = tuple[Hashable, ...]
"""A group, as those it is in from the outside in: NUMA nodes, root bus, root port, card."""

_Table = list[int]
"""What the best choice of 0, 1, 2... from a group costs."""


@dataclass(frozen=True, slots=True)
class _Spot:
    """What is granted as a whole, one device as a rule, whichever of its ids are free.

    Attributes:
        units: its ids. Of them, one at most may be chosen.
        path: its card's.
    """

    units: Sequence[Unit]
    path: _Path


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A spot that may be chosen.

    Attributes:
        id: the first of its free ids.
        path: its card's.
        used: how many of its ids are in use.
    """

    id: str
    path: _Path
    used: int


@dataclass(frozen=True, slots=True)
class _Field:
    """What there is to choose from.

    Attributes:
        candidates: ordered by id.
        drawn: the groups on which the ids are that must be included.
        load: how many ids of each card are in use or must be included.
        anywhere: the sets of NUMA nodes that tell nothing: none, and every node the offer knows.
    """

    candidates: Sequence[_Candidate]
    drawn: Collection[_Path]
    load: Mapping[_Path, int]
    anywhere: Collection[Hashable]


def preferred(
    offer: Offer, available: Sequence[str], must_include: Sequence[str], size: int, policy: str = "numa"
) -> list[str]:
    """Choose ``size`` ids: all that must be included, as they come, then the best others, ordered.

    Of ids that share a device at most one is added. Fewer than ``size`` are returned where no more are left;
    kubelet then decides by itself.

    Args:
        offer: what the plugin advertises.
        available: what kubelet may give. Ids the offer does not know are chosen last.
        must_include: what the answer must hold, even where that is too much or a bad choice.
        size: how many ids kubelet wants.
        policy: ``numa``: near to each other; ``packed``: what is in use already first, then as ``numa``;
            ``spread``: what is least in use first, and on many cards. Any other is taken for ``numa``.
    """
    must = list(dict.fromkeys(must_include))
    wanted = size - len(must)
    if wanted <= 0:
        return must
    rest = set(available).difference(must)
    field = _survey(offer, rest, frozenset(must))
    best = _Costs(field, wanted, _POLICIES.get(policy, _NUMA)).best()
    # Allocate refuses an id that the offer does not know.
    strangers = sorted(rest.difference([unit.id for unit in offer.units]))
    return [*must, *best, *strangers[: wanted - len(best)]]


def _survey(offer: Offer, rest: Collection[str], must: Collection[str]) -> _Field:
    """See what is free, what is in use, and where the ids are that must be included."""
    candidates: list[_Candidate] = []
    drawn: set[_Path] = set()
    load: Counter[_Path] = Counter()
    for spot in _spots(offer.units):
        free = [unit.id for unit in spot.units if unit.id in rest]
        gone = [unit for unit in spot.units if unit.id not in rest]
        included = sum(unit.id in must for unit in gone)
        # An Unhealthy one is not available either, and may well be unused.
        used = sum(unit.id not in must and unit.reason is None for unit in gone)
        load[spot.path] += used + included
        if included:
            drawn.update(spot.path[: level + 1] for level in range(len(_LEVELS)))
        elif free:
            candidates.append(_Candidate(min(free), spot.path, used))
    candidates.sort(key=lambda candidate: candidate.id)
    return _Field(candidates, drawn, load, _anywhere(offer))


def _anywhere(offer: Offer) -> Collection[Hashable]:
    # Beside devices that know their node, those that do not are offered with all nodes.
    places = {unit.numa_nodes for unit in offer.units}
    every = {node for nodes in places for node in nodes}
    return [nodes for nodes in places if not nodes or every.issubset(nodes)]


def _spots(units: Iterable[Unit]) -> list[_Spot]:
    """Put the ids together that share devices, and find the groups that these are in.

    A card is what shares a slot or a serial number; one on two root ports counts as below the first.
    """
    alike: defaultdict[tuple[str, ...], list[Unit]] = defaultdict(list)
    for unit in units:
        alike[tuple([device.address for device in unit.devices]) or (unit.id,)].append(unit)
    sharing: defaultdict[int, list[Unit]] = defaultdict(list)
    for first, same in zip(_joined(list(alike)), alike.values(), strict=True):
        sharing[first] += same
    # Those that share a device share its place.
    cards = _joined([_marks_of_card(same[0]) for same in sharing.values()])
    roots: defaultdict[int, set[tuple[str, ...]]] = defaultdict(set)
    for card, same in zip(cards, sharing.values(), strict=True):
        roots[card].update(device.pcie_path[:2] for device in same[0].devices if device.pcie_path)
    spots = []
    for card, same in zip(cards, sharing.values(), strict=True):
        root = min(roots[card], default=())
        spots.append(_Spot(same, (same[0].numa_nodes, root[:1], root, card)))
    return spots


def _marks_of_card(unit: Unit) -> list[Hashable]:
    # With the nodes, so that whatever the host says, no card is on two of them.
    slots = [(unit.numa_nodes, "slot", device.address.rpartition(".")[0]) for device in unit.devices]
    serials = [(unit.numa_nodes, "serial", device.serial) for device in unit.devices if device.serial]
    return [*slots, *serials]


def _joined(marks: Sequence[Collection[Hashable]]) -> list[int]:
    """For each item, the first of those it shares a mark with, be it through others."""
    owner: dict[Hashable, int] = {}
    first = list(range(len(marks)))
    for item, own in enumerate(marks):
        met = {first[owner.setdefault(mark, item)] for mark in own} | {item}
        first[item] = min(met)
        if len(met) > 2:  # noqa: PLR2004 - it and two others: they were apart until now
            first = [first[item] if each in met else each for each in first]
    return first


class _Costs:
    """What choices cost, as whole numbers that add up and compare as the list of terms would."""

    def __init__(self, field: _Field, wanted: int, terms: Mapping[_Term, int]) -> None:
        self._field = field
        self._wanted = min(wanted, len(field.candidates))
        sizes = [
            Counter(each.path[: level + 1] for each in field.candidates) for level in range(len(_LEVELS))
        ]
        # Of a sum of powers of a base that is above the number of summands, the largest decide.
        self._digits = [len(groups).bit_length() for groups in sizes]
        widths = {
            free: digit * (max(groups.values(), default=0) + 1)
            for (_, free), digit, groups in zip(_LEVELS, self._digits, sizes, strict=True)
        }
        # The lowest bits: one for each candidate, the highest for the first id.
        offset = len(field.candidates)
        self._worth = dict.fromkeys(_Term, 0)
        for term, sign in reversed(list(terms.items())):
            self._worth[term] = sign << offset
            offset += widths.get(term, _COUNT_BITS)

    def best(self) -> list[str]:
        """The ids of the best choice, ordered."""
        candidates = self._field.candidates
        members = [(each.path, self._alone(place, each)) for place, each in enumerate(candidates)]
        cost = self._of_all(self._of_groups(members, _NODE))[self._wanted]
        # The bits of the ids were subtracted, all else is a multiple of what is above them.
        chosen = -cost & ((1 << len(candidates)) - 1)
        return [each.id for bit, each in enumerate(reversed(candidates)) if chosen >> bit & 1][::-1]

    def _alone(self, place: int, candidate: _Candidate) -> int:
        """What a candidate costs by itself, its groups aside."""
        worth = self._worth
        cost = candidate.used * worth[_Term.USED] - (1 << len(self._field.candidates) - 1 - place)
        if self._field.load[candidate.path]:
            cost += worth[_Term.SETTLED]
        if self._anywhere(candidate.path):
            cost += worth[_Term.ANYWHERE]
        return cost

    def _anywhere(self, path: _Path) -> bool:
        return path[_NODE] in self._field.anywhere

    def _of_all(self, by_nodes: Mapping[_Path, _Table]) -> _Table:
        """Put the groups of all nodes together."""
        known = self._sum([table for path, table in by_nodes.items() if not self._anywhere(path)])
        if all(map(self._anywhere, self._field.drawn)):
            # What is anywhere takes a node of its own where there is nothing that it could be near to.
            known[0] += self._worth[_Term.NODES]
        return self._sum([known, *(table for path, table in by_nodes.items() if self._anywhere(path))])

    def _of_groups(self, members: Sequence[tuple[_Path, int]], level: int) -> dict[_Path, _Table]:
        """The table of each group of a level."""
        groups: defaultdict[Hashable, list[tuple[_Path, int]]] = defaultdict(list)
        for member in members:
            groups[member[0][level]].append(member)
        tables = {}
        for group in groups.values():
            if level == _CARD:
                parts = [[0, cost] for _, cost in group]
            else:
                parts = list(self._of_groups(group, level + 1).values())
            path = group[0][0][: level + 1]
            tables[path] = list(map(add, self._sum(parts), self._charges(path, len(group))))
        return tables

    def _charges(self, path: _Path, size: int) -> _Table:
        """What it costs to take 0, 1, 2... from a group, whichever they are."""
        level = len(path) - 1
        drawn, free = _LEVELS[level]
        digit, left = self._digits[level], self._worth[free]
        charges = [left << digit * (size - taken) for taken in range(min(size, self._wanted) + 1)]
        free_of_charge = path in self._field.drawn or (level == _NODE and self._anywhere(path))
        fee = 0 if free_of_charge else self._worth[drawn]
        crowd = self._worth[_Term.CROWDED] if level == _CARD else 0
        load = self._field.load[path] if crowd else 0
        for taken in range(1, len(charges)):
            charges[taken] += fee + crowd * (taken * load + taken * (taken - 1) // 2)
        return charges

    def _sum(self, tables: Sequence[_Table]) -> _Table:
        """The table of a whole from those of its parts, by halves: that is the least work."""
        if len(tables) <= 1:
            return tables[0] if tables else [0]
        half = len(tables) // 2
        left, right = self._sum(tables[:half]), self._sum(tables[half:])[::-1]
        # However many are taken, the best split between the two parts: one runs up, the other down.
        last = len(right) - 1
        return [
            min(map(add, left[max(0, taken - last) : taken + 1], right[max(0, last - taken) :]))
            for taken in range(min(len(left) + last, self._wanted + 1))
        ]
