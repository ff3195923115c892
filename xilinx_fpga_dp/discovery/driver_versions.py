"""The versions of the drivers, as their modules tell them."""

from collections.abc import Iterable
from functools import partial

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending
from xilinx_fpga_dp.discovery.sysfs import OutOfDescriptors, module_version

_PATIENCE = 3.0  # seconds


class Versions:
    """What was told once counts for as long as nobody can be asked.

    Args:
        sysfs_root: where sysfs is.
    """

    def __init__(self, sysfs_root: str) -> None:
        self._root = sysfs_root
        self._reads: BlockingReader[str | None] = BlockingReader()
        self._told: dict[str, str] = {}
        self.complete = True  # all could be asked last

    async def of(self, drivers: Iterable[str]) -> dict[str, str]:
        """The versions of these drivers; of one that is not loaded or tells none there is none."""
        calls = {driver: partial(module_version, self._root, driver) for driver in drivers}
        answers = await self._reads.read_many(calls, _PATIENCE)
        unasked = {name for name, answer in answers.items() if isinstance(answer, OutOfDescriptors | Pending)}
        self.complete = not unasked
        before = {driver: self._told[driver] for driver in unasked & self._told.keys()}
        self._told = before | {name: answer for name, answer in answers.items() if isinstance(answer, str)}
        return self._told
