"""Ordinary files on the host: the CDI spec that is written, the paths to mount that are looked for."""

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import time

import aiofiles.os
from aiofiles.base import wrap

from xilinx_fpga_dp.aio.coalesced import Coalesced
from xilinx_fpga_dp.aio.daemon_threads import DaemonExecutor
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher
from xilinx_fpga_dp.aio.latest import Latest

log = logging.getLogger(__name__)

_LOOK_EVERY = 10.0  # seconds between looks at a file that nothing woke
_AGAIN = 0.5  # seconds until a file that could not be written is tried again
_TIME_LIMIT = 2.0  # seconds a file operation may take
_FORGOTTEN = 60.0  # seconds after which what another instance has begun to write is left for good
_HANGING = 4  # operations of a file at once: a few tries, and the removal of what they have left


class ManagedFile:
    """A file that always says what it should, in a directory that may be wiped (tmpfs, at boot).

    Written beside and renamed, so that a reader sees the old text or the new one, never half of one.

    Args:
        path: where.
        mode: its permissions.
    """

    def __init__(self, path: str, mode: int = 0o644) -> None:
        self.path = path
        self._mode = mode
        self._wanted: str | None = None  # None: there is to be no file
        self._tries = itertools.count()  # to write it
        # Tells our tries from another instance's: each has pid 1 in its pod.
        self._token = secrets.token_hex(4)
        self._threads = DaemonExecutor(_HANGING)
        self._known = asyncio.Event()  # what it should say; until then the one of the instance before stays
        self._looks = Coalesced(self._look)
        self._anothers = False  # a newer instance keeps it
        self._complaint: Latest[str | None] = Latest(None)  # why it does not say what it should

    async def set(self, wanted: str | None) -> bool:
        """Let the file say this; None: remove it. Whether it does now."""
        self._wanted = wanted
        self._known.set()
        return await self._looks.run()

    def leave(self) -> None:
        """Let another instance keep the file."""
        self._anothers = True

    async def keep(self) -> None:
        """Keep it again."""
        self._anothers = False
        if self._known.is_set():
            await self._looks.run()

    async def run(self) -> None:
        """Restore the file whenever something else has changed it or it could not be written, for ever."""
        await self._known.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._retry())

    async def _follow(self) -> None:
        with DirectoryWatcher(os.path.dirname(self.path)) as wakeups:
            while True:
                await wakeups.arm()
                await self._looks.run()
                await self._complaint.until(lambda complaint: complaint is None)  # each try would wake
                await wakeups.wait(_LOOK_EVERY)

    async def _retry(self) -> None:
        while True:
            await self._complaint.until(bool)
            await asyncio.sleep(_AGAIN)
            await self._looks.run()

    async def _look(self) -> bool:
        """Look at the file, and write it if need be; whether it says what it should then."""
        try:
            async with asyncio.timeout(_TIME_LIMIT):
                wanted = self._wanted
                if await self._read() != wanted:
                    if self._anothers:
                        return False
                    await self._write(wanted)
        except OSError as error:
            self._complain(error)
            return False
        self._complain(None)
        return True

    async def _read(self) -> str | None:
        text: str | None = await _text(self.path, executor=self._threads)
        return text

    async def _write(self, wanted: str | None) -> None:
        directory, name = os.path.split(self.path)
        every = f".{name}."  # no reader of specs takes a name like that
        ours = f"{every}{self._token}."
        if wanted is None:
            with contextlib.suppress(FileNotFoundError):
                await self._sweep(directory, every, ours)
                await self._unlink(self.path)
            return
        await aiofiles.os.makedirs(directory, mode=0o755, exist_ok=True, executor=self._threads)
        await self._sweep(directory, every, ours)
        beside = f"{directory}/{ours}{next(self._tries)}"
        try:
            await _create(beside, wanted, self._mode, executor=self._threads)
            await aiofiles.os.replace(beside, self.path, executor=self._threads)
        except OSError:  # of a try that was cut off the next one removes what is left
            with contextlib.suppress(OSError):
                await self._unlink(beside)
            raise

    async def _sweep(self, directory: str, every: str, ours: str) -> None:
        """Remove what tries have left whose names begin so, others' if they are old.

        A try that was given up may still hang in a thread: none may rename what the next one is writing.
        """
        for left in await aiofiles.os.listdir(directory, executor=self._threads):
            with contextlib.suppress(OSError):
                path = f"{directory}/{left}"
                if left.startswith(ours) or (left.startswith(every) and await self._is_old(path)):
                    await self._unlink(path)

    async def _is_old(self, path: str) -> bool:
        """Whether a file is of an instance that died at it."""
        status = await aiofiles.os.stat(path, follow_symlinks=False, executor=self._threads)
        return time.time() - status.st_mtime > _FORGOTTEN

    async def _unlink(self, path: str) -> None:
        await aiofiles.os.unlink(path, executor=self._threads)

    def _complain(self, error: OSError | None) -> None:
        complaint = None if error is None else (error.strerror or "no answer in time")
        if complaint != self._complaint.value:
            if complaint:
                log.warning("file not written", extra={"path": self.path, "error": complaint})
            else:
                log.info("file is written again", extra={"path": self.path})
        self._complaint.set(complaint)


# A file is opened, used and closed in one call on a thread: aiofiles' own `open` closes on asyncio's threads,
# where one that hangs keeps the process from ending.


@wrap
def _text(path: str) -> str | None:
    """What a file says; None: there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except FileNotFoundError:
        return None


@wrap
def _create(path: str, text: str, mode: int) -> None:
    """Make a file; what is there, a link say, is an error."""
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
