"""Watches of directories: their number, and mounts."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.woken import LONG, woken
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher


async def test_watches_do_not_accumulate(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    with DirectoryWatcher(str(directory)) as wakeups:
        for number in range(20):
            await woken(wakeups, directory.mkdir)
            await woken(wakeups, lambda number=number: directory.rename(tmp_path / str(number)))  # type: ignore[misc]
        assert _watches() == 1


def _watches() -> int:
    """Count the inotify watches of this process, as the kernel lists them."""
    found = 0
    for name in os.listdir("/proc/self/fdinfo"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found += Path("/proc/self/fdinfo", name).read_text().count("inotify wd:")
    return found


_MOUNTS = f"""
import asyncio, subprocess, sys
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher

async def main(directory):
    with DirectoryWatcher(directory) as wakeups:
        for command in (["mount", "-t", "tmpfs", "tmpfs"], ["umount", "--lazy"]) * 2:
            await wakeups.arm()
            waiting = asyncio.create_task(wakeups.wait({LONG}))
            await asyncio.sleep(0.02)
            assert not waiting.done()
            await asyncio.to_thread(subprocess.run, [*command, directory], check=True)
            async with asyncio.timeout(30):
                await waiting

asyncio.run(main(sys.argv[1]))
"""
_NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")


@pytest.mark.skipif(
    subprocess.run([*_NAMESPACES, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs user namespaces",
)
def test_mount_and_unmount_wake(tmp_path: Path) -> None:
    subprocess.run([*_NAMESPACES, sys.executable, "-c", _MOUNTS, tmp_path], check=True, timeout=50)
