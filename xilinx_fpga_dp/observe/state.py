"""The state of the node as JSON: ``list --output json`` and the HTTP route ``/state``."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from xilinx_fpga_dp.model import Held, History, Offers, Unit
from xilinx_fpga_dp.resources.allocator import details_of, nodes_of
from xilinx_fpga_dp.resources.holders import holders_of
from xilinx_fpga_dp.resources.offers import names_of


def document(
    offers: Offers,
    *,
    expose_mgmt: bool,
    registered: Mapping[str, bool] | None = None,
    held: Held | None = None,
    dra: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make the document.

    Args:
        offers: the devices.
        expose_mgmt: whether pods get management nodes.
        registered: whether each resource is; None: what only a running service knows is null.
        held: who holds which device.
        dra: what the DRA driver makes of each unit, by the address of its first device; None: there is a
            device plugin instead.
    """
    histories = offers.histories if registered is not None else {}
    names = names_of(offers)
    rows = [
        {
            **_unit(offer.resource, unit),
            **_history([histories[device.address] for device in unit.devices if device.address in histories]),
            "held_by": _holders(held or {}, (offer.resource, unit.id), unit, names),
            "nodes": [n for device in unit.devices for n in nodes_of(device, expose_mgmt=expose_mgmt)],
            **({} if dra is None else {"dra": dra.get(unit.devices[0].address)}),
        }
        for offer in offers.by_resource.values()
        for unit in offer.units
    ]
    return {
        **({} if dra is None else {"mode": "dra"}),
        "devices": sorted(rows, key=lambda row: str(row["id"])),
        "left_out": [{"function": entry.function, "reason": entry.reason} for entry in offers.left_out],
        "resources": {
            name: {
                "devices": len(offer.units),
                "healthy": sum(unit.reason is None for unit in offer.units),
                "registered": None if registered is None else registered.get(name, False),
            }
            for name, offer in offers.by_resource.items()
        },
    }


def _unit(resource: str, unit: Unit) -> dict[str, Any]:
    device = unit.devices[0]  # those of a card have all of this in common
    return {
        "id": unit.id,
        "resource": resource,
        **details_of(device),
        "driver": device.driver or None,
        "rule": device.rule,
        "health": "Healthy" if unit.reason is None else "Unhealthy",
        "reason": unit.reason,
        **({"experimental": True} if device.experimental else {}),
    }


def _history(histories: Sequence[History]) -> dict[str, Any]:
    """Of all devices of a unit together."""
    if not histories:
        return {"since": None, "changes": None, "last_reason": None}
    newest = max(histories, key=lambda each: each.since)
    moment = datetime.now(UTC) - timedelta(seconds=time.monotonic() - newest.since)
    return {
        "since": moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "changes": sum(each.changes for each in histories),
        "last_reason": newest.last_reason,
    }


def _holders(
    held: Held, name: tuple[str, str], unit: Unit, names: frozenset[tuple[str, str]]
) -> list[dict[str, str]]:
    """Who holds a unit under its name, or a device of it under one that is not offered."""
    return [
        {"namespace": holder.namespace, "pod": holder.pod, "container": holder.container}
        for device in unit.devices
        for holder in holders_of(held, device.address)
        if (holder.resource, holder.id) == name or (holder.resource, holder.id) not in names
    ]
