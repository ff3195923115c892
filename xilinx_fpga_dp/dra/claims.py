"""Prepares and unprepares claims, and keeps their documents as they have to be.

A claim is prepared in two parts. The first reads what may take long: the claim from the API server, the
devices from their drivers, the holders from podresources. The second is one blocking step with the lock of
the checkpoint held: compare with the claims that are prepared, write the checkpoint, the metadata, the CDI
specs. A call that is cancelled during the first part writes nothing; the second part is never cut off by it.

The documents are computed from the checkpoint and the devices as they are now, whenever one of them or the
directory changes: a container that restarts finds its device also after a reset has renumbered the nodes.
"""

import asyncio
import json
import logging
import os
import re
import threading
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from xilinx_fpga_dp.aio.coalesced import Coalesced
from xilinx_fpga_dp.aio.daemon_threads import DaemonExecutor
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.race import race
from xilinx_fpga_dp.dra.allocation import (
    Allocated,
    ClaimRefused,
    Result,
    allocated,
    checked_uid,
    pods_of,
)
from xilinx_fpga_dp.dra.checkpoint import LOCK, Checkpoint
from xilinx_fpga_dp.dra.devices import PoolDevice, taint_key
from xilinx_fpga_dp.dra.documents import (
    ENTRY,
    Granted,
    Layout,
    PreparedClaim,
    PreparedResult,
    as_granted,
    mounts_by_rule,
    of_entry,
)
from xilinx_fpga_dp.hostfiles.whole_file import put, remove
from xilinx_fpga_dp.model import Device, Held, Reason
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.resources.allocator import Refresh, Refusal, checked
from xilinx_fpga_dp.resources.holders import holders_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_LIMIT: Final = 20.0  # seconds to prepare or unprepare a claim; kubelet waits for 45
_FETCHES: Final = 8  # claims that are read at the same time
_MOUNTS_LIMIT: Final = 2.0  # seconds to find the host paths
_THREADS: Final = 4  # steps in progress; more than one only where one hangs
_CHECK_EVERY: Final = 10.0  # seconds between looks at the documents that nothing woke
_RETRY: Final = 0.5  # the same while one can't be written
_FOLD: Final = 0.2  # seconds within which changes are one: a prepared claim has several files
_MAX_SPEC: Final = 1 << 20
_PODS_EVERY: Final = 1.0  # seconds between looks for pods that podresources has not shown before
_PODS_RETRY: Final = 10.0  # the same where a claim could not be read
_MAX_PODS: Final = 256  # of a claim, before those that have ended are forgotten; it is reserved for no more
_SWEEP_EVERY: Final = 600.0  # seconds; also the age of an entry before it can be left over

Fetch = Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
"""Reads a ResourceClaim by namespace and name; None if there is none. Raises ClaimRefused with a sentence."""

Effect = Callable[[PoolDevice, Reason], str]
"""Returns the effect of a device's taint."""


@dataclass(frozen=True, slots=True)
class ClaimReference:
    """A claim as kubelet names it."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """What kubelet is told of one result."""

    request: str
    pool: str
    device: str
    share_id: str | None
    cdi_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What the claims have to know of the node."""

    name: str
    pool: Callable[[], Mapping[str, PoolDevice]]  # the devices, also those not confirmed yet, by name
    device: Callable[[str], PoolDevice | None]  # one of them
    versions: Callable[[], Mapping[str, str]]  # of the kernel drivers
    refresh: Refresh
    refresh_limit: float  # seconds
    held: Callable[[], Awaitable[Held]]  # who holds which device, by podresources
    mounts: Callable[[float, Sequence[str]], Awaitable[tuple[str, ...]]]  # as the allocator's
    extra_mounts: tuple[str, ...]
    effect: Effect
    refreshed: Callable[[Sequence[Device]], None]  # told of devices that were read again
    standby: Callable[[], bool]  # whether a newer instance lives, which may have other settings
    shared: bool  # whether several claims may have a device, by the settings
    running: Callable[[Collection[str]], Collection[str]]  # which of these pods have processes; blocks


