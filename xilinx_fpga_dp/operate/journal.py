"""Tells the log what changed on the node: each thing once, when it happens."""

import logging

from xilinx_fpga_dp.model import Device, Offers
from xilinx_fpga_dp.resources.offers import mixed_builds

log = logging.getLogger(__name__)


def tell(before: Offers | None, now: Offers) -> None:
    """Log how the node differs from what it was; None: it was not known."""
    then = _devices(before) if before else {}
    found = _devices(now)
    for address in sorted(then.keys() - found.keys()):
        log.info("device gone", extra={"device": address, "resource": then[address][0]})
    for address in sorted(found):
        _tell_device(then.get(address), found[address])
    for entry in set(now.left_out) - set(before.left_out if before else ()):
        log.warning("left out", extra={"function": entry.function, "reason": entry.reason})
    for name, offer in now.by_resource.items():
        uuids = mixed_builds(offer)
        known = before.by_resource.get(name) if before else None
        if uuids and (known is None or mixed_builds(known) != uuids):
            log.warning("different builds share a resource", extra={"resource": name, "uuids": uuids})


def _tell_device(before: tuple[str, Device] | None, now: tuple[str, Device]) -> None:
    resource, device = now
    fields = {"device": device.address, "resource": resource}
    if before is None or before[0] != resource:
        what = "device found" if before is None else "device moved to another resource"
        log.info(what, extra={**fields, "board": device.board, "shell": device.shell.vbnv})
        before = None
    if device.reason and (before is None or before[1].reason != device.reason):
        log.warning("device Unhealthy", extra={**fields, "reason": device.reason})
    elif before and before[1].reason and not device.reason:
        log.info("device Healthy", extra=fields)


def _devices(offers: Offers) -> dict[str, tuple[str, Device]]:
    return {
        device.address: (name, device)
        for name, offer in offers.by_resource.items()
        for device in offer.devices
    }
