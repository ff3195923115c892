"""Health: from looks at a device to the state kubelet hears of. Pure; docs/operating.md has it as a table.

It knows no files, and no clock but the times it is given. A missing attribute means a feature that this
release of the driver does not have, never a fault. One device's looks change no other device's state.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from xilinx_fpga_dp.discovery.slow_attributes import Answers
from xilinx_fpga_dp.model import Device, History, Inventory, LeftOut, Reason

# A device whose shell can't be read, or that has no drm, keeps its place so long and no longer.
_LOST: Final = frozenset({Reason.RESETTING, Reason.SHELL_UNKNOWN, Reason.NO_DRIVER})
# A PCI function that goes away after one of these is being reset (hot reset, AFI load), not unplugged. Its
# driver goes first (pci_stop_and_remove_bus_device), and it may be looked at while parts of it are gone.
_ANNOUNCED: Final = frozenset({Reason.SHUTDOWN, Reason.OFFLINE, Reason.FIREWALL, Reason.RESETTING})
_AMID_A_RESET: Final = frozenset(
    {Reason.NO_DRIVER, Reason.UNRESPONSIVE, Reason.NO_NODE, Reason.SHELL_UNKNOWN}
)
# Nobody pulls a card of AWS': one whose function goes away is loading an image, which nothing announces.
_AWS: Final = "aws-"


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a device showed.

    Attributes:
        address: of its user function.
        device: what it is, where its shell could be read.
        reason: the fault seen; None with a device: none; None without: no answer yet, nothing new.
        why: for people, why it can't be offered; only without a device.
        trip: the firewall trip on record, as text that another trip would change; None: none.
        latched: the driver keeps a trip on record after it is over (XRT >= 2022.2, subdev/firewall.c).
        in_reset: a reset has begun or is not over, whatever the reason.
    """

    address: str
    device: Device | None = None
    reason: Reason | None = None
    why: str = ""
    trip: str | None = None
    latched: bool = False
    in_reset: bool = False

    def with_slow(self, answers: Answers) -> "Look":
        """The look with what is known from the slow answers."""
        trip = answers.trip if answers.again else self.trip
        if self.device is None or (self.device.serial, self.trip) == (answers.serial, trip):
            return self
        device = dataclasses.replace(self.device, serial=answers.serial)
        return dataclasses.replace(self, device=device, trip=trip)


@dataclass(frozen=True, slots=True)
class Rules:
    """How patient the state machine is.

    Attributes:
        recovery_checks: good checks in a row before a device is Healthy again.
        reset_grace: seconds a device that is lost keeps its place.
    """

    recovery_checks: int
    reset_grace: float


@dataclass(frozen=True, slots=True)
class State:
    """One device's state between looks. ``device.reason`` is what kubelet hears.

    Attributes:
        history: for people.
        fault: of its own; a device without one may still be held.
        held: a pod has it under another name or id.
        good: good checks in a row since the last fault, as far as they count.
        lost_since: when its shell, drm or function was lost; None: it is there.
        announced: it may go away and come back.
        expired: lost for longer than the grace: it is not offered any more.
        past_trip: a firewall trip on record that is over.
    """

    device: Device
    history: History
    fault: Reason | None = None
    held: bool = False
    good: int = 0
    lost_since: float | None = None
    announced: bool = False
    expired: bool = False
    past_trip: str | None = None


def first(look: Look, now: float) -> State | None:
    """The state of a device never seen before; None where it has no shell: it is left out then."""
    if look.device is None:
        return None
    # A trip on record beside a card in service is an old one.
    past = look.trip if look.latched and look.reason is not Reason.OFFLINE else None
    fault = _fault(look, past)
    return State(
        device=dataclasses.replace(look.device, reason=fault),
        history=History(since=now, changes=0, last_reason=fault),
        fault=fault,
        lost_since=now if fault in _LOST or look.in_reset else None,
        announced=fault in _ANNOUNCED,
        past_trip=past,
    )