class Claims:
    """The claims of this node.

    Args:
        layout: where their documents go.
        node: its devices.
        fetch: reads a claim.
    """

    def __init__(self, layout: Layout, node: Node, fetch: Fetch) -> None:
        self._layout = layout
        self._node = node
        self._fetch = fetch
        self._checkpoint = Checkpoint(layout.data_dir, self._claims_of_specs)
        self._fetching = asyncio.Semaphore(_FETCHES)
        self._threads = DaemonExecutor(_THREADS)
        self._turn = asyncio.Lock()  # of this process's steps; the file's lock is between processes
        self._texts: dict[str, dict[str, str]] = {}  # the documents as last computed, by uid and path
        self._mended = Coalesced(self._mend)
        self._error: Latest[str | None] = Latest(None)  # why a document is not as it has to be
        self.prepared: Latest[Mapping[str, PreparedClaim]] = Latest({})  # by uid, as last read
        self.changed = asyncio.Event()  # set to have the documents computed again

    # What kubelet asks for

    async def prepare(self, reference: ClaimReference) -> list[PreparedDevice]:
        """Prepare a claim, also one that is prepared already.

        Raises:
            ClaimRefused: it can't be prepared now.
        """
        try:
            async with asyncio.timeout(_LIMIT):
                return await self._prepare(reference)
        except OSError as error:  # a TimeoutError is an OSError
            raise ClaimRefused(_sentence(error)) from None

    async def unprepare(self, reference: ClaimReference) -> None:
        """Remove everything of a claim, also of an unknown one.

        Raises:
            ClaimRefused: a pod that has it still runs, or a file can't be removed.
        """
        try:
            uid = checked_uid(reference.uid)
        except ClaimRefused:
            return  # no claim of ours has such a uid
        try:
            async with asyncio.timeout(_LIMIT):
                self.prepared.set(await self._step(partial(self._unprepare, uid)))
        except OSError as error:  # a TimeoutError is an OSError
            raise ClaimRefused(_sentence(error)) from None

    async def _prepare(self, reference: ClaimReference) -> list[PreparedDevice]:
        (claim, devices, granted), held = await asyncio.gather(
            self._claimed(reference), self._held(reference.uid)
        )
        if not claim.results:
            return []
        if held is not None:
            self._refuse_held(claim, devices, held)
        entry = PreparedClaim(
            claim.uid,
            claim.namespace,
            claim.name,
            claim.pod_claim_name,
            tuple(
                PreparedResult(
                    result.request,
                    self._node.name,
                    result.device,
                    device.address,
                    device.resource,
                    result.share_id,
                    result.admin_access,
                    tuple(own.address for own in device.devices),
                )
                for result, device in zip(claim.results, devices, strict=True)
            ),
            claim.pods,
        )
        ids, claims = await self._step(partial(self._write, entry, granted))
        self.prepared.set(claims)
        return [
            PreparedDevice(each.base_request, each.pool, each.device, each.share_id, own)
            for each, own in zip(entry.results, ids, strict=True)
        ]

    async def _claimed(
        self, reference: ClaimReference
    ) -> tuple[Allocated, Sequence[PoolDevice], Sequence[Granted]]:
        """Return a claim, its devices as they are now and what they give a container."""
        async with self._fetching:
            found = await self._fetch(reference.namespace, reference.name)
        if found is None:
            raise ClaimRefused(f"the ResourceClaim {reference.namespace}/{reference.name} does not exist")
        claim = allocated(found, reference.uid, driver=self._layout.driver, pool=self._node.name)
        devices = [await self._now(result) for result in claim.results]
        return claim, devices, await self._as_granted(devices)

    async def _now(self, result: Result) -> PoolDevice:
        """Return a device as it is now, or refuse it."""
        device = self._node.device(result.device)
        if device is None:
            raise ClaimRefused(f"there is no device {result.device} on this node")
        try:
            async with asyncio.timeout(self._node.refresh_limit):
                fresh = [(each, await self._node.refresh(each)) for each in device.devices]
        except TimeoutError:
            raise ClaimRefused(
                f"device {device.address} did not answer within {self._node.refresh_limit:g} s: "
                "a read of its driver hangs"
            ) from None
        try:
            now = tuple(
                checked(device.resource, before, each, faulty=self._accepts(result, device, each))
                for before, each in fresh
            )
        except Refusal as refusal:
            raise ClaimRefused(refusal.message) from None
        # A device recovers by several checks of a scan, and whether a pod holds it is not read.
        now = tuple(
            each if each.reason else replace(each, reason=before.reason)
            for (before, _), each in zip(fresh, now, strict=True)
        )
        if now != device.devices:
            self._node.refreshed(now)
        return replace(device, devices=now)

    def _accepts(self, result: Result, device: PoolDevice, now: Device | None) -> bool:
        """Whether a claim accepts a device with the fault that it has now."""
        if result.admin_access or now is None or now.reason is None:
            return True
        key, effect = taint_key(self._layout.driver, now.reason), self._node.effect(device, now.reason)
        return any(each.covers(key, effect) for each in result.tolerations)

    async def _held(self, uid: str) -> Held | None:
        """Return who holds which device; None for a claim that is prepared already: that is decided."""
        return None if uid in self.prepared.value else await self._node.held()

    def _refuse_held(self, claim: Allocated, devices: Sequence[PoolDevice], held: Held) -> None:
        """Refuse a device that a pod has from a device plugin or another driver, under any name."""
        for result, device in zip(claim.results, devices, strict=True):
            if result.admin_access:
                continue
            for holder in (each for own in device.devices for each in holders_of(held, own.address)):
                if holder.resource != self._layout.driver:
                    raise ClaimRefused(
                        f"device {device.address} is held by the pod {holder.namespace}/{holder.pod}, "
                        f"which has it as {holder.resource}"
                    )
            if any(each.reason is Reason.HELD for each in device.devices):  # with the rest of its card
                raise ClaimRefused(f"device {device.address} is Unhealthy: {Reason.HELD}")

    async def _as_granted(self, devices: Sequence[PoolDevice]) -> list[Granted]:
        existing = await self._node.mounts(_MOUNTS_LIMIT, mounts_by_rule(devices))
        return as_granted(devices, existing, self._node.extra_mounts, self._node.versions())

    # The steps, each on a thread

    async def _step(self, call: Callable[[Callable[[], bool]], T]) -> T:
        """Run a blocking step that a cancellation does not cut; one that has not begun never does."""
        cancelled = threading.Event()
        async with self._turn:
            work = asyncio.wrap_future(self._threads.submit(call, cancelled.is_set))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                cancelled.set()
                work.add_done_callback(_forget)
                raise

    def _write(
        self,
        entry: PreparedClaim,
        granted: Sequence[Granted],
        cancelled: Callable[[], bool],
    ) -> tuple[tuple[tuple[str, ...], ...], Mapping[str, PreparedClaim]]:
        """Write a claim, unless a card of it is another claim's.

        Return the CDI ids of its results, and all claims.
        """
        with self._checkpoint.locked(cancelled):
            state = self._checkpoint.read()
            entry = _with_own(entry, state.claims.get(entry.uid))
            _refuse_prepared(entry, state.claims, shared=self._node.shared or entry.uid in state.claims)
            documents = self._layout.documents(entry, granted)
            claims = self._checkpoint.write(state, {**state.claims, entry.uid: entry}).claims
            self._texts[entry.uid] = {**documents.metadata, **documents.specs}
            for path, text in self._texts[entry.uid].items():  # the metadata first, which the specs name
                put(path, text)
            return documents.cdi_ids, claims

    def _unprepare(self, uid: str, cancelled: Callable[[], bool]) -> Mapping[str, PreparedClaim]:
        """Remove specs, metadata and entry of a claim, in this order; return the claims that are left."""
        with self._checkpoint.locked(cancelled):
            state = self._checkpoint.read()
            claim = state.claims.get(uid)
            if claim and self._node.running(claim.pods):
                raise ClaimRefused(f"a pod that has the ResourceClaim {_shown(claim)} still runs")
            self._texts.pop(uid, None)
            for path in self._specs_of({uid}):
                remove(path)
            if claim is None:
                return state.claims
            others = {each.uid: each for each in state.claims.values() if each.uid != uid}
            # A claim that was made again under the same name has its metadata at the same path.
            if self._layout.metadata_folder(claim) not in map(self._layout.metadata_folder, others.values()):
                self._remove_metadata(claim)
            return self._checkpoint.write(state, others).claims

    def _remove_metadata(self, claim: PreparedClaim) -> None:
        _, files = self._layout.paths(claim)
        for path in files:
            remove(path)
            with suppress(OSError):
                os.rmdir(os.path.dirname(path))
        with suppress(OSError):
            os.rmdir(self._layout.metadata_folder(claim))

    # The documents

    async def run(self) -> None:
        """Keep the documents as they have to be. Endless."""
        directories = (self._layout.cdi_dir, self._layout.data_dir)
        # The lock is opened for writing, as NFS wants it, so each use of it is a change.
        with DirectoryWatcher(*directories, fold=_FOLD, wakes=lambda name: name != LOCK) as watcher:
            while True:
                await watcher.arm()
                self.changed.clear()
                await self.mend()
                limit = _RETRY if self._error.value else _CHECK_EVERY
                await race(watcher.wait(limit), _wait(self.changed))

    async def mend(self) -> None:
        """Compute all documents again and write those that differ; remove those of no claim."""
        await self._mended.run()

    async def _mend(self) -> None:
        try:
            pool = dict(self._node.pool())
            names = list(pool)
            granted = dict(zip(names, await self._as_granted([pool[name] for name in names]), strict=True))
            write = _put_missing if self._node.standby() else put
            claims, failure = await self._step(partial(self._reconcile, granted, write))
            self.prepared.set(claims)
        except OSError as error:
            failure = error
        problem = _sentence(failure) if failure else None
        if problem and problem != self._error.value:
            log.warning(Event.FILE_NOT_WRITTEN, extra={"path": self._layout.data_dir, "error": problem})
        self._error.set(problem)

    def _reconcile(
        self,
        granted: Mapping[str, Granted],
        write: Callable[[str, str], object],
        cancelled: Callable[[], bool],
    ) -> tuple[Mapping[str, PreparedClaim], OSError | None]:
        """Put the documents of all claims right; return the claims, and the first of all errors."""
        with self._checkpoint.locked(cancelled):
            state = self._checkpoint.read()
            steps: list[Callable[[], object]] = [
                partial(self._checkpoint.write, state, state.claims)  # in another boot, its id
            ]
            by_address = {each.devices[0].address: each for each in granted.values()}
            for uid in self._texts.keys() - state.claims.keys():
                del self._texts[uid]
            for uid, claim in state.claims.items():
                now = [by_address.get(each.address) for each in claim.results]
                if all(now):
                    documents = self._layout.documents(claim, [each for each in now if each])
                    self._texts[uid] = {**documents.metadata, **documents.specs}
                # While a device is away, its documents stay.
                steps += [partial(write, path, text) for path, text in self._texts.get(uid, {}).items()]
            steps.append(partial(self._remove_specs_but, state.claims.keys()))
            return state.claims, _first_error(steps)

    def _remove_specs_but(self, uids: Container[str]) -> None:
        if error := _first_error(partial(remove, path) for path in self._specs_of(None, but=uids)):
            raise error

    def _specs_of(self, uids: set[str] | None, but: Container[str] = ()) -> list[str]:
        """Return the paths of the CDI specs of these claims, of all but some if None."""
        layout = self._layout
        prefixes = (layout.spec_prefix, layout.metadata_spec_prefix)
        pattern = re.compile(
            f"(?:{'|'.join(map(re.escape, prefixes))})([A-Za-z0-9-]+)(?:_[-a-z0-9]+)?\\.json"
        )
        found = []
        try:
            names = os.listdir(layout.cdi_dir)
        except FileNotFoundError:
            return []
        for name in names:
            match = pattern.fullmatch(name)
            if match and (match[1] in uids if uids is not None else match[1] not in but):
                found.append(f"{layout.cdi_dir}/{name}")
        return found

    def _claims_of_specs(self) -> dict[str, PreparedClaim]:
        """Return the claims of the CDI specs, for a checkpoint that can't be read."""
        found: dict[str, PreparedClaim] = {}
        for path in self._specs_of(None):
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, ClaimRefused):
                with open(path, encoding="utf-8") as file:
                    spec = json.loads(file.read(_MAX_SPEC))
                entries = json.loads(spec["annotations"][f"{self._layout.driver}/{ENTRY}"])
                found |= {uid: of_entry(uid, entry) for uid, entry in entries.items()}
        return found

    # The pods that have a claim

    async def follow_pods(self, held: Callable[[], Held]) -> None:
        """Note each pod that joins a prepared claim. Endless.

        kubelet prepares a claim for its first pod alone (pkg/kubelet/cm/dra/manager.go prepareResources).
        podresources shows the others, without their uids.
        """
        seen: set[tuple[str, str]] = set()
        wanted: set[str] = set()
        while True:
            shown = self._shown_pods(held())
            wanted |= {uid for uid, _ in shown - seen}
            seen = shown
            claims = [claim for uid, claim in self.prepared.value.items() if uid in wanted]
            wanted = {claim.uid for claim in claims if not await self._note_pods(claim)}
            await asyncio.sleep(_PODS_RETRY if wanted else _PODS_EVERY)

    def _shown_pods(self, held: Held) -> set[tuple[str, str]]:
        """Return the uid of each claim with each pod that podresources shows to have it."""
        uids = {(each.namespace, each.name): each.uid for each in self.prepared.value.values()}
        own = [each for holders in held.values() for each in holders if each.resource == self._layout.driver]
        return {(uids[claim], each.pod) for each in own if (claim := (each.namespace, each.claim)) in uids}

    async def _note_pods(self, claim: PreparedClaim) -> bool:
        """Add the pods that a claim is reserved for by now. Return False if that is to be tried again."""
        try:
            async with asyncio.timeout(_LIMIT):
                found = await self._fetch(claim.namespace, claim.name)
                pods = pods_of(found, claim.uid) if found else ()
                if not set(pods) <= set(claim.pods):
                    self.prepared.set(await self._step(partial(self._add_pods, claim.uid, pods)))
        except (ClaimRefused, OSError):  # a TimeoutError is an OSError
            return False
        return True

    def _add_pods(
        self, uid: str, pods: Sequence[str], cancelled: Callable[[], bool]
    ) -> Mapping[str, PreparedClaim]:
        with self._checkpoint.locked(cancelled):
            state = self._checkpoint.read()
            claim = state.claims.get(uid)
            if claim is None:
                return state.claims
            known = tuple(dict.fromkeys((*claim.pods, *pods)))
            if len(known) > _MAX_PODS:
                left = {*pods, *self._node.running(known)}
                known = tuple(each for each in known if each in left)
            return self._checkpoint.write(state, {**state.claims, uid: replace(claim, pods=known)}).claims

    # Claims that are gone

    async def sweep(self) -> None:
        """Unprepare claims that are gone from the API server and from kubelet. Endless.

        kubelet unprepares every claim that it knows of; one that it has forgotten, as after its own state was
        removed, would keep its card for good.
        """
        before: set[str] = set()
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            claims = dict(self.prepared.value)
            for uid in before & claims.keys():
                if await self._is_gone(claims[uid]):
                    log.warning(Event.CLAIM_LEFT_OVER, extra={"claim": _shown(claims[uid]), "uid": uid})
                    with suppress(ClaimRefused):
                        await self.unprepare(ClaimReference(claims[uid].namespace, claims[uid].name, uid))
                else:  # podresources shows a pod that was made again as the same one
                    await self._note_pods(claims[uid])
            before = set(claims)

    async def _is_gone(self, claim: PreparedClaim) -> bool:
        try:
            found = await self._fetch(claim.namespace, claim.name)
            held = await self._node.held()
        except ClaimRefused:
            return False
        if found is not None and found.get("metadata", {}).get("uid") == claim.uid:
            return False
        own = {(self._layout.driver, each.device) for each in claim.results}
        return not any((holder.resource, holder.id) in own for holders in held.values() for holder in holders)


