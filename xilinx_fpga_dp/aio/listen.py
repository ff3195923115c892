"""Taking connections, also where there is no file descriptor for one: then asyncio needs some help.

It takes as many connections in a row as may wait, and goes on where there was no descriptor for one
(selector_events.py _accept_connection): so many failures and as many timers, each of which fails as often.
That is a core. So servers are started to take ``AT_ONCE``, and their sockets then told how many may wait.
"""

import asyncio
import errno
import logging
import socket
from asyncio import constants
from typing import Any, Final

log = logging.getLogger(__name__)

AT_ONCE: Final = 1
"""The backlog to start a server with."""

# Connections; the kernel lets no more wait than net.core.somaxconn. One over TCP that finds no room is tried
# again after a second, and a probe of kubelet's has no more time than that.
_WAITING = 4096
_QUIET = 10.0  # seconds between two warnings
# Seconds until connections are taken again after there was no descriptor for one; 1 in asyncio, and kubelet
# would wait as long.
constants.ACCEPT_RETRY_DELAY = 0.25  # type: ignore[misc,assignment]


def let_wait(listener: socket.socket) -> None:
    """Let connections wait at a socket; to be said again once its server has been started."""
    listener.listen(_WAITING)


class FdExhaustionHandler:
    """A loop's exception handler that says once what asyncio says of every connection it can't take."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle what has failed with nobody to tell."""
        error = context.get("exception")
        if isinstance(error, ValueError) and "_start_serving" in context["message"]:
            return  # asyncio tries again on a listener that is closed by now
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= self._quiet_until:
            self._quiet_until = loop.time() + _QUIET
            log.warning("no file descriptor for a connection", extra={"error": error.strerror})
