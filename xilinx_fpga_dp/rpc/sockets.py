"""The paths of unix sockets, and the removal of sockets that dead instances left."""

import errno
import logging
import os
import socket
import stat
import time
from collections.abc import Iterable

from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

MAX_PATH = 107  # bytes of a unix socket's path: sizeof(sockaddr_un.sun_path) less the final zero

# Seconds an instance may take from its bind, which inotify reports to other instances, to its listen.
_BIND_TO_LISTEN = 0.1


def is_socket(path: str) -> bool:
    """Whether a path is a socket, not a link to one. Blocks."""
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def sweep(directory: str, names: Iterable[str]) -> bool:
    """Remove the sockets that refuse connections: a dead instance left them. Blocks.

    Return whether all of those could be removed.
    """
    dead = [path for path in (os.path.join(directory, name) for name in names) if _refuses(path)]
    if dead:
        time.sleep(_BIND_TO_LISTEN)
    left = [path for path in dead if _refuses(path) and not _removed(path)]
    return not left


def connect_error(path: str) -> int:
    """Connect to a socket; return the number of the error, 0 if there is none. Blocks for no time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(path)


def _refuses(path: str) -> bool:
    return is_socket(path) and connect_error(path) == errno.ECONNREFUSED  # another file refuses, too


def _removed(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    log.info(Event.DEAD_SOCKET_REMOVED, extra={"socket": os.path.basename(path)})
    return True
