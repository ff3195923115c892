"""Host paths that containers get as mounts, if they exist.

kubelet creates a directory for a mount source that is missing, so a missing path is left out.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Sequence
from functools import partial

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_TIME_LIMIT = 2.0  # seconds that checking all paths may take
_STEPS = 1000  # parts of a path and of the links in it; a kernel follows 40 links


class HostPaths:
    """Checks which host paths exist."""

    def __init__(self, root: str, paths: Sequence[str]) -> None:
        self._root = root.rstrip("/")  # where the host's root is mounted
        self._paths = paths  # absolute, on the host
        self._reads: BlockingReader[None] = BlockingReader()
        self._missing: set[str] = set()  # logged as missing

    async def existing(self, time_limit: float = _TIME_LIMIT, more: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the paths that exist now, of these and more.

        One that does not answer, on a mount that hangs, is left out.
        """
        limit = min(time_limit, _TIME_LIMIT)
        paths = tuple(dict.fromkeys([*more, *self._paths]))
        if not paths and not self._missing:
            return ()
        checks = [self._reads.read_fresh(path, partial(resolve, self._root, path), limit) for path in paths]
        outcomes = dict(zip(paths, await asyncio.gather(*checks), strict=True))
        missing = {path for path, outcome in outcomes.items() if outcome is not None}
        for path in sorted(missing - self._missing):
            error = "no answer" if isinstance(outcomes[path], Pending) else "not on the host"
            log.warning(Event.EXTRA_MOUNT_LEFT_OUT, extra={"path": path, "error": error})
        self._missing = missing
        return tuple(path for path in paths if path not in missing)


def resolve(root: str, path: str) -> None:
    """Resolve an absolute path on a host whose root is at ``root``, following links from there. Blocks.

    Raises:
        OSError: it does not exist or cannot be resolved.
    """
    done: list[str] = []
    todo = path.split("/")
    for _ in range(_STEPS):
        if not todo:
            return
        part, *todo = todo
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        try:
            target = os.readlink("/".join((root, *done, part)))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            done.append(part)  # it exists and is no link
        else:
            done = [] if target.startswith("/") else done
            todo = target.split("/") + todo
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
