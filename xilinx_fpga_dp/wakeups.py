"""Waking up when something happens in a directory, which may be made anew, renamed or mounted over.

inotify only wakes; whoever is woken looks for himself. So nothing is missed: not an overflow of the queue,
not a directory that another has replaced, and a node out of inotify watches is only slower. A mount tells
nobody, neither its beginning nor its end while something in it is open: who looks says where he has looked.
"""

import asyncio
import logging
import os
from contextlib import suppress
from types import TracebackType
from typing import Self

from asyncinotify import Inotify, Mask

log = logging.getLogger(__name__)

# Seconds in which a burst of events is folded into one wake-up.
_BURST = 0.002

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

Places = tuple[tuple[int, int] | None, ...]
"""Device and inode of each directory; None: there is none."""


def places(*paths: str) -> Places:
    """Where these paths lead now."""
    return tuple(map(_place, paths))


class Wakeups:
    """Wakes for changes in directories. One that is missing is waited for in the directory above it.

    Use: ``arm``, look at the directories, ``wait``; again and again, as a context manager.
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._places: Places = ()  # that the watches follow
        self._astray = False
        self._inotify: Inotify | None = None
        self._waiting: asyncio.Timeout | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disarm()

    def arm(self) -> None:
        """See to it that what happens from now on wakes, also where a path leads elsewhere than before."""
        self._astray = False
        there = places(*self._paths)
        if self._inotify is not None and there == self._places:
            return
        self._disarm()
        try:
            self._inotify = Inotify()
            for path, place in zip(self._paths, there, strict=True):
                watched = path if place else os.path.dirname(path)
                if os.path.isdir(watched):
                    self._inotify.add_watch(watched, _CHANGES)
            self._places = there
        except OSError as error:  # inotify's limits are used up, or a directory went that moment
            log.debug("no inotify, looking by timer", extra={"error": str(error)})
            self._disarm()

    def looked(self, there: Places) -> None:
        """Say where a look has found the directories: elsewhere than they are watched nothing wakes."""
        self._astray = self._inotify is not None and there != self._places
        if self._astray and self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(0)

    def moved(self) -> bool:
        """Whether the paths lead elsewhere than what is watched."""
        return self._inotify is not None and places(*self._paths) != self._places

    async def wait(self, limit: float) -> bool:
        """Wait for a change, at most so many seconds; a burst of changes is one. Whether there may be one."""
        if self._astray:
            return True
        if self._inotify is None:
            await asyncio.sleep(limit / 4)
            return True
        try:
            async with asyncio.timeout(limit) as self._waiting:
                event = await self._inotify.get()
        except TimeoutError:
            return self._astray
        finally:
            self._waiting = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_BURST):
                while not event.mask & _DEAD:
                    event = await self._inotify.get()
        if event.mask & _DEAD:
            self._disarm()
        return True

    def _disarm(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None


def _place(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)
