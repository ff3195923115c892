"""Blocking reads that hang, in real time."""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


def _answer(text: str) -> str:
    return text


async def test_hanging_read_delays_no_other_read() -> None:
    read = threading.Semaphore(0)
    calls: dict[str, Callable[[], None]] = {str(number): read.release for number in range(20)}
    ended: list[bool] = []
    calls["3"] = lambda: ended.extend(read.acquire(timeout=60) for _ in range(19))
    await BlockingReader[None]().read_many(calls, 120)
    assert ended == [True] * 19


async def test_hanging_device_blocks_one_thread() -> None:
    gate = threading.Event()
    parked: list[threading.Thread] = []

    def hang() -> str:
        parked.append(threading.current_thread())
        return str(gate.wait(30))

    reads: BlockingReader[str] = BlockingReader()
    calls: dict[str, Callable[[], str]] = {str(i): hang for i in range(3)}
    calls["well"] = partial(_answer, "well")
    waiting = []
    for _ in range(3):
        waiting.append(asyncio.create_task(reads.read_many(calls, 120)))
        await _until(lambda: len(parked) == 3)
        assert await reads.read_many({"well": calls["well"]}, 60) == {"well": "well"}
    assert len(set(parked)) == len(parked) == 3
    gate.set()
    await asyncio.wait(waiting)
    await _until(lambda: sum(thread.is_alive() for thread in parked) <= 2)


async def test_stale_answer_is_not_used_for_a_new_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xilinx_fpga_dp.aio.blocking_reader._STALE", 0.05)
    gate, returned = threading.Event(), asyncio.Event()
    reads: BlockingReader[str] = BlockingReader(returned.set)

    def slow() -> str:
        gate.wait(30)
        return "old"

    assert isinstance((await reads.read_many({"a": slow}, 0.01))["a"], Pending)
    gate.set()
    await returned.wait()
    await asyncio.sleep(0.1)
    assert (await reads.read_many({"a": partial(_answer, "new")}, 5))["a"] == "new"


async def test_read_left_in_queue_serves_the_next_caller() -> None:
    gate = threading.Event()
    reads: BlockingReader[str] = BlockingReader()
    calls: dict[str, Callable[[], str]] = {str(n): lambda: str(gate.wait(30)) for n in range(6)}
    calls["well"] = partial(_answer, "well")
    assert isinstance((await reads.read_many(calls, 0.01))["well"], Pending)
    assert await reads.read_many({"well": calls["well"]}, 60) == {"well": "well"}
    gate.set()


async def test_time_while_process_is_stopped_does_not_count() -> None:
    gate = threading.Event()
    loop = asyncio.get_running_loop()
    reads: BlockingReader[bool] = BlockingReader()
    loop.call_later(0.05, time.sleep, 1.5)  # in place of a stopped process, whose threads would stop too
    loop.call_later(1.6, gate.set)
    assert await reads.read_many({"a": partial(gate.wait, 10)}, 1.0) == {"a": True}

    loop.call_later(0.05, time.sleep, 3)
    gate.clear()
    waiting = [reads.read_many({"a": partial(gate.wait, 10)}, 0.3) for _ in range(3)]
    for [late] in [answers.values() for answers in await asyncio.gather(*waiting)]:
        assert isinstance(late, Pending)
        assert 0 < time.monotonic() - late.since < 2.5, "the wait is extended once for all callers"
    gate.set()


async def test_permanently_late_loop_does_not_extend_wait_for_ever() -> None:
    gate = threading.Event()
    loop = asyncio.get_running_loop()
    late = 0

    def be_late() -> None:
        nonlocal late
        late += 1
        time.sleep(0.25)
        loop.call_later(0.001, be_late)

    loop.call_soon(be_late)
    [answer] = (await BlockingReader[bool]().read_many({"a": partial(gate.wait, 5)}, 0.02)).values()
    assert isinstance(answer, Pending)
    assert late < 15
    gate.set()
