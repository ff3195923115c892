"""Health: from observations of a device to the state that kubelet is shown. Pure: no files, no clock.

Every scan or check yields at most one `Observation` a device; `HealthTracker` folds it into the device's
`State`. docs/operating/troubleshooting.md has the rules for a fault, for recovery and for a lost device.

- A device begins with the first observation that has a shell. Until then its function is left out.
- A device without an observation is not on the bus. It is forgotten, unless a fault announced a reset or the
  device is not removable: then it is lost, and left out after the grace until it is back.
- A firewall trip lasts until a reset. A driver that latches trips shows it after the reset too, so the
  state remembers which trip is over. A driver that lists errors tells only why a device is offline.
- What is no evidence, such as a firewall whose attributes are all zero, neither makes nor ends a fault.
- A missing attribute is a feature that this release of the driver lacks, never a fault.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from xilinx_fpga_dp.discovery.management import Management
from xilinx_fpga_dp.discovery.slow_attributes import SlowReadings
from xilinx_fpga_dp.model import Device, History, Inventory, LeftOut, Reason

_WITH_TRIP: Final = (None, Reason.OFFLINE, Reason.NOT_READY)  # what a trip hides
_LESS_THAN_NOT_READY: Final = (None, Reason.BAD_STATE, Reason.NO_NODE)
_LOST: Final = frozenset({Reason.RESETTING, Reason.SHELL_UNKNOWN, Reason.NO_DRIVER})
# A PCI function that goes away after one of these is being reset (hot reset, AFI load), not unplugged. Its
# driver is removed first (pci_stop_and_remove_bus_device), and a scan may see the function half removed.
_ANNOUNCED: Final = frozenset({Reason.SHUTDOWN, Reason.OFFLINE, Reason.FIREWALL, Reason.RESETTING})
_AMID_A_RESET: Final = frozenset(
    {Reason.NO_DRIVER, Reason.UNRESPONSIVE, Reason.NO_NODE, Reason.SHELL_UNKNOWN}
)


WAITING: Final = "waiting for its driver to answer; that may take a moment"
"""Why a device is not offered of which nothing is known yet."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one probe of a device showed."""

    address: str  # of its user function
    device: Device | None = None  # None if its shell could not be read
    reason: Reason | None = None  # the fault; None with a device: no fault; None without: no answer yet
    why: str = ""  # the reason to leave the function out, for people; empty with a device
    trip: str | None = None  # the firewall trip on record: a text that differs for every trip
    latched: bool = False  # a trip stays on record after the reset (XRT >= 2022.2, subdev/firewall.c)
    names_offline: bool = False  # the trip on record is no fault by itself, but why the device is offline
    silent: bool = False  # the firewall gives no evidence: a trip seen before lasts
    slow: frozenset[str] = frozenset({"serial"})  # the slow attributes to read now
    unready: bool = False  # only the slow attribute `ready` tells whether it has a fault
    in_reset: bool = False  # a reset has begun or is not over, whatever the reason
    removable: bool = True  # the card can be unplugged; False: a missing function is being reset
    management: Management | None = None  # what it shows of a management function alone in its slot

    def with_slow(self, readings: SlowReadings) -> "Observation":
        """Add the slow attributes."""
        if self.management:
            return replace(self, management=replace(self.management, serial=readings.serial))
        device, reason = self.device, self.reason
        if device is None:
            return self
        if (device.serial, device.warning) != (readings.serial, readings.warning):
            device = replace(device, serial=readings.serial, warning=readings.warning)
        trip = readings.trip if "trip" in self.slow else self.trip
        if "ready" in self.slow and reason in _LESS_THAN_NOT_READY:
            if readings.ready is None and self.unready:
                return Observation(self.address, why=WAITING, slow=self.slow)
            reason = Reason.NOT_READY if readings.ready == "0" else reason
        if (device, reason, trip) == (self.device, self.reason, self.trip):
            return self
        return replace(self, device=device, reason=reason, trip=trip)


@dataclass(frozen=True, slots=True)
class HealthRules:
    """How patient the state machine is."""

    recovery_checks: int  # good checks in a row before a device is Healthy again
    reset_grace: float  # seconds a lost device keeps its place


