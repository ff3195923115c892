"""Which of several instances on a node speaks with kubelet: the newest that lives, as in a rolling update.

Each instance holds a lock on a file of its own in a folder of the socket directory: kubelet's wipe at its
start leaves folders alone, and a lock dies with its process, which a file does not.
"""

import fcntl
import os
import re
import secrets
from contextlib import suppress

FOLDER = ".xilinx-fpga-dp"

_NAME = re.compile(r"(\d{10})-[0-9a-f]{8}")
_TRIES = 10


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
    try:
        probe = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(probe)
    return False


class Presence:
    """This instance among the others. Its methods block, and are called by one thread at a time."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(4)
        self._name = ""  # ours; names are ordered by age, the newest last
        self._lock: int | None = None
        self._left = False

    def newer_lives(self, directory: str) -> bool:
        """Make sure that we are seen; whether a newer instance is there.

        What dead instances left is removed.

        Raises:
            OSError: the folder can't be read or written.
        """
        if self._left:
            return True
        folder = os.path.join(directory, FOLDER)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        if not self._seen(folder):
            self._enter(folder)
        others = [name for name in os.listdir(folder) if _NAME.fullmatch(name) and name != self._name]
        living = [name for name in others if _lives(os.path.join(folder, name))]
        return max(living, default="") > self._name

    def leave(self, directory: str) -> None:
        """Be seen no more."""
        self._left = True
        with suppress(OSError):
            os.unlink(os.path.join(directory, FOLDER, self._name))
        self._unlock()
        with suppress(OSError):  # another instance is there
            os.rmdir(os.path.join(directory, FOLDER))

    def _seen(self, folder: str) -> bool:
        """Whether our file is still the one we hold the lock of."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(os.path.join(folder, self._name)))
        except OSError:
            return False

    def _enter(self, folder: str) -> None:
        if not self._name:
            # Counted on, not taken from a clock that may jump.
            numbers = [int(match[1]) for name in os.listdir(folder) if (match := _NAME.fullmatch(name))]
            self._name = f"{max(numbers, default=0) + 1:010}-{self._token}"
        for _ in range(_TRIES):
            self._unlock()
            path = os.path.join(folder, self._name)
            # Opened for writing: its end by any death is an inotify event then, IN_CLOSE_WRITE.
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with suppress(BlockingIOError):  # another instance is trying whether we live
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._seen(folder):
                    return
        raise BlockingIOError(f"{folder}: no lock to be had")

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lives(path: str) -> bool:
    """Whether somebody holds the lock of this file; if not, it is removed."""
    try:
        probe = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        return True
    except OSError:  # gone by now, or not ours to remove: nobody holds it
        return False
    finally:
        os.close(probe)
    return False
