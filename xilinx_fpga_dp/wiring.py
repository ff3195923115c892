"""The parts as the settings want them: what the service and the one-off commands are built of alike."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.discovery.health import Rules
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.hostfiles.host_paths import HostPaths
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Device, Held, Offers
from xilinx_fpga_dp.resources.allocator import Allocator
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.snapshot import Offering

# Of REQUEST_TIMEOUT, what looking at the devices may take: the rest is for saying which one hangs.
_LOOK_SHARE = 0.9
# Seconds a single look waits for late drivers and serial numbers.
_LOOK_LIMIT = 3.0


def scanner_of(settings: Settings, wake: Callable[[], None] = lambda: None) -> Scanner:
    """The scanner of this node."""
    rules = Rules(settings.recovery_checks, settings.reset_grace)
    return Scanner(settings.sysfs_root, settings.dev_root, rules, wake)


def allocator_of(
    settings: Settings,
    scanner: Scanner,
    everything: Callable[[], tuple[Device, ...]],
    in_spec: Callable[[tuple[Device, ...]], Awaitable[bool]],
) -> Allocator:
    """What answers which container gets what."""
    return Allocator(
        refresh=scanner.refresh,
        time_limit=settings.request_timeout * _LOOK_SHARE,
        expose_mgmt=settings.expose_mgmt,
        strategy=settings.device_strategy,
        everything=everything if settings.shared_grant == "all" else None,
        mounts=HostPaths(settings.host_root, settings.extra_mounts).there,
        write_cdi_spec=in_spec,
    )


async def look_once(settings: Settings, scanner: Scanner) -> tuple[Offers, Held]:
    """One look at the node: what would be offered, and who holds what.

    Raises:
        ScanFailed: the bus could not be listed.
    """
    deadline = time.monotonic() + _LOOK_LIMIT
    found = await scanner.scan()
    while not scanner.complete and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        found = await scanner.scan()
    held: Held = {}
    # A node without kubelet has no such socket, and that is nothing to complain of.
    reads: BlockingReader[bool] = BlockingReader()
    there = await reads.read_many({"": partial(os.path.exists, settings.pod_resources_socket)}, _LOOK_LIMIT)
    if there[""] is True:
        held = await PodResources(settings.pod_resources_socket).held() or {}
    offering = Offering(settings, patient=False)
    await offering.look()
    basis = offering.basis(found, time.monotonic())
    elsewhere = offering.held_elsewhere(offering.offers(found, basis), basis, held)
    return offering.offers(scanner.hold(elsewhere), basis), held
