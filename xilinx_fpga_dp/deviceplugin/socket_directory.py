"""Watching the directory where kubelet's socket is and ours go: what counts is a look at it."""

import asyncio
import errno
import logging
import os
import stat
from dataclasses import dataclass

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending
from xilinx_fpga_dp.aio.coalesced import Coalesced
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher, Place
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.rate_limit import RateLimit
from xilinx_fpga_dp.deviceplugin.instance_lock import FOLDER, InstanceLock
from xilinx_fpga_dp.deviceplugin.plugin_metrics import PluginMetrics

log = logging.getLogger(__name__)

KUBELET_SOCKET = "kubelet.sock"
SUFFIX = "-fpga.sock"  # of every socket of ours

# Seconds between looks that nothing woke, and that one look may take.
_LOOK_EVERY = 2.0
_LOOK_LIMIT = 5.0
_LEAVING = 0.3  # and making room for another instance
# Seconds between looks while a newer instance speaks, the directory can't be looked at or has just become
# another one.
_SOON = 0.5
# What happens in the directory is looked at at once so many times in a row, then every so many seconds.
_AT_ONCE = 10
_INTERVAL = 0.02

Identity = tuple[int, int, int]
"""Device, inode and time of modification of a file: a chmod changes none, a new file one of them.

The inode alone does not tell: a new socket can get that of the one just removed.
"""


@dataclass(frozen=True, slots=True)
class SocketDirectory:
    """What one look at the directory showed.

    Attributes:
        kubelet: kubelet's socket; None: there is none.
        ours: the sockets with our suffix, whoever made them.
        newer: a newer instance of this program lives on the node, and speaks in our place.
        newest: the newest of those newer ones there have been; it may be gone again.
        problem: why the directory could not be looked at, or takes no socket.
    """

    kubelet: Identity | None = None
    ours: frozenset[tuple[str, Identity]] = frozenset()
    newer: bool = False
    newest: str = ""
    problem: str | None = None


class Watch:
    """The directory as it was last seen. ``directory`` changes when it does."""

    def __init__(self, path: str, meter: PluginMetrics) -> None:
        self.path = path
        self._meter = meter
        self._kubelet: Identity | None = None  # the last one seen
        self.directory = Latest(SocketDirectory())
        self.mine: set[str] = set()  # the names of this process's sockets, kept by who makes them
        self._presence = InstanceLock()
        # fold: kubelet's socket and ours are whole as soon as they are there
        self._wakeups = DirectoryWatcher(path, f"{path}/{FOLDER}", fold=0)
        self._reads: BlockingReader[tuple[list[Place], SocketDirectory] | None] = BlockingReader()
        self._looks = Coalesced(self._look)
        self._places: list[Place] | None = None  # where the paths led at the last look, if it told
        self._told: str | None = None  # the problem that was logged last

    @property
    def others(self) -> frozenset[str]:
        """The names of other instances' sockets, as last seen; a dead one's stays until it is swept up."""
        return frozenset(name for name, _ in self.directory.value.ours) - self.mine

    def outdone(self) -> bool:
        """Whether a newer instance is there now, which no look may have shown yet. Blocks, as a bind does."""
        return self._presence.outdone(self.path)

    async def look(self) -> SocketDirectory:
        """Look now. What was done to the directory before this call is seen; all who wait share a look."""
        return await self._looks.run()

    async def _look(self) -> SocketDirectory:
        seen = await self._read()
        self._see(seen)
        return seen

    async def _read(self) -> SocketDirectory:
        answer = await self._reads.read_fresh("", self._places_and_look, _LOOK_LIMIT)
        if isinstance(answer, tuple):
            self._places, seen = answer
            return seen
        self._places = None
        problem = f"no answer for {_LOOK_LIMIT:g} s" if isinstance(answer, Pending) else repr(answer)
        before = self.directory.value
        return SocketDirectory(newer=before.newer, newest=before.newest, problem=problem)

    def _places_and_look(self) -> tuple[list[Place], SocketDirectory]:
        return self._wakeups.locate(), _look(self.path, self._presence)

    def _see(self, seen: SocketDirectory) -> None:
        self._tell(seen.problem)
        if seen.kubelet is not None:
            if self._kubelet not in (None, seen.kubelet):
                self._meter.kubelet_restart()
            self._kubelet = seen.kubelet
        self.directory.set(seen)

    async def run(self) -> None:
        """Keep ``directory`` true, for ever; when cancelled, make room for an older instance."""
        try:
            await self._follow()
        except asyncio.CancelledError:
            # After a look that is under way, which would be seen again
            await self._reads.read_fresh("", self._leave, _LEAVING)
            raise

    def _leave(self) -> None:
        self._presence.leave(self.path)

    async def _follow(self) -> None:
        now = asyncio.get_running_loop().time
        pace = RateLimit(_AT_ONCE, _INTERVAL)
        with self._wakeups as wakeups:
            while True:
                wakeups.clear()
                seen = await self.look()
                if self._places is None or not wakeups.rewatch(self._places):
                    soon = seen.newer or seen.problem or self._presence.moving
                    await wakeups.wait(_SOON if soon else _LOOK_EVERY)
                await asyncio.sleep(pace.delay(now()))
                pace.done(now())

    def _tell(self, problem: str | None) -> None:
        if problem != self._told:
            if problem:
                log.warning("socket directory", extra={"path": self.path, "problem": problem})
            else:
                log.info("socket directory is back", extra={"path": self.path})
            self._told = problem


def _look(path: str, presence: InstanceLock) -> SocketDirectory:
    kubelet = None
    ours = set()
    newer = presence.newer_lives(path)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name == KUBELET_SOCKET:
                    kubelet = identity_of(entry.path)
                elif entry.name.endswith(SUFFIX) and (status := _socket_status(entry.path)):
                    ours.add((entry.name, _identity(status)))
        refused = unwritable(path)
    except OSError as error:
        return SocketDirectory(newer=newer, newest=presence.newest, problem=error.strerror)
    problem = os.strerror(refused) if refused else None
    return SocketDirectory(kubelet, frozenset(ours), newer, presence.newest, problem)


def unwritable(path: str) -> int | None:
    """The errno that making something in a directory would end with; None: nothing forbids it. Blocks.

    Raises:
        OSError: the directory can't be looked at.
    """
    if os.access(path, os.W_OK | os.X_OK):
        return None
    return errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES


def is_socket(path: str) -> bool:
    """Whether a socket is there. Blocks."""
    return _socket_status(path) is not None


def _socket_status(path: str) -> os.stat_result | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status if stat.S_ISSOCK(status.st_mode) else None


def identity_of(path: str) -> Identity | None:
    """The identity of what is there; None: nothing is."""
    try:
        return _identity(os.lstat(path))
    except OSError:
        return None


def _identity(status: os.stat_result) -> Identity:
    return (status.st_dev, status.st_ino, status.st_mtime_ns)
