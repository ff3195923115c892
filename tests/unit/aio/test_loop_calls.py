"""Calls on the loop from threads."""

import asyncio
import errno
import gc
import os
import threading
from functools import partial
from unittest import mock

import pytest

from xilinx_fpga_dp.aio import loop_calls


async def test_calls_are_made_on_the_loop_in_order() -> None:
    loop = asyncio.get_running_loop()
    made: list[tuple[int, int]] = []
    done = asyncio.Event()

    def note(number: int) -> None:
        made.append((number, threading.get_ident()))

    def call_all() -> None:
        call = loop_calls.caller(loop)
        for number in range(100):
            call(partial(note, number))
        call(done.set)

    loop_calls.caller(loop)  # made on the loop
    threading.Thread(target=call_all).start()
    await asyncio.wait_for(done.wait(), 5)
    assert made == [(number, threading.get_ident()) for number in range(100)]


def test_descriptor_is_open_until_the_last_thread_has_ended() -> None:
    opened: list[int] = []
    eventfd = os.eventfd

    def noted(*arguments: int) -> int:
        opened.append(eventfd(*arguments))
        return opened[-1]

    async def caller() -> object:
        return loop_calls.caller(asyncio.get_running_loop())

    with mock.patch("os.eventfd", noted):
        call = asyncio.run(caller())
    gc.collect()
    call(lambda: None)  # type: ignore[operator]
    os.fstat(opened[0])
    del call
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


async def test_without_a_descriptor_asyncio_calls() -> None:
    loop = asyncio.get_running_loop()
    called = asyncio.Event()
    with mock.patch("os.eventfd", side_effect=OSError(errno.EMFILE, "Too many open files")):
        loop_calls.caller(loop)(called.set)
    await asyncio.wait_for(called.wait(), 5)
    assert loop_calls.caller(loop) != loop.call_soon_threadsafe
