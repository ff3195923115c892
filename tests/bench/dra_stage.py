"""The stage of DRA drivers: an API server of its own, and the service beside a reference in Go."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

from tests.bench.api import Write, api_server
from tests.bench.stage import IN_POD, Process, Stage
from tests.e2e.build import DRA_MODULE, DRA_VERSION, build_source
from tests.support.dra_kubelet import DRIVER, NODE, SLICES, ClaimName, DraKubelet, claim_of, result
from tests.support.waiting import wait_for
from xilinx_fpga_dp.simulate.sysfs.boards import XrtBoard
from xilinx_fpga_dp.simulate.sysfs.sample_node import XrtCard

_REFERENCE = Path(__file__).parent / "reference"
_REFERENCE_DRIVER = "reference.example.com"


class Times(TypedDict):
    """Milliseconds of calls, see reference/caller.go."""

    prepare: list[float]
    again: list[float]
    unprepare: list[float]


class DraStage(Stage):
    """A node on which DRA drivers run. Their directories are on a disk if the temporary directory is.

    Attributes:
        api: the API server, in a process of its own.
        service: the service as a driver.
        reference: the driver in Go, with as many devices.
    """

    module = IN_POD

    def __init__(self, boards: list[XrtBoard], *, functions: int = 0, **settings: str) -> None:
        super().__init__(boards, functions=functions, MODE="dra", NODE_NAME=NODE, **settings)
        self._disk = tempfile.mkdtemp(
            prefix="fpga-"
        )  # as on a node, where only the CDI directory is in memory
        registry, cdi, plugins = self.path("registry"), self.path("cdi"), f"{self._disk}/plugins"
        self.settings |= {"PLUGINS_DIR": plugins, "PLUGINS_REGISTRY_DIR": registry, "CDI_DIR": cdi}
        self.variables = {"KUBECONFIG": self.path("api/kubeconfig"), "BENCH_EVENTS": self.path("events")}
        data = f"{plugins}/{_REFERENCE_DRIVER}"
        self._go = self.variables | {
            "KUBE_FEATURE_WatchListClient": "false",  # which the API server does not have
            "DRIVER": _REFERENCE_DRIVER,
            "NODE": NODE,
            "CDI": cdi,
            "DATA": data,
            "REGISTRY": registry,
            "COUNT": str(len(boards)),
        }
        names = [_device(card) for card in self.node.cards]
        self.service = Driver(self, DRIVER, f"{plugins}/{DRIVER}/dra.sock", names)
        numbered = [f"device-{number}" for number in range(len(boards))]
        self.reference = Driver(self, _REFERENCE_DRIVER, f"{data}/dra.sock", numbered)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.api = self._stack.enter_context(api_server(self.path("api")))
        self.variables |= self.api.pod()
        self.api.put(f"/api/v1/nodes/{NODE}", {})
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for driver in self.drivers:
            driver.kubelet.stop()
        super().__exit__(kind, error, trace)
        self._stack.close()
        shutil.rmtree(self._disk)

    @property
    def drivers(self) -> tuple["Driver", "Driver"]:
        return self.service, self.reference

    def start_reference(self) -> Process:
        """Start the driver in Go."""
        return self.run([_built("driver")], self._go)

    def slice_writes(self, driver: str, since: float) -> list[Write]:
        """Return the writes of a driver's slices after a moment."""
        return [
            each
            for each in self.api.writes(since)
            if each.path.startswith(SLICES) and (each.body or {}).get("spec", {}).get("driver") == driver
        ]

    def tainted(self, cards: Iterable[XrtCard], since: float) -> float:
        """Wait until exactly these cards are published with a taint; return the time of that write."""
        wanted = {_device(card) for card in cards}

        def written() -> float:
            for each in self.slice_writes(DRIVER, since)[::-1]:
                devices = each.body["spec"]["devices"]
                return each.time if {one["name"] for one in devices if one.get("taints")} == wanted else 0
            return 0

        return wait_for(written, f"taints of {wanted}")


class Driver:
    """One of the drivers, with kubelet's side of it.

    Attributes:
        kubelet: its client.
    """

    def __init__(self, stage: DraStage, name: str, socket: str, devices: Sequence[str]) -> None:
        self.kubelet = DraKubelet(Path(stage.path("registry")))
        self.name = name
        self.socket = socket
        self._stage = stage
        self._devices = devices

    def start(self) -> Process:
        return self._stage.start() if self is self._stage.service else self._stage.start_reference()

    def register(self) -> float:
        """Do what kubelet does when it finds the driver; return the time when that is done."""
        self.kubelet.register(socket=f"{self.name}-reg.sock")
        return time.monotonic()

    def running(self) -> Process:
        """Start and register it; return it when its slice is published."""
        process = self.start()
        self.register()
        wait_for(lambda: self._stage.api.slices(self.name), f"a slice of {self.name}")
        return process

    def claims(self) -> list[ClaimName]:
        """Store a claim for each device."""
        made = [
            claim_of(f"{self.name}-{number}", result(device, driver=self.name))
            for number, device in enumerate(self._devices)
        ]
        self._stage.api.store({reference.path: claim for reference, claim in made})
        return [reference for reference, _ in made]

    def without_slice(self) -> float:
        """Remove its slice; return the time of that."""
        [path] = self._stage.api.slices(self.name)
        began = time.monotonic()
        self._stage.api.remove(path)
        return began

    def published_since(self, moment: float) -> float:
        """Wait for a write of its slice after a moment; return the time of the write."""
        return wait_for(lambda: self._stage.slice_writes(self.name, moment), f"a slice of {self.name}")[
            0
        ].time


class Caller:
    """kubelet as the caller of drivers, in Go: reference/caller.go."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [_built("caller")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._process.communicate(timeout=10)
        self._process.kill()

    def call(self, driver: Driver, claims: Sequence[ClaimName], **order: int) -> Times:
        """Call a driver; ``order`` as in reference/caller.go."""
        assert self._process.stdin
        assert self._process.stdout
        document: dict[str, Any] = {"socket": driver.socket, "claims": [each._asdict() for each in claims]}
        self._process.stdin.write(json.dumps(document | order) + "\n")
        line = self._process.stdout.readline()
        assert line, "the caller has ended; its errors are above"
        times: Times = json.loads(line)
        return times


def _built(name: str) -> str:
    """Return a program of the reference; the first time it is built, which takes a minute."""
    return str(build_source(f"dra-{name}", _REFERENCE / f"{name}.go", DRA_MODULE, DRA_VERSION))


def _device(card: XrtCard) -> str:
    """Return the name of a card in the slice."""
    return "pci-" + card.address.replace(":", "-").replace(".", "-")
