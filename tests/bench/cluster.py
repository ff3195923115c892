"""The row of the command `cluster`: the table of many nodes, read through the API server's proxy of pods."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from tests.bench.api import api_server
from tests.bench.figures import Figure
from tests.bench.stage import environment, place

_NODES, _CARDS = 200, 4
_COMMAND = [sys.executable, "-m", "xilinx_fpga_dp", "cluster"]


def cluster(quick: bool) -> Iterator[Figure]:
    """Measure the command from its start to its end; the API server and all pods are one other process."""
    wall, cpu = [], []
    with (
        tempfile.TemporaryDirectory(prefix="fpga-", dir=place()) as directory,
        api_server(f"{directory}/api") as api,
    ):
        api.add_plugins(_NODES, _CARDS)
        variables = environment() | {"KUBECONFIG": f"{directory}/api/kubeconfig"}
        for run in range(3 if quick else 10):
            used, began = _children_cpu_seconds(), time.monotonic()
            done = subprocess.run(_COMMAND, env=variables, capture_output=True, text=True, check=True)
            took, used = time.monotonic() - began, _children_cpu_seconds() - used
            rows = [line for line in done.stdout.splitlines() if line.startswith("node-")]
            assert len(rows) == _NODES * _CARDS, done.stdout[:2000]
            if run:  # the first one compiles
                wall.append(took * 1000)
                cpu.append(used * 1000)
    yield Figure(f"cluster: table of {_NODES} nodes", "ms", wall, 3000, "worst")
    yield Figure("cluster: its CPU", "ms", cpu)


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
