"""Waking up when something happens in a directory, which may be made anew, renamed or mounted over.

What happens only wakes; whoever is woken looks for himself. So nothing is missed: not an overflow of the
queue, not a directory that another has replaced, and a node out of inotify watches is only slower.
"""

import asyncio
import logging
import os
import stat
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Self

from asyncinotify import Inotify, Mask

from xilinx_fpga_dp.aio import descriptors
from xilinx_fpga_dp.aio.blocking import BlockingReader

log = logging.getLogger(__name__)

# Events read at once, and as many as a queue may hold (fs.inotify.max_queued_events, as it is by itself).
_MANY = 256
_QUEUE = 16384

_CHANGES = (
    Mask.CREATE
    | Mask.DELETE
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.CLOSE_WRITE
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)
# After these a watch follows nothing, or another directory than the path says.
_DEAD = Mask.IGNORED | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.Q_OVERFLOW | Mask.UNMOUNT

# A mount over a directory is no inotify event. The kernel tells of each in this mount namespace here.
_MOUNTS = "/proc/self/mountinfo"

# Seconds that finding the directories may take: one may be on a mount that hangs.
_LIMIT = 2.0
_TRIES = 3  # to watch what is there: others may change it meanwhile

Place = tuple[str, int, int] | None
"""A directory to watch, its device and its inode; None: neither it nor the one above it is there."""


class DirectoryWatcher:
    """Wakes for changes in directories. One that is missing is waited for in the directory above it.

    Use, as a context manager, again and again: ``arm``, look at the directories, ``wait``. Who looks on a
    thread anyway does without ``arm``: ``clear``; find the ``places``, then look, on the thread; ``follow``
    them, and look once more where that says so; ``wait``.

    Args:
        paths: the directories.
        fold: seconds after a change in which what else happens is part of it, such as the writing of a file.
    """

    def __init__(self, *paths: str, fold: float = 0.002) -> None:
        self._paths = paths
        self._fold = fold
        self._followed: list[Place] | None = None  # what is watched; None: not all of it
        self._finds: BlockingReader[list[Place]] = BlockingReader()
        self._inotify: Inotify | None = None
        self._mounts: int | None = None
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        if self._inotify is not None:
            loop.remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
        if self._mounts is not None:
            loop.remove_writer(self._mounts)
            os.close(self._mounts)
            self._mounts = None
        self._followed = None

    async def arm(self) -> None:
        """See to it that what happens from now on wakes, also where a path leads elsewhere than before."""
        self.clear()
        for _ in range(_TRIES):
            places = await self._finds.read_fresh("", self.places, _LIMIT)
            if not isinstance(places, list):
                self._followed = None
                return
            if not self.follow(places):
                return
        self._changed.set()

    def clear(self) -> None:
        """Forget what has happened: a look is to come."""
        self._changed.clear()

    def places(self) -> list[Place]:
        """Where the paths lead now. Blocks."""
        return [_place(path) or _place(os.path.dirname(path)) for path in self._paths]

    def follow(self, places: list[Place]) -> bool:
        """Watch these, and nothing else.

        Returns:
            Whether to look once more: something may have happened in them before they were watched, or one
            has gone that moment.
        """
        if self._followed == places:
            return False
        self._followed = None
        try:
            inotify = self._opened()
            with suppress(FileNotFoundError, NotADirectoryError):  # it has gone
                self._watch(places, inotify)
                self._followed = places
        except OSError as error:  # inotify's limits are used up
            log.debug("no inotify, looking by timer", extra={"error": str(error)})
            return False
        return True

    async def wait(self, limit: float) -> None:
        """Wait for a change, at most so many seconds."""
        try:
            async with asyncio.timeout(limit / 4 if self._followed is None else limit):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._fold)

    def _opened(self) -> Inotify:
        """What tells of changes. Opened once: another time there may be no descriptor left."""
        loop = asyncio.get_running_loop()
        if self._inotify is None:
            descriptors.require(2)  # a selector, too; where that fails asyncinotify forgets the first
            self._inotify = Inotify(sync_timeout=0)
            loop.add_reader(self._inotify.fd, self._take, self._inotify)
        if self._mounts is None:
            self._mounts = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
            # It is readable at any time; a change is told as an error (man 5 proc), which wakes a writer.
            loop.add_writer(self._mounts, self._changed.set)
        return self._inotify

    def _watch(self, places: list[Place], inotify: Inotify) -> None:
        """Watch these places and nothing else. What is not told yet is dropped: a look is to come."""
        _drain(inotify)  # or there may be no room for what a removal tells
        for watch in inotify.watches:
            with suppress(OSError):  # the kernel has removed it
                inotify.rm_watch(watch)
        _drain(inotify)
        for directory, *_ in filter(None, places):
            inotify.add_watch(directory, _CHANGES)

    def _take(self, inotify: Inotify) -> None:
        """Take the events there are. Not one at a time by ``get``: it loses some where it is cancelled."""
        if self._inotify is None:
            return
        events = list(islice(inotify, _MANY))
        if len(events) == _MANY:  # some more may have been read, of which the loop will not hear
            asyncio.get_running_loop().call_soon(self._take, inotify)
        if any(event.mask & _DEAD for event in events):
            self._followed = None
        self._changed.set()


def _drain(inotify: Inotify) -> None:
    for _ in islice(inotify, _QUEUE):
        pass


def _place(directory: str) -> Place:
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return (directory, status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None
