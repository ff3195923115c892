"""The service as in a pod, with the files of a service account in ``BENCH_SERVICE_ACCOUNT``.

``python -m tests.bench.in_pod``; a kubeconfig would load YAML, which no pod needs. Import nothing from here.
"""

from xilinx_fpga_dp import process

process.prepare()

import os  # noqa: E402
import sys  # noqa: E402

from xilinx_fpga_dp.apiserver import access  # noqa: E402
from xilinx_fpga_dp.cli import main  # noqa: E402

if __name__ == "__main__":
    os.environ.pop("KUBECONFIG", None)
    access.SERVICE_ACCOUNT = os.environ["BENCH_SERVICE_ACCOUNT"]  # type: ignore[misc]
    sys.exit(main())
