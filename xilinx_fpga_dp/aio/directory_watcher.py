"""Wakes up when something changes in a directory that may be replaced, renamed or mounted over.

An event only wakes; the caller then reads the directory itself. So nothing is missed: neither when inotify's
queue overflows, nor when another directory takes the place of the watched one; and a node without inotify
watches left is only slower.

The paths are resolved again for each wait, since inotify follows an inode, not a path. A directory that is
missing is waited for in the nearest one above it that exists. A mount over a directory is no inotify event;
the kernel reports mounts of this namespace at /proc/self/mountinfo. inotify and that file are opened once, as
later there may be no descriptor left.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import islice
from typing import Self

from asyncinotify import Inotify, Mask

from xilinx_fpga_dp.aio import descriptors
from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_BATCH = 256  # events read in one go
_QUEUE = 16384  # length of inotify's queue: default of fs.inotify.max_queued_events
_LIMIT = 2.0  # seconds to resolve the paths: one may be on a mount that hangs
_REST = 0.01  # seconds after changes that do not wake: a file that is written makes several in a row
_TRIES = 3  # to watch the directories: another process may replace one meanwhile

_GONE = Mask.DELETE_SELF | Mask.MOVE_SELF
_CHANGES = Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.CLOSE_WRITE | _GONE | Mask.ONLYDIR
# After these a watch follows nothing, or another directory than the path leads to.
_DEAD = _GONE | Mask.IGNORED | Mask.Q_OVERFLOW | Mask.UNMOUNT

_Place = tuple[str, int, int]
"""A directory to watch, with its device and inode."""


class DirectoryWatcher:
    """Wakes for changes in directories.

    Use it as a context manager, in a loop: ``arm()``, read the directories, ``wait()``.

    Args:
        paths: of the directories.
        fold: seconds within which changes are one, such as those of writing a file.
        wakes: whether a change of the entry with a name wakes; it is not asked while a directory is missing.
    """

    def __init__(
        self, *paths: str, fold: float = 0.002, wakes: Callable[[str], bool] = lambda _name: True
    ) -> None:
        self._paths = paths
        self._fold = fold
        self._wakes = wakes
        self._watched: list[_Place] | None = None  # None if not everything is watched
        self._locating: BlockingReader[list[_Place]] = BlockingReader()
        self._inotify: Inotify | None = None
        self._rest: asyncio.TimerHandle | None = None  # no events are taken until then
        self._opened = ExitStack()  # inotify and the list of mounts
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        self._inotify = self._watched = None

    async def arm(self) -> None:
        """Make every change from now on wake, also where a path leads elsewhere than before."""
        if self._inotify:
            self._take(self._inotify)
            self._follow(self._inotify)
        self._changed.clear()
        for _ in range(_TRIES):
            try:
                places = await self._locating.read(lambda: [_place(path) for path in self._paths], _LIMIT)
                if places == self._watched:
                    return
                self._watched = None
                inotify = self._inotify or self._open()
                with suppress(FileNotFoundError, NotADirectoryError):  # it has gone meanwhile
                    self._watch(places, inotify)
                    self._watched = places
            except Exception as error:  # no answer in time, or the limits of inotify are used up
                self._watched = None
                log.debug(Event.NO_INOTIFY, extra={"error": str(error) or repr(error)})
                return
        self._changed.set()

    async def wait(self, limit: float) -> None:
        """Wait for a change, at most ``limit`` seconds; less where not everything can be watched."""
        try:
            async with asyncio.timeout(limit / 4 if self._watched is None else limit):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._fold)

    def _open(self) -> Inotify:
        loop = asyncio.get_running_loop()
        with ExitStack() as opened:
            mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, mounts)
            # asyncinotify also opens a selector; where that fails it leaks the descriptor opened before.
            descriptors.require(2)
            inotify = opened.enter_context(Inotify(sync_timeout=0))
            self._follow(inotify)
            opened.callback(self._ignore, inotify)
            # Always readable; a change is reported as an error (man 5 proc), which wakes a writer.
            loop.add_writer(mounts, self._changed.set)
            opened.callback(loop.remove_writer, mounts)
            self._opened = opened.pop_all()
        self._inotify = inotify
        return inotify

    def _watch(self, places: list[_Place], inotify: Inotify) -> None:
        """Replace the watches. Queued events are dropped, since the caller reads again."""
        _drain(inotify)  # the queue needs room for the events of the removals
        for watch in inotify.watches:
            with suppress(OSError):  # the kernel has removed it
                inotify.rm_watch(watch)
        _drain(inotify)
        for directory, *_ in places:
            inotify.add_watch(directory, _CHANGES)

    def _follow(self, inotify: Inotify) -> None:
        asyncio.get_running_loop().add_reader(inotify.fd, self._take, inotify)

    def _ignore(self, inotify: Inotify) -> None:
        """Leave events in the queue, where they cost nothing."""
        asyncio.get_running_loop().remove_reader(inotify.fd)
        if self._rest:
            self._rest.cancel()

    def _take(self, inotify: Inotify) -> None:
        """Take the queued events. asyncinotify's ``get`` loses some when it is cancelled.

        Those after one that wakes are left until `arm`, those after others for a moment.
        """
        self._ignore(inotify)
        events = list(islice(inotify, _BATCH))
        # After a full batch more may be buffered, for which the loop is not woken: `_watch` drops them.
        if len(events) == _BATCH or any(event.mask & _DEAD for event in events):
            self._watched = None
        if (
            self._watched is None
            or tuple(directory for directory, *_ in self._watched) != self._paths
            or any(self._wakes(str(event.name or "")) for event in events)
        ):
            self._changed.set()
        else:
            self._rest = asyncio.get_running_loop().call_later(_REST, self._follow, inotify)


def _drain(inotify: Inotify) -> None:
    for _ in islice(inotify, _QUEUE):
        pass


def _place(directory: str) -> _Place:
    """Return the place of a directory, or of the nearest one above it that exists. Blocks."""
    with suppress(OSError):
        status = os.stat(directory)
        if stat.S_ISDIR(status.st_mode):
            return directory, status.st_dev, status.st_ino
    return _place(os.path.dirname(directory) or ".")
