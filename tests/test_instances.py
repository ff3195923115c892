"""Who of several instances speaks, where the directory they meet in is another one at the next look."""

import errno
import fcntl
import os
import time
from pathlib import Path
from unittest import mock

from tests.process import descriptors
from tests.support.metrics import NoMetrics
from xilinx_fpga_dp.deviceplugin.instance_lock import FOLDER, InstanceLock
from xilinx_fpga_dp.deviceplugin.socket_directory import SocketDirectory, Watch


def _two(directory: Path) -> tuple[InstanceLock, InstanceLock]:
    older, newer = InstanceLock(), InstanceLock()
    directory.mkdir()
    assert not older.newer_lives(str(directory))
    assert not newer.newer_lives(str(directory))
    assert older.newer_lives(str(directory))
    return older, newer


def _replace(directory: Path, aside: Path) -> None:
    directory.rename(aside)
    directory.mkdir()


def test_a_directory_that_is_back_before_the_older_has_looked_gives_it_no_voice(tmp_path: Path) -> None:
    directory = tmp_path / "device-plugins"
    older, newer = _two(directory)
    for number in range(3):
        _replace(directory, tmp_path / "below")
        assert not newer.newer_lives(str(directory))
        directory.rename(tmp_path / f"mount-{number}")
        (tmp_path / "below").rename(directory)
        assert older.newer_lives(str(directory)), "the newer one lives, and may be stopped right now"
        assert not newer.newer_lives(str(directory))
        assert older.newer_lives(str(directory))
    with mock.patch("xilinx_fpga_dp.deviceplugin.instance_lock._OVERLAP", 0):
        before = descriptors()
        assert not newer.newer_lives(str(directory))
        assert descriptors() == before - 1, "no lock is kept for ever"
    newer.leave(str(directory))
    assert not older.newer_lives(str(directory))
    older.leave(str(directory))
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_back_just_as_its_lock_is_let_go_gives_the_older_no_voice(tmp_path: Path) -> None:
    directory = tmp_path / "device-plugins"
    older, newer = _two(directory)
    _replace(directory, tmp_path / "below")
    assert not newer.newer_lives(str(directory))
    assert older.newer_lives(str(directory))
    assert newer.moving
    with mock.patch("xilinx_fpga_dp.deviceplugin.instance_lock._OVERLAP", 0):
        assert not newer.newer_lives(str(directory))
    assert not newer.moving
    directory.rename(tmp_path / "mount")
    (tmp_path / "below").rename(directory)
    assert older.newer_lives(str(directory))
    assert not newer.newer_lives(str(directory))
    assert older.newer_lives(str(directory))


def test_the_middle_one_of_three_is_not_held_on_to_in_place_of_the_newest(tmp_path: Path) -> None:
    directory = tmp_path / "device-plugins"
    older, middle = _two(directory)
    newest = InstanceLock()
    assert not newest.newer_lives(str(directory))
    assert older.newer_lives(str(directory))
    assert middle.newer_lives(str(directory))
    _replace(directory, tmp_path / "below")
    assert middle.newer_lives(str(directory))
    assert older.newer_lives(str(directory))
    middle.leave(str(directory))
    assert older.newer_lives(str(directory)), "the newest one has not looked yet"
    newest.leave(str(directory))
    assert not older.newer_lives(str(directory))


def test_who_has_not_looked_finds_that_a_newer_one_was_there_whoever_looks_before(tmp_path: Path) -> None:
    directory = str(tmp_path)
    standby, voice, newest = InstanceLock(), InstanceLock(), InstanceLock()
    for each in (standby, voice, newest):
        assert not each.newer_lives(directory)
    newest.leave(directory)
    assert standby.newer_lives(directory), "the voice lives"
    assert standby.newest > voice.newest
    assert not voice.newer_lives(directory)
    assert voice.newest == standby.newest
    voice.leave(directory)
    assert not standby.newer_lives(directory)
    standby.leave(directory)
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_seen_without_a_lock(tmp_path: Path) -> None:
    """Else whoever looks just then takes a beginner for dead, and its file for left."""
    older, newer = InstanceLock(), InstanceLock()
    assert not older.newer_lives(str(tmp_path))
    seen: list[bool] = []
    flock = fcntl.flock

    def looked_at(file: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            with mock.patch("fcntl.flock", flock):
                seen.append(older.newer_lives(str(tmp_path)))
        flock(file, operation)

    with mock.patch("fcntl.flock", looked_at):
        assert not newer.newer_lives(str(tmp_path))
    assert seen == [False], "the newer one was not there at the first try"
    assert older.newer_lives(str(tmp_path))


def test_what_died_before_it_was_seen_is_removed_later(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    old, young, strange = (
        folder / name for name in ("0000000001-00000000.new", "0000000001-11111111.new", "a.new")
    )
    for file in (old, young, strange):
        file.touch()
    os.utime(old, (0, 0))
    os.utime(young, (now := time.time() + 60, now))
    assert not InstanceLock().newer_lives(str(tmp_path))
    assert not old.exists()
    assert young.exists()
    assert strange.exists()


def test_one_directory_after_the_other(tmp_path: Path) -> None:
    directory = tmp_path / "device-plugins"
    older, newer = _two(directory)
    for number in range(5):
        _replace(directory, tmp_path / f"{number}")
        assert older.newer_lives(str(directory))
        assert not newer.newer_lives(str(directory))
        assert older.newer_lives(str(directory))
    newer.leave(str(directory))
    assert not older.newer_lives(str(directory))


def test_a_file_system_without_locks_costs_no_descriptors(tmp_path: Path) -> None:
    presence = InstanceLock()
    before = descriptors()
    refused = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    with mock.patch("fcntl.flock", side_effect=refused):
        for _ in range(3):
            assert not presence.newer_lives(str(tmp_path))
    assert descriptors() == before
    assert not presence.newer_lives(str(tmp_path))
    assert descriptors() == before + 1, "the lock is held once there are locks"
    presence.leave(str(tmp_path))


async def test_a_look_that_fails_is_no_news_of_the_newer_one(tmp_path: Path) -> None:
    watch = Watch(str(tmp_path), NoMetrics())
    watch.directory.set(SocketDirectory(newer=True, newest="0000000002-00000000"))
    with mock.patch("xilinx_fpga_dp.deviceplugin.socket_directory._look", side_effect=RuntimeError("a bug")):
        seen = await watch.look()
    assert (seen.newer, seen.newest) == (True, "0000000002-00000000")
    assert seen.problem
