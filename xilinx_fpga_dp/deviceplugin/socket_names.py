"""The names of the plugin's sockets."""

import os
import re
import secrets

from xilinx_fpga_dp.rpc.sockets import MAX_PATH, connect_error

SUFFIX = "-fpga.sock"  # of every socket of this program, and of plugin 1.3.0's
_TOKEN_BYTES = 6
_OWN = re.compile(rf"(?:.+-)?[0-9a-f]{{{2 * _TOKEN_BYTES}}}{re.escape(SUFFIX)}")
SHORTEST_NAME = 2 * _TOKEN_BYTES + len(SUFFIX)


def new_name(directory: str, resource: str) -> str:
    """Return a name that was never used before; it names the resource as far as the path's length allows."""
    token = secrets.token_hex(_TOKEN_BYTES)
    room = MAX_PATH - len(os.fsencode(directory)) - 1 - SHORTEST_NAME - 1
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", resource.rpartition("/")[2])[: max(room, 0)]
    return f"{stem}-{token}{SUFFIX}" if stem else token + SUFFIX


def foreign_sockets(directory: str) -> tuple[str, ...]:
    """Return the names of live sockets with our suffix and no token: plugin 1.3.0 makes such. Blocks.

    Raises:
        OSError: the directory can't be listed.
    """
    names = [name for name in os.listdir(directory) if name.endswith(SUFFIX) and not _OWN.fullmatch(name)]
    return tuple(name for name in sorted(names) if connect_error(os.path.join(directory, name)) == 0)
