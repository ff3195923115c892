"""From the files of a node to an inventory: decides when which file is read.

A scan reads the whole bus from the kernel's core, asks the back-ends for a probe for each device and each
function that should be one, and runs the probes on threads. A check probes the known devices only, and first
with the cheap check for those without a fault. Both fold all observations into health.

- A driver that is late holds up no other device: after `_PATIENCE` the scan ends without it. Until `_LATE`
  the device stays as it was, after that it is unresponsive. The read wakes the service when it returns.
- A device that has become faulty or is gone is probed once more before that counts.
- A bus that cannot be listed, and any read that finds no free file descriptor, aborts the scan or check with
  `ScanFailed`: it is no evidence about any card, so all that is known stays.
"""

import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending
from xilinx_fpga_dp.discovery import pci_ids, unsupported
from xilinx_fpga_dp.discovery.backend import REMEDY, Probe, unidentified
from xilinx_fpga_dp.discovery.drivers import ami, ma35d, xrt, zocl
from xilinx_fpga_dp.discovery.health import WAITING, HealthRules, HealthTracker, Observation
from xilinx_fpga_dp.discovery.management import pair
from xilinx_fpga_dp.discovery.slow_attributes import SlowAttributes, SlowReadings
from xilinx_fpga_dp.discovery.sysfs import Bus, OutOfDescriptors, Wanted, read_bus, refresh_bus, slot_of
from xilinx_fpga_dp.model import Device, Inventory, Reason

if TYPE_CHECKING:
    from xilinx_fpga_dp.discovery.drivers.rules import DeviceRuleBackend
    from xilinx_fpga_dp.resources.device_rules import DeviceRules

T = TypeVar("T")

BACKENDS: Final = (xrt.BACKEND, ami.BACKEND, ma35d.BACKEND, zocl.BACKEND)
_WANTED: Final = Wanted(
    drivers=frozenset().union(*(backend.wanted.drivers for backend in BACKENDS)),
    listed=frozenset().union(*(backend.wanted.listed for backend in BACKENDS)),
    vendors=pci_ids.VENDORS,
    classes={name: pattern for backend in BACKENDS for name, pattern in backend.wanted.classes.items()},
)

# The functions that program a card, and the node to do it by
_MANAGEMENT: Final = {xrt.MGMT_DRIVER: xrt.management_node, ami.DRIVER: ami.management_node}

# Why a function is left out that its driver has not brought up yet
_STARTING: Final = frozenset({Reason.SHELL_UNKNOWN, Reason.RESETTING, Reason.NOT_READY})

_PATIENCE = 0.25  # seconds a scan waits for drivers before it goes ahead without the late ones
_LATE = 2.0  # seconds a driver may take to answer before its device counts as unresponsive
_BUS_PATIENCE = 5.0  # seconds the PCI core may take; it never blocks, but a machine can be busy

_Answer: TypeAlias = Observation | Exception | Pending | None


class ScanFailed(Exception):  # noqa: N818 - the node's state, not a fault of ours
    """The node could not be scanned now. Carries the path and why."""


@dataclass(slots=True, eq=False)
class _Tracked:
    """One probe and what it showed last. Changed on the loop only; a scan forgets it, a check does not."""

    probe: Probe  # the newest one
    address: str  # of its device; the key until the driver has answered another
    last: Observation | None = None  # the last observation; None if there is nothing to report
    pending: bool = False  # another probe soon may show more
    withheld: str | None = None  # why the device cannot be offered yet
    # The last answer with the slow attributes, and the observation made of both: the same one while both are
    seen: tuple[Observation, SlowReadings] | None = None
    complete: Observation | None = None

    @property
    def cheap_check(self) -> Callable[[bool], Observation] | None:
        """The cheap check of a device without a fault; None if it needs a full probe.

        It returns the last observation, or one without a device if that may not hold any more.
        """
        unchanged, last = self.probe.unchanged, self.last
        if not (unchanged and last and last.device) or last.reason:
            return None
        why = "it has changed; it is looked at again in a moment"
        return lambda exact: last if unchanged(last, exact) else Observation(last.address, why=why)


