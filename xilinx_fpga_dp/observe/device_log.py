"""Tells the log what changed on the node: each thing once, when it happens, and flapping without flooding."""

import logging
from collections import deque
from dataclasses import dataclass, field

from xilinx_fpga_dp.model import Device, Offers, Reason
from xilinx_fpga_dp.resources.offers import warnings_of

log = logging.getLogger(__name__)

# A device may have so many lines in so many seconds; what comes on top is counted.
_LINES = 6
_WINDOW = 60.0

_State = tuple[str, Device]
"""A device's resource, and the device as it is offered there."""


@dataclass(slots=True)
class _Story:
    """What there was to say of one device, and what was said."""

    seen: _State | None = None  # None: it is not there
    said: _State | None = None
    resource: str = ""  # its last one
    told: deque[float] = field(default_factory=lambda: deque(maxlen=_LINES))  # when
    untold: int = 0  # changes since then


class DeviceEventLog:
    """The story of one node, as its log tells it."""

    def __init__(self) -> None:
        self._before: Offers | None = None
        self._stories: dict[str, _Story] = {}  # by address

    def tell(self, now: Offers, time: float) -> None:
        """Log how the node differs from what it was.

        Args:
            now: what it is.
            time: seconds of the monotonic clock.
        """
        found = _devices(now)
        for address in sorted(self._stories.keys() | found.keys()):
            self._tell_device(address, found.get(address), time)
        for entry in now.left_out:
            if self._before is None or entry not in self._before.left_out:
                log.warning("left out", extra={"function": entry.function, "reason": entry.reason})
        known = warnings_of(self._before) if self._before else ()
        for warning in warnings_of(now):
            if warning not in known:
                log.warning("to be mended", extra={"problem": warning})
        self._before = now

    def _tell_device(self, address: str, now: _State | None, time: float) -> None:
        story = self._stories.setdefault(address, _Story())
        changed = _told_of(now) != _told_of(story.seen)
        story.seen = now
        story.resource = now[0] if now else story.resource
        if changed and len(story.told) == _LINES and time - story.told[0] < _WINDOW:
            story.untold += 1
        elif changed or (story.untold and time - story.told[-1] >= _WINDOW):
            _say(address, story)
            story.told.append(time)
            story.said, story.untold = now, 0
        elif now is None and time - story.told[-1] >= _WINDOW:
            del self._stories[address]


def _told_of(state: _State | None) -> tuple[str, Reason | None] | None:
    return state and (state[0], state[1].reason)


def _say(address: str, story: _Story) -> None:
    """Say how a device differs from what was said of it last, and how often it has changed unsaid."""
    said, now = story.said, story.seen
    more = {"changes_not_told": story.untold} if story.untold else {}
    if now is None:
        log.info("device gone", extra={"device": address, "resource": story.resource, **more})
        return
    resource, device = now
    fields = {"device": address, "resource": resource}
    if said is None or said[0] != resource:
        what = "device found" if said is None else "device moved to another resource"
        log.info(what, extra={**fields, "board": device.board, "shell": device.shell.vbnv})
    if device.reason == (said[1].reason if said else None) and not more:
        return
    if device.reason:
        log.warning("device Unhealthy", extra={**fields, "reason": device.reason, **more})
    else:
        log.info("device Healthy", extra={**fields, **more})


def _devices(offers: Offers) -> dict[str, _State]:
    return {
        device.address: (name, device)
        for name, offer in offers.by_resource.items()
        for device in offer.devices
    }
