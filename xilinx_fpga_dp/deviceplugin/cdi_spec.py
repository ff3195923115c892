"""The CDI spec of the node's devices, on disk.

A container that restarts is started from the spec, with the CDI device names that it was given once. So the
spec has every known device, confirmed or not. A device that Allocate has refreshed is written as it is now
before the call is answered.
"""

import asyncio

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile
from xilinx_fpga_dp.model import Device
from xilinx_fpga_dp.resources.allocator import nodes_of
from xilinx_fpga_dp.resources.documents import cdi
from xilinx_fpga_dp.resources.fresh_devices import FreshDevices
from xilinx_fpga_dp.snapshot import Snapshot


class CdiSpec:
    """Keeps the spec in a directory in step with the snapshots."""

    def __init__(self, directory: str, snapshots: Latest[Snapshot], *, expose_mgmt: bool) -> None:
        self.file = ManagedFile(f"{directory}/{cdi.FILE}")
        self._snapshots = snapshots
        self._expose_mgmt = expose_mgmt
        self._fresh = FreshDevices()

    async def run(self) -> None:
        """Follow the snapshots. Endless."""
        async for _ in self._snapshots.changes(lambda snapshot: snapshot.known):
            await self._write()

    async def include(self, devices: tuple[Device, ...]) -> bool:
        """Write these devices as they are now, beside all others. Return whether the file has them."""
        self._fresh.note(devices, asyncio.get_running_loop().time())
        return await self._write()

    def scanned(self, began: float) -> None:
        """Trust the snapshots again for what was refreshed before a scan began."""
        self._fresh.scanned(began)

    async def _write(self) -> bool:
        known = self._snapshots.value.known
        devices = self._fresh.over(known.devices if known else ()).values()
        return await self.file.set(
            cdi.spec((device, nodes_of(device, expose_mgmt=self._expose_mgmt)) for device in devices)
        )
