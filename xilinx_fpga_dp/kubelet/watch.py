"""Watching the directory where kubelet's socket is and ours go.

inotify only wakes; what counts is a look at the directory. So nothing is missed: not a directory made anew,
renamed or mounted over, not an overflow of the queue, and a node out of inotify watches is only slower.
"""

import asyncio
import logging
import os
import stat
from dataclasses import dataclass
from functools import partial

from asyncinotify import Inotify, Mask

from xilinx_fpga_dp.kubelet.instances import FOLDER, Presence
from xilinx_fpga_dp.kubelet.meter import Meter
from xilinx_fpga_dp.latest import Latest
from xilinx_fpga_dp.reads import Pending, Reads

log = logging.getLogger(__name__)

KUBELET_SOCKET = "kubelet.sock"
SUFFIX = "-fpga.sock"  # of every socket of ours

# Seconds between looks that nothing woke, and that one look may take.
_LOOK_EVERY = 2.0
_LOOK_LIMIT = 5.0
# Seconds between looks while a newer instance speaks.
_STANDBY = 0.5
# Seconds in which a burst of events is folded into one look.
_BURST = 0.002

_CHANGES = Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.MOVE_SELF
# After these a watch follows nothing, or another directory than the path says.
_DEAD = Mask.IGNORED | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.Q_OVERFLOW | Mask.UNMOUNT

Identity = tuple[int, int, int]
"""Device, inode and time of modification of a file: a chmod changes none, a new file one of them.

The inode alone does not tell: a new socket can get that of the one just removed.
"""


@dataclass(frozen=True, slots=True)
class SocketDirectory:
    """What one look at the directory showed.

    Attributes:
        place: the directory itself: another one after it was made anew or mounted over.
        kubelet: kubelet's socket; None: there is none.
        newer: a newer instance of this program lives on the node, and speaks in our place.
        ours: the sockets with our suffix, whoever made them.
        problem: why the directory could not be looked at.
    """

    place: Identity | None = None
    kubelet: Identity | None = None
    ours: frozenset[tuple[str, Identity]] = frozenset()
    newer: bool = False
    problem: str | None = None


class Watch:
    """The directory as it was last seen. ``directory`` changes when it does."""

    def __init__(self, path: str, meter: Meter) -> None:
        self.path = path
        self._meter = meter
        self._kubelet: Identity | None = None  # the last one seen
        self.directory = Latest(SocketDirectory())
        self.mine: set[str] = set()  # the names of this process's sockets, kept by who makes them
        self._presence = Presence()
        self._reads: Reads[SocketDirectory] = Reads()
        self._looking = asyncio.Lock()
        self._told: str | None = None  # the problem that was logged last

    async def look(self) -> SocketDirectory:
        """Look now. What was done to the directory before this call is seen."""
        async with self._looking:
            seen = (await self._reads.gather({"": partial(_look, self.path, self._presence)}, _LOOK_LIMIT))[
                ""
            ]
        if isinstance(seen, Pending):
            seen = SocketDirectory(problem=f"no answer for {_LOOK_LIMIT:g} s")
        elif isinstance(seen, Exception):
            seen = SocketDirectory(problem=repr(seen))
        self._tell(seen.problem)
        if seen.kubelet is not None:
            if self._kubelet not in (None, seen.kubelet):
                self._meter.kubelet_restart()
            self._kubelet = seen.kubelet
        self.directory.set(seen)
        return seen

    async def run(self) -> None:
        """Keep ``directory`` true, for ever; when cancelled, make room for an older instance."""
        try:
            await self._follow()
        finally:
            self._presence.leave(self.path)

    async def _follow(self) -> None:
        while True:
            place = (await self.look()).place
            try:
                with Inotify() as inotify:
                    self._add_watches(inotify)
                    while (await self.look()).place == place and await self._woken(inotify):
                        continue
            except OSError as error:  # inotify's limits are used up, or the directory went that moment
                log.debug("no inotify, looking by timer", extra={"error": str(error)})
                await asyncio.sleep(_LOOK_EVERY / 4)

    def _add_watches(self, inotify: Inotify) -> None:
        try:
            # Tells when the directory itself is made anew. Inside a pod it is a mount; then the timer does.
            inotify.add_watch(os.path.dirname(self.path), Mask.CREATE | Mask.MOVED_TO | Mask.ONLYDIR)
        except OSError:
            log.debug("parent not watched", extra={"path": self.path})
        for path, changes in ((self.path, _CHANGES), (f"{self.path}/{FOLDER}", _CHANGES | Mask.CLOSE_WRITE)):
            if os.path.isdir(path):
                inotify.add_watch(path, changes | Mask.ONLYDIR)

    async def _woken(self, inotify: Inotify) -> bool:
        """Wait for events or the timer, then let a burst pass. False: this watch is of no use any more."""
        try:
            async with asyncio.timeout(_STANDBY if self.directory.value.newer else _LOOK_EVERY):
                event = await inotify.get()
            async with asyncio.timeout(_BURST):
                while not event.mask & _DEAD:
                    event = await inotify.get()
        except TimeoutError:
            return True
        return False

    def _tell(self, problem: str | None) -> None:
        if problem != self._told:
            if problem:
                log.warning("socket directory", extra={"path": self.path, "problem": problem})
            else:
                log.info("socket directory is back", extra={"path": self.path})
            self._told = problem


def _look(path: str, presence: Presence) -> SocketDirectory:
    kubelet = None
    ours = set()
    try:
        newer = presence.newer_lives(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name == KUBELET_SOCKET or entry.name.endswith(SUFFIX):
                    identity = _identity(entry.path)
                    if identity and entry.name == KUBELET_SOCKET:
                        kubelet = identity
                    elif identity:
                        ours.add((entry.name, identity))
    except OSError as error:
        return SocketDirectory(problem=error.strerror)
    return SocketDirectory(_identity(path), kubelet, frozenset(ours), newer)


def _identity(path: str) -> Identity | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):  # a directory is modified by whatever happens in it
        return (status.st_dev, status.st_ino, 0)
    return (status.st_dev, status.st_ino, status.st_mtime_ns)
