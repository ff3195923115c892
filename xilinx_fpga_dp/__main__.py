"""``python -m xilinx_fpga_dp``: the same as the ``xilinx-fpga-dp`` script."""

import gc
import os
import signal

# Nothing of what is loaded is garbage; looking for some is a tenth of what a start costs. `cli` turns it
# on again.
gc.disable()
# No other package has a say in how settings are read, and none need be looked through for one that wants it.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# Before anything that takes time: a signal that comes while the service starts waits until it can be heeded.
# `cli` lets them through again for the commands that do not heed them.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

from xilinx_fpga_dp import process as without_tls  # noqa: E402, F401 - before asyncio
from xilinx_fpga_dp.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
