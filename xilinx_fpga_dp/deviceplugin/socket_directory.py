"""The directory of kubelet's socket and the plugin's: its state, kept current, and the sockets served in it.

One scan reads the whole directory and gives a whole new state; inotify or a timer only wakes the next scan.
It runs in a thread with a time limit: the directory may be on a mount that hangs. If it does not answer, the
state keeps what must not be guessed. Each scan also renews this instance's `InstanceLock`.

kubelet removes all sockets when it starts (cm/devicemanager/manager.go) and leaves its own behind when it
dies. So a state names files by identity: another identity of ``kubelet.sock`` is a new kubelet, and a missing
name or identity of a served socket means that kubelet can't reach it. Endpoints wait on ``state`` and decide
for themselves.
"""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.aio.coalesced import Coalesced
from xilinx_fpga_dp.aio.directory_watcher import DirectoryWatcher
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.aio.rate_limit import RateLimit
from xilinx_fpga_dp.deviceplugin.socket_names import SUFFIX, new_name
from xilinx_fpga_dp.hostfiles.instance_lock import InstanceLock
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.rpc.server import Servicer, serving
from xilinx_fpga_dp.rpc.sockets import is_socket

log = logging.getLogger(__name__)

KUBELET_SOCKET = "kubelet.sock"

_SCAN_EVERY = 2.0  # seconds between scans that nothing woke
_SCAN_SOON = 0.5  # the same while a newer instance is active or the directory can't be read or written
_SCAN_LIMIT = 5.0  # seconds that a scan may take
_RELEASE_LIMIT = 0.3  # seconds that the release of the lock may take
# Events cause so many scans in a row, then one every so many seconds.
_BURST = 10
_INTERVAL = 0.02

Identity = tuple[int, int, int]
"""Device, inode and time of modification of a file: a chmod changes none of them, a new file at least one.

The inode alone is not enough: a new socket can get that of the one just removed.
"""


class Socket(NamedTuple):
    """A socket with our suffix. Its name was never used before."""

    name: str
    identity: Identity | None  # None if it was gone as soon as it was made


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """The result of one scan."""

    kubelet: Identity | None = None  # of kubelet's socket; None if there is none
    sockets: frozenset[Socket] = frozenset()  # of this and other instances
    standby: bool = False  # a newer instance lives on the node, so this one stands by
    newest_instance: str = ""  # the newest of the newer ones so far, dead or alive; empty if there was none
    problem: str | None = None  # why the directory can't be read, or takes no socket; None if it does


class SocketDirectory:
    """The directory as of the last scan, in ``state``."""

    def __init__(self, path: str, lock: InstanceLock, restarted: Callable[[], None]) -> None:
        self.path = path
        self.kubelet_socket = os.path.join(path, KUBELET_SOCKET)
        self.lock = lock
        self._restarted = restarted  # called for a new kubelet socket in place of an earlier one
        self.state = Latest(DirectoryState())  # set by `refresh`
        self._kubelet: Identity | None = None  # the last one seen
        self._own: set[str] = set()  # names of this process's sockets
        self._reads: BlockingReader[Any] = BlockingReader()
        self._scans = Coalesced(self._refresh)

    def kubelet(self) -> Identity | None:
        """Return the identity of kubelet's socket now, which no scan may have shown yet."""
        return identity_of(self.kubelet_socket)

    @property
    def others(self) -> frozenset[str]:
        """The names of other instances' sockets; those of dead instances stay until they are swept."""
        return frozenset(name for name, _ in self.state.value.sockets) - self._own

    @asynccontextmanager
    async def serving(self, servicer: Servicer, resource: str) -> AsyncIterator[Socket]:
        """Serve a resource on a new socket here, as `rpc.server.serving` does."""
        name = new_name(self.path, resource)
        path = os.path.join(self.path, name)
        self._own.add(name)
        try:
            async with serving(servicer, path):
                yield Socket(name, identity_of(path))
        finally:
            self._own.discard(name)

    async def refresh(self) -> DirectoryState:
        """Scan now: the state shows what was done before this call. Concurrent callers share a scan."""
        return await self._scans.run()

    async def run(self) -> None:
        """Keep ``state`` current, for ever; when cancelled, make way for an older instance."""
        limit = RateLimit(_BURST, _INTERVAL)
        try:
            # A socket is complete once it exists.
            with DirectoryWatcher(self.path, self.lock.folder, fold=0) as watcher:
                while True:
                    await watcher.arm()
                    state = await self.refresh()
                    await watcher.wait(_SCAN_SOON if state.standby or state.problem else _SCAN_EVERY)
                    await limit.wait()
        except asyncio.CancelledError:
            # Behind a scan under way, which would take the lock again
            await self._reads.read_fresh("", self.lock.release, _RELEASE_LIMIT)
            raise

    async def _refresh(self) -> DirectoryState:
        last = self.state.value
        try:
            state = await self._reads.read(partial(_scan, self.path, self.lock), _SCAN_LIMIT)
        except Exception as error:
            problem = f"no answer for {_SCAN_LIMIT:g} s" if isinstance(error, TimeoutError) else repr(error)
            state = replace(last, kubelet=None, sockets=frozenset(), problem=problem)
        if state.problem != last.problem:
            if state.problem:
                extra = {"path": self.path, "problem": state.problem}
                log.warning(Event.SOCKET_DIRECTORY_UNUSABLE, extra=extra)
            else:
                log.info(Event.SOCKET_DIRECTORY_USABLE, extra={"path": self.path})
        if state.kubelet is not None:
            if self._kubelet not in (None, state.kubelet):
                self._restarted()
            self._kubelet = state.kubelet
        self.state.set(state)
        return self.state.value


def _scan(path: str, lock: InstanceLock) -> DirectoryState:
    standby = lock.has_newer_instance()
    kubelet, sockets, problem = None, frozenset[Socket](), None
    try:
        found = {name: os.path.join(path, name) for name in os.listdir(path) if name.endswith(SUFFIX)}
        identities = {name: identity_of(each) for name, each in found.items() if is_socket(each)}
        sockets = frozenset(Socket(name, identity) for name, identity in identities.items() if identity)
        kubelet = identity_of(os.path.join(path, KUBELET_SOCKET))
        require_writable(path)
    except OSError as error:
        problem = error.strerror
    return DirectoryState(kubelet, sockets, standby, lock.newest, problem)


def require_writable(path: str) -> None:
    """Check that a file can be made in a directory, without making one. Blocks.

    Raises:
        OSError: it can't, and why.
    """
    if not os.access(path, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number))


def identity_of(path: str) -> Identity | None:
    """Return the identity of a file, of a link itself; None if there is no file."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns)
