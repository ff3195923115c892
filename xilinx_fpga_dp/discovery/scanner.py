"""From the files of a node to an inventory: the only place that knows when what is read."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from xilinx_fpga_dp.discovery import xrt
from xilinx_fpga_dp.discovery.health import Look, Memory, Rules
from xilinx_fpga_dp.discovery.slow import Slow
from xilinx_fpga_dp.discovery.sysfs import Bus, Function, read_again, read_bus
from xilinx_fpga_dp.model import Device, Inventory, Reason
from xilinx_fpga_dp.reads import Pending, Reads

# Seconds a scan waits for drivers before it goes ahead without the late ones.
_PATIENCE = 0.25
# Seconds a driver may take to answer before its device counts as unresponsive.
_LATE = 2.0
# Seconds the PCI core may take; it never blocks, but a machine can be busy.
_BUS_PATIENCE = 5.0


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
        self._bus_reads: Reads[Bus] = Reads(wake)
        self._refreshes: Reads[Bus] = Reads()
        self._reads: Reads[xrt.Reading | Look] = Reads(wake)
        self._mgmt_reads: Reads[bool] = Reads(wake)
        self._slow = Slow(wake)
        # Of the last look at the whole bus; touched on the loop only.
        self._bus = Bus((), ())
        self._strangers: list[Look] = []  # at what is no device and never was
        self._programming: frozenset[str] = frozenset()  # slots whose base waits for its shell
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
        self._bus = await self._read_bus("all", partial(read_bus, self._root, xrt.DRIVERS, xrt.VENDORS))
        self._programming = await self._ask_management()
        looks = await self._look_at(self._bus.functions)
        known = self._memory.known
        self._strangers = [look for look in looks if look.device is None and look.address not in known]
        self._slow.keep({function.address for function in self._bus.functions})
        return self._remember(looks, check=check)

    async def check(self) -> Inventory:
        """Look at the known devices only: a health check.

        Raises:
            ScanFailed: as above.
        """
        read = partial(read_again, self._root, self._bus, self._memory.known, xrt.DRIVERS)
        bus = await self._read_bus("known", read)
        looks = await self._look_at(bus.functions)
        return self._remember([*looks, *self._strangers], check=True)

    def hold(self, addresses: frozenset[str]) -> Inventory:
        """What was found last, with these devices held by pods under another name or id."""
        return self._memory.hold(addresses, time.monotonic())

    async def refresh(self, device: Device) -> Device | None:
        """The device as it is now, with its fault; None if it is gone. Waits as long as its driver likes."""
        read = partial(read_again, self._root, self._bus, {device.address}, xrt.DRIVERS)
        found = (await self._refreshes.gather({device.address: read}, math.inf))[device.address]
        if not isinstance(found, Bus) or not found.functions:
            return None if isinstance(found, Bus) else replace(device, reason=Reason.UNRESPONSIVE)
        function = found.functions[0]
        answers = await self._reads.gather({device.address: self._call(function)}, math.inf)
        look = self._look(function, answers[device.address])
        return replace(look.device or device, reason=look.reason)

    async def _read_bus(self, what: str, read: Callable[[], Bus]) -> Bus:
        bus = (await self._bus_reads.gather({what: read}, _BUS_PATIENCE))[what]
        if isinstance(bus, Bus):
            return bus
        path = f"{self._root}/bus/pci/devices"
        if isinstance(bus, Pending):
            raise ScanFailed(f"{path}: no answer for {time.monotonic() - bus.since:.0f} s")
        raise ScanFailed(f"{path}: {bus.strerror if isinstance(bus, OSError) else repr(bus)}")

    async def _ask_management(self) -> frozenset[str]:
        """The slots whose management function says a shell is on its way; one that hangs says nothing."""
        calls = {
            mgmt.address: partial(xrt.is_programming, mgmt)
            for mgmt in self._bus.functions
            if mgmt.driver == xrt.MGMT_DRIVER and "rp_program" in mgmt.entries
        }
        answers = await self._mgmt_reads.gather(calls, _PATIENCE) if calls else {}
        return frozenset(address.rpartition(".")[0] for address, answer in answers.items() if answer is True)

    async def _look_at(self, functions: Iterable[Function]) -> list[Look]:
        """Ask the drivers, all at once, and wait a moment for those that are late."""
        users = xrt.user_functions(functions)
        asked = [*users, *xrt.bystanders(functions)]
        calls = {function.address: self._call(function) for function in asked}
        answers = await self._reads.gather(calls, _PATIENCE)
        self._pending = any(isinstance(answer, Pending) for answer in answers.values())
        return [self._look(function, answers[function.address]) for function in asked]

    def _call(self, function: Function) -> Callable[[], xrt.Reading | Look]:
        if xrt.is_user(function):
            mgmt = xrt.management_function(function, self._bus.functions)
            return partial(xrt.read, function, mgmt, self._dev_root)
        return partial(xrt.look_at_bystander, function)

    def _look(self, function: Function, answer: xrt.Reading | Look | Exception | Pending) -> Look:
        address = function.address
        if isinstance(answer, Look):
            return answer
        if isinstance(answer, xrt.Reading):
            slow = self._slow.get(address, partial(xrt.read_slow, function))
            if function.slot in self._programming:
                return Look(address, reason=Reason.SHELL_UNKNOWN, why=xrt.NO_SHELL_YET)
            return xrt.look_at(function, answer, slow)
        if isinstance(answer, Exception):
            return Look(address, reason=Reason.SHELL_UNKNOWN, why=f"reading it failed: {answer!r}")
        if time.monotonic() - answer.since < _LATE:
            return Look(address, why="waiting for its driver to answer")
        return Look(address, reason=Reason.UNRESPONSIVE, why="its driver does not answer: a read hangs")

    def _remember(self, looks: Iterable[Look], *, check: bool) -> Inventory:
        return self._memory.step(looks, time.monotonic(), check=check, numa_nodes=self._bus.numa_nodes)