def step(state: State, look: Look | None, now: float, rules: Rules, *, check: bool) -> State | None:
    """The state after one look.

    Args:
        state: before it.
        look: None: the function is not on the bus.
        now: time of the look, seconds.
        rules: how patient to be.
        check: a look that counts for recovery, not one that something woke.

    Returns:
        None where the device is gone.
    """
    if look is None:
        if not state.announced and not state.device.board.startswith(_AWS):
            return None
        gone = _lost(state, Reason.RESETTING, now, rules)
        return None if gone.expired else gone
    if look.device is None:
        reason = look.reason or (state.fault if state.lost_since is not None else None)
        return _lost(state, reason, now, rules) if reason else state
    past = state.past_trip
    lost = look.in_reset or look.reason in _LOST
    if state.lost_since is not None and not lost and look.latched:
        past = look.trip  # a reset is complete: what is on record now is over
    elif look.trip is None and not look.in_reset:
        past = None
    fault = _fault(look, past)
    if fault in _LOST:
        return _lost(dataclasses.replace(state, past_trip=past), fault, now, rules)
    since = (now if state.lost_since is None else state.lost_since) if look.in_reset else None
    good = 0 if fault else min(state.good + check, rules.recovery_checks)
    if fault is None and state.fault is not None and good < rules.recovery_checks:
        fault = state.fault
    # Most checks bring nothing new.
    before = (state.fault, state.good, state.lost_since, state.past_trip)
    if look.device is state.device and not state.expired and before == (fault, good, since, past):
        return state
    return _told(
        dataclasses.replace(
            state, device=look.device, fault=fault, good=good, lost_since=since, expired=False, past_trip=past
        ),
        state,
        now,
    )


def hold(state: State, held: bool, now: float) -> State:
    """The state when a pod is known to have it under another name or id, or not to have it any more."""
    return state if held == state.held else _told(dataclasses.replace(state, held=held), state, now)


def _lost(state: State, reason: Reason, now: float, rules: Rules) -> State:
    """It keeps id, name and nodes, Unhealthy, until the grace ends. An unanswered look is no loss."""
    since = state.lost_since
    if reason in _LOST:
        since = now if since is None else since
    expired = since is not None and now - since >= rules.reset_grace
    lost = dataclasses.replace(state, fault=reason, good=0, lost_since=since, expired=expired)
    return _told(lost, state, now)


def _told(state: State, before: State, now: float) -> State:
    """Let kubelet and the history hear of the state: a fault of its own first, then that it is held."""
    reason = state.fault or (Reason.HELD if state.held else None)
    history = state.history
    if reason != before.device.reason:
        history = History(now, history.changes + 1, reason or history.last_reason)
    device = state.device
    return dataclasses.replace(
        state,
        device=device if device.reason == reason else dataclasses.replace(device, reason=reason),
        history=history,
        announced=state.fault in _ANNOUNCED or (before.announced and state.fault in _AMID_A_RESET),
    )


def _fault(look: Look, past_trip: str | None) -> Reason | None:
    """A new trip says more than the offline that follows it; a reset ends both."""
    if look.trip and look.trip != past_trip and look.reason in (None, Reason.OFFLINE, Reason.NOT_READY):
        return Reason.FIREWALL
    return look.reason


