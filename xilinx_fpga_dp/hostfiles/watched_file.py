"""A file that configures the running service: read, read again when it changes, its last good state kept."""

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher

T = TypeVar("T")

_LOOK_EVERY = 10.0  # seconds between looks that nothing woke: at a link that leads to another directory, say
_PATIENCE = 2.0  # seconds a look may take


@dataclass(frozen=True, slots=True)
class FileState(Generic[T]):
    """What is known of the file.

    Attributes:
        value: what it said when it was good last; None: it never was.
        problems: why it can't be used as it is now, each a sentence.
        fixed: it is mounted by itself, as with ``subPath``: what takes its place on the node is never seen.
    """

    value: T | None = None
    problems: tuple[str, ...] = ()
    fixed: bool = False


class WatchedFile(Generic[T]):
    """A file and what it says.

    Args:
        path: where it is. A ConfigMap swaps the directory's ``..data`` link; a single file mounted by
            ``subPath`` never changes.
        parse: what its bytes say; raises ValueError with a sentence a problem.
        limit: bytes it may have.
        news: called on the loop when what is known has changed.
    """

    def __init__(
        self, path: str, parse: Callable[[bytes], T], limit: int, news: Callable[[], None] = lambda: None
    ) -> None:
        self.path = path
        self.known: FileState[T] = FileState()
        self._parse = parse
        self._limit = limit
        self._news = news
        self._reads: BlockingReader[tuple[bytes, FileState[T]]] = BlockingReader()
        self._text: bytes | None = None  # that `known` is from

    async def look(self, patience: float = _PATIENCE) -> None:
        """Read the file once, for so many seconds at most."""
        call = partial(self._read, self._text, self.known)
        [outcome] = (await self._reads.read_many({self.path: call}, patience)).values()
        before = self.known
        if isinstance(outcome, Pending):
            self.known = FileState(before.value, ("does not answer: a read of it hangs",))
            self._text = None
        elif isinstance(outcome, Exception):
            self.known = FileState(before.value, (_words(outcome),))
            self._text = None
        else:
            self._text, self.known = outcome
        if self.known != before:
            self._news()

    async def run(self) -> None:
        """Look whenever it may have changed, for ever."""
        with DirectoryWatcher(os.path.dirname(self.path)) as wakeups:
            while True:
                await wakeups.arm()
                await self.look()
                await wakeups.wait(_LOOK_EVERY)

    def _read(self, text: bytes | None, known: FileState[T]) -> tuple[bytes, FileState[T]]:
        """On a worker thread: what is known by the file as it is now."""
        now = _contents(self.path, self._limit)
        if now == text:
            return now, known
        fixed = _is_mount(self.path)
        try:
            return now, FileState(self._parse(now), fixed=fixed)
        except ValueError as error:
            return now, FileState(known.value, tuple(map(str, error.args)), fixed)


def _contents(path: str, limit: int) -> bytes:
    # Without O_NONBLOCK, opening a FIFO waits for a writer.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        found = bytearray()
        while len(found) <= limit and (some := os.read(file, limit + 1 - len(found))):
            found += some
    finally:
        os.close(file)
    if len(found) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes")
    return bytes(found)


def _is_mount(path: str) -> bool:
    """Whether a file is a mount point; os.path.ismount does not know one of the same file system."""
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            points = {line.split(b" ")[4] for line in mounts}
    except OSError:
        return False
    # fs/proc_namespace.c show_mountinfo writes these four as octal numbers
    return re.sub(rb"[ \t\n\\]", lambda char: b"\\%03o" % ord(char[0]), os.fsencode(path)) in points


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
