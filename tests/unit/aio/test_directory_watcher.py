"""Wake-ups for changes in a directory, also in one that is replaced."""

import asyncio
import errno
import shutil
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from asyncinotify import Inotify

from tests.support.descriptors import descriptors, no_descriptors
from tests.support.woken import LONG, not_woken, woken
from xilinx_fpga_dp.aio import directory_watcher as module
from xilinx_fpga_dp.aio import loop_calls
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher


async def test_each_change_wakes(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    with DirectoryWatcher(str(directory)) as wakeups:
        for _ in range(2):
            await woken(wakeups, directory.mkdir)
            await woken(wakeups, (directory / "a").touch)
            await woken(wakeups, lambda: (directory / "a").rename(directory / "b"))
            await woken(wakeups, (directory / "b").unlink)
            await woken(wakeups, lambda: directory.rename(tmp_path / "aside"))
            await woken(wakeups, directory.mkdir)
            await woken(wakeups, (directory / "a").touch)
            await woken(wakeups, lambda: shutil.rmtree(directory))


async def test_directory_and_those_above_it_are_waited_for(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b" / "c"
    with DirectoryWatcher(str(directory)) as wakeups:
        for each in (directory.parent.parent, directory.parent, directory):
            await woken(wakeups, each.mkdir)
        await woken(wakeups, (directory / "d").touch)
        await woken(wakeups, lambda: shutil.rmtree(tmp_path / "a"))
        await woken(wakeups, (tmp_path / "a").mkdir)


async def test_only_changes_since_the_scan_began_wake(tmp_path: Path) -> None:
    with DirectoryWatcher(str(tmp_path)) as wakeups:
        await wakeups.arm()
        (tmp_path / "a").touch()
        await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            await wakeups.wait(LONG)
        (tmp_path / "b").touch()
        await asyncio.sleep(0.02)
        await wakeups.arm()
        await not_woken(wakeups, lambda: None)
        await woken(wakeups, (tmp_path / "c").touch)


async def test_only_names_that_matter_wake(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    with DirectoryWatcher(str(directory), wakes="wanted".__eq__) as wakeups:
        await woken(wakeups, directory.mkdir)
        await woken(wakeups, (directory / "wanted").touch)
        await wakeups.arm()
        await not_woken(wakeups, (directory / "other").touch)
        await woken(wakeups, (directory / "wanted").unlink)
        await woken(wakeups, lambda: shutil.rmtree(directory))


async def test_more_events_than_one_read_wake_the_watcher(tmp_path: Path) -> None:
    def many() -> None:
        for number in range(300):
            (tmp_path / str(number)).touch()

    with DirectoryWatcher(str(tmp_path)) as wakeups:
        await woken(wakeups, many)
        await woken(wakeups, (tmp_path / "a").touch)


async def test_events_after_the_one_that_wakes_stay_in_the_queue(tmp_path: Path) -> None:
    with DirectoryWatcher(str(tmp_path)) as wakeups:
        await woken(wakeups, (tmp_path / "a").touch)
        taken = mock.Mock(side_effect=wakeups._take)
        with mock.patch.object(wakeups, "_take", taken):
            await wakeups.arm()
            taken.reset_mock()
            for name in "bcd":
                (tmp_path / name).touch()
                await asyncio.sleep(0.01)
            assert taken.call_count == 1
        await wakeups.arm()
        await not_woken(wakeups, lambda: None)
        await woken(wakeups, (tmp_path / "e").touch)


async def test_changes_are_found_without_inotify(tmp_path: Path) -> None:
    loop_calls.caller(asyncio.get_running_loop())  # keeps a descriptor
    before = descriptors()
    with DirectoryWatcher(str(tmp_path)) as wakeups:
        with mock.patch.object(Inotify, "add_watch", side_effect=OSError(28, "limits")):
            await wakeups.arm()
            async with asyncio.timeout(30):
                await wakeups.wait(0.1)
        await woken(wakeups, (tmp_path / "a").touch)
    assert descriptors() == before


@pytest.mark.parametrize("free", [1, 2])
async def test_no_change_is_lost_without_descriptors(tmp_path: Path, free: int) -> None:
    with DirectoryWatcher(str(tmp_path)) as wakeups:
        await wakeups.arm()  # starts the thread
    before = descriptors()
    with DirectoryWatcher(str(tmp_path)) as wakeups:
        with no_descriptors(but=free):
            for _ in range(3):
                await wakeups.arm()
        await woken(wakeups, (tmp_path / "a").touch)
    assert descriptors() == before


async def test_recreated_directory_needs_no_descriptor(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    with DirectoryWatcher(str(directory)) as wakeups:
        await wakeups.arm()
        before = descriptors()
        # asyncinotify opens a selector too; if that fails, it leaves the descriptor of inotify open.
        with mock.patch("selectors.DefaultSelector", side_effect=OSError(errno.EMFILE, "none is left")):
            for _ in range(2):
                await woken(wakeups, directory.rmdir)
                await woken(wakeups, directory.mkdir)
                await woken(wakeups, (directory / "a").touch)
                await woken(wakeups, (directory / "a").unlink)
        assert descriptors() == before


@pytest.mark.parametrize("there", [True, False])
async def test_directory_renamed_before_its_watch_is_followed(tmp_path: Path, there: bool) -> None:
    directory, aside = tmp_path / "directory", tmp_path / "aside"
    before, after = (directory, aside) if there else (aside, directory)
    before.mkdir()
    add_watch = Inotify.add_watch

    def late(*arguments: Any) -> Any:
        if before.exists():
            before.rename(after)
        return add_watch(*arguments)

    with DirectoryWatcher(str(directory)) as wakeups:
        with mock.patch.object(Inotify, "add_watch", late):
            await wakeups.arm()
        await woken(wakeups, lambda: after.rename(before))


async def test_path_on_a_hanging_mount_blocks_no_caller(tmp_path: Path) -> None:
    gate = threading.Event()
    with DirectoryWatcher(str(tmp_path)) as wakeups:
        hanging = mock.Mock(side_effect=lambda _: gate.wait(30))
        with mock.patch.object(module, "_LIMIT", 0.1), mock.patch.object(module, "_place", hanging):
            arming = asyncio.create_task(wakeups.arm())
            await asyncio.sleep(0)
            assert not arming.done()
            async with asyncio.timeout(30):
                await arming
                await wakeups.wait(0.1)
        gate.set()
        await woken(wakeups, (tmp_path / "a").touch)
