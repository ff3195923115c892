"""A condition of the node and the taint that it starts with. Each is written with the right to patch alone.

An empty patch as a dry run reads the node: it needs no right to read nodes.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.rate_limit import RateLimit
from xilinx_fpga_dp.apiserver.backoff import Backoff
from xilinx_fpga_dp.apiserver.call_log import CallLog
from xilinx_fpga_dp.apiserver.client import JSON_PATCH, STRATEGIC, ApiServer, Json, path
from xilinx_fpga_dp.apiserver.errors import ApiServerError
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_HEARTBEAT = (
    300.0  # seconds between writes without a change; kubelet's own is as long (nodeStatusReportFrequency)
)
# Changes written in a row, then one every so many seconds, where a card flaps
_BURST = 30
_INTERVAL = 10.0
_LOOK = 1.0  # seconds between two looks at a node that is not ready for its taint to go


@dataclass(frozen=True, slots=True)
class Condition:
    """The value of a condition."""

    status: str  # ``True``, ``False`` or ``Unknown``
    reason: str  # one word
    message: str


class NodeCondition:
    """Keeps a condition of the node.

    Args:
        api: the API server.
        node: the name of the node.
        kind: the type of the condition.
        wanted: its value; None: it is not written.
    """

    def __init__(self, api: ApiServer, node: str, kind: str, wanted: Latest[Condition | None]) -> None:
        self._api = api
        self._path = path("api/v1", "nodes", node, "status")
        self._kind = kind
        self._wanted = wanted
        # As the server has it; not known before the first call
        self._status: str | None = None
        self._since = ""

    async def run(self) -> None:
        """Write the condition on change, and as a heartbeat every 5 minutes. Endless."""
        backoff = Backoff()
        calls = CallLog("node condition")
        limit = RateLimit(_BURST, _INTERVAL)
        written: Condition | None = None
        while True:
            if self._wanted.value is None:  # another process writes it meanwhile
                self._status = written = None
                await self._wanted.other_than(None)
            if written is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT):
                        await self._wanted.other_than(written)
                await limit.wait()
            if (wanted := self._wanted.value) is None:
                continue
            try:
                await self._write(wanted)
            except ApiServerError as error:
                calls.failed(error)
                written = None
                await asyncio.sleep(backoff.after(error))
            else:
                calls.succeeded()
                backoff.reset()
                written = wanted

    async def _write(self, wanted: Condition) -> None:
        if self._status is None:
            self._remember(await self._api.patch(self._path, {}, STRATEGIC, dry_run=True))
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        condition = {
            "type": self._kind,
            "status": wanted.status,
            "reason": wanted.reason,
            "message": wanted.message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": self._since if wanted.status == self._status else now,
        }
        try:
            self._remember(
                await self._api.patch(self._path, {"status": {"conditions": [condition]}}, STRATEGIC)
            )
        except ApiServerError:
            self._status = None  # it may be written or not
            raise

    def _remember(self, node: Json) -> None:
        """Note status and time of the condition: another process may have written it."""
        conditions = (node.get("status") or {}).get("conditions") or ()
        found: Json = next((each for each in conditions if each.get("type") == self._kind), {})
        self._status, self._since = found.get("status") or "", found.get("lastTransitionTime") or ""


async def remove_startup_taint(
    api: ApiServer, node: str, key: str, ready: Callable[[Json], bool], wanted: Callable[[], bool]
) -> None:
    """Remove the taints with a key once the node is ready, and return.

    Args:
        api: the API server.
        node: the name of the node.
        key: of the taint.
        ready: returns whether the node, as the server shows it, is ready.
        wanted: returns whether that is worth asking the server.
    """
    place = path("api/v1", "nodes", node)
    backoff = Backoff()
    calls = CallLog("startup taint")
    while True:
        try:
            if wanted():
                found = await api.patch(place, {}, STRATEGIC, dry_run=True)
                taints: list[Any] = (found.get("spec") or {}).get("taints") or []
                if not any(taint.get("key") == key for taint in taints):
                    return
                if ready(found):
                    await _remove(api, place, taints, key)
                    log.info(Event.STARTUP_TAINT_REMOVED, extra={"taint": key})
                    return
            calls.succeeded()
            backoff.reset()
            await asyncio.sleep(_LOOK)
        except ApiServerError as error:  # Invalid, too, where the taints have changed meanwhile
            calls.failed(error)
            await asyncio.sleep(backoff.after(error))


async def _remove(api: ApiServer, place: str, taints: list[Any], key: str) -> None:
    """Remove taints by their places in the list, if they are still there."""
    operations: list[Json] = []
    for index in reversed([index for index, taint in enumerate(taints) if taint.get("key") == key]):
        operations += [
            {"op": "test", "path": f"/spec/taints/{index}", "value": taints[index]},
            {"op": "remove", "path": f"/spec/taints/{index}"},
        ]
    await api.patch(place, operations, JSON_PATCH)
