"""Logs what changes on the node: each change once, when it happens, and flapping without flooding.

A device may have six lines a minute. Further changes are counted, and the next line, a minute after the first
of the six, has the newest state and that count. What was logged last is kept for each device until it has
been gone for a minute.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.discovery.xocl_errors import ErrorRecord
from xilinx_fpga_dp.model import Device, Holder, Offers, Reason
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.offers import warnings_of
from xilinx_fpga_dp.snapshot import Snapshot

log = logging.getLogger(__name__)

_LINES = 6
_WINDOW = 60.0  # seconds

_State = tuple[str, Device]
"""A device's resource, and the device as it is offered there."""


@dataclass(slots=True)
class _DeviceLog:
    """What has happened to one device, and what was logged of it."""

    current: _State | None = None  # None: it is gone
    logged: _State | None = None
    resource: str = ""  # the last one
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_LINES))  # of its lines
    suppressed: int = 0  # changes since the last line

    @property
    def due(self) -> float | None:
        """When there is something to do without a change; None if there is not."""
        if self.suppressed:
            return self.times[0] + _WINDOW
        return self.times[-1] + _WINDOW if self.current is None else None


class DeviceEventLog:
    """Logs how each snapshot differs from the one before."""

    def __init__(self) -> None:
        self._before = Offers({})
        self._devices: dict[str, _DeviceLog] = {}  # by address

    async def run(self, snapshots: Latest[Snapshot]) -> None:
        """Follow the snapshots. Endless."""
        while True:
            due = min((each.due for each in self._devices.values() if each.due is not None), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await snapshots.until(lambda snapshot: snapshot.offers not in (None, self._before))
            if (offers := snapshots.value.offers) is not None:
                self.update(offers, asyncio.get_running_loop().time())

    def update(self, offers: Offers, now: float) -> None:
        """Log how the offers differ from the last ones. ``now`` is of the monotonic clock, in seconds."""
        devices = {
            device.address: (name, device)
            for name, offer in offers.by_resource.items()
            for device in offer.devices
        }
        for address in sorted(self._devices.keys() | devices.keys()):
            self._update_device(address, devices.get(address), now)
        for entry in offers.left_out:
            if entry not in self._before.left_out:
                log.warning(Event.LEFT_OUT, extra={"function": entry.function, "reason": entry.reason})
        logged = warnings_of(self._before)
        for warning in warnings_of(offers):
            if warning not in logged:
                log.warning(Event.CONFIGURATION_WARNING, extra={"problem": warning})
        self._before = offers

    def _update_device(self, address: str, current: _State | None, now: float) -> None:
        device = self._devices.setdefault(address, _DeviceLog())
        changed = _logged_part(current) != _logged_part(device.current)
        device.current = current
        device.resource = current[0] if current else device.resource
        if changed and len(device.times) == _LINES and now - device.times[0] < _WINDOW:
            device.suppressed += 1
        elif changed or (device.suppressed and now - device.times[0] >= _WINDOW):
            _log(address, device)
            device.times.append(now)
            device.logged, device.suppressed = current, 0
        elif current is None and now - device.times[-1] >= _WINDOW:
            del self._devices[address]


def _logged_part(state: _State | None) -> tuple[str, Reason | None] | None:
    return state and (state[0], state[1].reason)


def _log(address: str, device_log: _DeviceLog) -> None:
    """Log how a device differs from its last line, with the number of suppressed changes."""
    logged, current = device_log.logged, device_log.current
    suppressed = {"changes_suppressed": device_log.suppressed} if device_log.suppressed else {}
    if current is None:
        log.info(Event.DEVICE_GONE, extra={"device": address, "resource": device_log.resource, **suppressed})
        return
    resource, device = current
    fields = {"device": address, "resource": resource}
    before = logged[1] if logged else None
    new_note = device.note if before is None or device.note != before.note else None
    note = {"note": new_note} if new_note else {}
    if logged is None or logged[0] != resource:
        event = Event.DEVICE_FOUND if logged is None else Event.DEVICE_MOVED
        log.info(event, extra={**fields, "board": device.board, "shell": device.shell.vbnv, **note})
        note = {}
    if device.reason == (before.reason if before else None) and not suppressed:
        return
    if device.reason:
        log.warning(Event.DEVICE_UNHEALTHY, extra={**fields, "reason": device.reason, **note, **suppressed})
    else:
        log.info(Event.DEVICE_HEALTHY, extra={**fields, **suppressed})


def log_card_errors(
    address: str, errors: Iterable[ErrorRecord], holders_at: Callable[[float], Iterable[Holder]]
) -> None:
    """Log errors that the driver of a card has recorded, each once; equal ones share a line.

    Args:
        address: of the device.
        errors: the new ones, the oldest first.
        holders_at: returns the containers that held the device at a time, in seconds since 1970; 0: now.
    """
    alike = Counter((error.kind, tuple(sorted(_pods(holders_at(error.time))))) for error in errors)
    last = {error.kind: error.time for error in errors}
    for (kind, pods), count in alike.items():
        fields: dict[str, object] = {"device": address, "kind": kind}
        if last[kind]:
            fields["time"] = _moment(last[kind])
        if pods:
            fields["held_by"] = ", ".join(pods)
        if count > 1:
            fields["count"] = count
        log.warning(Event.CARD_ERROR, extra=fields)


def _pods(holders: Iterable[Holder]) -> set[str]:
    return {f"{holder.namespace}/{holder.pod}" for holder in holders}


def _moment(seconds: int) -> str:
    """Return a time as text; the number itself if it is out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
