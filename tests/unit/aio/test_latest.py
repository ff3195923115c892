"""The value between tasks: readers get the newest value, each once, and the end."""

import asyncio

import pytest

from xilinx_fpga_dp.aio.latest import Closed, Latest


async def test_reader_gets_the_current_value() -> None:
    assert await Latest(1).other_than(None) == 1


async def test_slow_reader_gets_only_the_newest_value() -> None:
    value = Latest(0)
    reader = asyncio.create_task(value.other_than(0))
    await asyncio.sleep(0)
    value.set(1)
    value.set(2)
    assert await reader == 2


async def test_value_changed_and_restored_does_not_wake() -> None:
    value = Latest("a")
    reader = asyncio.create_task(value.other_than("a"))
    await asyncio.sleep(0)
    value.set("b")
    value.set("a")
    await asyncio.sleep(0.01)
    assert not reader.done()
    value.set("c")
    assert await reader == "c"


async def test_change_wakes_all_readers() -> None:
    value = Latest(0)
    readers = [asyncio.create_task(value.until(lambda seen: seen > 1)) for _ in range(50)]
    await asyncio.sleep(0)
    value.set(1)
    await asyncio.sleep(0)
    value.set(2)
    assert await asyncio.gather(*readers) == [2] * 50


async def test_last_value_is_read_before_the_end() -> None:
    value = Latest(0)
    value.set(1)
    value.close()
    assert await value.other_than(0) == 1
    with pytest.raises(Closed):
        await value.other_than(1)


async def test_end_wakes_readers_of_the_newest_value() -> None:
    value = Latest(0)
    reader = asyncio.create_task(value.other_than(0))
    await asyncio.sleep(0)
    value.close()
    with pytest.raises(Closed):
        await reader


async def test_value_does_not_change_after_the_end() -> None:
    value = Latest(0)
    value.close()
    with pytest.raises(RuntimeError):
        value.set(1)