class Scanner:
    """Scans a node repeatedly and remembers its devices.

    It calls ``wake`` when a read returns that no scan waits for any more.
    """

    def __init__(
        self, sysfs_root: str, dev_root: str, rules: HealthRules, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._bus_reader: BlockingReader[Bus] = BlockingReader(wake)
        self._reader: BlockingReader[Observation | None] = BlockingReader(wake)
        self._withheld_reader: BlockingReader[str | None] = BlockingReader(wake)
        # Used on the loop only.
        self._health = HealthTracker(rules)
        self._slow = SlowAttributes(wake)
        self._bus = Bus(sysfs_root, dev_root)
        self._rules: DeviceRuleBackend | None = None  # for other devices
        self._rule_file: object = None  # what that was made of
        self._addresses: frozenset[str] = frozenset()  # of all functions of the last scan, if there are rules
        self._tracked: dict[str, _Tracked] = {}  # of the last scan, by key

    @property
    def unsettled(self) -> bool:
        """Whether a read is outstanding, so that another scan soon may show more."""
        return any(tracked.pending for tracked in self._tracked.values())

    @property
    def starting(self) -> bool:
        """Whether a function that has never been a device may become one soon: its driver brings it up."""
        known = self._health.known
        return any(
            each.probe.device and each.address not in known and each.last and each.last.reason in _STARTING
            for each in self._tracked.values()
        )

    @property
    def complete(self) -> bool:
        """Whether nothing is outstanding at all, serial numbers included."""
        return not self.unsettled and not self._slow.reading

    def use_rules(self, found: "DeviceRules | None") -> None:
        """Let these rules take devices from the next scan on, before the drivers' back-ends."""
        if found is self._rule_file:
            return
        self._rule_file = found
        self._rules = None
        if found:
            from xilinx_fpga_dp.discovery.drivers.rules import DeviceRuleBackend  # noqa: PLC0415

            self._rules = DeviceRuleBackend(found.rules, _WANTED, _MANAGEMENT)
        # What is known of a function and what is passed over depend on what is wanted.
        self._bus = Bus(self._bus.root, self._bus.dev_root)

    @property
    def _wanted(self) -> Wanted:
        return self._rules.wanted if self._rules else _WANTED

    async def scan(self, *, check: bool = False) -> Inventory:
        """Scan the whole bus. With ``check`` the scan counts as a health check.

        Raises:
            ScanFailed: the bus could not be listed, or no file descriptor was free.
        """
        self._tracked = await self._confirmed(self._scan_bus)
        self._slow.retain(self._tracked)
        if by_rule := self._health.rule_names:
            self._health.forget(by_rule.keys() - {each.address for each in self._tracked.values()})
        return self._step(check=check)

    async def check(self) -> Inventory:
        """Check the health of the known devices.

        Raises:
            ScanFailed: the bus could not be listed, or no file descriptor was free.
        """
        if rest := self._health.known - await self._check_unchanged():
            self._tracked = await self._confirmed(partial(self._probe_again, rest))
        return self._step(check=True)

    def hold(self, addresses: frozenset[str]) -> Inventory:
        """Return the last inventory with these devices held by pods under another name or id."""
        return self._inventory(self._health.hold(addresses, time.monotonic()))

    def awaits_serial(self, device: Device) -> bool:
        """Return whether the serial number of a device of a scan may be another one in a moment."""
        tracked = self._of(device)
        return tracked is not None and self._slow.has_more(tracked.probe.key, device.serial)

    def _of(self, device: Device) -> _Tracked | None:
        return next((each for each in self._tracked.values() if each.address == device.address), None)

    async def refresh(self, device: Device) -> Device | None:
        """Return the device as it is now, with its fault; None if it is gone. Waits for its driver."""
        tracked = self._of(device)
        if tracked is None:
            return None
        # In one call: a hop to a thread costs more than the reads.
        key = tracked.probe.key
        call = partial(self._probe_fresh, self._bus, device.address, key, tracked.cheap_check)
        answer = await self._reader.read_fresh(key, call, math.inf)
        if isinstance(answer, Exception):
            return replace(device, reason=Reason.UNRESPONSIVE)
        observation = self._complete(tracked, answer)
        if observation is None or observation.address != device.address:
            return None
        now = observation.device or device
        if now.mgmt_node != device.mgmt_node and self._is_alone(device):
            now = replace(now, mgmt_node=device.mgmt_node)  # what it was paired with
        fault = self._health.fault_of(observation)
        return now if now.reason == fault else replace(now, reason=fault)

    def _probe_fresh(
        self, bus: Bus, address: str, key: str, cheap_check: Callable[[bool], Observation] | None
    ) -> Observation | None:
        """Observe a device now; None if it is gone. Blocks. An exception is no fault of the device."""
        if cheap_check and (last := cheap_check(True)).device:
            return last
        now = refresh_bus(bus.near(address), self._wanted, {address})
        return next((probe.observe() for probe in self._probes(now) if probe.key == key), None)

    async def _confirmed(self, scan: Callable[[], Awaitable[dict[str, _Tracked]]]) -> dict[str, _Tracked]:
        """Scan; again if a device has become faulty or is gone: the whole bus may have been away."""
        good = self._health.without_fault
        found = await scan()
        without_fault = {each.last.address for each in found.values() if each.last and not each.last.reason}
        return await scan() if good - without_fault else found

    async def _scan_bus(self) -> dict[str, _Tracked]:
        """Read the whole bus and run all probes."""
        self._bus = await self._read_bus(partial(read_bus, self._bus, self._wanted))
        if self._rules:
            self._addresses = frozenset({*self._bus.others, *(each.address for each in self._bus.functions)})
        found = self._track(self._probes(self._bus))
        await self._read_withheld(found.values())
        await self._observe(found.values())
        return found

    async def _probe_again(self, addresses: frozenset[str]) -> dict[str, _Tracked]:
        """Run the probes of some devices of the last scan, and new ones; return these and all others."""
        bus = await self._read_bus(partial(refresh_bus, self._bus, self._wanted, addresses))
        others = {key for key, each in self._tracked.items() if each.address not in addresses}
        found = self._track(probe for probe in self._probes(bus) if probe.key not in others)
        await self._observe(found.values())
        for key, tracked in self._tracked.items():
            if key not in found and tracked.address in addresses:
                tracked.last, tracked.pending = None, False
        return self._tracked | found

    async def _check_unchanged(self) -> set[str]:
        """Run the cheap checks; return the addresses of the devices for which these are conclusive."""
        calls = {
            key: partial(check, False) for key, each in self._tracked.items() if (check := each.cheap_check)
        }
        answers = await _read(self._reader, calls, _PATIENCE)
        conclusive = set()
        for key, answer in answers.items():
            if isinstance(answer, Pending) or (isinstance(answer, Observation) and answer.device):
                self._record(self._tracked[key], answer)
                conclusive.add(self._tracked[key].address)
        return conclusive

    async def _read_bus(self, read: Callable[[], Bus]) -> Bus:
        try:
            return await self._bus_reader.read(read, _BUS_PATIENCE)
        except OutOfDescriptors as error:
            raise ScanFailed(str(error)) from None
        except TimeoutError:
            why = f"no answer for {_BUS_PATIENCE:g} s"
        except Exception as error:  # of any kind, so that the service goes on
            why = getattr(error, "strerror", None) or repr(error)
        raise ScanFailed(f"{self._bus.root}/bus/pci/devices: {why}")

    def _probes(self, bus: Bus) -> list[Probe]:
        probes: list[Probe] = []
        known = self._health.known
        by_rule = self._health.rule_names
        known -= by_rule.keys()
        if self._rules:
            probes, bus = self._rules.probes(bus, by_rule, self._addresses)
        probes += [probe for backend in BACKENDS for probe in backend.probes(bus)]
        taken = {slot_of(probe.key) for probe in probes if probe.device}
        ours = {each.address for each in bus.functions if each.driver in _WANTED.drivers}
        absent = self._health.expired - {each.address for each in bus.functions}
        lost = known - ours - absent
        reported = {probe.key for probe in probes}
        return [*probes, *unsupported.probes(bus, taken, lost, reported)]

    def _track(self, probes: Iterable[Probe]) -> dict[str, _Tracked]:
        """Return what is tracked for these probes, by key."""
        found = {}
        for probe in probes:
            tracked = found[probe.key] = self._tracked.get(probe.key) or _Tracked(probe, probe.key)
            tracked.probe = probe
        return found

    async def _read_withheld(self, found: Collection[_Tracked]) -> None:
        calls = {each.probe.key: each.probe.withheld for each in found if each.probe.withheld}
        answers = await _read(self._withheld_reader, calls, _PATIENCE) if calls else {}
        for tracked in found:
            answer = answers.get(tracked.probe.key)
            if not isinstance(answer, Pending):
                tracked.withheld = answer if isinstance(answer, str) else None

    async def _observe(self, found: Collection[_Tracked]) -> None:
        """Run the probes, all at once, and wait a moment for those that are late."""
        calls = {each.probe.key: each.probe.observe for each in found}
        answers = await _read(self._reader, calls, _PATIENCE)
        for tracked in found:
            self._record(tracked, answers[tracked.probe.key])

    def _record(self, tracked: _Tracked, answer: _Answer) -> None:
        probe = tracked.probe
        observation = self._complete(tracked, answer)
        tracked.pending = observation is not None and not (observation.device or observation.reason)
        if tracked.pending and not probe.device and probe.key not in self._health.known:
            return  # what is left out stays so until its driver has answered
        if isinstance(answer, Observation) and probe.slow:
            well = observation is not None and not observation.reason
            self._slow.refresh(probe.key, probe.slow, answer.slow, well=well)
        tracked.last = observation

    def _complete(self, tracked: _Tracked, answer: _Answer) -> Observation | None:
        """Return the observation that an answer stands for, with all that is known beside it."""
        if isinstance(answer, Exception | Pending):
            return _unanswered(tracked.address, answer)
        if answer is None:
            return None
        tracked.address = answer.address
        if tracked.withheld:
            return Observation(answer.address, reason=Reason.SHELL_UNKNOWN, why=tracked.withheld)
        seen = answer, self._slow.get(tracked.probe.key)
        if tracked.seen != seen:
            tracked.seen, tracked.complete = seen, answer.with_slow(seen[1])
        return tracked.complete

    def _step(self, *, check: bool) -> Inventory:
        observations = _observations(self._tracked)
        return self._inventory(self._health.step(observations, time.monotonic(), check=check))

    def _inventory(self, found: Inventory) -> Inventory:
        found = replace(found, numa_nodes=self._bus.numa_nodes)
        last = (tracked.last for tracked in self._tracked.values())
        if managements := [each.management for each in last if each and each.management]:
            return pair(found, managements, {each.address for each in found.devices if self._is_alone(each)})
        return found

    def _is_alone(self, device: Device) -> bool:
        """Whether no management function is beside it in its slot."""
        managed = (each.slot for each in self._bus.functions if each.driver == xrt.MGMT_DRIVER)
        return not device.rule and device.driver == xrt.USER_DRIVER and slot_of(device.address) not in managed


async def _read(
    reader: BlockingReader[T], calls: Mapping[str, Callable[[], T]], patience: float
) -> dict[str, T | Exception | Pending]:
    """Make the calls, by key. Raises ScanFailed if no file descriptor was free for one of them."""
    answers = await reader.read_many(calls, patience)
    for answer in answers.values():
        if isinstance(answer, OutOfDescriptors):
            raise ScanFailed(str(answer))
    return answers


def _observations(found: Mapping[str, _Tracked]) -> list[Observation]:
    """Return the last observations, one an address. A device takes precedence over what is left out."""
    observations: dict[str, Observation] = {}
    for tracked in sorted(found.values(), key=lambda each: not each.probe.device):
        key, observation = tracked.probe.key, tracked.last
        if observation is None:
            continue
        address = observation.address
        if address not in observations and (
            address == key or address not in found or not found[address].probe.device
        ):
            observations[address] = observation
        elif tracked.probe.device:
            observations[key] = unidentified(key, f"it says that it is {address}, which is another device")
    return list(observations.values())


def _unanswered(address: str, answer: Exception | Pending) -> Observation:
    """Make the observation of a device that could not be observed."""
    if isinstance(answer, Exception):
        return unidentified(address, f"reading it failed: {answer!r}")
    if time.monotonic() - answer.since < _LATE:
        return Observation(address, why=WAITING)
    # The end of the read wakes the service.
    why = f"its driver does not answer: a read hangs; {REMEDY}"
    return Observation(address, reason=Reason.UNRESPONSIVE, why=why)
