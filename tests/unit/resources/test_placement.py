"""Preferred allocation, compared with the best of all possible choices."""

import random
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xilinx_fpga_dp.model import Device, Offer, Reason, Shell, Unit
from xilinx_fpga_dp.resources import placement
from xilinx_fpga_dp.resources.placement import preferred

SHELL = Shell("xilinx_u200_xdma_201830_2", "1561465320", None)
POLICIES = ("numa", "packed", "spread")

Cost = tuple[object, ...]
Question = tuple[Offer, list[str], list[str], int]  # offer, available, must_include, size


def device(
    address: str, port: tuple[str, ...] = (), serial: str | None = None, reason: Reason | None = None
) -> Device:
    return Device(address, SHELL, "u200", "xocl", serial=serial, pcie_path=port, reason=reason)


def offer(*units: Unit) -> Offer:
    return Offer("xilinx.com/fpga-x", tuple(sorted(units, key=lambda unit: unit.id)))


def card(slot: int, node: int, bus: int, port: int, *, functions: int = 1, replicas: int = 1) -> list[Unit]:
    """A card's units, as the plugin offers them: one for each function, or its replicas."""
    above = (f"pci0000:{bus:02x}", f"0000:{bus:02x}:{port:02x}.0")
    return [
        Unit(address if replicas == 1 else f"{address}::{k}", (device(address, above),), (node,))
        for address in (f"0000:{slot:02x}:00.{function}" for function in range(functions))
        for k in range(replicas)
    ]


def ids(*groups: Iterable[Unit]) -> list[str]:
    return [unit.id for group in groups for unit in group]


# --- the objective, written a second time ---


class Judge:
    """The cost of any answer to one question: the lower, the better."""

    def __init__(self, held: Offer, available: Collection[str], must: Collection[str]) -> None:
        self.units = {unit.id: unit for unit in held.units}
        self.addresses = {unit.id: {each.address for each in unit.devices} for unit in held.units}
        self.available = set(available) - set(must)
        self.must = [each for each in must if each in self.units]
        self.nodes = {node for unit in held.units for node in unit.numa_nodes}
        self.card = {each: self._card(each) for each in self.units}
        self.groups = {each: self._groups(each) for each in self.units}
        self.given = {
            each
            for each, unit in self.units.items()
            if unit.reason is None and each not in available and each not in must
        }

    def share(self, one: str, other: str) -> bool:
        return one == other or not self.addresses[one].isdisjoint(self.addresses[other])

    def _card(self, one: str) -> frozenset[str]:
        """All ids on the same card as this one."""
        grown = {one}
        while more := {b for a in grown for b in self.units if self._one_card(a, b)} - grown:
            grown |= more
        return frozenset(grown)

    def _one_card(self, one: str, other: str) -> bool:
        a, b = self.units[one], self.units[other]
        return self.share(one, other) or (
            a.numa_nodes == b.numa_nodes
            and any(
                c.address[:-2] == d.address[:-2] or (bool(c.serial) and c.serial == d.serial)
                for c in a.devices
                for d in b.devices
            )
        )

    def _groups(self, one: str) -> list[tuple[object, ...]]:
        """Its NUMA nodes, root bus, root port and card, from the outermost."""
        paths = [each.pcie_path for i in self.card[one] for each in self.units[i].devices if each.pcie_path]
        first = min(paths, default=())
        place = self.units[one].numa_nodes
        return [(place,), (place, first[:1]), (place, first[:2]), (place, first[:2], self.card[one])]

    def anywhere(self, one: str) -> bool:
        mine = set(self.units[one].numa_nodes)
        return not mine or mine == self.nodes

    def used(self, one: str) -> int:
        """How many ids of the same device are in use."""
        return sum(self.share(one, each) for each in self.given)

    def near(self, whole: Sequence[str]) -> list[int]:
        """Count the nodes, buses, ports and cards."""
        counts = [len({self.groups[each][level] for each in whole}) for level in range(4)]
        known = {self.groups[each][0] for each in whole if not self.anywhere(each)}
        return [max(1, len(known)), *counts[1:]]

    def left(self, whole: Sequence[str], extra: Sequence[str]) -> list[object]:
        """What stays free: devices near to any node, then the largest groups by node, bus, port and card."""
        free: list[str] = []
        for each in sorted(self.available & set(self.units)):
            if not any(self.share(each, other) for other in [*whole, *free]):
                free.append(each)
        kept: list[object] = [sum(map(self.anywhere, extra))]
        for level in range(4):
            every = {self.groups[each][level] for each in self.units}
            sizes = [sum(self.groups[each][level] == group for each in free) for group in every]
            kept.append([-size for size in sorted(sizes, reverse=True)])
        return kept

    def crowding(self, whole: Sequence[str]) -> int:
        cards = {self.card[each] for each in whole}
        return sum(
            len(self.given & card) + before
            for card in cards
            for before in range(sum(self.card[each] == card for each in whole))
        )

    def cost(self, extra: Sequence[str], policy: str) -> Cost:
        whole = [*self.must, *extra]
        near, left = self.near(whole), self.left(whole, extra)
        used = sum(map(self.used, extra))
        by_id = sorted(extra)
        if policy == "packed":
            settled = sum(not self.card[each].isdisjoint({*self.given, *self.must}) for each in extra)
            return (-used, -settled, near, left, by_id)
        if policy == "spread":
            return (used, self.crowding(whole), -near[3], near[:3], left, by_id)
        return (near, left, used, by_id)

    def choices(self, size: int) -> list[tuple[str, ...]]:
        """Every choice of `size` ids beside those that must be included, no two of one device."""
        pool = [
            each
            for each in sorted(self.available & set(self.units))
            if not any(self.share(each, other) for other in self.must)
        ]
        return [
            each
            for each in combinations(pool, size)
            if not any(self.share(a, b) for a, b in combinations(each, 2))
        ]


