"""A change that has to wake a `DirectoryWatcher`."""

import asyncio
from collections.abc import Callable

from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher

LONG = 600.0  # longer than the time limit of a test


async def woken(wakeups: DirectoryWatcher, change: Callable[[], object]) -> None:
    """Make a change and wait until it wakes."""
    for _ in range(3):  # the change before may wake once more
        await wakeups.arm()
        waiting = asyncio.create_task(wakeups.wait(LONG))
        await asyncio.sleep(0.02)
        if not waiting.done():
            break
    assert not waiting.done()
    change()
    async with asyncio.timeout(30):
        await waiting


async def not_woken(wakeups: DirectoryWatcher, change: Callable[[], object]) -> None:
    """Make a change that does not wake; anything mounted on the machine meanwhile wakes once."""
    for _ in range(3):
        change()
        try:
            async with asyncio.timeout(0.1):
                await wakeups.wait(LONG)
        except TimeoutError:
            return
        await wakeups.arm()
    raise AssertionError("it wakes")
