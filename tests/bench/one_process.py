"""The service that checks its settings in its own process, as it does where no child process can be started.

``python -m tests.bench.one_process``. The reference of a start.
"""

import errno
import os
import sys
from typing import NoReturn

from xilinx_fpga_dp import process

process.prepare()

from xilinx_fpga_dp.cli import main  # noqa: E402


def _no_child() -> NoReturn:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


if __name__ == "__main__":
    os.fork = _no_child
    sys.exit(main())