def brute_force(
    held: Offer, available: Sequence[str], must: Sequence[str], size: int, policy: str
) -> list[str]:
    judge = Judge(held, available, must)
    first = list(dict.fromkeys(must))
    wanted = max(0, size - len(first))
    unknown = sorted(set(available) - set(must) - set(judge.units))
    while not (choices := judge.choices(wanted)):
        wanted -= 1
    best = min(choices, key=lambda extra: judge.cost(extra, policy))
    return [*first, *sorted(best), *unknown[: max(0, size - len(first) - wanted)]]


# --- questions ---


PLACES: list[list[tuple[int, ...]]] = [
    [(0,)],
    [()],
    [(0,), (1,)],
    [(0,), (1,), (0, 1)],
    [(0,), (1,), (2,), (0, 1), (0, 1, 2), ()],
]
ROOTS: list[tuple[str, ...]] = [
    (f"pci0000:{bus}0", f"0000:{bus}0:0{port}.0") for bus in "36" for port in "13"
]
PORTS: list[list[tuple[str, ...]]] = [[()], ROOTS[:1], ROOTS[:3], [*ROOTS, ("pci0000:00",), ()]]
UNKNOWN = ["0000:aa:00.1", "0000:bb:00.1::0"]


def some_offer(chance: random.Random) -> Offer:
    """Up to ten devices or U30 cards, fewer with replicas, in any topology, consistent or not."""
    replicas = chance.choice([1, 1, 2, 3])
    count = chance.randint(0, 9 // replicas + 1)
    slots = chance.choice([3, 20])
    possible = [f"0000:{slot:02x}:00.{function}" for slot in range(slots) for function in range(8)]
    addresses = chance.sample(possible, 2 * count)
    places, ports = chance.choice(PLACES), chance.choice(PORTS)
    serials: list[str | None] = chance.choice([[None], ["", "A", None], ["A", "B", "C", "D", None]])
    reasons = [None] * chance.choice([1, 4]) + [Reason.OFFLINE]
    most = chance.choice([1, 2])
    units = []
    for number in range(count):
        place, reason = chance.choice(places), chance.choice(reasons)
        # An id without devices has no replicas.
        devices = tuple(
            device(address, chance.choice(ports), chance.choice(serials), reason)
            for address in addresses[2 * number : 2 * number + chance.choice([1, 1, most, most, 0])]
        )
        name = addresses[2 * number]
        units += [
            Unit(name if replicas == 1 else f"{name}::{k}", devices, place)
            for k in range(replicas if devices else 1)
        ]
    return offer(*units)


def some_question(chance: random.Random) -> Question:
    """What kubelet may ask, and more: ids unknown to the offer, too many to include, odd sizes."""
    held = some_offer(chance)
    known = [unit.id for unit in held.units]
    part = chance.choice([0.4, 0.8, 1])
    available = [each for each in known if chance.random() < part] + chance.choice([[], [], UNKNOWN])
    must = chance.sample(available, min(len(available), chance.choice([0, 0, 1, 2])))
    must += chance.choice([[], [], [], UNKNOWN[:1], known[:1], known[-1:]])
    return held, available, must, chance.randint(-1, chance.choice([4, len(available) + 1]))


# Drawn at random: hypothesis prefers small inputs, and few devices leave few choices.
questions = st.randoms(use_true_random=True).map(some_question)
policies = st.sampled_from([*POLICIES, "none"])


# --- properties ---


@settings(max_examples=2000)
@given(questions, policies)
def test_preferred_is_the_optimum(question: Question, policy: str) -> None:
    assert preferred(*question, policy) == brute_force(*question, policy)


@given(questions, policies)
def test_must_include_is_included(question: Question, policy: str) -> None:
    held, available, must, size = question
    answer = preferred(held, available, must, size, policy)
    assert set(must) <= set(answer) <= {*must, *available}
    assert len(answer) == len(set(answer)) <= max(size, len(set(must)))


@given(questions, policies)
def test_device_is_chosen_once(question: Question, policy: str) -> None:
    held, available, must, size = question
    units = {unit.id: unit for unit in held.units}
    answer = preferred(held, available, must, size, policy)
    taken = [each.address for i in must if i in units for each in units[i].devices]
    for each in set(answer) - set(must):
        mine = [every.address for every in units[each].devices] if each in units else []
        assert not set(mine) & set(taken)
        taken += mine


@given(questions, policies, st.randoms(use_true_random=False))
def test_order_of_available_does_not_matter(question: Question, policy: str, chance: random.Random) -> None:
    held, available, must, size = question
    shuffled = [*available, *available[:2]]
    chance.shuffle(shuffled)
    assert preferred(held, shuffled, must, size, policy) == preferred(held, available, must, size, policy)


@given(st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=3), max_size=6), policies)
def test_units_with_a_common_device_exclude_each_other(parts: list[set[int]], policy: str) -> None:
    held = offer(
        *(
            Unit(str(i), tuple(device(f"0000:0{each}:00.1") for each in sorted(part)))
            for i, part in enumerate(parts)
        )
    )
    answer = preferred(held, [unit.id for unit in held.units], [], len(parts), policy)
    taken = [each for i in answer for each in parts[int(i)]]
    assert len(taken) == len(set(taken))
    assert bool(answer) == bool(parts)


