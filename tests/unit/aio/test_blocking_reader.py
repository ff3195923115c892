"""Blocking reads: a hanging read occupies one thread and delays no other read."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from unittest import mock

import pytest

from xilinx_fpga_dp.aio import blocking_reader, loop_calls
from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending, run_blocking
from xilinx_fpga_dp.aio.daemon_threads import DaemonExecutor, Worker
from xilinx_fpga_dp.observe.events import Event


def _answer(text: str) -> str:
    return text


async def test_answers_and_errors_are_returned_by_device() -> None:
    def fail() -> str:
        raise OSError("no such thing")

    answers = await BlockingReader[str]().read_many({"a": partial(_answer, "A"), "b": fail}, 60)
    assert answers["a"] == "A"
    assert isinstance(answers["b"], OSError)


async def test_idle_thread_is_reused() -> None:
    reads: BlockingReader[threading.Thread] = BlockingReader()
    used = [(await reads.read_many({"a": threading.current_thread}, 60))["a"] for _ in range(20)]
    assert len(set(used)) < len(used) / 2


async def test_late_answer_wakes_and_is_used_by_the_next_read() -> None:
    gate = threading.Event()
    woken = asyncio.Event()
    reads: BlockingReader[str] = BlockingReader(woken.set)
    made = []

    def slow() -> str:
        made.append(1)
        gate.wait(30)
        return "late"

    assert isinstance((await reads.read_many({"a": slow}, 0.05))["a"], Pending)
    assert not woken.is_set()
    gate.set()
    await asyncio.wait_for(woken.wait(), 60)
    assert (await reads.read_many({"a": slow}, 0))["a"] == "late"
    assert len(made) == 1


async def test_call_that_hangs_is_an_error_with_a_sentence() -> None:
    gate = threading.Event()
    try:
        with pytest.raises(TimeoutError, match=r"^no answer within 0\.01 s$"):
            await run_blocking(partial(gate.wait, 30), 0.01)
    finally:
        gate.set()


async def test_two_waiters_share_one_read() -> None:
    gate = threading.Event()
    reads: BlockingReader[str] = BlockingReader()
    made = []

    def slow() -> str:
        made.append(1)
        gate.wait(30)
        return "x"

    first = asyncio.create_task(reads.read_many({"a": slow}, 60))
    second = asyncio.create_task(reads.read_many({"a": slow, "b": partial(_answer, "b")}, 60))
    await asyncio.sleep(0.05)
    gate.set()
    assert await first == {"a": "x"}
    assert await second == {"a": "x", "b": "b"}
    assert len(made) == 1


async def test_answer_is_delivered_after_first_caller_is_cancelled() -> None:
    first, hanging = threading.Event(), threading.Event()
    reads: BlockingReader[str] = BlockingReader()
    calls: dict[str, Callable[[], str]] = {
        "a": lambda: str(first.wait(30)),
        "b": partial(_answer, "B"),
        "hangs": lambda: str(hanging.wait(30)),
        "c": partial(_answer, "C"),
    }
    cancelled = asyncio.create_task(reads.read_many(calls, 30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    cancelled.cancel()
    joined = asyncio.create_task(reads.read_many({"b": calls["b"]}, math.inf))
    await asyncio.sleep(0)
    first.set()
    assert await asyncio.wait_for(joined, 60) == {"b": "B"}
    hanging.set()


async def test_number_of_wake_ups_does_not_grow_with_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking_reader, "_STEP", 5.0)  # all within one step, also on a busy machine
    woken = []
    call_on_loop = loop_calls.caller(asyncio.get_running_loop())

    def counted(call: loop_calls.Call) -> None:
        woken.append(1)
        call_on_loop(call)

    monkeypatch.setattr(loop_calls, "caller", lambda _: counted)
    calls = {str(n): partial(_answer, str(n)) for n in range(200)}
    assert await BlockingReader[str]().read_many(calls, 5) == {key: key for key in calls}
    assert len(woken) <= 2, "for 200 devices"


async def test_reads_wait_without_delay_until_a_thread_can_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reads: BlockingReader[str] = BlockingReader()
    with (
        mock.patch.object(Worker, "_idle", deque(maxlen=0)),
        mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")),
    ):
        for _ in range(2):
            began = time.monotonic()
            [late] = (await reads.read_many({"a": partial(_answer, "A")}, 0.2)).values()
            assert isinstance(late, Pending)
            assert late.since > began + 0.1
        with pytest.raises(BlockingIOError):
            await asyncio.get_running_loop().run_in_executor(DaemonExecutor(1), _answer, "A")
    assert [each.message for each in caplog.records] == [Event.NO_THREAD]
    assert await reads.read_many({"a": partial(_answer, "A")}, 60) == {"a": "A"}


async def test_hanging_library_calls_are_bounded_and_block_no_others() -> None:
    gate = threading.Event()
    loop = asyncio.get_running_loop()
    threads = DaemonExecutor(2)
    hanging = [loop.run_in_executor(threads, gate.wait, 30) for _ in range(2)]
    with pytest.raises(TimeoutError):
        await loop.run_in_executor(threads, _answer, "A")
    assert await loop.run_in_executor(DaemonExecutor(1), _answer, "A") == "A"
    gate.set()
    assert await asyncio.gather(*hanging) == [True, True]
    assert await loop.run_in_executor(threads, _answer, "A") == "A"
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(threads, lambda: 1 / 0)


async def test_read_returns_raises_or_times_out() -> None:
    gate = threading.Event()
    assert await BlockingReader[str]().read(partial(_answer, "A"), 60) == "A"
    with pytest.raises(ZeroDivisionError):
        await BlockingReader[float]().read(lambda: 1 / 0, 60)
    with pytest.raises(TimeoutError):
        await BlockingReader[bool]().read(partial(gate.wait, 30), 0.02)
    gate.set()


async def test_no_second_read_starts_while_one_hangs() -> None:
    gate = threading.Event()
    reader: BlockingReader[bool] = BlockingReader()
    started = []

    def hang() -> bool:
        started.append(1)
        return gate.wait(30)

    for _ in range(3):
        with pytest.raises(TimeoutError):
            await reader.read(hang, 0.02)
    assert len(started) == 1
    gate.set()
    assert await reader.read(lambda: False, 60) is False