@dataclass(frozen=True, slots=True)
class State:
    """The state of one device between observations. ``device.reason`` is what kubelet is shown."""

    device: Device
    history: History  # for people
    fault: Reason | None = None  # of its own; a device without one may still be held
    held: bool = False  # a pod has it under another name or id
    good: int = 0  # good checks in a row since the last fault, up to `recovery_checks`
    lost_since: float | None = None  # when its shell, driver, drm or function was lost, if it is lost
    removable: bool = True  # as last observed
    announced: bool = False  # a reset may take its function off the bus
    expired: bool = False  # lost for longer than the grace: it is left out
    past_trip: str | None = None  # a firewall trip on record that is over


def first_state(observation: Observation, now: float) -> State | None:
    """Return the state of a device that is new; None if its shell is not known."""
    if observation.device is None:
        return None
    # A trip on record of a card in service is an old one.
    past = observation.trip if observation.latched and observation.reason is not Reason.OFFLINE else None
    fault = _fault(observation, past)
    return State(
        device=replace(observation.device, reason=fault),
        history=History(since=now, changes=0, last_reason=fault),
        fault=fault,
        lost_since=now if fault in _LOST or observation.in_reset else None,
        removable=observation.removable,
        announced=fault in _ANNOUNCED,
        past_trip=past,
    )


def next_state(
    state: State, observation: Observation | None, now: float, rules: HealthRules, *, check: bool
) -> State | None:
    """Return the state after one observation; None if the device is gone.

    The observation is None if the function is not on the bus. With ``check`` it counts for recovery.
    """
    if observation is None:
        if state.removable and not state.announced:
            return None
        return _lost(state, Reason.RESETTING, now, rules)
    if observation.device is None:
        reason = observation.reason or (state.fault if state.lost_since is not None else None)
        return _lost(state, reason, now, rules) if reason else state
    past = _past_trip(state, observation)
    fault = _fault(observation, past)
    if observation.silent and state.fault is Reason.FIREWALL and fault in _WITH_TRIP:
        fault = Reason.FIREWALL
    if fault in _LOST:
        return _lost(replace(state, past_trip=past), fault, now, rules)
    since = (now if state.lost_since is None else state.lost_since) if observation.in_reset else None
    good = 0 if fault else min(state.good + (1 if check else 0), rules.recovery_checks)
    if fault is None and state.fault is not None and good < rules.recovery_checks:
        fault = state.fault
    # Most checks bring nothing new.
    before = (state.fault, state.good, state.lost_since, state.past_trip)
    if observation.device is state.device and not state.expired and before == (fault, good, since, past):
        return state
    after = replace(
        state,
        device=observation.device,
        fault=fault,
        good=good,
        lost_since=since,
        removable=observation.removable,
        expired=False,
        past_trip=past,
    )
    return _derive(after, state, now)


def with_held(state: State, held: bool, now: float) -> State:
    """Return the state with a pod holding the device under another name or id, or no longer."""
    return state if held == state.held else _derive(replace(state, held=held), state, now)


def _lost(state: State, reason: Reason, now: float, rules: HealthRules) -> State:
    """Keep id, name and nodes, Unhealthy, until the grace ends. A read without an answer is no loss."""
    since = state.lost_since
    if reason in _LOST:
        since = now if since is None else since
    expired = since is not None and now - since >= rules.reset_grace
    return _derive(replace(state, fault=reason, good=0, lost_since=since, expired=expired), state, now)


def _derive(state: State, before: State, now: float) -> State:
    """Derive the shown reason (a fault hides `held`), the history and `announced`."""
    reason = state.fault or (Reason.HELD if state.held else None)
    history = state.history
    if reason != before.device.reason:
        history = History(now, history.changes + 1, reason or history.last_reason)
    device = state.device
    return replace(
        state,
        device=device if device.reason == reason else replace(device, reason=reason),
        history=history,
        announced=state.fault in _ANNOUNCED or (before.announced and state.fault in _AMID_A_RESET),
    )


