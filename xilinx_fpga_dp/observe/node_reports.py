"""What the API server is told of the node: Events of cards, the condition FPGAHealthy, the startup taint.

All follow the snapshots. A device that is `held` counts as healthy: a pod uses it. A device that is
`resetting` counts as a fault for the condition once it has lost its place in the list, after RESET_GRACE. An
instance that stands by tells nothing, but keeps up with what has happened.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.race import race
from xilinx_fpga_dp.apiserver.client import ApiServer, Json
from xilinx_fpga_dp.apiserver.events import NodeEvents, Occurrence
from xilinx_fpga_dp.apiserver.node import Condition, NodeCondition, remove_startup_taint
from xilinx_fpga_dp.model import Device, Offers, Reason
from xilinx_fpga_dp.observe.events import NodeEvent
from xilinx_fpga_dp.snapshot import Snapshot

CONDITION: Final = "FPGAHealthy"
"""The type of the node's condition."""

# From the worst: what needs a person first.
_BY_SEVERITY = (
    Reason.FIREWALL,
    Reason.OFFLINE,
    Reason.UNRESPONSIVE,
    Reason.BAD_STATE,
    Reason.SHUTDOWN,
    Reason.NO_DRIVER,
    Reason.NO_NODE,
    Reason.SHELL_UNKNOWN,
    Reason.NOT_READY,
    Reason.RESETTING,
)
_MOST_NAMED = 10  # devices in a condition's message
_SETTLED = 30.0  # seconds after which a driver that has not brought up its card no longer keeps the taint

Task = Callable[[], Awaitable[None]]


def condition_of(snapshot: Snapshot) -> Condition | None:
    """Return the value of the condition; None before the first scan."""
    if snapshot.scan_error:
        return Condition("Unknown", "ScanFailed", snapshot.scan_error)
    if (known := snapshot.known) is None:
        return None
    faults = {device.address: (device.board, device.reason) for device in known.devices if _counts(device)}
    faults |= {entry.function: ("", entry.lost) for entry in known.left_out if entry.lost}
    if not faults:
        count = len({device.address for device in known.devices})
        message = f"FPGA devices: {count}, none has a fault" if count else "no FPGA device"
        return Condition("True", "AllHealthy", message)
    worst = min((reason for _, reason in faults.values() if reason), key=_BY_SEVERITY.index)
    named = [
        f"{address}{f' ({board})' if board else ''}: {reason}"
        for address, (board, reason) in sorted(faults.items())
    ]
    more = [f"and {len(named) - _MOST_NAMED} more"] if len(named) > _MOST_NAMED else []
    return Condition("False", _word(worst), "; ".join(named[:_MOST_NAMED] + more))


def occurrences(before: Offers | None, after: Offers) -> Iterator[Occurrence]:
    """Yield what has happened between two snapshots; with None for the first what is wrong now."""
    old, new = _devices(before or Offers({})), _devices(after)
    lost = {entry.function: entry.reason for entry in after.left_out}
    for address in sorted(old.keys() | new.keys()):
        was, device = old.get(address), new.get(address)
        if device is None:
            if was is not None:
                why = lost.get(address, "it is no longer on the node")
                yield Occurrence(NodeEvent.REMOVED, address, f"{_name(was)}: {why}")
            continue
        if was is not None and was.shell != device.shell:
            note = f"{_name(device)}: {_shell(device)}, before {_shell(was)}"
            yield Occurrence(NodeEvent.REPROGRAMMED, address, note)
        fault, past = _fault(device), _fault(was) if was else None
        if fault and fault != past:
            note = f"{_name(device)}: {fault}"
            yield Occurrence(NodeEvent.UNHEALTHY, address, note, warning=True, initial=before is None)
        elif past and not fault:
            yield Occurrence(NodeEvent.RECOVERED, address, f"{_name(device)}: healthy after {past}")


