"""From an inventory to what each resource name advertises. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from xilinx_fpga_dp.model import Device, Held, Inventory, LeftOut, Offer, Offers, Unit
from xilinx_fpga_dp.resources.allocator import variable_of
from xilinx_fpga_dp.resources.card_pairing import BOARD_OF_TWO, CardAssignment, alone
from xilinx_fpga_dp.resources.naming import Names, name_problem


def offers_of(
    inventory: Inventory, naming: Names, replicas: int = 1, settled: CardAssignment | None = None
) -> Offers:
    """Group devices by resource name; a device that gets no valid name is left out with the reason.

    Args:
        inventory: what there is.
        naming: how it is named.
        replicas: how many ids each device has: one its address, several the address with ``::0``, ``::1``.
        settled: which devices are one card, and which wait; None: every device stands alone, none waits.
    """
    settled = settled or alone(inventory.devices)
    groups: defaultdict[str, list[tuple[Device, ...]]] = defaultdict(list)
    left_out = list(inventory.left_out)
    for card in _cards(inventory.devices, settled):
        try:
            name = _name_of(card, naming, settled)
        except _Unnamed as error:
            left_out += [LeftOut(device.address, str(error)) for device in card]
        else:
            groups[name].append(card)
    return Offers(
        {
            name: Offer(name, _units(cards, inventory.numa_nodes, replicas))
            for name, cards in sorted(groups.items())
        },
        tuple(sorted(left_out, key=lambda entry: entry.function)),
        inventory.histories,
    )


class _Unnamed(Exception):  # noqa: N818 - the device's state, not a fault
    """Why a card gets no name (yet)."""


def _cards(devices: Iterable[Device], settled: CardAssignment) -> list[tuple[Device, ...]]:
    """The devices of each card, the one first whose address is the card's id."""
    there = {device.address: device for device in devices}
    cards = dict.fromkeys(settled.cards.get(address, (address,)) for address in there)
    return [tuple(there[address] for address in card if address in there) for card in cards]


def to_be_named(devices: Sequence[Device], settled: CardAssignment) -> list[Device]:
    """One device for each card, as names see it."""
    return [as_named(card[0], settled) for card in _cards(devices, settled)]


def as_named(device: Device, settled: CardAssignment) -> Device:
    """A device as names see it: with the serial number that counts, and with the id of its card.

    The devices of a card differ in their address alone, as far as names go.
    """
    card = settled.cards.get(device.address, (device.address,))
    serial = next((settled.serials[each] for each in card if each in settled.serials), None)
    return replace(device, address=card[0], serial=serial)


def _name_of(card: tuple[Device, ...], naming: Names, settled: CardAssignment) -> str:
    first = card[0]
    whole = settled.cards.get(first.address, (first.address,))
    if first.address in settled.waiting:
        raise _Unnamed("waiting for its serial number; that takes 30 s at most")
    if gone := [address for address in whole if all(device.address != address for device in card)]:
        raise _Unnamed(
            f"the other device of its card, {gone[0]}, is not there; U30_UNIT=device offers one alone"
        )
    try:
        names = {naming.resource_name(as_named(device, settled)) for device in card}
    except ValueError as error:
        raise _Unnamed(str(error)) from None
    name, *others = sorted(names)
    if others:
        raise _Unnamed(
            f"the devices of its card have different shells ({', '.join(sorted(names))}); "
            "program one into both, or set U30_UNIT=device"
        )
    # A last look with kubelet's own rules: nothing it would refuse is ever registered.
    if problem := name_problem(name):
        raise _Unnamed(f"resource name {name!r}: {problem}; set RESOURCE_NAME_TEMPLATE or RESOURCE_RENAMES")
    return name


def _units(cards: list[tuple[Device, ...]], online: tuple[int, ...], replicas: int) -> tuple[Unit, ...]:
    # As soon as one device of a resource has a topology, kubelet matches no hint for those without
    # (cm/devicemanager/topology_hints.go), so those are near to every node beside one that knows its own.
    # And it refuses a pod for a node that is not online, as firmware tells of now and then.
    near = {card: _numa_nodes(card, online) for card in cards}
    known = {node for nodes in near.values() for node in nodes}
    anywhere = tuple(sorted({*online, *known})) if known else ()
    return tuple(
        Unit(unit_id, card, near[card] or anywhere)
        for card in sorted(cards, key=lambda each: each[0].address)
        for unit_id in _ids(card[0].address, replicas)
    )


def _numa_nodes(card: tuple[Device, ...], online: tuple[int, ...]) -> tuple[int, ...]:
    """The NUMA nodes of a card; ``online`` is empty where it is not known which there are."""
    nodes = {device.numa_node for device in card if device.numa_node is not None}
    return tuple(sorted(nodes.intersection(online) if online else nodes))


def _ids(address: str, replicas: int) -> list[str]:
    return [address] if replicas == 1 else [f"{address}::{replica}" for replica in range(replicas)]


def held_elsewhere(offers: Offers, held: Held, singles: Collection[str] | None = None) -> frozenset[str]:
    """The devices that a pod holds under a name or id that they do not have (any more).

    kubelet counts by resource name and id, and would hand them out a second time.

    Args:
        offers: what is to be offered.
        held: who holds what.
        singles: addresses of devices that are no part of a card with several; None: no card is given whole.
    """
    known = names_of(offers)
    there = {device.address for device in offers.devices}
    elsewhere = {
        address
        for address in there & held.keys()
        for holder in held[address]
        if (holder.resource, holder.id) not in known
    }
    if singles is not None:
        missing = held.keys() - there - set(singles)
        resources = {holder.resource for address in missing for holder in held[address]}
        for resource in resources & offers.by_resource.keys():
            elsewhere |= _alone(offers.by_resource[resource]) - held.keys()
    return frozenset(elsewhere)


def _alone(offer: Offer) -> set[str]:
    """Devices of a U30 without the other one.

    Where a pod holds one of their resource that is not there, as after a restart, that may be the other
    device of their card, and the pod has both.
    """
    alone = {each.devices[0] for each in offer.units if len(each.devices) == 1}
    return {each.address for each in alone if each.board == BOARD_OF_TWO}


def only(offers: Offers, names: Collection[tuple[str, str]]) -> Offers:
    """What of the offers is among these pairs of resource name and device id."""
    kept = {
        name: Offer(name, tuple(unit for unit in offer.units if (name, unit.id) in names))
        for name, offer in offers.by_resource.items()
    }
    return replace(offers, by_resource={name: offer for name, offer in kept.items() if offer.units})


def names_of(offers: Offers) -> frozenset[tuple[str, str]]:
    """All pairs of resource name and device id."""
    return frozenset((name, unit.id) for name, offer in offers.by_resource.items() for unit in offer.units)


def same_variables(offers: Offers) -> list[str]:
    """What to say of resources whose names differ in what no environment variable's name can have.

    A container that is given both would lose the variable of one: kubelet keeps the first.
    """
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(offers.by_resource):
        names[variable_of(name)].append(name)
    return [
        f"{' and '.join(alike)} have one environment variable, {variable}: a container that asks for both "
        "loses that of one; set RESOURCE_NAME_TEMPLATE or RESOURCE_RENAMES"
        for variable, alike in names.items()
        if len(alike) > 1
    ]


def mixed_builds(offer: Offer) -> tuple[str, ...]:
    """The logic uuids of a resource whose devices were built differently; empty if they agree.

    They share the resource all the same, as users of the original plugin know it.
    """
    uuids = {device.shell.logic_uuid for device in offer.devices if device.shell.logic_uuid}
    return tuple(sorted(uuids)) if len(uuids) > 1 else ()
