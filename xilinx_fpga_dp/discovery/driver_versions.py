"""The versions of the drivers, as their modules show them in sysfs."""

from collections.abc import Iterable
from functools import partial

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.discovery.sysfs import module_version

_PATIENCE = 3.0  # seconds


class DriverVersions:
    """Keeps the last known version of a driver while its module cannot be read."""

    def __init__(self, sysfs_root: str) -> None:
        self._root = sysfs_root
        self._reader: BlockingReader[str | None] = BlockingReader()
        self._known: dict[str, str] = {}
        self.complete = True  # the last call could read all modules

    async def of(self, drivers: Iterable[str]) -> dict[str, str]:
        """Return the versions of these drivers, without those that are not loaded or show none."""
        calls = {driver: partial(module_version, self._root, driver) for driver in drivers}
        read = await self._reader.read_many(calls, _PATIENCE)
        self.complete = all(isinstance(version, str | None) for version in read.values())
        self._known = {
            driver: version
            for driver, answer in read.items()
            if (version := answer if isinstance(answer, str | None) else self._known.get(driver))
        }
        return self._known
