"""Waking up when something happens in a directory, which may be made anew, renamed or mounted over.

inotify only wakes; whoever is woken looks for himself. So nothing is missed: not an overflow of the queue,
not a directory that another has replaced, and a node out of inotify watches is only slower.
"""

import asyncio
import logging
import os
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

_Place = tuple[int, int] | None


class Wakeups:
    """Wakes for changes in directories. One that is missing is waited for in the directory above it.

    Use: ``arm``, look at the directories, ``wait``; again and again, as a context manager.
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._places: list[_Place] = []  # that the watches follow
        self._inotify: Inotify | None = None

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
        places = [_place(path) for path in self._paths]
        if self._inotify is not None and places == self._places:
            return
        self._disarm()
        try:
            self._inotify = Inotify()
            for path, place in zip(self._paths, places, strict=True):
                watched = path if place else os.path.dirname(path)
                if os.path.isdir(watched):
                    self._inotify.add_watch(watched, _CHANGES)
            self._places = places
        except OSError as error:  # inotify's limits are used up, or a directory went that moment
            log.debug("no inotify, looking by timer", extra={"error": str(error)})
            self._disarm()

    async def wait(self, limit: float) -> None:
        """Wait for a change, at most so many seconds; a burst of changes is one."""
        if self._inotify is None:
            await asyncio.sleep(limit / 4)
            return
        try:
            async with asyncio.timeout(limit):
                event = await self._inotify.get()
            async with asyncio.timeout(_BURST):
                while not event.mask & _DEAD:
                    event = await self._inotify.get()
        except TimeoutError:
            return
        self._disarm()

    def _disarm(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None


def _place(path: str) -> _Place:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)
