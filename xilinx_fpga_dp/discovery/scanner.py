"""From the files of a node to an inventory: the only place that knows when what is read."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending
from xilinx_fpga_dp.discovery import unsupported as strangers
from xilinx_fpga_dp.discovery.backend import ODD_ANSWER, Backend, Probe, odd_answer
from xilinx_fpga_dp.discovery.drivers import ami, ma35d, xrt, zocl
from xilinx_fpga_dp.discovery.health import Look, Memory, Rules
from xilinx_fpga_dp.discovery.slow_attributes import SlowAttributes
from xilinx_fpga_dp.discovery.sysfs import Bus, OutOfDescriptors, Wanted, read_again, read_bus
from xilinx_fpga_dp.model import Device, Inventory, Reason

BACKENDS: Final[tuple[Backend, ...]] = (xrt, ami, ma35d, zocl)
_WANTED: Final = Wanted(
    drivers=frozenset().union(*(backend.DRIVERS for backend in BACKENDS)),
    listed=frozenset().union(*(backend.LISTED for backend in BACKENDS)),
    vendors=strangers.VENDORS,
    classes={name: pattern for backend in BACKENDS for name, pattern in backend.CLASSES.items()},
)
# What of that has a say about a device of some driver of the PCI bus
_WANTED_FOR: Final = {
    driver: replace(_WANTED, classes=backend.CLASSES) for backend in BACKENDS for driver in backend.DRIVERS
}

# Seconds a scan waits for drivers before it goes ahead without the late ones.
_PATIENCE = 0.25
# Seconds a driver may take to answer before its device counts as unresponsive.
_LATE = 2.0
# Seconds the PCI core may take; it never blocks, but a machine can be busy.
_BUS_PATIENCE = 5.0


class _Changed:
    """The answer to whether a device is without a fault still, where that is not sure."""


_Answer: TypeAlias = Look | _Changed | Exception | Pending | None


class ScanFailed(Exception):  # noqa: N818 - the node's state, not a fault of ours
    """The bus as a whole could not be read; says which path and why."""


class Scanner:
    """Scans a node again and again, and remembers what it has seen.

    Args:
        sysfs_root: where sysfs is, ``/sys``.
        dev_root: where device nodes are looked for, ``/dev`` or the host's at ``/host/dev``.
        rules: how patient to be with a device that is lost or on the mend.
        wake: called when an answer came in that no scan waits for any more.
    """

    def __init__(
        self,
        sysfs_root: str,
        dev_root: str,
        rules: Rules,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = sysfs_root
        self._dev_root = dev_root
        self._memory = Memory(rules)
        self._bus_reads: BlockingReader[Bus] = BlockingReader(wake)
        self._reads: BlockingReader[Look | _Changed | None] = BlockingReader(wake)
        self._withheld_reads: BlockingReader[str | None] = BlockingReader(wake)
        self._slow = SlowAttributes(wake)
        # Of the last look at the whole bus; touched on the loop only.
        self._bus = Bus(sysfs_root)
        self._strangers: list[Look] = []  # at what is no device and never was
        self._said: dict[str, Look | None] = {}  # of those that have been asked, by key
        self._withheld: dict[str, str] = {}  # why devices can't be offered yet, by key
        self._addresses: dict[str, str] = {}  # of devices that only their driver tells the address of, by key
        self._keys: frozenset[str] = frozenset()  # of what is or should be a device
        self._good: dict[str, tuple[Probe, Look]] = {}  # whom to ask whether a look without a fault holds
        self._pending = False

    @property
    def unsettled(self) -> bool:
        """Whether an answer is outstanding, so that another look soon is worth it."""
        return self._pending

    @property
    def complete(self) -> bool:
        """Whether nothing is outstanding at all, serial numbers included."""
        return not self._pending and not self._slow.reading

    async def scan(self, *, check: bool = False) -> Inventory:
        """Look at the whole bus. A device whose driver is late does not hold up the others.

        Args:
            check: the look counts as a health check.

        Raises:
            ScanFailed: the bus could not be listed; what is known stays as it is.
        """
        good = self._memory.without_fault
        looks, keys = await self._look_at_all()
        if good - _without_fault(looks):  # at fault or gone; or away for a moment only, with the whole bus
            looks, keys = await self._look_at_all()
        known = self._memory.known
        looks = _once_a_card(looks, known)
        self._strangers = [look for look in looks if look.device is None and look.address not in known]
        self._said = {key: look for key, look in self._said.items() if key in keys}
        self._slow.keep(keys)
        self._addresses = {key: address for key, address in self._addresses.items() if key in keys}
        self._good = {key: good for key, good in self._good.items() if key in keys}
        return self._remember(looks, check=check)

    async def check(self) -> Inventory:
        """Look at the known devices only: a health check. Where nothing has changed, a few reads tell.

        Raises:
            ScanFailed: as above.
        """
        self._pending = False
        good = self._memory.without_fault
        looks = await self._ask_good()
        if rest := self._memory.known.difference(look.address for look in looks):
            others = await self._look_again(rest)
            if good - _without_fault([*looks, *others]):  # as above
                others = await self._look_again(rest)
            looks += others
        return self._remember([*looks, *self._strangers], check=True)

    async def _look_at_all(self) -> tuple[list[Look], set[str]]:
        """The looks at all that is there, and whom they were asked of, by key.

        Raises:
            ScanFailed: as above.
        """
        self._bus = await self._read_bus("all", partial(read_bus, self._root, _WANTED, self._bus))
        probes = self._probes(self._bus)
        self._keys = frozenset(probe.key for probe in probes if probe.device)
        self._withheld = await self._ask_what_is_withheld(probes)
        self._pending = False
        return await self._ask(probes), {probe.key for probe in probes}

    async def _look_again(self, addresses: frozenset[str]) -> list[Look]:
        """The looks at some devices that were there at the last scan.

        Raises:
            ScanFailed: as above.
        """
        bus = await self._read_bus("known", partial(read_again, self._bus, _WANTED, addresses))
        return await self._ask(self._of(addresses, bus))

    def hold(self, addresses: frozenset[str]) -> Inventory:
        """What was found last, with these devices held by pods under another name or id."""
        return self._memory.hold(addresses, time.monotonic())

    async def refresh(self, device: Device) -> Device | None:
        """The device as it is now, with its fault; None if it is gone. Waits as long as its driver likes."""
        key = next((key for key, own in self._addresses.items() if own == device.address), device.address)
        # In one go: a hop to a thread costs more than the reads.
        ask = partial(self._ask_again, self._bus, device, key, self._good.get(key))
        answer = await self._reads.read_fresh(key, ask, math.inf)
        if isinstance(answer, OSError | OutOfDescriptors):
            return replace(device, reason=Reason.UNRESPONSIVE)
        look = self._completed(key, answer)
        if look is None or look.address != device.address:
            return None
        return replace(look.device or device, reason=self._memory.fault_of(look))

    def _ask_again(self, bus: Bus, device: Device, key: str, good: tuple[Probe, Look] | None) -> Look | None:
        """A device's look, now; None if it is gone. Blocks.

        Raises:
            OSError: the bus can't be listed. No fault of the device: a scan may be waiting for this answer.
            OutOfDescriptors: nor is this.
        """
        if good and _is_same(*good, exact=True):
            return good[1]
        wanted = _WANTED_FOR.get(device.driver, _WANTED)
        now = read_again(bus.near(device.address), wanted, {device.address})
        return next((probe.ask() for probe in self._probes(now) if probe.key == key), None)

    async def _read_bus(self, what: str, read: Callable[[], Bus]) -> Bus:
        bus = (await self._bus_reads.read_many({what: read}, _BUS_PATIENCE))[what]
        if isinstance(bus, Bus):
            return bus
        path = f"{self._root}/bus/pci/devices"
        if isinstance(bus, OutOfDescriptors):
            raise ScanFailed(str(bus))
        if isinstance(bus, Pending):
            raise ScanFailed(f"{path}: no answer for {time.monotonic() - bus.since:.0f} s")
        raise ScanFailed(f"{path}: {bus.strerror if isinstance(bus, OSError) else repr(bus)}")

    def _probes(self, bus: Bus) -> list[Probe]:
        """Whom to ask about what is on the bus."""
        probes = [probe for backend in BACKENDS for probe in backend.probes(bus, self._dev_root)]
        taken = {probe.key.rpartition(".")[0] for probe in probes if probe.device}
        lost = self._memory.known - {each.address for each in bus.functions if each.driver in _WANTED.drivers}
        return [*probes, *strangers.probes(bus, taken, lost)]

    def _of(self, addresses: Collection[str], bus: Bus) -> list[Probe]:
        """Whom to ask about these devices."""
        return [
            probe
            for probe in self._probes(bus)
            if self._addresses.get(probe.key, probe.key) in addresses
            # one of them under a new name, for all that is known
            or (probe.device and probe.key not in self._keys)
        ]

    async def _ask_what_is_withheld(self, probes: Iterable[Probe]) -> dict[str, str]:
        """Why devices can't be offered yet, by key. Who does not answer in time says what he said before."""
        calls = {probe.key: probe.withheld for probe in probes if probe.withheld}
        answers = await self._withheld_reads.read_many(calls, _PATIENCE) if calls else {}
        unread = (key for key, answer in answers.items() if isinstance(answer, OutOfDescriptors | Pending))
        as_before = {key: self._withheld[key] for key in unread if key in self._withheld}
        return as_before | {key: answer for key, answer in answers.items() if isinstance(answer, str)}

    async def _ask_good(self) -> list[Look]:
        """Ask the drivers whether what had no fault has none still; without the looks at what has changed."""
        good = list(self._good.values())
        calls = {probe.key: partial(_same_or_changed, probe, look) for probe, look in good}
        answers = await self._reads.read_many(calls, _PATIENCE)
        told = [probe for probe, _ in good if isinstance(answers[probe.key], Look | Pending)]
        return self._looks(told, answers)

    async def _ask(self, probes: Collection[Probe]) -> list[Look]:
        """Ask the drivers, all at once, and wait a moment for those that are late."""
        answers = await self._reads.read_many({probe.key: probe.ask for probe in probes}, _PATIENCE)
        return self._looks(probes, answers)

    def _looks(self, probes: Collection[Probe], answers: Mapping[str, _Answer]) -> list[Look]:
        self._pending |= any(_soon_more(answers[probe.key]) for probe in probes)
        looks: dict[str, Look] = {}
        for probe in probes:
            look = self._look(probe, answers[probe.key])
            if probe.same and look and look.device and not look.reason:
                self._good[probe.key] = (probe, look)
            else:
                self._good.pop(probe.key, None)
            if look and look.address in looks:
                if not probe.device:  # its function needs no word
                    continue
                look = _not_its_own(probe.key, look.address)  # two class devices name one function
            if look:
                looks[look.address] = look
        return list(looks.values())

    def _look(self, probe: Probe, answer: _Answer) -> Look | None:
        if not probe.device and probe.key not in self._memory.known:
            if _soon_more(answer) or (isinstance(answer, OutOfDescriptors) and probe.key in self._said):
                return self._said.get(probe.key)  # that is no news of it
            self._said[probe.key] = self._completed(probe.key, answer)
            return self._said[probe.key]
        if isinstance(answer, Look) and probe.ask_slowly:
            self._slow.ask(probe.key, probe.ask_slowly)
        return self._completed(probe.key, answer)

    def _completed(self, key: str, answer: _Answer) -> Look | None:
        """A look with all that is known beside what was answered."""
        address = self._addresses.get(key, key)
        if isinstance(answer, Exception | Pending | _Changed):
            return _unanswered(address, answer)
        if answer is None:
            return None
        if answer.address != key:
            if answer.address in self._keys:
                return _not_its_own(key, answer.address)
            self._addresses[key] = answer.address
        if slow := self._slow.known(key):
            answer = answer.with_slow(slow)
        if why := self._withheld.get(key):
            return Look(answer.address, reason=Reason.SHELL_UNKNOWN, why=why)
        return answer

    def _remember(self, looks: Iterable[Look], *, check: bool) -> Inventory:
        return self._memory.step(looks, time.monotonic(), check=check, numa_nodes=self._bus.numa_nodes)


