"""The service: builds the parts and runs them in one TaskGroup. The only module that knows them all.

What tells Kubernetes of the devices is the front end, by MODE: the device plugin or the DRA driver. Only the
one that is wanted is imported.

The scan loop is the heart: it scans the bus, checks the health of known devices in between, and publishes a
snapshot. Everything else subscribes to the snapshots. A wake-up (uevent, SIGHUP, a late driver, an answer of
podresources, a changed file) only makes the next scan come sooner.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from xilinx_fpga_dp import __version__, process
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.listen import FdExhaustionHandler
from xilinx_fpga_dp.aio.supervise import end, supervise
from xilinx_fpga_dp.discovery import uevents
from xilinx_fpga_dp.discovery.driver_versions import DriverVersions
from xilinx_fpga_dp.discovery.scanner import ScanFailed
from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile
from xilinx_fpga_dp.kubelet.allocation_tracker import AllocationTracker
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.observe import logs
from xilinx_fpga_dp.observe.device_log import DeviceEventLog
from xilinx_fpga_dp.observe.events import Event, NodeEvent
from xilinx_fpga_dp.observe.http_routes import HttpRoutes
from xilinx_fpga_dp.observe.http_server import HttpServer
from xilinx_fpga_dp.observe.metrics import Metrics
from xilinx_fpga_dp.observe.node_labels import NodeLabels
from xilinx_fpga_dp.settings import Settings, unknown_variables, variable
from xilinx_fpga_dp.snapshot import Snapshot, SnapshotBuilder
from xilinx_fpga_dp.wiring import build_scanner

if TYPE_CHECKING:  # it loads `ssl`
    from xilinx_fpga_dp.apiserver.client import ApiServer

log = logging.getLogger(__name__)

# Seconds until the next scan while a result is outstanding, and at least between two scans.
_RESULT_DUE = 0.5
_MIN_PAUSE = 0.05
_OF_THE_PLUGIN = ("device_strategy", "preferred_allocation", "prestart_check", "shared_grant", "socket_dir")
"""The settings that mean nothing to the DRA driver."""


def serve(settings: Settings) -> int:
    """Run the service until SIGTERM or SIGINT; return the exit code."""

    async def run() -> None:
        await Service(settings).run()

    process.become_service()
    logs.set_up(settings.log_level, settings.log_format)
    asyncio.run(run())
    return 0


def _build_api_server(failed: Callable[[int | None], None] = lambda _code: None) -> "ApiServer":
    from xilinx_fpga_dp.apiserver import access  # noqa: PLC0415 - with ssl, these cost memory
    from xilinx_fpga_dp.apiserver.client import ApiServer  # noqa: PLC0415

    return ApiServer(access.find(os.environ), failed=failed)


class FrontEnd(Protocol):
    """What tells Kubernetes of the devices."""

    last_task: str  # the task that ends last
    problems: Latest[Mapping[NodeEvent, str]]  # what keeps devices from being offered, for people

    def allocatable(self) -> Mapping[str, bool]:
        """Return whether each resource can be allocated."""

    def errors(self) -> Mapping[str, str]:
        """Return why resources can't be, by their names."""

    def scanned(self, began: float) -> None:
        """Note that a scan of the whole bus has ended, which began at this time."""

    def register_again(self) -> None:
        """Register all devices again, as far as that makes sense."""

    @property
    def files(self) -> list[ManagedFile]:
        """The files of the host that the newest instance manages."""

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the endless tasks by name."""

    def others_allocate(self) -> bool:
        """Whether another process may allocate the devices at any time."""

    def not_ready(self) -> str | None:
        """Return why it can't serve pods as a whole; None if it can."""

    def unit_states(self, offers: Offers) -> Mapping[str, Mapping[str, Any]] | None:
        """Return what a DRA driver makes of each unit, by its first device's address; None if it is none."""

    def standby(self) -> AsyncIterator[bool]:
        """Yield whether a newer instance lives, at each change."""


