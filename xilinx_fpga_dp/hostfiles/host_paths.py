"""Host paths that containers get as mounts: which of them are there."""

import asyncio
import errno
import logging
import os
from collections.abc import Sequence
from functools import partial

from xilinx_fpga_dp.aio.blocking_reader import BlockingReader, Pending

log = logging.getLogger(__name__)

_TIME_LIMIT = 2.0  # seconds a look at all paths may take
_STEPS = 1000  # parts of a path and of the links in it; a kernel follows 40 links


class HostPaths:
    """Host paths that are mounted into containers, if they are there.

    kubelet makes a directory of a mount source that is not there, so a missing one is left out.

    Args:
        root: where the host's root is.
        paths: absolute host paths.
    """

    def __init__(self, root: str, paths: Sequence[str]) -> None:
        self._root = root.rstrip("/")
        self._paths = paths
        self._reads: BlockingReader[None] = BlockingReader()
        self._missing: set[str] = set()  # that were complained of

    async def there(self, limit: float = _TIME_LIMIT) -> tuple[str, ...]:
        """Those that are there now; one that does not answer, on a mount that hangs, is not.

        Args:
            limit: seconds they may take, all together, if that is less than usual.
        """
        looks = [
            self._reads.read_fresh(path, partial(look_up, self._root, path), min(limit, _TIME_LIMIT))
            for path in self._paths
        ]
        answers = dict(zip(self._paths, await asyncio.gather(*looks), strict=True))
        missing = {path for path, answer in answers.items() if answer is not None}
        for path in sorted(missing - self._missing):
            why = "it does not answer" if isinstance(answers[path], Pending) else "it is not on the host"
            log.warning("extra mount left out: %s", why, extra={"path": path})
        self._missing = missing
        return tuple(path for path in self._paths if path not in missing)


def look_up(root: str, path: str) -> None:
    """Look an absolute path up on a host whose root is at ``root``: links lead from there. Blocks.

    Raises:
        OSError: it is not there, or can't be looked up.
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
            done.append(part)  # it is there, and no link
        else:
            done = [] if target.startswith("/") else done
            todo = target.split("/") + todo
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
