"""The CDI spec of the node's devices, on disk.

A container that restarts is started from the spec, with the CDI device names that it was given once. So the
spec has every known device, confirmed or not. A device that Allocate has refreshed is written as it is now
before the call is answered, and stays so until a scan of the whole bus that began later has seen it: a health
check may still show its old node.
"""

import asyncio

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile
from xilinx_fpga_dp.model import Device
from xilinx_fpga_dp.resources.allocator import nodes_of
from xilinx_fpga_dp.resources.documents import cdi
from xilinx_fpga_dp.snapshot import Snapshot


class CdiSpec:
    """Keeps the spec in a directory in step with the snapshots."""

    def __init__(self, directory: str, snapshots: Latest[Snapshot], *, expose_mgmt: bool) -> None:
        self.file = ManagedFile(f"{directory}/{cdi.FILE}")
        self._snapshots = snapshots
        self._expose_mgmt = expose_mgmt
        self._refreshed: dict[str, tuple[Device, float]] = {}  # by address, with the time

    async def run(self) -> None:
        """Follow the snapshots. Endless."""
        async for _ in self._snapshots.changes(lambda snapshot: snapshot.known):
            await self._write()

    async def include(self, devices: tuple[Device, ...]) -> bool:
        """Write these devices as they are now, beside all others. Return whether the file has them."""
        now = asyncio.get_running_loop().time()
        self._refreshed |= {device.address: (device, now) for device in devices}
        return await self._write()

    def scanned(self, began: float) -> None:
        """Trust the snapshots again for what was refreshed before a scan began."""
        newer = [refreshed for refreshed in self._refreshed.values() if refreshed[1] > began]
        self._refreshed = {refreshed[0].address: refreshed for refreshed in newer}

    async def _write(self) -> bool:
        known = self._snapshots.value.known
        refreshed = [device for device, _ in self._refreshed.values()]
        devices = {device.address: device for device in (*(known.devices if known else ()), *refreshed)}
        return await self.file.set(
            cdi.spec((device, nodes_of(device, expose_mgmt=self._expose_mgmt)) for device in devices.values())
        )
