"""This instance's place among the instances on a node: the newest live one is active, the others stand by.

A rolling update runs two instances for a while, and kubelet takes the list that came last. So one of them
must not list, and both must agree which. Each instance holds a flock on a file of its own, which the kernel
releases when the process dies. The files are in ``<PLUGINS_DIR>/fpga.xilinx.com/instances``, since kubelet
wipes its socket directory when it starts.

A file's name begins with a number, one above the highest so far: names sort by age without a clock. A file
gets its name after its lock is held; a scan in between would take its process for dead. The file of a dead
instance stays until each live older one has seen it: an instance that was stopped meanwhile learns by it that
kubelet has replaced its endpoint, and registers again. Where the folder can't be made or written, the
instance logs one warning and works as if it were alone.
"""

import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import time
from contextlib import suppress

from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{10})-[0-9a-f]{8}")
_UNLOCKED = ".new"  # the end of a file's name until its lock is held
_ABANDONED = 1.0  # seconds after which the process of such a file is dead


def lock_folder(plugins_dir: str) -> str:
    return os.path.join(plugins_dir, "fpga.xilinx.com", "instances")


def driver_lock_folder(plugins_dir: str, driver: str) -> str:
    return os.path.join(plugins_dir, driver, "dra-instances")


def count_instances(folder: str) -> int:
    """Count the live instances whose locks are in a folder. Blocks; changes nothing.

    Raises:
        OSError: the folder can't be read; FileNotFoundError if no instance has run.
    """
    return len(_live(folder))


class InstanceLock:
    """This instance's lock. Methods block; all but ``superseded`` are called from one thread at a time."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.newest = ""  # file name of the newest newer instance so far, dead or alive
        self.others: frozenset[str] = frozenset()  # file names of the other live instances at the last look
        self._name = ""  # of this instance's file; given once
        self._lock: int | None = None  # the file, open
        self._newer_lives = False  # the last result
        self._warned = False
        self._released = False

    def has_newer_instance(self) -> bool:
        """Hold the lock, and return whether a newer instance lives. Also removes files of dead instances."""
        if self._released:
            return True
        try:
            self._acquire()
            self._newer_lives = self._scan()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return self._newer_lives  # this error passes, and the last result is the best guess
            self._newer_lives = False
            if not self._warned:
                self._warned = True
                log.warning(Event.NO_INSTANCE_LOCK, extra={"path": self.folder, "error": error.strerror})
        return self._newer_lives

    def superseded(self) -> bool:
        """Return whether a newer instance lives right now. Changes nothing."""
        with suppress(OSError):
            return self._lock is not None and any(name > self._name for name in _live(self.folder))
        return False

    def release(self) -> None:
        """Release the lock for good. The file stays while another instance lives: it may have to see it."""
        self._released = True
        if self._lock is None:
            return
        with suppress(OSError):
            if _live(self.folder) == [self._name]:
                os.unlink(self._path(self._name))
        os.close(self._lock)
        self._lock = None

    def _acquire(self) -> None:
        """Make and lock the file, unless that is done and the file still there."""
        if self._lock is not None:
            with suppress(OSError):
                if os.path.samestat(os.fstat(self._lock), os.stat(self._path(self._name))):
                    return
            os.close(self._lock)
            self._lock = None
        _make_folder(self.folder)
        _remove_abandoned(self.folder)
        if not self._name:
            last = max(_names(self.folder), default="0")
            self._name = f"{int(last[:10]) + 1:010}-{secrets.token_hex(4)}"
        self._lock = _locked_file(self._path(self._name))

    def _scan(self) -> bool:
        """Return whether a newer instance lives; note the others, and remove files of dead ones."""
        newer_lives = False
        others = set()
        for name in _names(self.folder):
            if name == self._name:
                continue
            lives = _is_locked(self._path(name))
            if lives:
                others.add(name)
            if name > self._name:
                self.newest = max(self.newest, name)
                newer_lives = newer_lives or lives
            if not lives and not newer_lives:  # else the live one may not have seen this file
                with suppress(OSError):  # another instance has removed it
                    os.unlink(self._path(name))
        self.others = frozenset(others)
        return newer_lives

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)


def _names(folder: str) -> list[str]:
    """Return the names of the lock files, the oldest instance's first."""
    return sorted(filter(_NAME.fullmatch, os.listdir(folder)))


def _live(folder: str) -> list[str]:
    """Return the names of the lock files that are locked, the oldest instance's first."""
    return [name for name in _names(folder) if _is_locked(os.path.join(folder, name))]


def _make_folder(path: str) -> None:
    """Make the folder and those above it. Another kind of file of that name, such as a link, is removed."""
    os.makedirs(os.path.dirname(path), 0o750, exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        os.mkdir(path, 0o700)


def _remove_abandoned(folder: str) -> None:
    """Remove the files of processes that died between making and locking them."""
    for name in os.listdir(folder):
        if name.endswith(_UNLOCKED) and _NAME.fullmatch(name.removesuffix(_UNLOCKED)):
            path = os.path.join(folder, name)
            with suppress(OSError):  # it has its name by now
                if time.time() - os.lstat(path).st_mtime > _ABANDONED:
                    os.unlink(path)


def _locked_file(path: str) -> int:
    """Make a file that other instances see only when it is locked."""
    unlocked = f"{path}{_UNLOCKED}"
    # Opened for writing: the process's end, by any death, is an inotify event then, IN_CLOSE_WRITE.
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(unlocked, path)
    except OSError:
        with suppress(OSError):
            os.unlink(unlocked)
        os.close(lock)
        raise
    return lock


def _is_locked(path: str) -> bool:
    """Return whether any process, this one too, holds the lock of a file; False if there is no file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
