"""The service: builds the parts and runs them in one TaskGroup. The only module that knows them all."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterable

from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.listen import FdExhaustionHandler
from xilinx_fpga_dp.deviceplugin.fleet import Fleet
from xilinx_fpga_dp.deviceplugin.plugin import PluginConfig
from xilinx_fpga_dp.deviceplugin.socket_directory import KUBELET_SOCKET, Watch
from xilinx_fpga_dp.discovery import uevents
from xilinx_fpga_dp.discovery.driver_versions import Versions
from xilinx_fpga_dp.discovery.scanner import ScanFailed
from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile
from xilinx_fpga_dp.kubelet.allocation_tracker import AllocationTracker, UnitKeys
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Device, Held, Inventory, Offers
from xilinx_fpga_dp.observe.device_log import DeviceEventLog
from xilinx_fpga_dp.observe.http_routes import HttpRoutes
from xilinx_fpga_dp.observe.http_server import HttpServer
from xilinx_fpga_dp.observe.metrics import Metrics
from xilinx_fpga_dp.resources.allocator import nodes_of
from xilinx_fpga_dp.resources.documents import cdi
from xilinx_fpga_dp.resources.documents import nfd as labels
from xilinx_fpga_dp.resources.offers import names_of, only
from xilinx_fpga_dp.settings import Settings, unknown_variables
from xilinx_fpga_dp.snapshot import Basis, Offering
from xilinx_fpga_dp.wiring import allocator_of, scanner_of

log = logging.getLogger(__name__)

# Seconds until the next scan while an answer is outstanding, and at least between two scans.
_SOON = 0.5
_LEAST = 0.05
# Seconds the parts may take to end in good order (calls end first), and until they are told once more.
_ENDING = 1.2
_END_AGAIN = 0.05
# Seconds that all devices wait for kubelet's word on who holds a new one; after that the new one waits alone.
_VETTING = 0.2


class Service:
    """One node's device plugin, from start to SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._acts: dict[int, Callable[[], None]] = {  # at a signal
            signal.SIGTERM: self._stop.set,
            signal.SIGINT: self._stop.set,
            signal.SIGHUP: self._hang_up,
        }
        self._offers: Latest[Offers | None] = Latest(None)
        self._scanner = scanner_of(settings, self._wake.set)
        self._journal = DeviceEventLog()
        self._offering = Offering(settings, news=self._wake.set)
        # From what the offers were made that are published
        self._published: tuple[Inventory, Basis, Held, UnitKeys] | None = None
        self._failure: str | None = None  # of the last scan
        self._known = Offers({})  # what is offered, with what is when it was asked who holds it
        self._unvetted: set[str] = set()  # ids of those
        # Devices that have waited for their serial number since the start; None: not known yet
        self._unnamed: frozenset[str] | None = None
        self._metrics = Metrics(lambda: self._offers.value, self._registered)
        self._watch = Watch(settings.socket_dir, self._metrics)
        self._holders = AllocationTracker(
            PodResources(settings.pod_resources_socket), self._wake.set, lambda: bool(self._watch.others)
        )
        self._spec = ManagedFile(f"{settings.cdi_dir}/{cdi.FILE}")
        # Handed out as they are now, by address, and when: the next scan shows them so, a check may not.
        self._fresh: dict[str, tuple[Device, float]] = {}
        self._labels = ManagedFile(f"{settings.nfd_features_dir}/{labels.FILE}")
        self._versions = Versions(settings.sysfs_root)
        terms = PluginConfig(
            allocator_of(
                settings,
                self._scanner,
                lambda: self._offers.value.devices if self._offers.value else (),
                self._in_spec,
            ),
            settings.request_timeout,
            settings.preferred_allocation,
            settings.prestart_check,
        )
        self._fleet = Fleet(self._watch, terms, self._metrics)

    def _registered(self) -> dict[str, bool]:
        return self._fleet.registered()

    def _waits(self) -> str | None:
        """Why not all that is on the node is offered yet."""
        if self._offers.value is None:
            return "the node has not been scanned yet" + (f": {self._failure}" if self._failure else "")
        if self._unnamed:
            return f"waiting for the serial number of {', '.join(sorted(self._unnamed))}"
        return f"not asked yet who holds {', '.join(sorted(self._unvetted))}" if self._unvetted else None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP scans and registers again."""
        self._heed_signals()
        asyncio.get_running_loop().set_exception_handler(FdExhaustionHandler())
        for name in unknown_variables(os.environ):
            log.warning("unknown setting ignored", extra={"variable": name})
        self._offering.tell_old_ways()
        log.info("started", extra={"version": __version__, "socket_dir": self._settings.socket_dir})
        pages = HttpRoutes(
            self._metrics,
            lambda: self._offers.value,
            self._registered,
            self._waits,
            self._holders.ask,
            complaints=self._fleet.complaints,
            expose_mgmt=self._settings.expose_mgmt,
        )
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "scan": self._scan,
            "uevents": lambda: uevents.listen(self._wake.set),
            "holders": self._holders.run,
            "watch": self._watch.run,
            "fleet": lambda: self._fleet.run(self._offers),
            "sweep": self._fleet.sweep,
            "hint": self._hint,
            "heart": pages.heart,
            "rules": self._offering.run,
            "voice": self._leave_files,
        }
        if self._settings.device_strategy != "device-specs":
            parts["cdi"] = self._spec.run
            parts["specifying"] = lambda: self._at_each_offer(self._write_spec)
        if self._settings.nfd_features_dir:
            parts["labels"] = self._labels.run
            parts["labelling"] = lambda: self._at_each_offer(self._label)
        if self._settings.http_address:
            parts["http"] = HttpServer(self._settings.http_address, pages.by_path()).run
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: group.create_task(_unending(name, part), name=name) for name, part in parts.items()
            }
            await self._stop.wait()
            log.info("ending")
            watch = tasks.pop("watch")
            await _end(tasks.values())
            await _end([watch])  # lets an older one speak: kubelets up to 1.36 want our streams ended before
        for number in self._acts:  # one more changes nothing
            signal.signal(number, signal.SIG_IGN)
        log.info("ended")

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in self._acts:
            # Not by the loop's add_signal_handler: at its end a signal would do what it does to any process.
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(self._acts[number]))
        # They were held back since the process began: what came meanwhile comes now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._acts)

    def _hang_up(self) -> None:
        log.info("SIGHUP: scanning and registering again")
        self._wake.set()
        self._fleet.register_again()

    async def _scan(self) -> None:
        """Look at all that is on the bus and, in between, at the health of what is known."""
        await self._offering.look()  # or devices would be offered under other names first
        now = asyncio.get_running_loop().time
        next_scan = next_check = now()
        while True:
            woken = self._wake.is_set()
            self._wake.clear()
            check = now() >= next_check  # only these count for a device's recovery
            scan = woken or now() >= next_scan or not check
            began = now()
            try:
                found = await (self._scanner.scan(check=check) if scan else self._scanner.check())
                if scan:
                    self._metrics.scanned(now() - began)
                    self._fresh = {
                        address: fresh for address, fresh in self._fresh.items() if fresh[1] > began
                    }
                self._failure = None
                await self._publish(found)
            except ScanFailed as error:
                self._metrics.scan_failed()
                # What was known stays: an unreadable bus is no evidence that the cards are gone.
                if str(error) != self._failure:
                    log.warning("scan failed", extra={"error": str(error)})
                self._failure = str(error)
            if scan:
                next_scan = now() + self._settings.scan_interval
            if check:
                next_check = now() + self._settings.health_interval
            await self._until(min(next_scan, next_check))

    async def _publish(self, found: Inventory) -> None:
        """Offer what was found, but nothing that a pod holds under another name or id."""
        now = asyncio.get_running_loop().time
        basis = self._offering.basis(found, now())
        if self._published == (found, basis, self._holders.held, self._holders.vetted):
            if self._offers.value is not None:
                self._journal.tell(self._offers.value, now())  # what it has left untold for a while
            return
        offers = self._offering.offers(found, basis)
        names = await self._holders.confirm(names_of(offers), _VETTING)
        elsewhere = self._offering.held_elsewhere(offers, basis, self._holders.held)
        self._holders.poll_fast = bool(elsewhere)
        self._unvetted = {unit_id for _, unit_id in names_of(offers) - names}
        if self._unnamed != frozenset():  # later ones keep nobody from being ready
            self._unnamed = basis.settled.waiting
        self._known = self._offering.offers(self._scanner.hold(elsewhere), basis)
        offers = only(self._known, names)
        self._published = (found, basis, self._holders.held, self._holders.vetted)
        self._journal.tell(offers, now())
        self._offers.set(offers)

    async def _at_each_offer(self, act: Callable[[], Awaitable[object]]) -> None:
        """Do something whenever something else is offered, for ever."""
        seen = None
        while True:
            seen = await self._offers.other_than(seen)
            if seen is not None:
                await act()

    async def _in_spec(self, devices: tuple[Device, ...]) -> bool:
        """Let the CDI spec have these devices as they are, beside all others; whether it has."""
        now = asyncio.get_running_loop().time()
        self._fresh |= {each.address: (each, now) for each in devices}
        return await self._write_spec()

    async def _write_spec(self) -> bool:
        fresh = {address: device for address, (device, _) in self._fresh.items()}
        # What a container that restarts was given once is in it before kubelet has said who holds it.
        devices = {each.address: each for each in self._known.devices} | fresh
        expose = self._settings.expose_mgmt
        return await self._spec.set(
            cdi.spec((each, nodes_of(each, expose_mgmt=expose)) for each in devices.values())
        )

    async def _leave_files(self) -> None:
        """Leave the files to a newer instance for as long as one lives: it may have other settings."""
        files = (self._spec, self._labels)
        while True:
            await self._watch.directory.until(lambda seen: seen.newer)
            for file in files:
                file.leave()
            await self._watch.directory.until(lambda seen: not seen.newer)
            for file in files:
                await file.keep()

    async def _label(self) -> None:
        """Let the feature file say what is offered, again until all drivers have told their versions."""
        while True:
            known = self._known
            versions = await self._versions.of({device.driver for device in known.devices})
            await self._labels.set(labels.feature_file(known, versions))
            if self._versions.complete:
                return
            await asyncio.sleep(_SOON)

    async def _until(self, due: float) -> None:
        """Wait for the time or a wake-up; a burst of wake-ups is folded into one."""
        loop = asyncio.get_running_loop()
        if self._scanner.unsettled:
            due = min(due, loop.time() + _SOON)
        await asyncio.sleep(min(_LEAST, max(due - loop.time(), 0)))
        try:
            async with asyncio.timeout_at(due):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _hint(self) -> None:
        """Say once how to try this without a kubelet, where there is none."""
        await asyncio.sleep(1.0)
        seen = self._watch.directory.value
        if seen.kubelet is None:
            problem = {"problem": seen.problem} if seen.problem else {}
            log.info(
                "no kubelet yet, waiting for its %s; to try without one: python -m xilinx_fpga_dp simulate",
                "directory" if problem else "socket",
                extra={"path": f"{self._watch.path}/{KUBELET_SOCKET}", **problem},
            )


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end. A library may keep a cancellation to itself, so again if need be.

    Then all tasks there are: a group cancels those in it only once.
    """
    pending = to_cancel = set(tasks)
    limit = _ENDING
    while pending:
        for task in to_cancel:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=limit)
        limit = _END_AGAIN
        to_cancel = asyncio.all_tasks() - {asyncio.current_task()}


async def _unending(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Run a part; if it fails, which it should not, say so and start it again."""
    while True:
        try:
            return await part()
        except Exception:
            log.exception("a part of the service failed, starting it again", extra={"part": name})
            await asyncio.sleep(1.0)
