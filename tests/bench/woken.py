"""The service with kernel events from a unix datagram socket, since only root can send them by netlink.

``python -m tests.bench.woken run``; ``BENCH_EVENTS`` is the path of the socket.
"""

import os
import socket
import sys
from functools import partial

from xilinx_fpga_dp.cli import main
from xilinx_fpga_dp.discovery import uevents

EVENT = b"\0".join((b"change@/devices/card", b"ACTION=change", b"SUBSYSTEM=pci", b""))


def _events() -> socket.socket:
    events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    events.bind(os.environ["BENCH_EVENTS"])
    return events


if __name__ == "__main__":
    uevents.listen = partial(uevents.listen, opened=_events)
    sys.exit(main())
