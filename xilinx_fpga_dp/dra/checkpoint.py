"""The one file of the driver's state: which claims are prepared. Every function blocks.

Nothing that can be computed is in it: no device number and no path, which change with a reset or a boot. It
is written beside, synced and renamed, and where a claim is removed the directory is synced. Two instances of
the driver may serve, so a lock file is held around read, write and answer.

Documents are made after the checkpoint and removed before it: whatever is cut off in between is mended from
the file alone. Entries and fields that a newer version wrote are kept.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from xilinx_fpga_dp.dra.allocation import ClaimRefused
from xilinx_fpga_dp.dra.documents import PreparedClaim, as_entry, of_entry
from xilinx_fpga_dp.hostfiles import ordinary_file
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

FILE: Final = "checkpoint.json"
LOCK: Final = "serialize.lock"
_VERSION: Final = 1
_LOCK_LIMIT: Final = 10.0  # seconds to wait for the lock, which another instance holds for milliseconds
_LOCK_RETRY: Final = 0.005
_MAX_BYTES: Final = 16 << 20


class Cancelled(Exception):  # noqa: N818 - the caller's wish
    """The call was cancelled while it waited for the lock."""


@dataclass(frozen=True, slots=True)
class State:
    """The content of the file. ``document`` is all of it, with what this version does not know."""

    claims: Mapping[str, PreparedClaim]
    document: Mapping[str, Any]

    @property
    def boot_id(self) -> str:
        """The boot in which it was written; empty if it was never written."""
        return str(self.document.get("bootID", ""))


class Checkpoint:
    """The file in the driver's directory.

    Args:
        directory: ``<PLUGINS_DIR>/<driver>``; it is made if it is missing.
        lost: returns the claims that can be told without the file, by uid, if it can't be read.
    """

    def __init__(self, directory: str, lost: Callable[[], Mapping[str, PreparedClaim]]) -> None:
        self.path = f"{directory}/{FILE}"
        self._directory = directory
        self._boot_id = _boot_id()
        self._lost = lost
        self._read: tuple[tuple[int, int, int], State] | None = None  # with the identity of the file

    @contextlib.contextmanager
    def locked(self, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold the lock.

        Raises:
            TimeoutError: it is not free in time.
            OSError: it can't be made.
            Cancelled: ``cancelled`` returns true before it is held.
        """
        os.makedirs(self._directory, mode=0o750, exist_ok=True)
        deadline = time.monotonic() + _LOCK_LIMIT
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(f"{self._directory}/{LOCK}", flags, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(
                            f"another instance holds {self._directory}/{LOCK} for {_LOCK_LIMIT:g} s"
                        ) from None
                if cancelled():
                    raise Cancelled
                time.sleep(_LOCK_RETRY)
            if cancelled():
                raise Cancelled
            yield
        finally:
            os.close(lock)  # releases it

    def read(self) -> State:
        """Read the file; call it with the lock held.

        One that can't be read as a checkpoint is set aside. Its claims, and those of a file that is gone, are
        those that can be told without it.

        Raises:
            OSError: the file can't be read, or not be written again.
        """
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                identity = _identity(status)
                if self._read and self._read[0] == identity:
                    return self._read[1]
                content = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return self._restored()
        try:
            state = _parsed(content)
        except (ValueError, KeyError, TypeError, AttributeError, ClaimRefused) as error:
            os.replace(self.path, f"{self.path}.bad")
            bad = {"path": f"{self.path}.bad", "error": repr(error)}
            log.error(Event.CHECKPOINT_SET_ASIDE, extra=bad)  # noqa: TRY400 - the file's fault
            return self._restored()
        self._read = (identity, state)
        return state

    def _restored(self) -> State:
        nothing = State({}, {})
        claims = self._lost()
        return self.write(nothing, claims) if claims else nothing

    def write(self, state: State, claims: Mapping[str, PreparedClaim]) -> State:
        """Replace the claims of a state that was read, unless they are the same; return the new state.

        Call it with the lock held. The entry of an unchanged claim keeps what this version does not know.

        Raises:
            OSError: it can't be written; then the file is as before.
        """
        if claims == state.claims and state.boot_id == self._boot_id:
            return state
        before = state.document.get("claims", {})
        entries = {
            uid: before[uid] if claim == state.claims.get(uid) and uid in before else as_entry(claim)
            for uid, claim in claims.items()
        }
        document = {**state.document, "version": _VERSION, "bootID": self._boot_id, "claims": entries}
        beside = f"{self.path}.new"
        content = json.dumps(document).encode()
        try:
            descriptor = os.open(
                beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                identity = _identity(os.fstat(file.fileno()))
            os.replace(beside, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
        new = State(dict(claims), document)
        self._read = (identity, new)
        # A new entry that a power failure takes back costs nothing: kubelet prepares the claim again after a
        # boot. An old one that comes back would keep its card from others.
        if state.claims.keys() - claims.keys():
            _sync_directory(self._directory)
        return new


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def prepared_claims(directory: str) -> Mapping[str, PreparedClaim]:
    """Return the claims that the driver of a directory has prepared, by uid; for a look from outside.

    The file is replaced as a whole, so it is read without the lock.

    Raises:
        OSError: the file can't be read, or is no checkpoint.
    """
    path = f"{directory}/{FILE}"
    try:
        return _parsed(ordinary_file.read(path, _MAX_BYTES)).claims
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, ClaimRefused) as error:
        raise OSError(errno.EINVAL, f"it is no checkpoint: {error!r}", path) from None


def _boot_id() -> str:
    """Return the id of this boot; the kernel answers from memory."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _parsed(content: bytes) -> State:
    document = json.loads(content)
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']!r} is not known")
    return State({uid: of_entry(uid, entry) for uid, entry in document["claims"].items()}, document)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