class Memory:
    """The states of all devices, folded look by look. What was seen with a shell is not forgotten lightly."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._states: Mapping[str, State] = {}  # ordered by address
        self._left_out: tuple[LeftOut, ...] = ()
        self._numa_nodes: tuple[int, ...] = ()

    @property
    def known(self) -> frozenset[str]:
        """The addresses of the devices there are, or were and may come back."""
        return frozenset(self._states)

    @property
    def without_fault(self) -> frozenset[str]:
        """The addresses of the devices that have no fault of their own."""
        return frozenset(address for address, state in self._states.items() if state.fault is None)

    def step(
        self, looks: Iterable[Look], now: float, *, check: bool, numa_nodes: tuple[int, ...] = ()
    ) -> Inventory:
        """Take in one scan: a look at every function there is.

        Args:
            looks: in any order; a known device without one is not on the bus.
            now: time of the scan, seconds.
            check: this scan counts for recovery.
            numa_nodes: those online.
        """
        seen = {look.address: look for look in looks}
        states: dict[str, State] = {}
        left_out: list[LeftOut] = []
        for address in sorted(seen.keys() | self._states.keys()):
            look = seen.get(address)
            state = self._next(address, look, now, check)
            if state is not None:
                states[address] = state
            if state is not None and state.expired:
                left_out.append(LeftOut(address, _why_expired(state, look, self._rules)))
            elif state is None and look is not None:
                left_out.append(LeftOut(address, look.why))
        self._states = states
        self._left_out = tuple(left_out)
        self._numa_nodes = numa_nodes
        return self._inventory()

    def hold(self, addresses: frozenset[str], now: float) -> Inventory:
        """Take in which devices pods have under another name or id; the inventory with that.

        Args:
            addresses: of those, and of no others.
            now: the time, seconds.
        """
        self._states = {
            address: hold(state, address in addresses, now) for address, state in self._states.items()
        }
        return self._inventory()

    def fault_of(self, look: Look) -> Reason | None:
        """The fault that a look at a device shows, a trip that was not on record before too."""
        state = self._states.get(look.address)
        return _fault(look, state.past_trip) if state else look.reason

    def _inventory(self) -> Inventory:
        offered = {a: state for a, state in self._states.items() if not state.expired}
        return Inventory(
            devices=tuple(state.device for state in offered.values()),
            left_out=self._left_out,
            numa_nodes=self._numa_nodes,
            histories={address: state.history for address, state in offered.items()},
        )

    def _next(self, address: str, look: Look | None, now: float, check: bool) -> State | None:
        state = self._states.get(address)
        if state is not None:
            return step(state, look, now, self._rules, check=check)
        return first(look, now) if look is not None else None


def _why_expired(state: State, look: Look | None, rules: Rules) -> str:
    why = look and look.why
    return (
        f"{state.device.reason} for more than {rules.reset_grace:g} s: it lost its place; "
        f"{why or 'it is offered again when it is back (xbutil reset, or a cold boot)'}"
    )


def xrt_reason(attributes: Mapping[str, str | None], *, renders: bool, node: bool) -> Reason | None:
    """The fault of an XRT user function; None if it has none.

    Args:
        attributes: `shutdown`, `dev_offline`, `ready`, `device_bad_state` as read; None: missing.
        renders: a ``drm/renderD*`` is in its directory.
        node: the render node is under /dev.
    """
    if number(attributes.get("shutdown")) == 1:
        return Reason.SHUTDOWN
    # 1, or -19 (ENODEV) once drm is gone: userpf/xocl_sysfs.c dev_offline_show
    if number(attributes.get("dev_offline")) not in (None, 0):
        return Reason.OFFLINE
    if not renders and attributes.get("ready") is None and attributes.get("dev_offline") is None:
        # A reset removes drm and these attributes first: userpf/xocl_drv.c xocl_reset_notify
        return Reason.RESETTING
    # Hexadecimal; XRT itself refuses a device that is not ready: pcie/linux/pcidrv.cpp
    if number(attributes.get("ready")) == 0:
        return Reason.NOT_READY
    if number(attributes.get("device_bad_state")) == 1:
        return Reason.BAD_STATE
    return None if renders and node else Reason.NO_NODE


def number(text: str | None) -> int | None:
    """A number as a driver prints it, ``1``, ``0x1`` or ``-19``; None where it is missing or none."""
    try:
        return int(text, 0) if text is not None else None
    except ValueError:
        return None


def xrt_tripped(level: str | None) -> bool:
    """Whether ``firewall.u.*/level`` tells of a trip; if not, it is -1 as an unsigned: subdev/firewall.c."""
    return number(level) not in (None, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF, -1)
