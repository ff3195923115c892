"""Tells the log what changed on the node: each thing once, when it happens, and flapping without flooding."""

import logging
from collections import deque
from dataclasses import dataclass, field

from xilinx_fpga_dp.model import Device, Offers
from xilinx_fpga_dp.resources.offers import mixed_builds

log = logging.getLogger(__name__)

# A device may have so many lines about its health in so many seconds; what comes on top is counted.
_LINES = 6
_WINDOW = 60.0


@dataclass(slots=True)
class _Health:
    """What was said of one device's health."""

    told: deque[float] = field(default_factory=lambda: deque(maxlen=_LINES))  # when
    untold: int = 0


class Journal:
    """The story of one node, as its log tells it."""

    def __init__(self) -> None:
        self._before: Offers | None = None
        self._health: dict[str, _Health] = {}  # by address, of the devices there are

    def tell(self, now: Offers, time: float) -> None:
        """Log how the node differs from what it was.

        Args:
            now: what it is.
            time: seconds of the monotonic clock.
        """
        then = _devices(self._before) if self._before else {}
        found = _devices(now)
        for address in sorted(then.keys() - found.keys()):
            log.info("device gone", extra={"device": address, "resource": then[address][0]})
            self._health.pop(address, None)
        for address in sorted(found):
            self._tell_device(then.get(address), found[address], time)
        for entry in now.left_out:
            if self._before is None or entry not in self._before.left_out:
                log.warning("left out", extra={"function": entry.function, "reason": entry.reason})
        for warning in now.warnings:
            if self._before is None or warning not in self._before.warnings:
                log.warning("to be mended", extra={"problem": warning})
        for name, offer in now.by_resource.items():
            uuids = mixed_builds(offer)
            known = self._before.by_resource.get(name) if self._before else None
            if uuids and (known is None or mixed_builds(known) != uuids):
                log.warning("different builds share a resource", extra={"resource": name, "uuids": uuids})
        self._before = now

    def _tell_device(self, before: tuple[str, Device] | None, now: tuple[str, Device], time: float) -> None:
        resource, device = now
        fields = {"device": device.address, "resource": resource}
        if before is None or before[0] != resource:
            what = "device found" if before is None else "device moved to another resource"
            log.info(what, extra={**fields, "board": device.board, "shell": device.shell.vbnv})
        known = before[1].reason if before else None
        health = self._health.setdefault(device.address, _Health())
        if device.reason == known:
            if health.untold and time - health.told[-1] >= _WINDOW:
                self._say(health, fields, device, time)
        elif len(health.told) == _LINES and time - health.told[0] < _WINDOW:
            health.untold += 1
        else:
            self._say(health, fields, device, time)

    def _say(self, health: _Health, fields: dict[str, str], device: Device, time: float) -> None:
        more = {"changes_not_told": health.untold} if health.untold else {}
        if device.reason:
            log.warning("device Unhealthy", extra={**fields, "reason": device.reason, **more})
        else:
            log.info("device Healthy", extra={**fields, **more})
        health.told.append(time)
        health.untold = 0


def _devices(offers: Offers) -> dict[str, tuple[str, Device]]:
    return {
        device.address: (name, device)
        for name, offer in offers.by_resource.items()
        for device in offer.devices
    }