def _with_own(entry: PreparedClaim, before: PreparedClaim | None) -> PreparedClaim:
    """Return a claim with the pods and devices that it has, of a card those that it was given.

    By now, more or fewer of them may be on the bus, and pods may have lost their reservation but still run.
    """
    if before is None:
        return entry
    own = {(each.request, each.device): each.addresses for each in before.results}
    results = (
        replace(each, addresses=own.get((each.request, each.device)) or each.addresses)
        for each in entry.results
    )
    return replace(entry, results=tuple(results), pods=tuple(dict.fromkeys((*before.pods, *entry.pods))))


def _refuse_prepared(entry: PreparedClaim, claims: Mapping[str, PreparedClaim], *, shared: bool) -> None:
    """Refuse a claim of which a device is prepared for another one, unless both have a share of it.

    Without ``shared`` also then: the scheduler allocated the new share before the settings changed.
    """
    wanted = {
        address: result for result in entry.results if not result.admin_access for address in result.holds
    }
    for other in claims.values():
        for each in other.results:
            if other.uid == entry.uid or each.admin_access:
                continue
            for address in wanted.keys() & set(each.holds):
                if not (shared and wanted[address].share_id and each.share_id):
                    raise ClaimRefused(
                        f"device {wanted[address].address} is still prepared for the ResourceClaim "
                        f"{_shown(other)} ({other.uid}), which kubelet has not unprepared yet"
                    )


def _put_missing(path: str, text: str) -> None:
    if not os.path.exists(path):
        put(path, text)


def _first_error(steps: Iterable[Callable[[], object]]) -> OSError | None:
    """Take every step, also after one that fails."""
    first = None
    for step in steps:
        try:
            step()
        except OSError as error:
            first = first or error
    return first


def _shown(claim: PreparedClaim) -> str:
    return f"{claim.namespace}/{claim.name}"


def _sentence(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or str(error) or f'no answer for {_LIMIT:g} s'}"


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _forget(work: asyncio.Future[Any]) -> None:
    """Take the outcome of a step that no caller waits for, so that asyncio does not report it."""
    if not work.cancelled():
        work.exception()
