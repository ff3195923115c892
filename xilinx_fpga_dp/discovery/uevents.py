"""Kernel uevents as wake-ups: a card plugged or pulled, a driver bound or unbound, a drm node made.

An event carries no data here; it causes a scan. Nothing depends on its arrival: the drivers send none when a
device goes offline or becomes ready (XRT has no sysfs_notify), and a pod in its own user namespace gets none.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)

_KERNEL_GROUP = 1  # the kernel's own events; group 2 is udev's and stays in the host's network namespace
_PROTOCOL = 15  # NETLINK_KOBJECT_UEVENT
_SUBSYSTEMS = tuple(f"SUBSYSTEM={name}".encode() for name in ("pci", "drm", "xrt_user", "xrt_mgmt"))
_MAX_EVENT = 8192  # bytes: the kernel's UEVENT_BUFFER_SIZE is 2048
_MAX_EVENTS = 1000  # received before other tasks run


def open_socket() -> socket.socket:
    """Open a socket that receives the kernel's uevents.

    Raises:
        OSError: netlink is missing or not permitted.
    """
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _PROTOCOL)
    try:
        events.bind((0, _KERNEL_GROUP))
    except OSError:
        events.close()
        raise
    return events


async def listen(wake: Callable[[], None], opened: Callable[[], socket.socket] = open_socket) -> None:
    """Call ``wake`` for every burst of events that may concern a card. Ends only if there is no netlink."""
    try:
        events = opened()
    except OSError as error:
        log.warning(Event.NO_KERNEL_EVENTS, extra={"error": error.strerror})
        return
    with events:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(events, readable.set)
        try:
            while await readable.wait():
                readable.clear()
                if _receive(events):
                    wake()
        finally:
            loop.remove_reader(events)


def _receive(events: socket.socket) -> bool:
    """Receive all queued events; return whether one of them may concern a card."""
    relevant = False
    for _ in range(_MAX_EVENTS):
        try:
            event, sender = events.recvfrom(_MAX_EVENT)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            relevant = True  # the kernel has dropped events
            continue
        from_kernel = not isinstance(sender, tuple) or sender[0] == 0
        relevant = relevant or (from_kernel and any(line in _SUBSYSTEMS for line in event.split(b"\0")))
    return relevant
