"""The DRA driver of one node: builds its parts and runs them.

The order at a start: the first snapshot, the documents of all prepared claims, the sockets, kubelet's word
that the driver is registered, the slices. A pod that is bound before kubelet knows the driver fails once and
waits for seconds, so nothing is published before.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.race import race
from xilinx_fpga_dp.apiserver.client import ApiServer, path
from xilinx_fpga_dp.apiserver.errors import ApiServerError, Forbidden, NotFound
from xilinx_fpga_dp.discovery.driver_versions import DriverVersions
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.dra.allocation import ClaimRefused
from xilinx_fpga_dp.dra.claims import Claims, Node
from xilinx_fpga_dp.dra.devices import PoolDevice, Stored, as_claimed, pool_devices, published
from xilinx_fpga_dp.dra.documents import Layout, PreparedClaim, shares_of
from xilinx_fpga_dp.dra.driver import SERVICES, DriverMetrics, DriverService
from xilinx_fpga_dp.dra.evictions import NO_SCHEDULE, Evictions
from xilinx_fpga_dp.dra.health import HealthReport, health_of
from xilinx_fpga_dp.dra.pool import API, Json
from xilinx_fpga_dp.dra.registrar import Registrar, sockets_of
from xilinx_fpga_dp.dra.slices import SlicePublisher
from xilinx_fpga_dp.dra.units import unit_states
from xilinx_fpga_dp.hostfiles.host_paths import HostPaths
from xilinx_fpga_dp.hostfiles.instance_lock import InstanceLock, driver_lock_folder
from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile
from xilinx_fpga_dp.kubelet.allocation_tracker import AllocationTracker
from xilinx_fpga_dp.kubelet.pod_cgroups import PodCgroups
from xilinx_fpga_dp.model import Device, History, Offers, Reason, Shell
from xilinx_fpga_dp.observe.events import Event, NodeEvent
from xilinx_fpga_dp.resources.fresh_devices import FreshDevices
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.snapshot import Snapshot

log = logging.getLogger(__name__)

_INSTANCES_EVERY: Final = 2.0  # seconds between two looks at the other instances
_INSTANCES_SOON: Final = 0.5  # the same while a newer one lives
_INSTANCES_LIMIT: Final = 5.0
# Seconds until health is repeated once more: kubelet may notice the end of a stream after the repetition.
_REPEAT_AFTER: Final = 0.5
_VERSIONS_RETRY: Final = 0.5  # seconds until a driver's version that could not be read is read again
_CONFLICT_EVERY: Final = 3.0  # seconds between two looks for a device plugin that offers the same devices
_RELEASE_LIMIT: Final = 0.3
# Seconds that the first slices wait for serial numbers, and between two looks for them
_SERIALS_LIMIT: Final = 0.5
_SERIALS_POLL: Final = 0.02


class DraFrontEnd:
    """The driver.

    Args:
        settings: the settings.
        snapshots: what the node offers.
        scanner: reads a device again before it is granted.
        tracker: knows who holds what.
        metrics: counts claims.
        api: the API server.
    """

    last_task = "instances"  # when it ends an older instance publishes

    def __init__(
        self,
        settings: Settings,
        snapshots: Latest[Snapshot],
        scanner: Scanner,
        tracker: AllocationTracker,
        metrics: DriverMetrics,
        *,
        api: ApiServer,
    ) -> None:
        self._settings = settings
        self._snapshots = snapshots
        self._scanner = scanner
        self._tracker = tracker
        self._api = api
        self._fresh = FreshDevices()
        self._known: tuple[Offers | None, Mapping[str, PoolDevice]] = None, {}  # with the offers they are of
        self._versions: Mapping[str, str] = {}
        self._driver_versions = DriverVersions(settings.sysfs_root)
        self._standby = Latest(False)  # a newer instance lives
        self.problems: Latest[Mapping[NodeEvent, str]] = Latest({})
        # The addresses that a device plugin offers; None until kubelet has answered
        self._offered: Latest[frozenset[str] | None] = Latest(None)
        self._lock = InstanceLock(driver_lock_folder(settings.plugins_dir, settings.dra_driver_name))
        self._reads: BlockingReader[bool] = BlockingReader()
        driver = settings.dra_driver_name
        self._evictions = Evictions(driver, settings.dra_evict_on, self._histories)
        layout = Layout(
            driver,
            settings.cdi_dir,
            f"{settings.plugins_dir}/{driver}",
            expose_mgmt=settings.expose_mgmt,
            metadata=settings.dra_metadata,
        )
        node = Node(
            name=settings.node_name,
            pool=self._pool,
            device=self._device,
            versions=lambda: self._versions,
            refresh=scanner.refresh,
            refresh_limit=settings.request_timeout,
            held=tracker.holders_now,
            mounts=HostPaths(settings.host_root, settings.extra_mounts).existing,
            extra_mounts=settings.extra_mounts,
            effect=self._evictions.effect,
            refreshed=self._refreshed,
            standby=lambda: self._standby.value,
            shared=settings.shared_replicas > 1,
            running=PodCgroups(settings.sysfs_root).running,
        )
        self.claims = Claims(layout, node, self._fetch)
        self._health = HealthReport(settings.node_name)
        self.registrar = Registrar(
            sockets_of(settings.plugins_dir, settings.plugins_registry_dir, driver, settings.pod_uid),
            driver,
            SERVICES,
            lambda: DriverService(self.claims, self._health, metrics),
        )
        self.publisher = SlicePublisher(
            api,
            driver,
            settings.node_name,
            partial(api.node_uid, settings.node_name),
            describe=self._describe,
            take_over=self._take_over,
            example=example(driver),
        )
        metrics.follow(
            lambda: len(self.claims.prepared.value),
            lambda: self.publisher.standing.value.generation,
            lambda: self.publisher.age,
        )

    def register_again(self) -> None:
        """Compare what is published; kubelet keeps the registration as long as the sockets live."""
        self._changed()

    @property
    def files(self) -> list[ManagedFile]:
        """None: both instances keep the documents of claims, an older one only their existence."""
        return []

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the endless tasks by name."""
        return {
            "instances": self._follow_instances,
            "driver-versions": self._read_versions,
            "pool": self._follow_snapshots,
            "mode-conflict": self._follow_plugins,
            "evictions": self._watch_evictions,
            "claims": self.claims.run,
            "claim-sweep": self.claims.sweep,
            "claim-pods": partial(self.claims.follow_pods, lambda: self._tracker.held),
            "sharing": self._follow_sharing,
            "registrar": self._serve,
            "registrations": self._follow_registrations,
            "slices": self._publish,
            "refusals": self._follow_refusals,
        }

    def scanned(self, began: float) -> None:
        """Trust the snapshots again for what was read again before a scan began."""
        if self._fresh.scanned(began):
            self._changed()  # the snapshot may be as before

    def allocatable(self) -> Mapping[str, bool]:
        """Whether the devices of each resource can be allocated: driver registered, slices as wanted."""
        offers = self._snapshots.value.offers
        ready = self.not_ready() is None
        return dict.fromkeys(offers.by_resource if offers else (), ready)

    def errors(self) -> Mapping[str, str]:
        """Return why the devices of each resource can't be allocated."""
        problem = self.not_ready()
        offers = self._snapshots.value.offers
        return dict.fromkeys(offers.by_resource if offers else (), problem) if problem else {}

    def others_allocate(self) -> bool:
        """Whether another process may allocate a card: a device plugin always may."""
        return True

    def standby(self) -> AsyncIterator[bool]:
        """Yield whether a newer instance lives, at each change."""
        return self._standby.changes(lambda standby: standby)

    def not_ready(self) -> str | None:
        """Return why pods can't get devices of this node by claims; None if they can."""
        if not self.registrar.registered.value:
            error = self.registrar.last_error
            return "kubelet has not registered the driver yet" + (f": {error}" if error else "")
        if self._standby.value:
            return None  # the newer instance publishes
        if not self._tracker.has_answered.is_set():
            return "podresources has not answered yet: a pod of a device plugin may hold a card"
        if conflict := self._conflict(self._offered_twice()):
            return conflict
        return self.publisher.standing.value.problem

    def unit_states(self, offers: Offers) -> Mapping[str, Mapping[str, Any]]:
        """Return name, taint and claims of each unit, by the address of its first device."""
        return unit_states(offers, self._settings.dra_driver_name, self.claims.prepared.value.values())

    # The pool

    def _pool(self) -> Mapping[str, PoolDevice]:
        """Return the devices as they are now, also those that are not confirmed yet."""
        return {each.name: each for each in self._as_now(self._last_seen().values())}

    def _device(self, name: str) -> PoolDevice | None:
        """Return one of these devices."""
        known = self._last_seen().get(name)
        return next(self._as_now([known])) if known else None

    def _last_seen(self) -> Mapping[str, PoolDevice]:
        """Return the devices of the last scan, kept: a claim need not wait until they are sorted."""
        known = self._snapshots.value.known
        if self._known[0] is not known:
            self._known = known, {each.name: each for each in pool_devices(known)} if known else {}
        return self._known[1]

    def _as_now(self, devices: Iterable[PoolDevice]) -> Iterator[PoolDevice]:
        """Yield devices of a scan with what has been read and claimed since."""
        shares = shares_of(self.claims.prepared.value.values())
        for device in devices:
            now = replace(device, devices=tuple(map(self._fresh.newest, device.devices)))
            yield as_claimed(now, shares.get(device.address, ()))

    def _describe(self, stored: Stored) -> list[Json]:
        offers = self._snapshots.value.offers
        entries = (
            published(each, self._settings.dra_driver_name, self._versions, self._evictions.effect, stored)
            for each in self._as_now(pool_devices(offers) if offers else ())
            if not self._is_offered(each)
        )
        return [each for each in entries if each is not None]

    def _is_offered(self, device: PoolDevice) -> bool:
        """Whether a device plugin offers it: kubelet would allocate it beside the scheduler."""
        return not (self._offered.value or frozenset()).isdisjoint(each.address for each in device.devices)

    def _offered_twice(self) -> list[str]:
        return sorted(each.address for each in self._pool().values() if self._is_offered(each))

    def _conflict(self, twice: Sequence[str]) -> str | None:
        if not twice:
            return None
        return f"a device plugin on this node offers {', '.join(twice)} too: remove it from the node"

    def _histories(self) -> Mapping[str, History]:
        known = self._snapshots.value.known
        return known.histories if known else {}

    def _take_over(self, slices: Sequence[Json], now: str) -> None:
        self._evictions.take_over(slices, self._pool().values(), now)

    def _refreshed(self, devices: Sequence[Device]) -> None:
        self._fresh.note(devices, asyncio.get_running_loop().time())

    # The tasks

    async def _follow_snapshots(self) -> None:
        async for _ in self._snapshots.changes(lambda snapshot: (snapshot.known, snapshot.offers)):
            if self._snapshots.value.known is not None:
                self._changed()

    def _changed(self) -> None:
        self._health.set(health_of(self._pool()))
        self.claims.changed.set()
        self.publisher.wake()

    async def _follow_plugins(self) -> None:
        """Know which devices a device plugin offers, as while a node changes from one mode to the other."""
        before: list[str] = []
        while True:
            offered = await self._tracker.offered_by_plugins()
            if offered not in (None, self._offered.value):
                self._offered.set(offered)
                self.publisher.wake()
            if (twice := self._offered_twice()) != before:
                if twice:
                    log.warning(Event.MODE_CONFLICT, extra={"devices": ",".join(twice)})
                self._report(NodeEvent.MODE_CONFLICT, self._conflict(twice))
                before = twice
            await asyncio.sleep(_CONFLICT_EVERY)

    async def _follow_refusals(self) -> None:
        seen: str | None = None
        while True:
            seen = await self.publisher.refusal.other_than(seen)
            self._report(NodeEvent.NOT_PUBLISHED, seen)

    def _report(self, reason: NodeEvent, note: str | None) -> None:
        others = {each: text for each, text in self.problems.value.items() if each is not reason}
        self.problems.set(others | ({reason: note} if note else {}))

    async def _follow_sharing(self) -> None:
        """Publish again where a share of a start with another SHARED_REPLICAS is gone: each was a slot."""
        shared = self._settings.shared_replicas > 1

        def older(claims: Mapping[str, PreparedClaim]) -> frozenset[tuple[str, str, str | None]]:
            return frozenset(
                (claim.uid, each.address, each.share_id)
                for claim in claims.values()
                for each in claim.results
                if bool(each.share_id) != shared
            )

        async for _ in self.claims.prepared.changes(older):
            self.publisher.wake()

    async def _read_versions(self) -> None:
        async for drivers in self._snapshots.changes(
            lambda snapshot: (
                frozenset(each.driver for each in snapshot.known.devices if each.driver)
                if snapshot.known
                else None
            )
        ):
            while True:
                self._versions = await self._driver_versions.of(drivers)
                self._changed()
                if self._driver_versions.complete:
                    break
                await asyncio.sleep(_VERSIONS_RETRY)

    async def _watch_evictions(self) -> None:
        """Wake the publisher when a reason has lasted so long that its taint evicts."""
        if not self._settings.dra_evict_on:
            return
        before: dict[str, str] = {}
        while True:
            await asyncio.sleep(1.0)
            effects = {
                name: self._evictions.effect(device, device.reason)
                for name, device in self._pool().items()
                if device.reason
            }
            if effects != before:
                self.publisher.wake()
            before = effects

    async def _serve(self) -> None:
        """Mend the documents, then register."""
        await self._snapshots.until(lambda snapshot: snapshot.known is not None)
        await self.claims.mend()
        await self.registrar.run()

    async def _follow_registrations(self) -> None:
        async for _ in self.registrar.registered.changes(lambda count: count or None):
            self.publisher.registered_again()

    async def _publish(self) -> None:
        """Publish while this instance is registered and the newest."""
        while True:
            await self.registrar.registered.until(bool)
            await self._standby.until(lambda standby: not standby)
            await self._tracker.has_answered.wait()
            await self._offered.until(lambda offered: offered is not None)
            await self._serials()
            await race(self.publisher.run(), self._inactive())

    async def _serials(self) -> None:
        """Wait a moment for serial numbers. Slices without them would be written again soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SERIALS_LIMIT):
                while self._awaits_serial():  # noqa: ASYNC110 - a late one sets nothing
                    await asyncio.sleep(_SERIALS_POLL)

    def _awaits_serial(self) -> bool:
        offers = self._snapshots.value.offers
        return any(map(self._scanner.awaits_serial, offers.devices if offers else ()))

    async def _inactive(self) -> None:
        await race(
            _until(self.registrar.registered.until(lambda count: not count)),
            _until(self._standby.until(bool)),
        )

    async def _follow_instances(self) -> None:
        """Know the other instances; when cancelled, make way for an older one."""
        before: frozenset[str] = frozenset()
        try:
            with DirectoryWatcher(self._lock.folder, fold=0) as watcher:
                while True:
                    await watcher.arm()
                    with suppress(TimeoutError):
                        standby = await self._reads.read(self._lock.has_newer_instance, _INSTANCES_LIMIT)
                        if standby != self._standby.value:
                            log.info(Event.SUPERSEDED if standby else Event.ACTIVE)
                        self._standby.set(standby)
                        if before - self._lock.others:  # one has left, and kubelet forgets all health
                            self._health.repeat()
                            asyncio.get_running_loop().call_later(_REPEAT_AFTER, self._health.repeat)
                        before = self._lock.others
                    await watcher.wait(_INSTANCES_SOON if self._standby.value else _INSTANCES_EVERY)
        finally:
            await self._reads.read_fresh("", partial(_true, self._lock.release), _RELEASE_LIMIT)

    # The API server

    async def _fetch(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        try:
            return await self._api.get(path(f"apis/{API}", "namespaces", namespace, "resourceclaims", name))
        except NotFound:
            return None
        except ValueError as error:
            raise ClaimRefused(str(error) or repr(error)) from None
        except Forbidden as error:
            raise ClaimRefused(f"the driver lacks the right to get resourceclaims: {error}") from None
        except ApiServerError as error:
            raise ClaimRefused(f"API server: {error}") from None


def example(driver: str) -> Json:
    """Return a device with every optional field, for the dry run."""
    device = Device("0000:00:00.0", Shell("example", None, None), "u55c", "", reason=Reason.OFFLINE)
    shared = PoolDevice("example", "xilinx.com/fpga-example", (device,), slots=2)
    entry = published(shared, driver, {}, lambda _device, _reason: NO_SCHEDULE)
    return entry or {}


async def _until(wait: Awaitable[object]) -> None:
    await wait


def _true(call: Callable[[], object]) -> bool:
    call()
    return True
