"""From the files of a node to an inventory: the only place that knows when what is read."""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial

from xilinx_fpga_dp.discovery import xrt
from xilinx_fpga_dp.discovery.serials import Serials
from xilinx_fpga_dp.discovery.sysfs import Bus, Function, node_exists, read_bus
from xilinx_fpga_dp.model import Device, Inventory, LeftOut, Reason
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
    """Scans a node again and again.

    Args:
        sysfs_root: where sysfs is, ``/sys``.
        dev_root: where device nodes are looked for, ``/dev`` or the host's at ``/host/dev``.
        wake: called when an answer came in that no scan waits for any more.
    """

    def __init__(self, sysfs_root: str, dev_root: str, wake: Callable[[], None] = lambda: None) -> None:
        self._root = sysfs_root
        self._dev_root = dev_root
        self._bus_reads: Reads[Bus] = Reads(wake)
        self._reads: Reads[xrt.Reading | LeftOut] = Reads(wake)
        self._serials = Serials(wake)
        self._functions: dict[str, tuple[Function, Function | None]] = {}  # user, management
        self._known: dict[str, Device] = {}  # as last read, by address
        self._pending = False

    @property
    def unsettled(self) -> bool:
        """Whether an answer is outstanding, so that another scan soon is worth it."""
        return self._pending

    @property
    def complete(self) -> bool:
        """Whether nothing is outstanding at all, serial numbers included."""
        return not self._pending and not self._serials.reading

    async def scan(self) -> Inventory:
        """Scan once. A device whose driver is late does not hold up the others.

        Raises:
            ScanFailed: the bus could not be listed.
        """
        bus = await self._bus()
        users = xrt.user_functions(bus.functions)
        self._functions = {
            user.address: (user, xrt.management_function(user, bus.functions)) for user in users
        }
        calls: dict[str, Callable[[], xrt.Reading | LeftOut]] = {
            address: partial(xrt.read, user, mgmt, self._dev_root)
            for address, (user, mgmt) in self._functions.items()
        }
        for function in xrt.bystanders(bus.functions):
            calls[function.address] = partial(_left_out, function)
        answers = await self._reads.gather(calls, _PATIENCE)
        self._pending = any(isinstance(answer, Pending) for answer in answers.values())
        self._serials.keep(self._functions)
        verdicts = [self._verdict(address, answer) for address, answer in answers.items()]
        devices = {verdict.address: verdict for verdict in verdicts if isinstance(verdict, Device)}
        self._known = devices
        return Inventory(
            devices=tuple(devices[address] for address in sorted(devices)),
            left_out=tuple(
                sorted(
                    (verdict for verdict in verdicts if isinstance(verdict, LeftOut)),
                    key=lambda entry: entry.function,
                )
            ),
            numa_nodes=bus.numa_nodes,
        )

    async def refresh(self, device: Device) -> Device | None:
        """The device as it is now; None if it is gone. May wait as long as its driver likes.

        If its render node is the one it had, that is enough: only the cores of the kernel are asked, which
        answer at once. Else (a reset may have given it another) its driver is asked for everything.
        """
        found = self._functions.get(device.address)
        if found is None:
            return None
        user, mgmt = found
        node = xrt.read_render_node(user)
        if node is not None and node == device.render_node and node_exists(self._dev_root, node):
            return device
        read = {device.address: partial(xrt.read, user, mgmt, self._dev_root)}
        answer = (await self._reads.gather(read, math.inf))[device.address]
        verdict = self._verdict(device.address, answer)
        return verdict if isinstance(verdict, Device) else None

    async def _bus(self) -> Bus:
        read = partial(read_bus, self._root, xrt.DRIVERS, xrt.VENDORS)
        bus = (await self._bus_reads.gather({"": read}, _BUS_PATIENCE))[""]
        if isinstance(bus, Bus):
            return bus
        path = f"{self._root}/bus/pci/devices"
        if isinstance(bus, Pending):
            raise ScanFailed(f"{path}: no answer for {time.monotonic() - bus.since:.0f} s")
        raise ScanFailed(f"{path}: {bus.strerror if isinstance(bus, OSError) else repr(bus)}")

    def _verdict(self, address: str, answer: xrt.Reading | LeftOut | Exception | Pending) -> Device | LeftOut:
        if isinstance(answer, xrt.Reading):
            user, _ = self._functions[address]
            return xrt.judge(user, answer, self._serials.get(address, partial(xrt.read_serial, user)))
        if isinstance(answer, LeftOut):
            return answer
        if isinstance(answer, Exception):
            return LeftOut(address, f"reading it failed: {answer!r}")
        late = time.monotonic() - answer.since >= _LATE
        if known := self._known.get(address):
            return dataclasses.replace(known, reason=Reason.UNRESPONSIVE) if late else known
        return LeftOut(
            address,
            "its driver does not answer: a read hangs" if late else "waiting for its driver to answer",
        )


def _left_out(function: Function) -> LeftOut:
    return LeftOut(function.address, xrt.why_left_out(function))
