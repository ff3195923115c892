"""The service: builds the parts and runs them in one TaskGroup. The only module that knows them all."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable

from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.discovery.scanner import ScanFailed, Scanner
from xilinx_fpga_dp.kubelet.fleet import Fleet
from xilinx_fpga_dp.kubelet.watch import Watch
from xilinx_fpga_dp.latest import Latest
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.operate import journal
from xilinx_fpga_dp.resources.grants import Grants
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.offers import offers_of
from xilinx_fpga_dp.settings import Settings, unknown_variables

log = logging.getLogger(__name__)

# Seconds until the next scan while an answer is outstanding, and at least between two scans.
_SOON = 0.5
_LEAST = 0.05
# Of REQUEST_TIMEOUT, what looking at the devices may take: the rest is for saying which one hangs.
_LOOK_SHARE = 0.9


class Service:
    """One node's device plugin, from start to SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._offers: Latest[Offers | None] = Latest(None)
        self._scanner = Scanner(settings.sysfs_root, settings.dev_root, self._wake.set)
        self._watch = Watch(settings.socket_dir)
        grants = Grants(
            self._scanner.refresh,
            expose_mgmt=settings.expose_mgmt,
            time_limit=settings.request_timeout * _LOOK_SHARE,
        )
        self._fleet = Fleet(self._watch, grants, settings.request_timeout)
        self._naming = Naming(settings.resource_prefix, settings.resource_name_template)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP scans and registers again."""
        self._heed_signals()
        for name in unknown_variables(os.environ):
            log.warning("unknown setting ignored", extra={"variable": name})
        log.info("started", extra={"version": __version__, "socket_dir": self._settings.socket_dir})
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_unending(name, part), name=name)
                for name, part in {
                    "scan": self._scan,
                    "watch": self._watch.run,
                    "fleet": lambda: self._fleet.run(self._offers),
                    "hint": self._hint,
                }.items()
            ]
            await self._stop.wait()
            log.info("ending")
            for task in tasks:
                task.cancel()
        log.info("ended")

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        log.info("SIGHUP: scanning and registering again")
        self._wake.set()
        self._fleet.register_again()

    async def _scan(self) -> None:
        failure: str | None = None
        while True:
            self._wake.clear()
            try:
                offers = offers_of(await self._scanner.scan(), self._naming)
            except ScanFailed as error:
                # What was known stays: an unreadable bus is no evidence that the cards are gone.
                if str(error) != failure:
                    log.warning("scan failed", extra={"error": str(error)})
                failure = str(error)
            else:
                failure = None
                journal.tell(self._offers.value, offers)
                self._offers.set(offers)
            await self._until_due()

    async def _until_due(self) -> None:
        interval = self._settings.scan_interval
        if self._scanner.unsettled:
            interval = min(interval, _SOON)
        await asyncio.sleep(min(_LEAST, interval))
        try:
            async with asyncio.timeout(interval):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _hint(self) -> None:
        """Say once how to try this without a kubelet, where there is none."""
        await asyncio.sleep(1.0)
        if self._watch.directory.value.kubelet is None:
            log.info(
                "no kubelet yet, waiting for its socket; "
                "to try without one: python -m xilinx_fpga_dp simulate",
                extra={"path": f"{self._watch.path}/kubelet.sock"},
            )
        await self._stop.wait()


async def _unending(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Run a part that should never end; if it fails all the same, say so and start it again."""
    while True:
        try:
            await part()
        except Exception:
            log.exception("a part of the service failed, starting it again", extra={"part": name})
            await asyncio.sleep(1.0)
