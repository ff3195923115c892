"""Events of the node (events.k8s.io/v1), as `kubectl describe node` shows them. Few, and none twice.

An occurrence has one object for its reason, subject and note. Its name is made of these, so that a call that
is repeated, by this process or the next one, meets the object that is there. Repeats raise the object's
``series``: at most one write in 10 minutes for an object, 20 an hour for the node. The server forgets an
Event after an hour (kube-apiserver --event-ttl); the next repeat then makes a new object.

Events are told after the fact. While the server does not answer they wait, up to 10 minutes and 64 of them.
"""

import asyncio
import hashlib
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.apiserver.backoff import Backoff
from xilinx_fpga_dp.apiserver.call_log import CallLog
from xilinx_fpga_dp.apiserver.client import ApiServer, Json, path
from xilinx_fpga_dp.apiserver.errors import ApiServerError, Conflict, Invalid, NotFound

_API = "events.k8s.io/v1"
_NAMESPACE = (
    "default"  # of Events regarding objects without one: k8s.io/kubernetes pkg/apis/events/validation.go
)
_REPEAT = 600.0  # seconds between two writes for one object
_HOUR = 3600.0  # seconds
_A_NODE = 20  # writes an hour
_WAIT = 600.0  # seconds that an occurrence waits for the server
_MAX_KNOWN = 64  # objects that are remembered
_MAX_NOTE = 1024  # bytes: k8s.io/kubernetes pkg/apis/core/validation/events.go, NoteLengthLimit
_MAX_INSTANCE = 128  # characters, there too
_MAX_NAME = 253 - 17  # characters of the node's name in an object's, before a dot and 16 digits


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What has happened to one subject."""

    reason: str  # ``FPGAUnhealthy``
    subject: str  # what tells its object from others of that reason
    note: str
    warning: bool = False
    initial: bool = False  # found when the process started: told only if there is no Event of it


@dataclass(slots=True, eq=False)
class _Told:
    """The object of equal occurrences."""

    occurrence: Occurrence
    count: int = 0  # occurrences so far
    written: int = 0  # those that the server knows
    first_at: float = 0.0  # when the oldest of the others happened, seconds of the monotonic clock
    last: datetime | None = None
    due: float = 0.0  # not written before

    @property
    def waits(self) -> bool:
        return self.count > self.written


class NodeEvents:
    """Tells of occurrences on one node.

    Args:
        api: the API server.
        node: the name of the node.
        controller: who tells it, a qualified name.
    """

    def __init__(self, api: ApiServer, node: str, controller: str) -> None:
        self._api = api
        self._node = node
        self._controller = controller
        self._told: dict[Occurrence, _Told] = {}  # the object used last is at the end
        self._writes: deque[float] = deque(maxlen=_A_NODE)  # when the last ones were made
        self._changes = Latest(0)
        self._log = CallLog("Events")

    def tell(self, occurrence: Occurrence) -> None:
        """Tell of an occurrence, soon."""
        now = asyncio.get_running_loop().time()
        key = Occurrence(occurrence.reason, occurrence.subject, occurrence.note)
        told = self._told.pop(key, None) or _Told(occurrence)
        self._told[key] = told
        if not told.waits:
            told.first_at = now
        told.occurrence = occurrence
        told.count += 1
        told.last = datetime.now(UTC)
        while len(self._told) > _MAX_KNOWN:
            del self._told[next(iter(self._told))]
        self._changes.set(self._changes.value + 1)

    async def run(self) -> None:
        """Write what has been told. Endless."""
        backoff = Backoff()
        clock = asyncio.get_running_loop().time
        while True:
            seen = self._changes.value
            self._forget(clock())
            told = self._next()
            pause = max(told.due, self._allowed()) - clock() if told else math.inf
            if told is None or pause > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, _WAIT)):
                        await self._changes.other_than(seen)
                continue
            count = told.count
            try:
                await self._write(told)
            except ApiServerError as error:
                self._log.failed(error)
                if not isinstance(error, Invalid):  # else no attempt with the same content succeeds
                    await asyncio.sleep(backoff.after(error))
                    continue
            else:
                self._log.succeeded()
                backoff.reset()
            told.written = count
            told.due = clock() + _REPEAT
            self._writes.append(clock())

    def _next(self) -> _Told | None:
        """Return the object to write next; None if none waits."""
        return min(
            (each for each in self._told.values() if each.waits), key=lambda each: each.due, default=None
        )

    def _allowed(self) -> float:
        """Return when the node may write again."""
        return self._writes[0] + _HOUR if len(self._writes) == _A_NODE else 0.0

    def _forget(self, now: float) -> None:
        """Forget what happened too long ago, but for a repeat, which waits for its turn."""
        for each in self._told.values():
            if each.waits and now > max(each.first_at, each.due) + _WAIT:
                each.written = each.count

    async def _write(self, told: _Told) -> None:
        name = self._name(told.occurrence)
        if told.written or not await self._create(name, told):
            await self._repeat(name, told)

    async def _create(self, name: str, told: _Told) -> bool:
        """Create the object. Return False if it is there and has to be told of a repeat."""
        occurrence = told.occurrence
        at = _micro_time(told.last)
        body: Json = {
            "apiVersion": _API,
            "kind": "Event",
            "metadata": {"name": name, "namespace": _NAMESPACE},
            "eventTime": at,
            "reportingController": self._controller,
            "reportingInstance": self._node[:_MAX_INSTANCE],
            "action": occurrence.reason,
            "reason": occurrence.reason,
            "type": "Warning" if occurrence.warning else "Normal",
            "note": occurrence.note.encode()[:_MAX_NOTE].decode(errors="ignore"),
            "regarding": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self._node,
                # kubelet, too, takes the name for the uid where it does not know it
                "uid": await self._api.bound_node_uid(self._node) or self._node,
            },
        }
        if (new := told.count - told.written) > 1:
            body["series"] = {"count": new, "lastObservedTime": at}
        try:
            await self._api.create(path(f"apis/{_API}", "namespaces", _NAMESPACE, "events"), body)
        except Conflict:
            return occurrence.initial
        return True

    async def _repeat(self, name: str, told: _Told) -> None:
        """Raise the series of the object; make another one if the server has forgotten it."""
        place = path(f"apis/{_API}", "namespaces", _NAMESPACE, "events", name)
        try:
            # An empty patch reads it, for which there is no right.
            found = await self._api.patch(place, {}, dry_run=True)
            series, last = found.get("series") or {}, _micro_time(told.last)
            if last in (found.get("eventTime"), series.get("lastObservedTime")):
                return  # a call without an answer had its effect
            count = int(series.get("count") or 1) + told.count - told.written
            await self._api.patch(place, {"series": {"count": count, "lastObservedTime": last}})
        except NotFound:
            await self._create(name, told)

    def _name(self, occurrence: Occurrence) -> str:
        parts = (self._controller, occurrence.reason, occurrence.subject, occurrence.note)
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return f"{self._node[:_MAX_NAME].rstrip('-.')}.{digest}"


def _micro_time(moment: datetime | None) -> str:
    return (moment or datetime.now(UTC)).isoformat(timespec="microseconds").replace("+00:00", "Z")
