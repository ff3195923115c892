"""Kernel uevents as wake-ups: a card plugged or pulled, a driver bound or unbound, a drm node come or gone.

They carry no data here: what they wake looks at sysfs anew. Nothing depends on one arriving: the drivers
send none when a device goes offline or ready (XRT has no sysfs_notify), and a pod in its own user namespace
gets none at all.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

_KERNEL_GROUP = 1  # the kernel's own events; group 2 is udev's and stays in the host's network namespace
_PROTOCOL = 15  # NETLINK_KOBJECT_UEVENT
_SUBSYSTEMS = tuple(f"SUBSYSTEM={name}".encode() for name in ("pci", "drm", "xrt_user", "xrt_mgmt"))
_MAX_EVENT = 8192  # bytes: the kernel's UEVENT_BUFFER_SIZE is 2048
_MOST_AT_ONCE = 1000  # events taken before the loop gets its turn


def open_socket() -> socket.socket:
    """A socket on which the kernel tells its uevents.

    Raises:
        OSError: there is no netlink here, or not for us.
    """
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _PROTOCOL)
    try:
        events.bind((0, _KERNEL_GROUP))
    except OSError:
        events.close()
        raise
    return events


async def listen(wake: Callable[[], None], opened: Callable[[], socket.socket] = open_socket) -> None:
    """Call ``wake`` for every burst of events that may concern a card, for ever."""
    try:
        events = opened()
    except OSError as error:
        log.warning("no kernel events, cards are looked for by timer only", extra={"error": error.strerror})
        return
    with events:
        loop = asyncio.get_running_loop()
        while True:
            readable = loop.create_future()
            loop.add_reader(events, _done, readable)
            try:
                await readable
            finally:
                loop.remove_reader(events)
            if _concerns_us(events):
                wake()


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _concerns_us(events: socket.socket) -> bool:
    """Take what has come; whether anything of it may be about a card."""
    ours = False
    for _ in range(_MOST_AT_ONCE):
        try:
            event, sender = events.recvfrom(_MAX_EVENT)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            ours = True  # events were lost: look
            continue
        from_kernel = not isinstance(sender, tuple) or sender[0] == 0
        ours = ours or (from_kernel and any(line in _SUBSYSTEMS for line in event.split(b"\0")))
    return ours
