"""The names of the plugin's sockets, and the removal of those that dead instances left."""

import errno
import logging
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterable

from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

SUFFIX = "-fpga.sock"  # of every socket of this program, and of plugin 1.3.0's
MAX_PATH = 107  # bytes of a unix socket's path: sizeof(sockaddr_un.sun_path) less the final zero
_TOKEN_BYTES = 6
_OWN = re.compile(rf"(?:.+-)?[0-9a-f]{{{2 * _TOKEN_BYTES}}}{re.escape(SUFFIX)}")
SHORTEST_NAME = 2 * _TOKEN_BYTES + len(SUFFIX)

# Seconds an instance may take from its bind, which inotify reports to other instances, to its listen.
_BIND_TO_LISTEN = 0.1


def new_name(directory: str, resource: str) -> str:
    """Return a name that was never used before; it names the resource as far as the path's length allows."""
    token = secrets.token_hex(_TOKEN_BYTES)
    room = MAX_PATH - len(os.fsencode(directory)) - 1 - SHORTEST_NAME - 1
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", resource.rpartition("/")[2])[: max(room, 0)]
    return f"{stem}-{token}{SUFFIX}" if stem else token + SUFFIX


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


def foreign_sockets(directory: str) -> tuple[str, ...]:
    """Return the names of live sockets with our suffix and no token: plugin 1.3.0 makes such. Blocks.

    Raises:
        OSError: the directory can't be listed.
    """
    names = [name for name in os.listdir(directory) if name.endswith(SUFFIX) and not _OWN.fullmatch(name)]
    return tuple(name for name in sorted(names) if _connect(os.path.join(directory, name)) == 0)


def _refuses(path: str) -> bool:
    return is_socket(path) and _connect(path) == errno.ECONNREFUSED  # another file refuses, too


def _connect(path: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(path)


def _removed(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    log.info(Event.DEAD_SOCKET_REMOVED, extra={"socket": os.path.basename(path)})
    return True
