"""From an inventory to what each resource name advertises. Pure."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace

from xilinx_fpga_dp.model import Device, Held, Inventory, LeftOut, Offer, Offers, Unit
from xilinx_fpga_dp.resources.naming import Names, name_problem


def offers_of(inventory: Inventory, naming: Names, replicas: int = 1) -> Offers:
    """Group devices by resource name; a device that gets no valid name is left out with the reason.

    Args:
        inventory: what there is.
        naming: how it is named.
        replicas: how many ids each device has: one its address, several the address with ``::0``, ``::1``.
    """
    groups: defaultdict[str, list[Device]] = defaultdict(list)
    left_out = list(inventory.left_out)
    for device in inventory.devices:
        try:
            name = naming.resource_name(device)
        except ValueError as error:
            left_out.append(LeftOut(device.address, str(error)))
            continue
        # A last look with kubelet's own rules: nothing it would refuse is ever registered.
        if problem := name_problem(name):
            left_out.append(LeftOut(device.address, f"resource name {name!r}: {problem}"))
        else:
            groups[name].append(device)
    return Offers(
        {
            name: Offer(name, _units(devices, inventory.numa_nodes, replicas))
            for name, devices in sorted(groups.items())
        },
        tuple(sorted(left_out, key=lambda entry: entry.function)),
        inventory.histories,
    )


def _units(devices: list[Device], online: tuple[int, ...], replicas: int) -> tuple[Unit, ...]:
    # As soon as one device of a resource has a topology, kubelet matches no hint for those without
    # (cm/devicemanager/topology_hints.go), so those are near to every node beside one that knows its own.
    known = {device.numa_node for device in devices if device.numa_node is not None}
    anywhere = tuple(sorted({*online, *known})) if known else ()
    return tuple(
        Unit(
            unit_id,
            (device,),
            anywhere if device.numa_node is None else (device.numa_node,),
        )
        for device in sorted(devices, key=lambda each: each.address)
        for unit_id in _ids(device, replicas)
    )


def _ids(device: Device, replicas: int) -> list[str]:
    if replicas == 1:
        return [device.address]
    return [f"{device.address}::{replica}" for replica in range(replicas)]


def held_elsewhere(offers: Offers, held: Held) -> frozenset[str]:
    """The devices that a pod holds under a name or id that they do not have (any more).

    kubelet counts by resource name and id, and would hand them out a second time.
    """
    return frozenset(
        device.address
        for name, offer in offers.by_resource.items()
        for device in offer.devices
        for holder in held.get(device.address, ())
        if holder.resource != name or all(holder.id != unit.id for unit in offer.units)
    )


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


def mixed_builds(offer: Offer) -> tuple[str, ...]:
    """The logic uuids of a resource whose devices were built differently; empty if they agree.

    They share the resource all the same, as users of the original plugin know it.
    """
    uuids = {device.shell.logic_uuid for device in offer.devices if device.shell.logic_uuid}
    return tuple(sorted(uuids)) if len(uuids) > 1 else ()
