"""Accepts connections, also while file descriptors run out.

asyncio calls accept() ``backlog`` times per wake-up and starts a retry timer for every EMFILE
(selector_events.py, _accept_connection), which burns a core. So servers start with a backlog of `AT_ONCE`,
and their sockets are set to a real backlog afterwards.
"""

import asyncio
import errno
import logging
import socket
from typing import Any, Final

from xilinx_fpga_dp import process
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

AT_ONCE: Final = 1
"""The backlog to start a server with."""

# A TCP connection that finds no room is retried after a second, which is all the time that a probe of
# kubelet has. The kernel caps the backlog at net.core.somaxconn.
_BACKLOG = 4096
_QUIET = 10.0  # seconds between two warnings

process.retry_accept_soon()


def set_backlog(listener: socket.socket) -> None:
    """Set the backlog of a socket; call it again once its server has started."""
    listener.listen(_BACKLOG)


class FdExhaustionHandler:
    """A loop's exception handler that logs once what asyncio reports for each connection it cannot accept."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception that no task has caught."""
        error = context.get("exception")
        if isinstance(error, ValueError) and "_start_serving" in context["message"]:
            return  # asyncio retries on a listener that is closed by now
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= self._quiet_until:
            self._quiet_until = loop.time() + _QUIET
            log.warning(Event.NO_DESCRIPTOR, extra={"error": error.strerror})
