"""A file that configures the running service: read again when it changes, its last good content kept."""

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiofiles.base import wrap

from xilinx_fpga_dp.aio.daemon_threads import DaemonExecutor
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher
from xilinx_fpga_dp.hostfiles import ordinary_file

T = TypeVar("T")

_CHECK_EVERY = 10.0  # seconds between reads that nothing woke, such as of a link to another directory
_TIME_LIMIT = 2.0  # seconds a read may take


@dataclass(frozen=True, slots=True)
class FileState(Generic[T]):
    """What is known of a file."""

    value: T | None = None  # the newest good content; None if it was never good
    problems: tuple[str, ...] = ()  # why it cannot be used as it is now, each a sentence
    fixed: bool = False  # a mount of its own, as with ``subPath``: never replaced in this container


class WatchedFile(Generic[T]):
    """A file and its content. A ConfigMap replaces it by swapping the directory's ``..data`` link."""

    def __init__(
        self, path: str, parse: Callable[[bytes], T], limit: int, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.path = path
        self.state: FileState[T] = FileState()
        self._parse = parse  # raises ValueError with a sentence per problem
        self._limit = limit  # bytes
        self._changed = changed  # called on the loop when the state has changed
        self._threads = DaemonExecutor(1)  # a read that hangs is not repeated
        self._bytes: bytes | None = None  # that the state was made of

    async def read(self, time_limit: float = _TIME_LIMIT) -> None:
        """Read the file once, within so many seconds."""
        before = self.state
        try:
            async with asyncio.timeout(time_limit):
                self._bytes, self.state = await wrap(self._read)(self._bytes, before, executor=self._threads)
        except Exception as error:
            hangs = "does not answer: a read of it hangs" if isinstance(error, TimeoutError) else ""
            problem = hangs or getattr(error, "strerror", None) or str(error) or repr(error)
            self._bytes, self.state = None, FileState(before.value, (problem,))
        if self.state != before:
            self._changed()

    async def run(self) -> None:
        """Read the file whenever it may have changed. Endless."""
        with DirectoryWatcher(os.path.dirname(self.path)) as watcher:
            while True:
                await watcher.arm()
                await self.read()
                await watcher.wait(_CHECK_EVERY)

    def _read(self, before: bytes | None, state: FileState[T]) -> tuple[bytes, FileState[T]]:
        """Return the bytes of the file and its state, unchanged if the bytes are. Blocks."""
        now = ordinary_file.read(self.path, self._limit)
        if now == before:
            return now, state
        fixed = _is_mount(self.path)
        try:
            return now, FileState(self._parse(now), fixed=fixed)
        except ValueError as error:
            return now, FileState(state.value, tuple(map(str, error.args)), fixed)


def _is_mount(path: str) -> bool:
    """Return whether a file is a mount point; os.path.ismount misses one of the same file system."""
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            points = {line.split(b" ")[4] for line in mounts}
    except OSError:
        return False
    # show_mountinfo writes these four characters as octal numbers: fs/proc_namespace.c
    return re.sub(rb"[ \t\n\\]", lambda char: b"\\%03o" % ord(char[0]), os.fsencode(path)) in points
