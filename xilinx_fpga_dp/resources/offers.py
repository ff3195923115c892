"""From an inventory to what each resource name advertises. Pure.

`offers_of` names and groups the cards once. `with_devices` puts what changes later, as a device that turns
out to be held, into the same offers: no name depends on it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace

from xilinx_fpga_dp.model import Device, Held, Inventory, LeftOut, Offer, Offers, Unit
from xilinx_fpga_dp.resources.allocator import variable_of
from xilinx_fpga_dp.resources.card_pairing import BOARD_OF_TWO, CardAssignment
from xilinx_fpga_dp.resources.holders import holders_of
from xilinx_fpga_dp.resources.naming import Naming, name_problem
from xilinx_fpga_dp.resources.pool_names import PCI_ADDRESS, device_names
from xilinx_fpga_dp.resources.rename_rules import Renaming

_EACH_ALONE = CardAssignment()  # every device is a card, none waits, and no serial number counts

_Card = tuple[Device, ...]
"""The devices that have one id, the device first whose address it is."""


def representatives(devices: Iterable[Device], assignment: CardAssignment) -> list[Device]:
    """List one device for each card, as names see it: what the `among` of the names needs."""
    return [_as_named(card[0], assignment) for card in _cards(devices, assignment)]


def offers_of(
    inventory: Inventory,
    naming: Naming | Renaming,  # prepared by `among`
    replicas: int = 1,  # the ids of each card: one is its address, several are the address with ``::0``...
    assignment: CardAssignment = _EACH_ALONE,
) -> Offers:
    """Name each card and group the cards by name; one without a valid name is left out with the reason."""
    groups: defaultdict[str, list[_Card]] = defaultdict(list)
    left_out = list(inventory.left_out)
    for card in _cards(inventory.devices, assignment):
        try:
            groups[_name_of(card, naming, assignment)].append(card)
        except ValueError as error:
            left_out += [LeftOut(device.address, str(error)) for device in card]
    by_resource = {
        name: Offer(name, _units(cards, inventory.numa_nodes, replicas))
        for name, cards in sorted(groups.items())
    }
    left_out.sort(key=lambda entry: entry.function)
    return Offers(by_resource, tuple(left_out), inventory.histories)


def with_devices(offers: Offers, inventory: Inventory) -> Offers:
    """Put the devices and histories of another inventory of the same devices into the offers."""
    now = {device.address: device for device in inventory.devices}

    def updated(unit: Unit) -> Unit:
        return replace(unit, devices=tuple(now.get(each.address, each) for each in unit.devices))

    by_resource = {
        name: Offer(name, tuple(map(updated, offer.units))) for name, offer in offers.by_resource.items()
    }
    return replace(offers, by_resource=by_resource, histories=inventory.histories)


def _cards(devices: Iterable[Device], assignment: CardAssignment) -> list[_Card]:
    """Group devices by card. A device that is not in the inventory is missing in its card too."""
    found = {device.address: device for device in devices}
    cards = dict.fromkeys(assignment.cards.get(address, (address,)) for address in found)
    return [tuple(found[address] for address in card if address in found) for card in cards]


def _as_named(device: Device, assignment: CardAssignment) -> Device:
    """Return a device as names see it: with the serial number that counts, and the id of its card as address.

    So the devices of a card have one name, whatever field the name is made of.
    """
    card = assignment.cards.get(device.address, (device.address,))
    serial = next((assignment.serials[each] for each in card if each in assignment.serials), None)
    return replace(device, address=card[0], serial=serial)


def _name_of(card: _Card, naming: Naming | Renaming, assignment: CardAssignment) -> str:
    """Name the resource of a card; a ValueError has the reason why it gets no name, or none yet."""
    first = card[0].address
    if first in assignment.waiting:
        raise ValueError("waiting for its serial number; that takes 30 s at most")
    name, *others = sorted({naming.resource_name(_as_named(device, assignment)) for device in card})
    if others:
        raise ValueError(
            f"the devices of its card have different shells ({', '.join([name, *others])}); "
            "program one into both, or set U30_UNIT=device"
        )
    # The last check, by kubelet's own rules: no name that it would refuse is ever registered.
    if problem := name_problem(name):
        raise ValueError(f"resource name {name!r}: {problem}; set RESOURCE_NAME_TEMPLATE or RESOURCE_RENAMES")
    return name


def _units(cards: Iterable[_Card], online: tuple[int, ...], replicas: int) -> tuple[Unit, ...]:
    # As soon as one device of a resource has a topology, kubelet matches no hint for those without
    # (cm/devicemanager/topology_hints.go), so those are near to every node beside one that knows its own.
    # And it refuses a pod for a node that is not online, which firmware sometimes names.
    nodes = {card: {each.numa_node for each in card if each.numa_node is not None} for card in cards}
    if online:  # they are known
        nodes = {card: own.intersection(online) for card, own in nodes.items()}
    known = set().union(*nodes.values())
    anywhere = known.union(online) if known else known
    suffixes = [""] if replicas == 1 else [f"::{replica}" for replica in range(replicas)]
    return tuple(
        Unit(card[0].address + suffix, card, tuple(sorted(nodes[card] or anywhere)))
        for card in sorted(nodes, key=lambda each: each[0].address)
        for suffix in suffixes
    )


def held_elsewhere(
    offers: Offers,
    held: Held,
    known: Collection[tuple[str, str]],
    singles: Collection[str] | None = None,
    driver: str = "",
) -> frozenset[str]:
    """Find the devices that a pod holds under a resource name or id that they do not have (any more).

    kubelet counts by resource name and id, and would allocate them a second time.

    Args:
        offers: what is offered.
        held: the holders.
        known: the pairs of resource name and id by which the devices are allocated.
        singles: addresses of devices that are no part of a card with several; None: no card is granted whole.
        driver: the name of the DRA driver, by which the devices of claims are held.
    """
    offered = {device.address for device in offers.devices}
    elsewhere = {
        address
        for address in offered
        for holder in holders_of(held, address)
        if (holder.resource, holder.id) not in known
    }
    if singles is not None:
        # A held device that is not offered, as after a restart without it, may be the other device of a card
        # whose first device is offered alone; then the pod holds both.
        missing = set(filter(PCI_ADDRESS.fullmatch, held)) - offered - set(singles)
        resources = {holder.resource for address in missing for holder in held[address]}
        # A claim's device may be of any resource.
        for resource in offers.by_resource if driver in resources else resources & offers.by_resource.keys():
            cards = {unit.devices for unit in offers.by_resource[resource].units}
            alone = {
                card[0].address
                for card in cards
                if len(card) == 1 and card[0].board == BOARD_OF_TWO and not card[0].rule
            }
            elsewhere |= alone - held.keys()
    return frozenset(elsewhere)


def only(offers: Offers, names: Collection[tuple[str, str]]) -> Offers:
    """Keep the units whose pairs of resource name and device id are among these."""
    kept = {
        name: Offer(name, tuple(unit for unit in offer.units if (name, unit.id) in names))
        for name, offer in offers.by_resource.items()
    }
    return replace(offers, by_resource={name: offer for name, offer in kept.items() if offer.units})


def names_of(offers: Offers) -> frozenset[tuple[str, str]]:
    """List all pairs of resource name and device id."""
    return frozenset((name, unit.id) for name, offer in offers.by_resource.items() for unit in offer.units)


def claim_names(offers: Offers, driver: str) -> frozenset[tuple[str, str]]:
    """List the pairs of DRA driver and device by which podresources shows devices of the pool."""
    addresses = {unit.devices[0].address for offer in offers.by_resource.values() for unit in offer.units}
    return frozenset((driver, name) for address in addresses for name in device_names(address))


def same_variables(offers: Offers) -> list[str]:
    """Warn of resources with one environment variable: a variable's name can't hold what tells them apart.

    A container with devices of both loses the variable of one: kubelet keeps the first.
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


def without_management(devices: Iterable[Device]) -> list[str]:
    """Warn of XRT's devices of which EXPOSE_MGMT gives no management node; others never have one."""
    return [
        f"{device.address}: EXPOSE_MGMT gives no management node, since no management function is known "
        "for it; a virtual machine has none unless it is passed through too, AWS has none at all"
        for device in devices
        if device.driver == "xocl" and device.mgmt_node is None and not device.rule
    ]


def mixed_builds_warning(offer: Offer) -> str | None:
    """Warn of devices of different builds in one resource, as plugin 1.3.0 had them; None if they agree."""
    uuids = {device.shell.logic_uuid for device in offer.devices if device.shell.logic_uuid}
    if len(uuids) <= 1:
        return None
    return (
        f"devices of different builds share it (logic uuids {', '.join(sorted(uuids))}); "
        "put {uuid} into RESOURCE_NAME_TEMPLATE to separate them"
    )


def warnings_of(offers: Offers) -> list[str]:
    """Return every warning about the offers."""
    found = {name: mixed_builds_warning(offer) for name, offer in offers.by_resource.items()}
    found |= {device.address: device.warning for device in offers.devices}
    return [*(f"{name}: {text}" for name, text in found.items() if text), *offers.warnings]
