"""The device plugin of one node: builds its parts and names their tasks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.deviceplugin.cdi_spec import CdiSpec
from xilinx_fpga_dp.deviceplugin.fleet import Fleet
from xilinx_fpga_dp.deviceplugin.plugin import PluginConfig, PluginMetrics
from xilinx_fpga_dp.deviceplugin.socket_directory import SocketDirectory
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.hostfiles.instance_lock import InstanceLock, lock_folder
from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile
from xilinx_fpga_dp.model import Device, Offers
from xilinx_fpga_dp.observe.events import Event, NodeEvent
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.snapshot import Snapshot
from xilinx_fpga_dp.wiring import build_allocator

log = logging.getLogger(__name__)

_HINT_AFTER = 1.0  # seconds without a kubelet


class PluginFrontEnd:
    """The device plugin.

    Args:
        settings: the settings.
        snapshots: what the node offers.
        scanner: reads a device again before it is granted.
        metrics: counts what kubelet asks.
        kubelet_restart: called for a new kubelet.
    """

    # When it ends an older instance registers, and kubelets up to 1.36 want our streams ended before.
    last_task = "socket-directory"

    def __init__(
        self,
        settings: Settings,
        snapshots: Latest[Snapshot],
        scanner: Scanner,
        metrics: PluginMetrics,
        kubelet_restart: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._snapshots = snapshots
        self.problems: Latest[Mapping[NodeEvent, str]] = Latest({})  # each resource has its own
        lock = InstanceLock(lock_folder(settings.plugins_dir))
        self._directory = SocketDirectory(settings.socket_dir, lock, kubelet_restart)
        self._cdi_spec = CdiSpec(settings.cdi_dir, snapshots, expose_mgmt=settings.expose_mgmt)
        allocator = build_allocator(settings, scanner, self._all_devices, self._cdi_spec.include)
        config = PluginConfig(
            allocator, settings.request_timeout, settings.preferred_allocation, settings.prestart_check
        )
        self._fleet = Fleet(self._directory, config, metrics)

    def allocatable(self) -> Mapping[str, bool]:
        """Return whether each resource is registered and has a live stream."""
        return self._fleet.registered()

    def errors(self) -> Mapping[str, str]:
        """Return how the last attempt to register each resource failed."""
        return self._fleet.last_errors()

    def scanned(self, began: float) -> None:
        """Trust the snapshots again for what was read again before a scan began."""
        self._cdi_spec.scanned(began)

    def register_again(self) -> None:
        """Register every resource on a new socket."""
        self._fleet.register_again()

    @property
    def files(self) -> list[ManagedFile]:
        """The files of the host that it manages."""
        return [] if self._settings.device_strategy == "device-specs" else [self._cdi_spec.file]

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the endless tasks by name."""
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "socket-directory": self._directory.run,
            "fleet": lambda: self._fleet.run(self._snapshots),
            "sweep": self._fleet.sweep,
            "startup-hint": self._startup_hint,
        }
        if self.files:
            tasks |= {"cdi-spec": self._cdi_spec.run, "cdi-file": self._cdi_spec.file.run}
        return tasks

    def others_allocate(self) -> bool:
        """Whether another instance may allocate the devices: it has an endpoint."""
        return bool(self._directory.others)

    def not_ready(self) -> str | None:
        """Return nothing: each resource tells for itself whether it is registered."""
        return None

    def unit_states(self, _offers: Offers) -> None:
        """There is no DRA driver."""

    def standby(self) -> AsyncIterator[bool]:
        """Yield whether a newer instance lives, at each change."""
        return self._directory.state.changes(lambda state: state.standby)

    def _all_devices(self) -> tuple[Device, ...]:
        offers = self._snapshots.value.offers
        return offers.devices if offers else ()

    async def _startup_hint(self) -> None:
        """Log once how to try this without a kubelet, where there is none."""
        await asyncio.sleep(_HINT_AFTER)
        directory = self._directory.state.value
        if directory.kubelet is None:
            problem = {"problem": directory.problem} if directory.problem else {}
            log.info(Event.NO_KUBELET, extra={"path": self._directory.kubelet_socket, **problem})
