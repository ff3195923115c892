"""The node's labels: the feature file of node-feature-discovery, kept in step with the snapshots."""

import asyncio

from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.discovery.driver_versions import DriverVersions
from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.resources.documents import nfd
from xilinx_fpga_dp.snapshot import Snapshot

_RETRY = 0.5  # seconds until a driver version that could not be read is read again


class NodeLabels:
    """Writes what is offered, with the versions of its drivers.

    Args:
        directory: NFD_FEATURES_DIR.
        snapshots: what is offered.
        versions: reads driver versions.
    """

    def __init__(self, directory: str, snapshots: Latest[Snapshot], versions: DriverVersions) -> None:
        self.file = ManagedFile(f"{directory}/{nfd.FILE}")
        self._snapshots = snapshots
        self._versions = versions

    async def run(self) -> None:
        """Follow the snapshots. Endless."""
        async for _ in self._snapshots.changes(lambda snapshot: snapshot.known):
            while not await self._write(self._snapshots.value.known or Offers({})):  # noqa: ASYNC110
                await asyncio.sleep(_RETRY)

    async def _write(self, known: Offers) -> bool:
        """Write the file. Return whether every driver's version could be read."""
        versions = await self._versions.of({device.driver for device in known.devices if device.driver})
        await self.file.set(nfd.feature_file(known, versions))
        return self._versions.complete