def _without_fault(looks: Iterable[Look]) -> set[str]:
    """The addresses of devices that have no fault, or have not answered yet."""
    return {look.address for look in looks if not look.reason}


def _once_a_card(looks: Collection[Look], known: Collection[str]) -> list[Look]:
    """Without what is said of several functions of one slot alike: the last has it, XRT's user function."""
    last = {(_slot(look.address), look.why): look for look in looks if look.device is None}
    return [
        look
        for look in looks
        if look.device or look.address in known or last[_slot(look.address), look.why] is look
    ]


def _unanswered(address: str, answer: Exception | Pending | _Changed) -> Look:
    """What there is to say of a device that has not been looked at."""
    if isinstance(answer, OutOfDescriptors):
        return Look(address, why=f"{answer}; let this process have more (ulimit -n)")
    if isinstance(answer, Exception):
        return odd_answer(address, f"reading it failed: {answer!r}")
    if isinstance(answer, _Changed):
        return Look(address, why="it has changed; it is looked at again in a moment")
    if time.monotonic() - answer.since < _LATE:
        return Look(address, why="waiting for its driver to answer; that may take a moment")
    why = f"its driver does not answer: a read hangs; {ODD_ANSWER}"
    return Look(address, reason=Reason.UNRESPONSIVE, why=why)


def _soon_more(answer: _Answer) -> bool:
    """Whether another look soon may show more. A read that hangs brings it about itself when it returns."""
    if isinstance(answer, Pending):
        return time.monotonic() - answer.since < _LATE
    return isinstance(answer, _Changed)


def _same_or_changed(probe: Probe, look: Look) -> Look | _Changed:
    return look if _is_same(probe, look, exact=False) else _Changed()


def _is_same(probe: Probe, look: Look, *, exact: bool) -> bool:
    return probe.same is not None and probe.same(look, exact=exact)


def _slot(address: str) -> str:
    """Of a PCI function; what has another name is all there is of it."""
    return address.rpartition(".")[0] or address


def _not_its_own(key: str, address: str) -> Look:
    return odd_answer(key, f"it says that it is {address}, which is another device")
