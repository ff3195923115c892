"""A file on the host that always has the wanted text, in a directory that may be wiped (tmpfs, at boot).

Reading, comparing and writing are one blocking step with a time limit on a thread of its own. The text is
written beside the file and renamed, so that a reader sees the old text or the new text, never a part. When
the directory changes the step runs again; where it fails it is retried every half second.

A step may hang (a mount in state D) and end late, when a newer step has run. It must not bring back the old
text: a newer step removes what older ones have written beside the file, so their rename fails, and a step
that has not written yet finds that it is not the newest one.
"""

import asyncio
import logging
import os
import secrets
import time
from contextlib import suppress

from aiofiles.base import wrap

from xilinx_fpga_dp.aio.coalesced import Coalesced
from xilinx_fpga_dp.aio.daemon_threads import DaemonExecutor
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.race import race
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_CHECK_EVERY = 10.0  # seconds between checks that nothing woke
_RETRY = 0.5  # seconds until a file that could not be written is tried again
_TIME_LIMIT = 2.0  # seconds a step may take
_ABANDONED = 60.0  # seconds after which another instance's unfinished file is left over
_MAX_HANGING = 4  # steps that hang at once, after which none is started
_MAX_BYTES = 1 << 20


class ManagedFile:
    """Keeps a file as it should be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._wanted: str | None = None  # None for no file
        self._directory, name = os.path.split(path)
        self._prefix = f".{name}."  # of an unfinished file; runtimes and NFD ignore such a name
        self._token = secrets.token_hex(4)  # follows the prefix; a pid does not differ, it is 1 in each pod
        self._step = 0  # number of the newest step, which follows the token
        self._threads = DaemonExecutor(_MAX_HANGING)
        self._known = asyncio.Event()  # the wanted text is known; until then an earlier instance's file stays
        self._checks = Coalesced(self._check)
        self._released = False  # a newer instance manages the file
        self._last_error: Latest[str | None] = Latest(None)  # why it is not as wanted; None if it is

    async def set(self, wanted: str | None) -> bool:
        """Give the file this text, or remove it if None. Return whether it is so now."""
        self._wanted = wanted
        self._known.set()
        return await self._checks.run()

    def release(self) -> None:
        """Leave the file to a newer instance."""
        self._released = True

    async def take_over(self) -> None:
        """Manage the file, also again."""
        self._released = False
        if self._known.is_set():
            await self._checks.run()

    async def run(self) -> None:
        """Restore the file whenever something has changed it or it could not be written. Endless."""
        await self._known.wait()
        with DirectoryWatcher(self._directory) as watcher:
            while True:
                await watcher.arm()
                await self._checks.run()
                while self._last_error.value:  # not watched, since each retry would wake
                    await asyncio.sleep(_RETRY)
                    await self._checks.run()
                await race(watcher.wait(_CHECK_EVERY), self._last_error.until(bool))

    async def _check(self) -> bool:
        self._step += 1
        as_wanted = False
        error = None
        try:
            async with asyncio.timeout(_TIME_LIMIT):
                as_wanted = await wrap(self._reconcile)(self._wanted, self._step, executor=self._threads)
        except OSError as failure:  # a TimeoutError is an OSError
            error = failure.strerror or "no answer in time"
        if error and error != self._last_error.value:
            log.warning(Event.FILE_NOT_WRITTEN, extra={"path": self.path, "error": error})
        elif self._last_error.value and not error:
            log.info(Event.FILE_WRITTEN_AGAIN, extra={"path": self.path})
        self._last_error.set(error)
        return as_wanted

    def _reconcile(self, wanted: str | None, step: int) -> bool:
        """Compare the file and write it if it differs. Return whether it is as wanted. Blocks."""
        if _read(self.path) == wanted:
            return True
        if self._released:
            return False
        if wanted is not None:
            os.makedirs(self._directory, mode=0o755, exist_ok=True)
        self._sweep()
        if wanted is None:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            return True
        beside = f"{self._directory}/{self._prefix}{self._token}.{step}"
        try:
            with open(beside, "x", encoding="utf-8") as file:  # a planted link is an error
                file.write(wanted)
                os.fchmod(file.fileno(), 0o644)  # whatever the umask is
            if step != self._step:  # this step hung, and a newer one has begun
                raise TimeoutError
            os.replace(beside, self.path)
        except OSError:
            with suppress(OSError):
                os.unlink(beside)
            raise
        return True

    def _sweep(self) -> None:
        """Remove the unfinished files of older steps and of dead instances."""
        dead = time.time() - _ABANDONED
        with suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                path = f"{self._directory}/{name}"
                own = name.startswith(f"{self._prefix}{self._token}.")
                with suppress(OSError):
                    if own or (name.startswith(self._prefix) and os.lstat(path).st_mtime < dead):
                        os.unlink(path)


def _read(path: str) -> str | None:
    """Return the text of a file, or None if there is no file."""
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_MAX_BYTES)
    return None
