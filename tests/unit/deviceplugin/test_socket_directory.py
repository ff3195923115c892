"""Scans of the socket directory: each shows all changes made before it was requested."""

import asyncio
import threading
import time
from pathlib import Path
from unittest import mock

from tests.support.directory import make_socket, socket_directory
from xilinx_fpga_dp.deviceplugin import socket_directory as module
from xilinx_fpga_dp.deviceplugin.socket_directory import DirectoryState

_OURS = "a-fpga.sock"


class _SlowScan:
    """The real scan; the first returns long after it has read the directory."""

    def __init__(self) -> None:
        self.seen = threading.Event()
        self.go = threading.Event()
        self._scan = module._scan

    def __call__(self, *args: object) -> DirectoryState:
        outcome = self._scan(*args)  # type: ignore[arg-type]
        if not self.seen.is_set():
            self.seen.set()
            self.go.wait(10)
        return outcome


async def test_result_of_a_cancelled_scan_is_not_used(tmp_path: Path) -> None:
    slow = _SlowScan()
    directory = socket_directory(tmp_path)
    with mock.patch.object(module, "_scan", slow):
        asking = asyncio.create_task(directory.refresh())
        assert await asyncio.to_thread(slow.seen.wait, 10)
        asking.cancel()
        await asyncio.wait([asking])
        make_socket(tmp_path / _OURS)
        again = asyncio.create_task(directory.refresh())
        await asyncio.sleep(0.01)
        slow.go.set()
        assert {name for name, _ in (await again).sockets} == {_OURS}


async def test_result_of_a_late_scan_is_not_used(tmp_path: Path) -> None:
    slow = _SlowScan()
    directory = socket_directory(tmp_path)
    with mock.patch.object(module, "_scan", slow):
        with mock.patch.object(module, "_SCAN_LIMIT", 0.1):
            assert "no answer" in str((await directory.refresh()).problem)
        make_socket(tmp_path / _OURS)
        slow.go.set()
        await asyncio.sleep(0.05)
        seen = await directory.refresh()
    assert seen.problem is None
    assert {name for name, _ in seen.sockets} == {_OURS}


async def test_rate_of_scans_is_bounded_and_last_change_is_found(tmp_path: Path) -> None:
    directory = socket_directory(tmp_path)
    with mock.patch.object(module, "_scan", mock.Mock(wraps=module._scan)) as scans:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(directory.run())
            began = time.monotonic()
            for number in range(1000):
                await asyncio.to_thread((tmp_path / str(number)).touch)
            make_socket(tmp_path / _OURS)
            took = time.monotonic() - began
            async with asyncio.timeout(30):
                await directory.state.until(lambda seen: bool(seen.sockets))
            count = scans.call_count
            running.cancel()
    assert count <= module._BURST + took / module._INTERVAL + 3
