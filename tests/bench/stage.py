"""The stage of a benchmark: a sample node, a kubelet double and the real service in its own process."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import grpc

from tests.support.double import KubeletDouble
from tests.support.process import clean_environment
from xilinx_fpga_dp.simulate.sysfs.boards import XRT_BOARDS, XrtBoard
from xilinx_fpga_dp.simulate.sysfs.sample_node import Ids, SampleNode

_SHARED_MEMORY = "/dev/shm"
_MEGABYTE = 1_000_000  # 10^6 bytes, as in docs/development/performance.md
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h
_LIMIT = 30.0  # seconds for any wait

SERVICE = "xilinx_fpga_dp"
IN_POD = "tests.bench.in_pod"
"""The module of the service; the other one has the variables of `Api.pod`."""


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a measured process: as in the image (see Containerfile), with .pyc files."""
    return clean_environment({"LOG_FORMAT": "json", **(settings or {})}) | {
        "MALLOC_ARENA_MAX": "1",
        "PYTHONOPTIMIZE": "2",
    }


def place() -> str:
    """Return the directory of the sample nodes: in memory if possible, as sysfs is."""
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else tempfile.gettempdir()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process with all its threads, also ended ones."""
    # clock_getcpuclockid(3); Python has it only for threads
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def children_cpu_seconds(pid: int) -> float:
    """Return the CPU time of the ended children of a process, in ticks of 10 ms (``cutime`` in proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, float]:
    """Return the memory in MB: resident ``Rss``, the share ``Pss``, ``Uss`` that no other process maps."""
    found = {"Rss": 0.0, "Pss": 0.0, "Uss": 0.0}
    names = {"Rss": "Rss", "Pss": "Pss", "Private_Clean": "Uss", "Private_Dirty": "Uss"}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in names:
            found[names[name]] += int(rest.split()[0]) * 1024 / _MEGABYTE
    return found


class Process:
    """A measured process, with its log in a file."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], log: IO[bytes]) -> None:
        self.began = time.monotonic()
        self._process = subprocess.Popen(command, env=variables, stderr=log)
        self.pid = self._process.pid

    def end(self) -> None:
        """Send SIGTERM and wait for the exit."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def lives(self) -> bool:
        return self._process.poll() is None


class Stage:
    """A node with cards and a kubelet; `start` and `running` start the service on it.

    Settings have their defaults, except for the paths, a free port for HTTP and ``settings``. podresources
    responds without pods.

    Args:
        boards: the boards of the cards.
        functions: the total number of PCI functions, filled up with those of other devices.
        settings: of the service, without prefix.

    Attributes:
        module: of the service.
    """

    module = SERVICE

    def __init__(self, boards: list[XrtBoard], *, functions: int = 0, **settings: str) -> None:
        self._directory = tempfile.mkdtemp(prefix="fpga-", dir=place())
        self.node = SampleNode(self._directory, sensors=True)
        self.node.add_ordinary_devices()
        for number, board in enumerate(boards):
            domain, rest = divmod(number, 8 * 15)
            slot = f"{domain:04x}:{16 * (rest // 15 + 5) + 1 + rest % 15:02x}:00"
            self.node.add_card(board, slot, numa_node=number % 2)
        self._fill(functions)
        self.kubelet = KubeletDouble(Path(self.node.socket_dir))
        holders = f"{self._directory}/pods.sock"
        self._holders = _podresources(holders)
        own = {name.removeprefix("XILINX_FPGA_DP_"): text for name, text in self.node.environment().items()}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.settings = own | {"POD_RESOURCES_SOCKET": holders, "HTTP_ADDRESS": self.address} | settings
        self.variables: dict[str, str] = {}  # of the service, besides its settings
        self._log = Path(self._directory, "log").open("wb")  # noqa: SIM115 - closed at the end
        self.started: list[Process] = []

    def __enter__(self) -> Self:
        self.kubelet.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.started:
            if process.lives:
                process.end()
        self.kubelet.stop()
        self._holders.stop(None).wait(_LIMIT)
        self._log.close()
        if error is not None:
            print(Path(self._directory, "log").read_text()[-3000:], file=sys.stderr)
        shutil.rmtree(self._directory)

    def start(self, module: str = "", *arguments: str) -> Process:
        """Start the service or another module of this project."""
        variables = environment(self.settings) | self.variables
        return self.run([sys.executable, "-m", module or self.module, *arguments], variables)

    def run(self, command: Sequence[str], variables: Mapping[str, str]) -> Process:
        """Start any program; it is ended with the stage."""
        process = Process(command, variables, self._log)
        self.started.append(process)
        return process

    def running(self, settle: float = 3.0, module: str = "") -> Process:
        """Start the service; return it ``settle`` seconds after its last first list."""
        process = self.start(module)
        self.listed_since(process.began)
        time.sleep(settle)
        return process

    def scrape(self) -> int:
        """Return the length of the service's metrics."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=_LIMIT) as answer:
            return len(answer.read())

    def path(self, name: str) -> str:
        """Return a path for another socket of the benchmark."""
        return f"{self._directory}/{name}"

    @property
    def resources(self) -> set[str]:
        """The resource names of the cards."""
        return {f"xilinx.com/fpga-{card.board.vbnv}-{card.board.timestamp}" for card in self.node.cards}

    def listed_since(self, moment: float) -> float:
        """Wait until all resources are listed completely after a moment; return the time of the last list."""
        wanted = self.resources
        cards = len(self.node.cards)

        def complete() -> list[float]:
            times, found = [], 0
            for resource in wanted:
                new = [each for each in self.kubelet.lists(resource) if each.time >= moment]
                times += [each.time for each in new[-1:]]
                found += len(new[-1].health) if new else 0
            return times if len(times) == len(wanted) and found == cards else []

        return max(self.kubelet.wait_for(complete, _LIMIT))

    def _fill(self, functions: int) -> None:
        there = len(os.listdir(f"{self.node.sysfs_root}/bus/pci/devices"))
        ids = ("8086", "2021", "088000")
        for number in range(functions - there):
            self.node.add_function(
                f"0000:00:{number // 8 + 8:02x}.{number % 8}", Ids(*ids), driver="skx_uncore", numa_node=0
            )


def cards(count: int, shells: int) -> list[XrtBoard]:
    """Return ``count`` boards, evenly distributed over ``shells`` shells, which differ in timestamp."""
    known = [XRT_BOARDS[name] for name in ("u200", "u250", "u50", "u280")]
    boards = [replace(known[n % len(known)], timestamp=1_700_000_000 + n) for n in range(shells)]
    return [boards[number % shells] for number in range(count)]


def waited(call: Callable[[], object]) -> float:
    """Return the duration of a call in milliseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _podresources(path: str) -> grpc.Server:
    def no_pods(request: bytes, context: grpc.ServicerContext) -> bytes:
        return b""

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(no_pods)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),)
    )
    server.add_insecure_port(f"unix:{path}")
    server.start()
    return server
