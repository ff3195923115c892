"""The lock that decides which of several instances on a node is active."""

import errno
import fcntl
import os
import time
from pathlib import Path
from unittest import mock

import pytest

from tests.support.descriptors import descriptors
from tests.support.directory import instance, socket_directory
from xilinx_fpga_dp.deviceplugin.socket_directory import DirectoryState
from xilinx_fpga_dp.hostfiles.instance_lock import InstanceLock
from xilinx_fpga_dp.observe.events import Event


def _two(node: Path) -> tuple[InstanceLock, InstanceLock]:
    older, newer = instance(node), instance(node)
    assert not older.has_newer_instance()
    assert not newer.has_newer_instance()
    assert older.has_newer_instance()
    return older, newer


def _files(lock: InstanceLock) -> list[str]:
    return os.listdir(lock.folder)


def test_newest_of_three_is_active_until_it_releases(tmp_path: Path) -> None:
    older, middle = _two(tmp_path)
    newest = instance(tmp_path)
    assert not newest.has_newer_instance()
    assert middle.has_newer_instance()
    middle.release()
    assert older.has_newer_instance()
    newest.release()
    assert not older.has_newer_instance()
    older.release()
    assert _files(older) == []


def test_each_instance_knows_the_live_others(tmp_path: Path) -> None:
    older, newer = _two(tmp_path)
    assert not newer.has_newer_instance()
    [of_older] = newer.others
    assert older.others
    assert older.others.isdisjoint({of_older})
    older.release()
    assert not newer.has_newer_instance()
    assert newer.others == frozenset()


def test_older_instance_detects_a_newer_one_that_has_ended(tmp_path: Path) -> None:
    """The result does not depend on which of the others scanned before."""
    standby, active, newest = instance(tmp_path), instance(tmp_path), instance(tmp_path)
    for each in (standby, active, newest):
        assert not each.has_newer_instance()
    newest.release()
    assert standby.has_newer_instance(), "the active instance runs"
    assert standby.newest > active.newest
    assert not active.has_newer_instance()
    assert active.newest == standby.newest
    active.release()
    assert not standby.has_newer_instance()
    standby.release()
    assert _files(standby) == []


def test_file_is_visible_only_while_its_lock_is_held(tmp_path: Path) -> None:
    """Otherwise a scan would remove the file of a starting instance as that of a dead one."""
    older, newer = instance(tmp_path), instance(tmp_path)
    assert not older.has_newer_instance()
    seen: list[bool] = []
    flock = fcntl.flock

    def scanned_before(file: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            with mock.patch("fcntl.flock", flock):
                seen.append(older.has_newer_instance())
        flock(file, operation)

    with mock.patch("fcntl.flock", scanned_before):
        assert not newer.has_newer_instance()
    assert seen == [False], "the file of the newer instance was not visible before its lock"
    assert older.has_newer_instance()


def test_unlocked_file_of_a_dead_process_is_removed_later(tmp_path: Path) -> None:
    lock = instance(tmp_path)
    folder = Path(lock.folder)
    folder.mkdir(parents=True)
    old, young, foreign = (
        folder / name for name in ("0000000001-00000000.new", "0000000001-11111111.new", "a.new")
    )
    for file in (old, young, foreign):
        file.touch()
    os.utime(old, (0, 0))
    os.utime(young, (now := time.time() + 60, now))
    assert not lock.has_newer_instance()
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()


def test_removed_file_is_created_again(tmp_path: Path) -> None:
    older, newer = _two(tmp_path)
    before = descriptors()
    for name in _files(older):
        os.unlink(f"{older.folder}/{name}")
    assert not older.has_newer_instance()
    assert not newer.has_newer_instance()
    assert older.has_newer_instance()
    assert descriptors() == before
    newer.release()
    assert not older.has_newer_instance()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EROFS, errno.ENOSPC])
def test_unusable_lock_warns_once_and_instance_stays_active(
    tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    newer, lock = instance(tmp_path), instance(tmp_path)
    assert not newer.has_newer_instance()
    before = descriptors()
    with mock.patch("os.rename", side_effect=OSError(number, os.strerror(number))):
        for _ in range(3):
            assert not lock.has_newer_instance()
            assert not lock.superseded()
    assert descriptors() == before
    assert [(each.message, each.levelname) for each in caplog.records] == [
        (Event.NO_INSTANCE_LOCK, "WARNING")
    ]
    assert not lock.has_newer_instance()
    assert descriptors() == before + 1, "the lock is held once it can be"
    lock.release()


def test_file_as_plugins_dir_leaves_instance_active(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "plugins").touch()
    lock = instance(tmp_path)
    assert not lock.has_newer_instance()
    [warning] = caplog.records
    assert warning.message == Event.NO_INSTANCE_LOCK
    lock.release()


def test_newer_instance_stays_known_without_descriptors(tmp_path: Path) -> None:
    older, newer = _two(tmp_path)
    none_left = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with mock.patch("os.open", side_effect=none_left):
        assert older.has_newer_instance()
    newer.release()
    assert not older.has_newer_instance()


async def test_newer_instance_stays_known_after_a_failed_scan(tmp_path: Path) -> None:
    directory = socket_directory(tmp_path)
    directory.state.set(DirectoryState(standby=True, newest_instance="0000000002-00000000"))
    with mock.patch("xilinx_fpga_dp.deviceplugin.socket_directory._scan", side_effect=RuntimeError("a bug")):
        state = await directory.refresh()
    assert (state.standby, state.newest_instance) == (True, "0000000002-00000000")
    assert state.problem
