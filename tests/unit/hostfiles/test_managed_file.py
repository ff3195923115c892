"""Files that the service writes on the host: links, temporary files, cancelled and late writes."""

import asyncio
import os
import threading
from pathlib import Path
from unittest import mock

import pytest

from xilinx_fpga_dp.hostfiles.managed_file import ManagedFile


async def test_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    folder = tmp_path / "folder"
    folder.mkdir()
    target = folder / "file"
    kept = ManagedFile(str(target))
    for planted in (target, *(folder / f".file.{kept._token}.{each}" for each in range(3))):
        planted.symlink_to(victim)
    assert await kept.set("ours")
    assert victim.read_text() == "untouched"
    assert not target.is_symlink()
    assert target.read_text() == "ours"
    assert os.listdir(folder) == ["file"]


async def test_only_temporary_files_of_dead_instances_are_removed(
    tmp_path: Path,
) -> None:
    written, left = tmp_path / ".file.01234567.0", tmp_path / ".file.89abcdef.0"
    for each in (written, left):
        each.touch()
    os.utime(left, (0, 0))
    assert await ManagedFile(str(tmp_path / "file")).set("ours")
    assert sorted(os.listdir(tmp_path)) == [written.name, "file"]


async def test_file_is_written_after_its_caller_is_cancelled(tmp_path: Path) -> None:
    # Allocate is cancelled if kubelet cancels the call; an interrupted write would leave a file open.
    kept = ManagedFile(str(tmp_path / "file"))
    for turns, wanted in enumerate(("one", "two", "three", "four")):
        asking = asyncio.create_task(kept.set(wanted))
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        asking.cancel()
        async with asyncio.timeout(30):
            while not (tmp_path / "file").exists() or (tmp_path / "file").read_text() != wanted:
                await asyncio.sleep(0.01)
    assert await kept.set("five")
    assert (tmp_path / "file").read_text() == "five"


@pytest.mark.parametrize("ends", ["during the next", "after the next"])
async def test_late_write_does_not_overwrite_a_newer_one(tmp_path: Path, ends: str) -> None:
    kept = ManagedFile(str(tmp_path / "file"))
    hung, answering, ended = threading.Event(), threading.Event(), threading.Event()
    replace, unlink = os.replace, os.unlink

    def replace_late(source: str, target: str) -> None:
        if not hung.is_set():
            hung.set()
            answering.wait()
            try:
                replace(source, target)
            finally:
                ended.set()
            return
        if ends == "during the next":
            answering.set()
            ended.wait()
        replace(source, target)

    def hang(path: str) -> None:
        answering.wait()
        unlink(path)

    with mock.patch("xilinx_fpga_dp.hostfiles.managed_file.os.replace", replace_late):
        with (
            mock.patch("xilinx_fpga_dp.hostfiles.managed_file._TIME_LIMIT", 0.5),
            mock.patch("xilinx_fpga_dp.hostfiles.managed_file.os.unlink", hang),
        ):
            try:
                async with asyncio.timeout(30):
                    assert not await kept.set("one"), "neither the write nor its clean-up ends"
            except TimeoutError:
                answering.set()  # otherwise the threads would keep the process from ending
                raise
        assert await kept.set("two")
    answering.set()
    assert ended.wait(5)
    assert (tmp_path / "file").read_text() == "two"
    assert os.listdir(tmp_path) == ["file"]
