"""Which of several instances on a node speaks with kubelet: the newest that lives, as in a rolling update.

Each instance holds a lock on a file of its own in a folder of the socket directory: kubelet's wipe at its
start leaves folders alone, and a lock dies with its process, which a file does not.
"""

import fcntl
import os
import re
import secrets
import stat
import time
from contextlib import suppress

FOLDER = ".xilinx-fpga-dp"

_NAME = re.compile(r"(\d{10})-[0-9a-f]{8}")
_UNSEEN = ".new"  # what a file's name ends with until its lock is held
_FORGOTTEN = 1.0  # seconds after which such a file is of one that died at it
# Seconds a lock is kept in the folder that was there before: an older instance has looked at the new one by
# then, and may not have when the old one is back at once, after a mount that ended.
_OVERLAP = 1.5


def living(directory: str) -> int:
    """How many instances are there. Blocks; changes nothing.

    Raises:
        OSError: the folder can't be read.
    """
    folder = os.path.join(directory, FOLDER)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return sum(_locked(os.path.join(folder, name)) for name in names if _NAME.fullmatch(name))


def _locked(path: str) -> bool:
    file = _living(path, remove=False)
    if file is None:
        return False
    os.close(file)
    return True


class InstanceLock:
    """This instance among the others. Its methods block; one thread at a time calls all but ``outdone``."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(4)
        self._name = ""  # ours; names are ordered by age, the newest last
        self._lock: int | None = None
        self._before: int | None = None  # our lock in the folder that was there before
        self._entered = 0.0  # time.monotonic() when we came into this one
        self._newer: tuple[str, int] | None = None  # the newest one's name, and its file, open
        self.newest = ""  # of those newer than we are the newest there has been, as far as we have seen
        self._left = False

    def newer_lives(self, directory: str) -> bool:
        """Make sure that we are seen; whether a newer instance is there.

        What dead instances left is removed. Where the folder can't be used, a newer instance that was there
        before counts as long as it lives.
        """
        if self._left:
            return True
        with suppress(OSError):  # no directory, a full or a read-only one: binding reports it
            self._be_seen(os.path.join(directory, FOLDER))
        found = None
        with suppress(OSError):
            found = self._newest_living(os.path.join(directory, FOLDER))
        # The folder may be another one than before, and we the first to be in it. Whoever is not there yet
        # holds the old lock until he is. Who is there is held on to there: he lets the old one go.
        if self._newer is not None and (found is None or found[0] < self._newer[0]) and _held(self._newer[1]):
            found, self._newer = self._newer, found
        if self._newer is not None:
            os.close(self._newer[1])
        self._newer = found
        return found is not None

    @property
    def moving(self) -> bool:
        """Whether the lock in a folder of before is to be let go, at one of the next looks."""
        return self._before is not None

    def outdone(self, directory: str) -> bool:
        """Whether a newer instance is seen there now. Changes nothing, so any thread may ask."""
        folder = os.path.join(directory, FOLDER)
        with suppress(OSError):
            return any(
                _locked(os.path.join(folder, name)) for name in self._others(folder) if name > self._name
            )
        return False

    def leave(self, directory: str) -> None:
        """Be seen no more. Our file stays as long as another instance is there: it tells that we were.

        Who was stopped, or could not look, would else not know that kubelet has heard somebody newer and
        does not listen to him any more.
        """
        self._left = True
        folder = os.path.join(directory, FOLDER)
        with suppress(OSError):
            others = [_living(os.path.join(folder, name)) for name in self._others(folder)]
            for other in filter(None, others):
                os.close(other)
            if not any(others):
                os.unlink(os.path.join(folder, self._name))
        for file in (self._lock, self._before, self._newer and self._newer[1]):
            if file is not None:
                os.close(file)
        self._lock = self._before = self._newer = None
        with suppress(OSError):  # another instance is there
            os.rmdir(folder)

    def _be_seen(self, folder: str) -> None:
        _make(folder)
        if not self._seen(folder):
            self._enter(folder)
        elif self._before is not None and time.monotonic() - self._entered > _OVERLAP:
            os.close(self._before)
            self._before = None

    def _newest_living(self, folder: str) -> tuple[str, int] | None:
        """The newest living instance's name and its file, open, if it is newer than we are.

        What dead ones left is removed, but not what is for one between us and them to find: it may not know
        yet that kubelet has heard somebody newer.
        """
        _sweep(folder)
        newest = None
        for name in sorted(self._others(folder)):
            living = _living(os.path.join(folder, name), remove=newest is None)
            if name < self._name:
                if living is not None:
                    os.close(living)
                continue
            self.newest = max(self.newest, name)
            if living is not None:
                if newest is not None:
                    os.close(newest[1])
                newest = (name, living)
        return newest

    def _others(self, folder: str) -> list[str]:
        return [name for name in os.listdir(folder) if _NAME.fullmatch(name) and name != self._name]

    def _seen(self, folder: str) -> bool:
        """Whether our file is still the one we hold the lock of."""
        return self._lock is not None and _is_at(self._lock, os.path.join(folder, self._name))

    def _enter(self, folder: str) -> None:
        if not self._name:
            # Counted on, not taken from a clock that may jump.
            numbers = [int(match[1]) for name in os.listdir(folder) if (match := _NAME.fullmatch(name))]
            self._name = f"{max(numbers, default=0) + 1:010}-{self._token}"
        path = os.path.join(folder, self._name)
        self._entered = time.monotonic()
        if self._before is not None and _is_at(self._before, path):
            self._lock, self._before = self._before, self._lock
            return
        lock = _locked_file(path)
        if self._before is not None:
            os.close(self._before)
        self._lock, self._before = lock, self._lock


def _make(folder: str) -> None:
    """Make the folder where there is none; what else has its name, a link to another one say, makes room."""
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        os.unlink(folder)
        os.mkdir(folder, 0o700)


def _locked_file(path: str) -> int:
    """Make a file that nobody sees without its lock: who did would take its process for dead, and remove it.

    Raises:
        OSError: it can't be made, or the file system has no locks.
    """
    unseen = f"{path}{_UNSEEN}"
    # Opened for writing: its end by any death is an inotify event then, IN_CLOSE_WRITE.
    lock = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(unseen, path)
    except OSError:
        with suppress(OSError):
            os.unlink(unseen)
        os.close(lock)
        raise
    return lock


def _sweep(folder: str) -> None:
    """Remove what nobody has seen because its process died just then."""
    for name in os.listdir(folder):
        if name.endswith(_UNSEEN) and _NAME.fullmatch(name.removesuffix(_UNSEEN)):
            path = os.path.join(folder, name)
            with suppress(OSError):  # seen by now
                if time.time() - os.lstat(path).st_mtime > _FORGOTTEN:
                    os.unlink(path)


def _is_at(file: int, path: str) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _living(path: str, *, remove: bool = True) -> int | None:
    """The file, open, if somebody holds its lock; if nobody does, it may be removed."""
    try:
        probe = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    if _held(probe):
        return probe
    if remove:
        with suppress(OSError):  # gone by now, or not ours to remove
            os.unlink(path)
    os.close(probe)
    return None


def _held(file: int) -> bool:
    """Whether somebody else holds the lock of an open file; if not, we share it until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