class Service:
    """One node's device plugin, from start to SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self.snapshots: Latest[Snapshot] = Latest(Snapshot())
        self._scanner = build_scanner(settings, self._wake.set)
        self._builder = SnapshotBuilder(settings, rules_changed=self._wake.set)
        self._metrics = Metrics(self.snapshots, lambda: self._front_end.allocatable())  # noqa: PLW0108 - made below
        self._tracker = AllocationTracker(
            PodResources(
                settings.pod_resources_socket,
                settings.resource_prefix,
                often=settings.mode == "dra" or settings.telemetry != "none",
            ),
            self._wake.set,
            lambda: self._front_end.others_allocate(),  # noqa: PLW0108
        )
        self._api: ApiServer | None = None  # if anything calls it
        self._front_end = self._build_front_end()

    def _build_front_end(self) -> FrontEnd:
        if self._settings.mode == "dra":
            return self._build_driver()
        from xilinx_fpga_dp.deviceplugin.front_end import PluginFrontEnd  # noqa: PLC0415

        return PluginFrontEnd(
            self._settings, self.snapshots, self._scanner, self._metrics, self._metrics.kubelet_restart
        )

    def _build_driver(self) -> FrontEnd:
        from xilinx_fpga_dp.dra.front_end import DraFrontEnd  # noqa: PLC0415 - costs memory
        from xilinx_fpga_dp.observe.claim_metrics import ClaimMetrics  # noqa: PLC0415

        for name in _OF_THE_PLUGIN:
            if variable(name) in os.environ:
                log.warning(Event.SETTING_OF_OTHER_MODE, extra={"variable": variable(name), "mode": "dra"})
        metrics = ClaimMetrics(self._metrics)
        self._api = _build_api_server(metrics.api_error)
        return DraFrontEnd(
            self._settings, self.snapshots, self._scanner, self._tracker, metrics, api=self._api
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP scans and registers again."""
        self._handle_signals()
        asyncio.get_running_loop().set_exception_handler(FdExhaustionHandler())
        for name in unknown_variables(os.environ, vars(self._settings)):
            log.warning(Event.UNKNOWN_SETTING, extra={"variable": name})
        self._builder.log_migration()
        log.info(Event.STARTED, extra={"version": __version__, "socket_dir": self._settings.socket_dir})
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: group.create_task(supervise(name, run), name=name)
                for name, run in self._tasks().items()
            }
            await self._stop.wait()
            log.info(Event.SHUTTING_DOWN)
            last = tasks.pop(self._front_end.last_task)
            await end(tasks.values())
            await end([last])
        process.ignore_signals()
        log.info(Event.STOPPED)

    def _tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the endless tasks by name, as the settings want them."""
        settings = self._settings
        routes = HttpRoutes(
            self._metrics,
            self.snapshots,
            self._front_end.allocatable,
            self._tracker.recent_holders,
            errors=self._front_end.errors,
            not_ready=self._front_end.not_ready,
            unit_states=self._front_end.unit_states,
            expose_mgmt=settings.expose_mgmt,
        )
        files = self._front_end.files
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "scan": self.scan,
            "uevents": lambda: uevents.listen(self._wake.set),
            "allocation-tracker": self._tracker.run,
            **self._front_end.tasks(),
            "device-log": lambda: DeviceEventLog().run(self.snapshots),
            "heartbeat": routes.heartbeat,
            "rename-rules": self._builder.follow_rules,
            "file-ownership": lambda: self._share(files),
        }
        if settings.nfd_features_dir:
            labels = NodeLabels(
                settings.nfd_features_dir, self.snapshots, DriverVersions(settings.sysfs_root)
            )
            files.append(labels.file)
            tasks |= {"node-labels": labels.run, "label-file": labels.file.run}
        if settings.telemetry != "none":
            tasks |= self._telemetry_tasks(routes)
        if settings.events or settings.node_condition or settings.startup_taint:
            tasks |= self._report_tasks()
        if settings.http_address:
            tasks["http"] = HttpServer(settings.http_address, routes.by_path()).run
        return tasks

    def _telemetry_tasks(self, routes: HttpRoutes) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the tasks of telemetry, and let the pages show what it finds."""
        from xilinx_fpga_dp.observe.card_metrics import CardMetrics  # noqa: PLC0415 - costs memory

        cards = CardMetrics(
            self.snapshots,
            self._settings.sysfs_root,
            everything=self._settings.telemetry == "all",
            interval=self._settings.telemetry_interval,
            held=self._tracker.recent_holders,
        )
        routes.card_metrics = cards.text
        return {"telemetry": cards.sample, "card-holders": cards.follow_holders}

    def _report_tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the tasks that call the API server."""
        from xilinx_fpga_dp.observe.node_reports import NodeReports  # noqa: PLC0415 - costs memory

        settings = self._settings
        standby = Latest(False)
        self._api = self._api or _build_api_server()
        reports = NodeReports(self._api, settings.node_name, self.snapshots, standby)

        async def follow_standby() -> None:
            async for newer_lives in self._front_end.standby():
                standby.set(newer_lives)

        tasks: dict[str, Callable[[], Awaitable[None]]] = {"report-standby": follow_standby}
        if settings.events:
            tasks |= reports.events(settings.dra_driver_name, self._front_end.problems)
        if settings.node_condition:
            tasks |= reports.condition()
        if settings.startup_taint:
            tasks |= reports.startup_taint(
                settings.startup_taint,
                self._front_end.allocatable,
                self._front_end.not_ready,
                lambda: self._scanner.unsettled or self._scanner.starting,
                in_capacity=settings.mode == "device-plugin",
            )
        return tasks

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        actions: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop.set,
            signal.SIGINT: self._stop.set,
            signal.SIGHUP: self._register_again,
        }
        process.handle_signals(lambda number: loop.call_soon_threadsafe(actions[number]))

    def _register_again(self) -> None:
        log.info(Event.HANGUP)
        self._wake.set()
        self._front_end.register_again()

    async def scan(self) -> None:
        """Scan the whole bus and, in between, check known devices; publish snapshots. Endless."""
        await self._builder.read_rules()  # or devices would be offered under other names first
        now = asyncio.get_running_loop().time
        next_scan = next_check = now()
        while True:
            woken = self._wake.is_set()
            self._wake.clear()
            check = now() >= next_check  # only these count for a device's recovery
            scan = woken or now() >= next_scan or not check
            await self._scan(scan=scan, check=check)
            if scan:
                next_scan = now() + self._settings.scan_interval
            if check:
                next_check = now() + self._settings.health_interval
            await self._wait(min(next_scan, next_check))

    async def _scan(self, *, scan: bool, check: bool) -> None:
        began = asyncio.get_running_loop().time()
        self._scanner.use_rules(self._builder.device_rules)
        try:
            found = await (self._scanner.scan(check=check) if scan else self._scanner.check())
        except ScanFailed as error:
            self._metrics.scan_failed()
            if str(error) != self.snapshots.value.scan_error:
                log.warning(Event.SCAN_FAILED, extra={"error": str(error)})
            # An unreadable bus removes no card.
            self.snapshots.set(replace(self.snapshots.value, scan_error=str(error)))
            return
        if scan:
            self._metrics.scanned(asyncio.get_running_loop().time() - began)
        self.snapshots.set(await self._builder.build(found, self._tracker, self._scanner.hold))
        if scan:
            self._front_end.scanned(began)

    async def _wait(self, due: float) -> None:
        """Wait for the time or a wake-up; wake-ups in quick succession count as one."""
        loop = asyncio.get_running_loop()
        if self._scanner.unsettled:
            due = min(due, loop.time() + _RESULT_DUE)
        await asyncio.sleep(min(_MIN_PAUSE, max(due - loop.time(), 0)))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._wake.wait()

    async def _share(self, files: list[ManagedFile]) -> None:
        """Leave the files to a newer instance, which may have other settings, while one lives. Endless."""
        async for standby in self._front_end.standby():
            for file in files:
                if standby:
                    file.release()
                else:
                    await file.take_over()
