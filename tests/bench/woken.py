"""The service as it is, but hearing kernel events on a unix datagram socket: netlink lets only root speak.

``python -m tests.bench.woken run``; the socket's path stands in ``BENCH_EVENTS``.
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
