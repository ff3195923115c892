"""The value between tasks: the newest is seen, nothing twice, and the end is seen too."""

import asyncio

import pytest

from xilinx_fpga_dp.aio.latest import Closed, Latest


async def test_a_reader_gets_the_value_that_is_there() -> None:
    assert await Latest(1).other_than(None) == 1


async def test_a_slow_reader_sees_only_the_newest() -> None:
    value = Latest(0)
    reader = asyncio.create_task(value.other_than(0))
    await asyncio.sleep(0)
    value.set(1)
    value.set(2)
    assert await reader == 2


async def test_what_went_and_came_back_is_no_news() -> None:
    value = Latest("a")
    reader = asyncio.create_task(value.other_than("a"))
    await asyncio.sleep(0)
    value.set("b")
    value.set("a")
    await asyncio.sleep(0.01)
    assert not reader.done()
    value.set("c")
    assert await reader == "c"


async def test_many_readers_wake() -> None:
    value = Latest(0)
    readers = [asyncio.create_task(value.until(lambda seen: seen > 1)) for _ in range(50)]
    await asyncio.sleep(0)
    value.set(1)
    await asyncio.sleep(0)
    value.set(2)
    assert await asyncio.gather(*readers) == [2] * 50


async def test_the_last_value_is_seen_before_the_end() -> None:
    value = Latest(0)
    value.set(1)
    value.close()
    assert await value.other_than(0) == 1
    with pytest.raises(Closed):
        await value.other_than(1)


async def test_the_end_wakes_who_has_seen_everything() -> None:
    value = Latest(0)
    reader = asyncio.create_task(value.other_than(0))
    await asyncio.sleep(0)
    value.close()
    with pytest.raises(Closed):
        await reader


async def test_nothing_changes_after_the_end() -> None:
    value = Latest(0)
    value.close()
    with pytest.raises(RuntimeError):
        value.set(1)
