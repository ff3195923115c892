"""Makes what the node wants to publish so on the API server, and keeps it so.

One loop: list the driver's slices of this node, compare, write what differs. It runs when the wish changes,
when the watch tells of a change by others, when kubelet registers the driver again (a kubelet that starts
removes the slices of all drivers), and once a minute. Nothing but wake-ups comes of the watch. Before the
first write to a server, and when its version changes, a dry run finds out which fields it would drop: a
server without taints would store an Unhealthy device as a good one. A device that the server refuses as
invalid is left out as long as it is the same, so that the others are published. Where the server names no
device, as a policy of admission does, all is sent again at each look. A server that is back is sent both.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Final

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.rate_limit import RateLimit
from xilinx_fpga_dp.apiserver.backoff import Backoff
from xilinx_fpga_dp.apiserver.client import ApiServer, Kind, path
from xilinx_fpga_dp.apiserver.errors import ApiServerError, Conflict, Invalid, NotFound
from xilinx_fpga_dp.dra.devices import Stored
from xilinx_fpga_dp.dra.pool import API, Json, Pool, Writes, blamed, lacking, writes
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_SLICES: Final = f"/apis/{API}/resourceslices"
_LOOK_EVERY: Final = 60.0  # seconds between two looks that nothing woke
_SOON: Final = 0.02  # seconds within which changes are one
# Writes in a row, then one in so many seconds: a fault soon after a write, and a slice that was removed soon
# after it, must not wait.
_BURST: Final = 3
_BETWEEN_WRITES: Final = 1.0
# Restorations of what others changed, in how many seconds, before the next one waits
_PATIENCE: Final = 3
_SPAN: Final = 60.0
_LONGEST_TRUCE: Final = 30.0
_TRIES: Final = 5  # conflicts in a row; the last of them is a failure

Describe = Callable[[Stored], Sequence[Json]]
"""Returns the entries of all devices, for a server that stores these fields."""

TakeOver = Callable[[Sequence[Json], str], None]
"""Is told of the slices that an earlier instance has left, and of the server's time."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How the slices stand."""

    as_wanted: bool = False
    problem: str | None = "nothing has been published yet"
    stored: Stored | None = None  # what the server stores; None: not found out
    written: int = 0  # writes so far
    generation: int | None = None


class Truces:
    """The waits before what others have changed is restored."""

    def __init__(self) -> None:
        # By a clock that stands in the waits: else the first of them would be forgotten in the next ones
        self._restored: deque[float] = deque(maxlen=64)
        self._waited = 0.0

    def next(self, now: float) -> float:
        """Return the seconds to wait before a restoration; 0 for the first few."""
        now -= self._waited
        recent = sum(now - each < _SPAN for each in self._restored)
        self._restored.append(now)
        pause = min(_LONGEST_TRUCE, 2.0 ** (recent - _PATIENCE)) if recent >= _PATIENCE else 0.0
        self._waited += pause
        return pause


