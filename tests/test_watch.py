"""Looks at the socket directory: what was done before one was asked for is seen."""

import asyncio
import socket
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from tests.support.metrics import NoMetrics
from xilinx_fpga_dp.deviceplugin import socket_directory as module
from xilinx_fpga_dp.deviceplugin.socket_directory import SocketDirectory, Watch

_OURS = "a-fpga.sock"


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


class _Slow:
    """The real look, of which the first has seen the directory long before it returns."""

    def __init__(self) -> None:
        self.seen = threading.Event()
        self.go = threading.Event()
        self._look = module._look

    def __call__(self, *args: object) -> SocketDirectory:
        outcome = self._look(*args)  # type: ignore[arg-type]
        if not self.seen.is_set():
            self.seen.set()
            self.go.wait(10)
        return outcome


async def test_a_look_that_was_given_up_is_not_taken_for_news(tmp_path: Path) -> None:
    slow = _Slow()
    watch = Watch(str(tmp_path), NoMetrics())
    with mock.patch.object(module, "_look", slow):
        asking = asyncio.create_task(watch.look())
        assert await asyncio.to_thread(slow.seen.wait, 10)
        asking.cancel()
        await asyncio.wait([asking])
        _make_socket(tmp_path / _OURS)
        again = asyncio.create_task(watch.look())
        await asyncio.sleep(0.01)
        slow.go.set()
        assert {name for name, _ in (await again).ours} == {_OURS}


async def test_what_a_late_look_returns_is_not_taken_for_news(tmp_path: Path) -> None:
    slow = _Slow()
    watch = Watch(str(tmp_path), NoMetrics())
    with mock.patch.object(module, "_look", slow):
        with mock.patch.object(module, "_LOOK_LIMIT", 0.1):
            assert "no answer" in str((await watch.look()).problem)
        _make_socket(tmp_path / _OURS)
        slow.go.set()
        await asyncio.sleep(0.05)
        seen = await watch.look()
    assert seen.problem is None
    assert {name for name, _ in seen.ours} == {_OURS}


async def test_however_much_happens_it_looks_at_an_even_pace_and_sees_the_end(tmp_path: Path) -> None:
    watch = Watch(str(tmp_path), NoMetrics())
    with mock.patch.object(module, "_look", mock.Mock(wraps=module._look)) as looks:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(watch.run())
            began = time.monotonic()
            for number in range(1000):
                await asyncio.to_thread((tmp_path / str(number)).touch)
            _make_socket(tmp_path / _OURS)
            took = time.monotonic() - began
            async with asyncio.timeout(5):
                await watch.directory.until(lambda seen: bool(seen.ours))
            count = looks.call_count
            running.cancel()
    assert count <= module._AT_ONCE + took / module._INTERVAL + 3


async def test_one_that_has_failed_is_begun_again_and_speaks(tmp_path: Path) -> None:
    watch = Watch(str(tmp_path), NoMetrics())
    await watch.look()
    failing = mock.patch.object(watch, "look", side_effect=RuntimeError("what nobody has thought of"))
    with failing, pytest.raises(RuntimeError):
        await watch.run()
    running = asyncio.create_task(watch.run())
    await asyncio.sleep(0.1)
    assert not watch.directory.value.newer
    _make_socket(tmp_path / _OURS)
    async with asyncio.timeout(10):
        await watch.directory.until(lambda seen: bool(seen.ours))
    running.cancel()
    await asyncio.wait([running])
    assert (await watch.look()).newer, "it has made room for another"
