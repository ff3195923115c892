"""Looks at the socket directory: what was done before one was asked for is seen."""

import asyncio
import os
import threading
from pathlib import Path
from unittest import mock

from xilinx_fpga_dp.kubelet import watch as module
from xilinx_fpga_dp.kubelet.meter import Meter
from xilinx_fpga_dp.kubelet.watch import SocketDirectory, Watch

_OURS = "a-fpga.sock"


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
    watch = Watch(str(tmp_path), Meter())
    with mock.patch.object(module, "_look", slow):
        asking = asyncio.create_task(watch.look())
        assert await asyncio.to_thread(slow.seen.wait, 10)
        asking.cancel()
        await asyncio.wait([asking])
        (tmp_path / _OURS).touch()
        again = asyncio.create_task(watch.look())
        await asyncio.sleep(0.01)
        slow.go.set()
        assert {name for name, _ in (await again).ours} == {_OURS}


async def test_what_a_late_look_returns_is_not_taken_for_news(tmp_path: Path) -> None:
    slow = _Slow()
    watch = Watch(str(tmp_path), Meter())
    with mock.patch.object(module, "_look", slow), mock.patch.object(module, "_LOOK_LIMIT", 0.1):
        assert "no answer" in str((await watch.look()).problem)
        (tmp_path / _OURS).touch()
        slow.go.set()
        await asyncio.sleep(0.05)
        seen = await watch.look()
    assert seen.problem is None
    assert {name for name, _ in seen.ours} == {_OURS}


async def test_where_somebody_has_looked_what_happens_next_wakes(tmp_path: Path) -> None:
    """As with a mount that has come or gone, the path leads elsewhere and no event says so."""
    path = tmp_path / "device-plugins"
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    path.symlink_to("before")
    watch = Watch(str(path), Meter())
    with mock.patch.object(module, "_LOOK_EVERY", 60):
        following = asyncio.create_task(watch.run())
        await asyncio.sleep(0.2)
        for _ in range(3):
            for target in ("after", "before"):
                (tmp_path / "next").symlink_to(target)
                (tmp_path / "next").replace(path)
                await watch.look()
                await asyncio.sleep(0)
                (path / module.KUBELET_SOCKET).touch()
                async with asyncio.timeout(5):
                    await watch.directory.until(lambda seen: seen.kubelet is not None)
                (path / module.KUBELET_SOCKET).unlink()
                async with asyncio.timeout(5):
                    await watch.directory.until(lambda seen: seen.kubelet is None)
        following.cancel()
        await asyncio.wait([following])


async def test_the_directory_of_before_is_let_go_though_nothing_wakes(tmp_path: Path) -> None:
    path = tmp_path / "device-plugins"
    path.mkdir()
    watch = Watch(str(path), Meter())
    with (
        mock.patch.object(module, "_LOOK_EVERY", 60),
        mock.patch.object(module, "_SOON", 0.05),
        mock.patch("xilinx_fpga_dp.kubelet.instances._OVERLAP", 0.3),
    ):
        following = asyncio.create_task(watch.run())
        await asyncio.sleep(0.2)
        path.rename(tmp_path / "before")
        path.mkdir()
        await watch.look()
        assert _open_in("before"), "the lock of before is kept for an older instance to see"
        async with asyncio.timeout(5):
            while _open_in("before"):
                await asyncio.sleep(0.05)
        following.cancel()
        await asyncio.wait([following])


def _open_in(folder: str) -> list[str]:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [path for link in links if os.path.lexists(link) and f"/{folder}/" in (path := os.readlink(link))]
