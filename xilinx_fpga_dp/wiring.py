"""Builds the parts that the service and the one-off commands share, by the settings."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from xilinx_fpga_dp.aio.blocking_reader import run_blocking
from xilinx_fpga_dp.discovery.health import HealthRules
from xilinx_fpga_dp.discovery.scanner import Scanner
from xilinx_fpga_dp.hostfiles.host_paths import HostPaths
from xilinx_fpga_dp.kubelet.podresources import PodResources
from xilinx_fpga_dp.model import Device, Held, Offers
from xilinx_fpga_dp.resources.allocator import Allocator
from xilinx_fpga_dp.settings import Settings
from xilinx_fpga_dp.snapshot import SnapshotBuilder

# The share of REQUEST_TIMEOUT for refreshing the devices; the rest is for naming the one that hangs.
_REFRESH_SHARE = 0.9
# Seconds a single scan waits for late drivers and serial numbers.
_SCAN_LIMIT = 3.0


def build_scanner(settings: Settings, wake: Callable[[], None] = lambda: None) -> Scanner:
    """Build the scanner of this node; it calls ``wake`` when a late result arrives."""
    rules = HealthRules(settings.recovery_checks, settings.reset_grace)
    return Scanner(settings.sysfs_root, settings.dev_root, rules, wake)


def build_allocator(
    settings: Settings,
    scanner: Scanner,
    all_devices: Callable[[], tuple[Device, ...]],
    write_cdi_spec: Callable[[tuple[Device, ...]], Awaitable[bool]],
) -> Allocator:
    """Build the allocator.

    Args:
        settings: the settings.
        scanner: refreshes a device before it is granted.
        all_devices: returns every device that is offered, for SHARED_GRANT=all.
        write_cdi_spec: writes these devices into the CDI spec; returns whether it has them.
    """
    return Allocator(
        refresh=scanner.refresh,
        time_limit=settings.request_timeout * _REFRESH_SHARE,
        expose_mgmt=settings.expose_mgmt,
        strategy=settings.device_strategy,
        everything=all_devices if settings.shared_grant == "all" else None,
        mounts=HostPaths(settings.host_root, settings.extra_mounts).existing,
        write_cdi_spec=write_cdi_spec,
    )


async def scan_once(
    settings: Settings, scanner: Scanner, *, check: bool = False, builder: SnapshotBuilder | None = None
) -> tuple[Offers, Held]:
    """Scan the node once. Return what would be offered, and who holds what.

    Args:
        settings: the settings.
        scanner: scans the node; it may have done so before.
        check: the scan counts as a health check.
        builder: reads the files of rules and makes the offers; None: one of its own.

    Raises:
        ScanFailed: the bus could not be listed.
    """
    builder = builder or SnapshotBuilder(settings, patient=False)
    await builder.read_rules()
    scanner.use_rules(builder.device_rules)
    deadline = time.monotonic() + _SCAN_LIMIT
    found = await scanner.scan(check=check)
    while not scanner.complete and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        found = await scanner.scan()
    held: Held = {}
    # A node without kubelet has no such socket, which is no fault.
    socket = settings.pod_resources_socket
    pods = PodResources(socket, settings.resource_prefix)
    with suppress(TimeoutError):
        if await run_blocking(partial(os.path.exists, socket), _SCAN_LIMIT):
            held = await pods.held() or {}
    return builder.build_once(found, held, scanner.hold, time.monotonic()), held