def _past_trip(state: State, observation: Observation) -> str | None:
    """Return the trip on record that is over after an observation with a device."""
    lost = observation.in_reset or observation.reason in _LOST
    if state.lost_since is not None and not lost and observation.latched:
        return observation.trip  # a reset is complete
    if observation.names_offline and not lost and observation.reason is not Reason.OFFLINE:
        return observation.trip  # in service: if it is offline later, that is not because of this one
    return state.past_trip if lost or observation.trip or observation.silent else None


def _fault(observation: Observation, past_trip: str | None) -> Reason | None:
    """Return the fault. A new trip hides the offline that follows it; a reset ends both."""
    trip, reason = observation.trip, observation.reason
    hidden = (Reason.OFFLINE,) if observation.names_offline else _WITH_TRIP
    if trip and trip != past_trip and reason in hidden:
        return Reason.FIREWALL
    return reason


class HealthTracker:
    """The states of all devices, ordered by address."""

    def __init__(self, rules: HealthRules) -> None:
        self._rules = rules
        self._states: Mapping[str, State] = {}
        self._left_out: tuple[LeftOut, ...] = ()

    @property
    def known(self) -> frozenset[str]:
        """The addresses of the devices that are there, or were and may come back."""
        return frozenset(self._states)

    @property
    def expired(self) -> frozenset[str]:
        """The addresses of the devices that have lost their place."""
        return frozenset(address for address, state in self._states.items() if state.expired)

    @property
    def rule_names(self) -> dict[str, str]:
        """The name of the rule that took each device of another driver, by address."""
        return {address: state.device.rule for address, state in self._states.items() if state.device.rule}

    def forget(self, addresses: Collection[str]) -> None:
        """Forget devices that no rule takes any more: another card there is a new device."""
        self._states = {address: state for address, state in self._states.items() if address not in addresses}

    @property
    def without_fault(self) -> frozenset[str]:
        """The addresses of the devices that have no fault of their own."""
        return frozenset(address for address, state in self._states.items() if state.fault is None)

    def step(self, observations: Iterable[Observation], now: float, *, check: bool) -> Inventory:
        """Fold in one scan, of which ``check`` says whether it counts for recovery.

        A known device without an observation is not on the bus.
        """
        seen = {observation.address: observation for observation in observations}
        states: dict[str, State] = {}
        left_out: list[LeftOut] = []
        for address in sorted(seen.keys() | self._states.keys()):
            observation = seen.get(address)
            state = self._states.get(address)
            if state is not None:
                state = next_state(state, observation, now, self._rules, check=check)
            elif observation is not None:
                state = first_state(observation, now)
            if state is not None:
                states[address] = state
                if state.expired:
                    why = self._why_expired(state, observation)
                    left_out.append(LeftOut(address, why, lost=state.device.reason))
            elif observation is not None:
                left_out.append(LeftOut(address, observation.why))
        self._states = states
        self._left_out = tuple(left_out)
        return self._inventory()

    def hold(self, addresses: frozenset[str], now: float) -> Inventory:
        """Mark these devices, and no others, as held by pods under another name or id."""
        self._states = {
            address: with_held(state, address in addresses, now) for address, state in self._states.items()
        }
        return self._inventory()

    def fault_of(self, observation: Observation) -> Reason | None:
        """Return the fault that an observation shows, a new trip included; None if there is none.

        One without an answer yet shows the last one.
        """
        state = self._states.get(observation.address)
        if state and not (observation.device or observation.reason):
            return state.fault
        return _fault(observation, state.past_trip) if state else observation.reason

    def _inventory(self) -> Inventory:
        offered = {address: state for address, state in self._states.items() if not state.expired}
        return Inventory(
            devices=tuple(state.device for state in offered.values()),
            left_out=self._left_out,
            histories={address: state.history for address, state in offered.items()},
        )

    def _why_expired(self, state: State, observation: Observation | None) -> str:
        if observation is None:
            why = "it is not on the bus: rescan that, or cold-boot the card"
        else:
            why = observation.why or "it is offered again when it is back (xbutil reset, or a cold boot)"
        grace = f"{self._rules.reset_grace:g} s"
        return f"{state.device.reason} for more than {grace}: it lost its place; {why}"
