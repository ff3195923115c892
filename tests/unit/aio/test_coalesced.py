"""Runs that several callers share: each gets a run that started after its call."""

import asyncio

import pytest

from xilinx_fpga_dp.aio.coalesced import Coalesced


class _Work:
    """A run that ends when the gate opens and returns its number."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        await self.gate.wait()
        self.ended += 1
        return number


async def _started(work: _Work) -> tuple[Coalesced[int], asyncio.Task[int]]:
    """Return the runs, and the caller of the first, which has started."""
    runs = Coalesced(work)
    first = asyncio.create_task(runs.run())
    while not work.begun:
        await asyncio.sleep(0)
    return runs, first


async def test_waiting_callers_share_the_next_run() -> None:
    work = _Work()
    runs, first = await _started(work)
    others = [asyncio.create_task(runs.run()) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert work.begun == 1
    work.gate.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 5


async def test_run_continues_after_its_caller_is_cancelled() -> None:
    work = _Work()
    runs, caller = await _started(work)
    caller.cancel()
    await asyncio.wait([caller])
    again = asyncio.create_task(runs.run())
    work.gate.set()
    assert await again == 2
    assert work.ended == 2


async def test_exception_of_a_run_is_raised_in_its_callers() -> None:
    outcomes = iter([OSError("full"), None])

    async def work() -> str:
        if error := next(outcomes):
            raise error
        return "done"

    runs = Coalesced(work)
    with pytest.raises(OSError, match="full"):
        await runs.run()
    assert await runs.run() == "done"