class NodeReports:
    """The tasks that report to the API server.

    Args:
        api: the API server.
        node: the name of the node.
        snapshots: what the node offers.
        standby: whether a newer instance reports.
    """

    def __init__(self, api: ApiServer, node: str, snapshots: Latest[Snapshot], standby: Latest[bool]) -> None:
        self._api = api
        self._node = node
        self._snapshots = snapshots
        self._standby = standby

    def events(self, controller: str, problems: Latest[Mapping[NodeEvent, str]]) -> Mapping[str, Task]:
        """Return the tasks that tell of cards that break and recover, and of problems of the whole node.

        Args:
            controller: the reportingController of the Events.
            problems: those of the whole node.
        """
        events = NodeEvents(self._api, self._node, controller)

        async def follow() -> None:
            before: Offers | None = None
            async for known in self._snapshots.changes(lambda snapshot: snapshot.known):
                for occurrence in occurrences(before, known):
                    if not self._standby.value:
                        events.tell(occurrence)
                before = known

        async def follow_problems() -> None:
            before: Mapping[NodeEvent, str] = {}
            async for now in problems.changes(dict):
                for reason, note in now.items():
                    if before.get(reason) != note and not self._standby.value:
                        events.tell(Occurrence(reason, self._node, note, warning=True))
                before = now

        return {"events-follow": follow, "events-problems": follow_problems, "events": events.run}

    def condition(self) -> Mapping[str, Task]:
        """Return the tasks that keep the condition."""
        wanted: Latest[Condition | None] = Latest(None)
        condition = NodeCondition(self._api, self._node, CONDITION, wanted)

        async def follow() -> None:
            while True:
                snapshot, standby = self._snapshots.value, self._standby.value
                wanted.set(None if standby else condition_of(snapshot))
                await race(self._snapshots.other_than(snapshot), self._standby.other_than(standby))

        return {"condition-follow": follow, "condition": condition.run}

    def startup_taint(
        self,
        key: str,
        registered: Callable[[], Mapping[str, bool]],
        not_ready: Callable[[], str | None],
        unsettled: Callable[[], bool],
        *,
        in_capacity: bool,
    ) -> Mapping[str, Task]:
        """Return the task that removes the startup taint once all cards are offered.

        Args:
            key: of the taint.
            registered: returns whether kubelet knows each resource.
            not_ready: returns why the front end can't serve pods; None if it can.
            unsettled: returns whether a driver has not answered yet, or not brought up its card.
            in_capacity: whether kubelet shows the devices in the node's capacity.
        """

        async def remove() -> None:
            clock = asyncio.get_running_loop().time
            began = clock()

            def wanted() -> bool:
                snapshot = self._snapshots.value
                if snapshot.not_ready or not_ready() or (unsettled() and clock() - began < _SETTLED):
                    return False
                known = registered()
                return all(known.get(name) for name in (snapshot.offers or Offers({})).by_resource)

            def ready(node: Json) -> bool:
                return not in_capacity or counted(self._snapshots.value.offers or Offers({}), node)

            await remove_startup_taint(self._api, self._node, key, ready, wanted)

        return {"startup-taint": remove}


def counted(offers: Offers, node: Json) -> bool:
    """Return whether the node's status, which kubelet writes, has all units that are offered."""
    capacity = (node.get("status") or {}).get("capacity") or {}
    return all(capacity.get(name) == str(len(offer.units)) for name, offer in offers.by_resource.items())


def _devices(offers: Offers) -> dict[str, Device]:
    return {device.address: device for device in offers.devices}


def _fault(device: Device) -> Reason | None:
    return None if device.reason is Reason.HELD else device.reason


def _counts(device: Device) -> bool:
    return device.reason not in (None, Reason.HELD, Reason.RESETTING)


def _name(device: Device) -> str:
    return f"{device.address} ({device.board})"


def _shell(device: Device) -> str:
    return "-".join(filter(None, (device.shell.vbnv, device.shell.timestamp)))


def _word(reason: Reason) -> str:
    """Return a reason as Kubernetes writes them: ``NoDriver``."""
    return "".join(part.capitalize() for part in reason.split("-"))