class SlicePublisher:
    """Publishes the devices of the node.

    Args:
        api: the API server.
        driver: the name of the driver.
        node: the name of the node.
        node_uid: returns the uid of the Node object.
        describe: describes the devices.
        take_over: is called once each time the publisher runs, before the devices are described.
        example: a device with every optional field, for the dry run.
    """

    def __init__(
        self,
        api: ApiServer,
        driver: str,
        node: str,
        node_uid: Callable[[], Awaitable[str]],
        *,
        describe: Describe,
        take_over: TakeOver,
        example: Json,
    ) -> None:
        self._api = api
        self._driver = driver
        self._node = node
        self._node_uid = node_uid
        self._describe = describe
        self._take_over = take_over
        self._taken_over = False
        self._server_time = ""  # at the last dry run
        self._example = example
        self._wake = asyncio.Event()
        self._peace = asyncio.Event()  # ends a wait for others that change the slices
        self._back = asyncio.Event()  # the server answers the watch again
        self._limit = RateLimit(_BURST, _BETWEEN_WRITES)
        self._backoff = Backoff()
        self._conflicts = 0  # in a row
        self._truces = Truces()
        self._seen: float | None = None
        self._wish: Sequence[Json] | None = None  # that was written last
        self._refused: Sequence[Json] | None = None  # that the server refused as invalid
        self._bad: dict[str, tuple[Json, str]] = {}  # the devices that it refused, with its words, by name
        self._server = ""  # the version of the server that `Standing.stored` is of
        self._own: set[str] = set()  # resourceVersions of the last own writes
        self.standing: Latest[Standing] = Latest(Standing())
        self.refusal: Latest[str | None] = Latest(None)  # the server's words

    @property
    def age(self) -> float | None:
        """Seconds since the slices were last seen as they have to be; None if they never were."""
        return None if self._seen is None else asyncio.get_running_loop().time() - self._seen

    def wake(self) -> None:
        """Compare soon: the wish may have changed, or the slices may be gone."""
        self._wake.set()

    def registered_again(self) -> None:
        """Compare soon: kubelet has just registered the driver, so it was kubelet that removed the slices."""
        self._truces = Truces()
        self._peace.set()
        self._wake.set()

    async def run(self) -> None:
        """Publish, for ever."""
        self._taken_over = False
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch())
            try:
                while True:
                    self._wake.clear()
                    self._back.clear()
                    delay = await self._step()
                    await self._wait(delay)
            finally:
                watch.cancel()

    async def _wait(self, delay: float | None) -> None:
        """Wait for a wake-up; after a failure so many seconds, less only if the server is back."""
        event = self._wake if delay is None else self._back
        try:
            async with asyncio.timeout(_LOOK_EVERY if delay is None else delay):
                await event.wait()
                await asyncio.sleep(_SOON)
        except TimeoutError:
            self._refused = None  # a policy that denied it may be mended

    async def _step(self) -> float | None:
        """Compare and write. Return the seconds to wait after a failure; None if all is as wanted."""
        try:
            await self._reconcile()
        except ApiServerError as error:
            if isinstance(error, Conflict):
                self._conflicts += 1
                if self._conflicts < _TRIES:
                    return 0.0
            self._failed(str(error))
            return self._backoff.after(error)
        self._conflicts = 0
        self._backoff.reset()
        return None

    async def _reconcile(self) -> None:
        stored = await self._stored()
        listing = await self._api.list(_SLICES, fields=self._fields)
        pool = await self._pool()
        found = [each for each in listing.objects if each["spec"]["pool"]["name"] == self._node]
        if not self._taken_over:
            self._take_over(found, self._server_time)
            self._taken_over = True
        wish = self._valid(self._describe(stored))
        todo = writes(pool, wish, found)
        if not todo:
            self._stands(stored, wish, found)
            return
        if wish == self._refused:
            return
        await self._truce(pool.node_uid, restoring=wish == self._wish)
        await self._limit.wait()
        wish, pool = self._valid(self._describe(stored)), await self._pool()  # those of now: it has waited
        todo = writes(pool, wish, found)
        before = self._bad
        try:
            answers = await self._write(todo, wish)
        except Invalid as error:
            if self._bad != before:
                raise Conflict(_SLICES, 409, str(error)) from None  # at once, without them
            self._refused = wish
            self.refusal.set(str(error))
            self._failed(str(error))
            return
        dropped = frozenset().union(
            *(
                lacking(answer, sent)
                for answer, sent in zip(answers, (*todo.replace, *todo.create), strict=True)
            )
        )
        if dropped:
            self._drops(stored, dropped)
            raise Conflict("write of slices", 409, f"the server has dropped {', '.join(sorted(dropped))}")
        log.info(Event.SLICE_WRITTEN, extra={"devices": len(wish), "slices": len(answers)})
        current = replace(self.standing.value, written=self.standing.value.written + 1)
        self.standing.set(current)
        self._stands(self.standing.value.stored or stored, wish, answers)

    async def _pool(self) -> Pool:
        return Pool(self._driver, self._node, await self._node_uid())

    async def _write(self, todo: Writes, wish: Sequence[Json]) -> list[Json]:
        for each in todo.delete:
            with suppress(NotFound):
                await self._api.delete(path(_SLICES[1:], each["metadata"]["name"]))
        answers = []
        for each in (*todo.replace, *todo.create):
            own = path(_SLICES[1:], each["metadata"]["name"])
            known = "resourceVersion" in each["metadata"]
            try:
                call = self._api.replace(own, each) if known else self._api.create(_SLICES, each)
                answers.append(await call)
            except NotFound as error:  # removed meanwhile
                raise Conflict(_SLICES, 409, str(error)) from None
            except Invalid as error:
                self._blame(error, each, wish)
                raise
        self._own = {each["metadata"]["resourceVersion"] for each in answers}
        return answers

    def _blame(self, error: Invalid, sent: Json, wish: Sequence[Json]) -> None:
        """Leave out the devices of a wish that the server names as the cause."""
        names = blamed(error.fields, sent)
        for each in wish:  # what was sent has the times of its taints, too
            if (name := each["name"]) in names:
                self._bad = self._bad | {name: (each, f"device {name}: {error}")}
                log.warning(Event.DEVICE_REFUSED, extra={"device": name, "error": str(error)})

    def _valid(self, wish: Sequence[Json]) -> Sequence[Json]:
        """Return the devices without those that the server has refused as they are."""
        self._bad = {name: refused for name, refused in self._bad.items() if refused[0] in wish}
        return [each for each in wish if each["name"] not in self._bad]

    async def _stored(self) -> Stored:
        """Return which optional fields the server stores, by a dry run where that is not known.

        The dry run tells the server's time, too.
        """
        known = self.standing.value.stored
        if known is not None and self._server and self._taken_over:
            return known
        version = str((await self._api.get("/version")).get("gitVersion", "unknown"))
        if known is None or version != self._server or not self._taken_over:
            pool = await self._pool()
            sent = pool.dry_run(self._example)
            answer = await self._api.create(_SLICES, sent, dry_run=True)
            self._server_time = str(answer["metadata"].get("creationTimestamp", ""))
            known = Stored()
            self.standing.set(replace(self.standing.value, stored=known))
            if dropped := lacking(answer, sent):
                known = self._drops(known, dropped)
        self._server = version
        return known

    def _drops(self, stored: Stored, dropped: frozenset[str]) -> Stored:
        stored = Stored(
            taints=stored.taints and "taints" not in dropped,
            sharing=stored.sharing and "allowMultipleAllocations" not in dropped,
        )
        self.standing.set(replace(self.standing.value, stored=stored))
        log.warning(Event.FIELDS_DROPPED, extra={"fields": ", ".join(sorted(dropped))})
        return stored

    async def _truce(self, node_uid: str, *, restoring: bool) -> None:
        """Wait if others change the slices again and again, as the garbage collector does without a Node."""
        if not restoring:
            return
        if pause := self._truces.next(asyncio.get_running_loop().time()):
            log.warning(Event.SLICE_CONTESTED, extra={"node_uid": node_uid, "seconds": pause})
            problem = (
                f"others change the slices again and again; they are of the Node with the uid {node_uid}"
            )
            self.standing.set(replace(self.standing.value, as_wanted=False, problem=problem))
            self._peace.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._peace.wait()

    async def _watch(self) -> None:
        """Wake the loop for each change of others, and when the server is back."""
        lost = False
        async with aclosing(self._api.watch(_SLICES, fields=self._fields)) as changes:
            async for change in changes:
                if change.kind is Kind.LISTED:
                    self._server = ""  # it may be another one
                    if lost:
                        self._refused, self._bad = None, {}
                    self._back.set()
                elif (lost := change.kind is Kind.LOST) or (
                    change.objects[0]["metadata"]["resourceVersion"] in self._own
                    and change.kind != Kind.DELETED
                ):
                    continue
                self._wake.set()

    @property
    def _fields(self) -> str:
        return f"spec.driver={self._driver},spec.nodeName={self._node}"

    def _stands(self, stored: Stored, wish: Sequence[Json], found: Sequence[Json]) -> None:
        self._wish, self._refused = wish, None
        self.refusal.set("; ".join(words for _, words in self._bad.values()) or None)
        self._seen = asyncio.get_running_loop().time()
        generation = found[0]["spec"]["pool"].get("generation") if found else None
        current = self.standing.value
        self.standing.set(
            replace(current, as_wanted=True, problem=None, stored=stored, generation=generation)
        )

    def _failed(self, problem: str) -> None:
        if problem != self.standing.value.problem:
            log.warning(Event.SLICE_NOT_WRITTEN, extra={"error": problem})
        self.standing.set(replace(self.standing.value, as_wanted=False, problem=problem))