@pytest.mark.parametrize("policy", [*POLICIES, "none"])
def test_sizes_without_a_choice(policy: str) -> None:
    units = [*card(1, 0, 0, 1, replicas=2), *card(2, 0, 0, 2, replicas=2)]
    assert preferred(offer(), [], [], 0, policy) == preferred(offer(), [], [], 3, policy) == []
    assert preferred(offer(*units), ids(units), [], 0, policy) == []
    assert preferred(offer(*units), ids(units), [], -1, policy) == []
    assert preferred(offer(*units), ids(units), ids(units), 1, policy) == ids(units)
    assert preferred(offer(*units), ids(units), [], 3, policy) == ["0000:01:00.0::0", "0000:02:00.0::0"]


# --- a whole node: 64 devices ---

WHOLE = [
    # Four NUMA nodes of four root buses; below each a switch with a card of two devices and one of one, and
    # another card of one.
    unit
    for bus in range(16)
    for unit in [
        *card(bus * 4 + 1, bus // 4, bus, 1, functions=2),
        *card(bus * 4 + 2, bus // 4, bus, 1),
        *card(bus * 4 + 3, bus // 4, bus, 2),
    ]
]


def whole(replicas: int, seed: int) -> tuple[Offer, list[str]]:
    """64 devices, some of them in use."""
    chance = random.Random(seed)  # noqa: S311
    units = [
        Unit(unit.id if replicas == 1 else f"{unit.id}::{k}", unit.devices, unit.numa_nodes)
        for unit in WHOLE
        for k in range(replicas)
    ]
    free = [unit.id for unit in units if chance.random() < 0.7]
    return offer(*units), free


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("size", "replicas"), [(1, 3), (2, 1), (63, 1)])
def test_no_exchange_of_two_improves_an_exact_choice_of_64(policy: str, size: int, replicas: int) -> None:
    assert len(WHOLE) == 64
    held, free = whole(replicas, seed=size)
    size = min(size, len(free) - 1)
    answer = preferred(held, free, [], size, policy)
    assert len(answer) == size
    judge = Judge(held, free, [])
    cost = judge.cost(answer, policy)
    chance = random.Random(size)  # noqa: S311
    for _ in range(6):
        # Replace two chosen ids by any two of some free ones.
        dropped = set(chance.sample(answer, min(2, len(answer))))
        kept = [each for each in answer if each not in dropped]
        pool = [each for each in free if not any(judge.share(each, other) for other in kept)]
        pool = sorted({*dropped, *chance.sample(pool, min(5, len(pool)))})
        for others in combinations(pool, len(dropped)):
            if not any(judge.share(*each) for each in combinations(others, 2)):
                assert cost <= judge.cost([*kept, *others], policy)


@pytest.mark.parametrize(
    ("policy", "most", "most_farther"), [("numa", 30, 5), ("packed", 30, 5), ("spread", 20, 5)]
)
def test_how_often_greedy_is_worse(
    policy: str, most: float, most_farther: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count it, in percent, over questions that are answered exactly otherwise."""
    monkeypatch.setattr(placement, "MOST_CHOICES", 0)
    chance = random.Random(1)  # noqa: S311
    asked = worse = farther = 0
    while asked < 100:
        held, available, must, size = some_question(chance)
        judge = Judge(held, available, must)
        greedy, best = (
            [each for each in answer if each not in must and each in judge.units]
            for answer in (
                preferred(held, available, must, size, policy),
                brute_force(held, available, must, size, policy),
            )
        )
        if len(best) > 1:
            asked += 1
            worse += judge.cost(greedy, policy) > judge.cost(best, policy)
            farther += judge.near([*judge.must, *greedy])[0] > judge.near([*judge.must, *best])[0]
    print(f"{policy}: {worse / asked:.1%} worse, {farther / asked:.1%} on more NUMA nodes")
    assert 100 * worse / asked <= most
    assert 100 * farther / asked <= most_farther


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [1, 3, 14, 15])
def test_preferred_is_the_optimum_of_16(policy: str, size: int) -> None:
    held = offer(*WHOLE[8:24])
    free = ids(held.units)
    assert preferred(held, free, [], size, policy) == brute_force(held, free, [], size, policy)


# --- each rule by itself ---


def test_numa_node_before_bus_before_port_before_card() -> None:
    near, far = card(1, 0, 0, 1), card(2, 1, 1, 1, functions=2)
    same_port, same_bus = card(3, 0, 0, 1), card(4, 0, 0, 2)
    other_bus = card(5, 0, 2, 1)
    for better, worse in [
        (other_bus, far),
        (same_bus, other_bus),
        (same_port, same_bus),
        (card(1, 0, 0, 1, functions=2)[1:], same_port),
    ]:
        held = offer(*near, *better, *worse)
        assert preferred(held, ids(held.units), ids(near), 2) == ids(near, better)


def test_smallest_group_that_suffices_is_chosen() -> None:
    five = [unit for slot in range(1, 6) for unit in card(slot, 0, 0, slot)]
    three = [unit for slot in range(6, 9) for unit in card(slot, 1, 1, slot)]
    two = [unit for slot in range(9, 11) for unit in card(slot, 2, 2, slot)]
    held = offer(*five, *three, *two)
    for size, group in [(1, two), (2, two), (3, three), (4, five), (5, five)]:
        assert preferred(held, ids(held.units), [], size) == ids(group)[:size]


def test_half_of_a_card_before_a_whole_one() -> None:
    one, other = card(1, 0, 0, 1, functions=2), card(2, 0, 0, 2, functions=2)
    assert preferred(offer(*one, *other), ids(one, other[1:]), [], 1) == ids(other[1:])


def test_card_in_two_slots_is_known_by_its_serial() -> None:
    ports = [("pci0000:00", f"0000:00:0{port}.0") for port in range(1, 5)]
    serials = ["A", "B", "B", "A"]
    held = offer(
        *(
            Unit(f"0000:0{slot}:00.1", (device(f"0000:0{slot}:00.1", port, serial),), (0,))
            for slot, (port, serial) in enumerate(zip(ports, serials, strict=True))
        )
    )
    assert preferred(held, ids(held.units), ["0000:01:00.1"], 2) == ["0000:01:00.1", "0000:02:00.1"]
    assert preferred(held, ids(held.units), [], 2) == ["0000:00:00.1", "0000:03:00.1"]


def test_device_of_unknown_node_is_near_to_any_and_kept() -> None:
    unknown = Unit("0000:09:00.1", (device("0000:09:00.1"),), (0, 1))
    held = offer(*card(1, 0, 0, 1), *card(2, 1, 1, 1), unknown)
    assert preferred(held, ids(held.units), [], 1) == ["0000:01:00.0"]
    assert preferred(held, ids(held.units), [], 2) == ["0000:01:00.0", "0000:09:00.1"]


def test_unknown_id_comes_last() -> None:
    held = offer(*card(2, 0, 0, 1), *card(3, 1, 1, 1))
    free = ["0000:01:00.0", *ids(held.units)]
    assert preferred(held, free, [], 2) == ids(held.units)
    assert preferred(held, free, [], 3) == [*ids(held.units), "0000:01:00.0"]
    assert preferred(held, free, ["0000:01:00.0"], 2) == ["0000:01:00.0", "0000:02:00.0"]


SHARED = [card(slot, slot % 2, slot % 2, slot, replicas=3) for slot in range(1, 5)]
IN_USE = {"0000:01:00.0": 1, "0000:02:00.0": 2, "0000:03:00.0": 0, "0000:04:00.0": 1}
STILL_FREE = [each for units in SHARED for each in ids(units)[IN_USE[ids(units)[0].partition("::")[0]] :]]


@pytest.mark.parametrize(
    ("policy", "size", "slots"),
    [
        ("packed", 1, "2"),
        ("packed", 2, "24"),  # of two equally used the one on the same NUMA node
        ("packed", 4, "1234"),
        ("spread", 1, "3"),
        ("spread", 2, "13"),
        ("spread", 3, "134"),
        ("spread", 5, "1234"),
        ("numa", 2, "13"),  # both nodes have two with something free: the least used
    ],
)
def test_use_of_shared_devices_by_policy(policy: str, size: int, slots: str) -> None:
    answer = preferred(offer(*(unit for units in SHARED for unit in units)), STILL_FREE, [], size, policy)
    assert "".join(each[6] for each in answer) == slots


def test_unhealthy_device_is_not_one_in_use() -> None:
    ill = Unit("0000:01:00.1", (device("0000:01:00.1", reason=Reason.OFFLINE),), ())
    beside = Unit("0000:01:00.2", (device("0000:01:00.2"),), ())
    taken = Unit("0000:02:00.1", (device("0000:02:00.1"),), ())
    other = Unit("0000:02:00.2", (device("0000:02:00.2"),), ())
    held = offer(ill, beside, taken, other)
    assert preferred(held, [beside.id, other.id], [], 1, "packed") == [other.id]
    assert preferred(held, [beside.id, other.id], [], 1, "spread") == [beside.id]


def test_spread_goes_across_cards_and_packed_does_not() -> None:
    one, other = card(1, 0, 0, 1, functions=2), card(2, 1, 1, 1, functions=2)
    held, free = offer(*one, *other), ids(one, other)
    assert preferred(held, free, [], 2, "spread") == ids(one[:1], other[:1])
    assert preferred(held, free, [], 2, "packed") == ids(one)
    assert preferred(held, free[1:], [], 1, "packed") == ids(one[1:])
    assert preferred(held, free[1:], [], 1, "spread") == ids(other[:1])


def test_spread_counts_other_devices_of_a_card() -> None:
    one, other = card(1, 0, 0, 1, functions=3), card(2, 1, 1, 1, functions=2)
    held = offer(*one, *other)
    # The third on the first card is as crowded as the second on the other: then rather on both cards.
    assert preferred(held, ids(one[1:], other), [], 2, "spread") == ids(one[1:2], other[:1])
    # What must be included crowds a card too.
    assert preferred(held, ids(one, other), ids(one[:2]), 4, "spread") == ids(one[:2], other)
