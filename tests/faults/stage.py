"""The stage of a trial: a sample node, a kubelet double, and one or two instances of the real service."""

import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.api_server import RunningApiServer
from tests.support.double import KubeletDouble, NoEndpoint
from tests.support.process import Service
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.hostfiles.instance_lock import lock_folder
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard

SHELLS = {
    "u200": "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320",
    "u250": "xilinx.com/fpga-xilinx_u250_xdma_201830_2-1561656294",
}
# A device of the kernel without card driver; a repeated event does not change it.
EVENT = Path("/sys/devices/virtual/mem/null/uevent")
_NODE = "/api/v1/nodes/n1"
_EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
_TAINT = "fpga.xilinx.com/starting"
# Seconds between two attempts without a right, in place of a minute: see inside/sitecustomize.py
_WITHOUT_RIGHT = "2"
_REPORTS = {"NODE_NAME": "n1", "EVENTS": "true", "NODE_CONDITION": "true", "STARTUP_TAINT": _TAINT}
_INSIDE = Path(__file__).with_name("inside")
_SHARED_MEMORY = "/dev/shm"
_PAGE = 10.0  # seconds for an HTTP response on a busy machine
_LISTED = 3.0  # seconds until kubelet has a change: lists of a flapping device are one second apart
_POLL = 0.1  # seconds that one poll counts at most: a longer one means that this process did not run


class Setting(NamedTuple):
    """The setting of a trial.

    Attributes:
        instances: the number of instances.
        by_socket: whether kubelet identifies endpoints by socket, as kubelet >= 1.37.
        api: whether the instances report to an API server.
    """

    instances: int = 1
    by_socket: bool = False
    api: bool = False

    def __str__(self) -> str:
        kubelet = "1.37" if self.by_socket else "1.36"
        return f"{self.instances} with kubelet {kubelet}{' and an API server' if self.api else ''}"


@dataclass
class Life:
    """An instance, and the time of its end signal; None while it runs."""

    service: Service
    ended: float | None = None


class Stage:
    """A node with two cards of one shell and one of another, in a good state.

    Args:
        setting: the number of instances and the kind of kubelet.
    """

    def __init__(self, setting: Setting) -> None:
        place = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        self.directory = tempfile.mkdtemp(prefix="fpga-", dir=place)
        self.node = SampleNode(self.directory)
        self.node.add_ordinary_devices()
        for number, board in enumerate(("u200", "u200", "u250")):
            self.node.add_card(board, f"0000:{0x10 * (number + 1) + 1:02x}:00", numa_node=number % 2)
        self.sockets = Path(self.node.socket_dir)
        run = Path(self.directory, "run")  # small and in memory, as /run of a node
        run.mkdir()
        if own_namespaces():
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", run], check=True)
        self.cdi = run / "cdi"
        self.spec = self.cdi / "xilinx.com-fpga.json"
        self.features = run / "nfd" / "xilinx-fpga-dp"
        self.setting = setting
        self.instances = setting.instances
        # Both hooks record the owner: the endpoint may be unreachable before the dial.
        self.kubelet = KubeletDouble(
            self.sockets,
            by_socket=setting.by_socket,
            on_register=self._record_owner,
            on_dial=self._record_owner,
        )
        self.services: list[Service] = []  # the newest last: it is active
        self.owners: dict[str, int] = {}  # by endpoint: the process of each registration
        self.dice = random.Random(0)  # the source of random choices
        self.quiet: Any = None  # the figures of the active instance without activity
        self.before: Any = None  # the first good state
        self._granted: dict[str, bytes] = {}  # the first response to Allocate, by resource
        self.paired = False  # several faults at once: none can check its own effect
        self.lives: list[Life] = []
        self._clock = Path(self.directory, "clock")
        self.set_clock(0)
        self._errors = Path(self.directory, "errors")
        self.fail({})
        self._kubelet_down = 0  # the number of faults that keep it down
        self.kubelet_restarted = False  # in this trial: it has removed all sockets
        self.api: RunningApiServer | None = None
        self.counted = False  # the node's status has the cards
        self.told: set[str] = set()  # the notes of Events that the API server has to have
        if setting.api:
            self.api = RunningApiServer(Path(tempfile.mkdtemp(dir=self.directory)))
            taints = [{"key": _TAINT, "effect": "NoSchedule"}]
            self.api.put(_NODE, {"spec": {"taints": taints}, "status": {"conditions": []}})
        self.wanted = {
            SHELLS[shell]: {card.address for card in self.cards(shell)} for shell in ("u200", "u250")
        }

    def __enter__(self) -> Self:
        self.kubelet.start()
        for _ in range(self.instances):
            service = self.start()
            for resource in self.wanted:
                service.logged(Event.REGISTERED, resource=resource, limit=20)
        assert wait_until(lambda: self.problem() is None, 10), self.problem()
        assert wait_until(self._ready, 10), "not ready"  # serial numbers may be read after the first list
        self.prove_life()
        assert wait_until(lambda: self.problem() is None, 10), self.problem()
        self.before = self.state()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for service in self.services:
            service.__exit__(kind, error, trace)
        self.kubelet.stop()
        if self.api:
            self.api.__exit__(None, None, None)
        if own_namespaces():
            subprocess.run(["umount", "--lazy", f"{self.directory}/run"], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    # The node

    def cards(self, shell: str) -> list[XrtCard]:
        """Return the cards of a shell."""
        return [card for card in self.node.cards if card.board.vbnv.startswith(f"xilinx_{shell}_")]

    # kubelet, which several faults may keep down at once

    def kubelet_down(self) -> None:
        self._kubelet_down += 1
        self.kubelet_restarted = True
        self.kubelet.kill()

    def kubelet_up(self) -> None:
        self._kubelet_down -= 1
        if not self._kubelet_down:
            self.kubelet.start()

    def restart_kubelet(self) -> None:
        """Restart it."""
        self.kubelet_down()
        self.kubelet_up()

    def cut(self, *shells: str) -> None:
        """Cancel the streams of kubelet while it runs."""
        for shell in shells:
            if self.full(SHELLS[shell]) and not self.kubelet_is_down:
                # With another fault the endpoint may have no stream yet
                with suppress(NoEndpoint) if self.paired else nullcontext():
                    self.kubelet.cut_stream(SHELLS[shell])

    def full(self, resource: str) -> bool:
        """Return whether kubelet counts all devices of a resource as healthy."""
        return self.kubelet.allocatable(resource) == len(self.wanted[resource])

    def all_full(self) -> bool:
        return all(map(self.full, self.wanted))

    # The service

    @property
    def active(self) -> Service:
        """The active instance: the newest one."""
        return self.services[-1]

    def start(self) -> Service:
        """Start another instance, which becomes the active one."""
        service = self.launch()
        self.services.append(service)
        self.lives.append(Life(service))
        return service

    def launch(self) -> Service:
        """Start a process of the service that does not count as an instance."""
        return Service(
            settings_for(
                self.node,
                RECOVERY_CHECKS="1",
                REQUEST_TIMEOUT="1",
                DEVICE_STRATEGY="both",
                CDI_DIR=str(self.cdi),
                NFD_FEATURES_DIR=str(self.features.parent),
                HTTP_ADDRESS="127.0.0.1:0",
                POD_RESOURCES_SOCKET=f"{self.directory}/pods.sock",
                **(_REPORTS if self.api else {}),
            ),
            environment={
                **(self.api.environment | {"FAULTS_RIGHT": _WITHOUT_RIGHT} if self.api else {}),
                "PYTHONPATH": str(_INSIDE),
                "FAULTS_CLOCK": str(self._clock),
                "FAULTS_ERRORS": str(self._errors),
                "FAULTS_TASKS": f"{self.directory}/tasks",
            },
        )

    def set_clock(self, seconds: int) -> None:
        """Set the clock of the instances forward or back."""
        self._clock.write_text(str(seconds))

    def fail(self, errors: Mapping[str, int], *, threadless: bool = False) -> None:
        """Make reads of these paths fail in the instances, each with an errno, or the start of any thread."""
        aside = self._errors.with_suffix(".new")
        aside.write_text(json.dumps({"errors": errors, "threadless": threadless}))
        aside.rename(self._errors)

    def expect(self, holds: bool, what: str) -> None:
        """Assert that a fault had its effect; not checked with several faults at once."""
        assert holds or self.paired, f"the fault had no effect: {what}"

    def tasks(self, pid: int) -> tuple[list[str], Counter[str]]:
        """Return the tasks of an instance, each with its position, and the number of its threads by kind."""
        written = Path(f"{self.directory}/tasks.{pid}")
        written.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR2)
        assert wait_until(written.exists, 5), f"process {pid} does not write its tasks"
        tasks, _, threads = written.read_text().partition("\n\n")
        return tasks.splitlines(), Counter(re.split(r"[-_ ]\d", name)[0] for name in threads.splitlines())

    def end(self, service: Service, number: signal.Signals) -> None:
        """End an instance by a signal; after SIGTERM it must exit with 0 within 2 s."""
        next(life for life in self.lives if life.service is service).ended = time.monotonic()
        service.process.send_signal(number)
        assert wait_until(lambda: service.process.poll() is not None, 2), "it has not ended in 2 s"
        code = service.process.returncode
        assert code == (0 if number is signal.SIGTERM else -number), f"ended with {code}"
        service.__exit__(None, None, None)
        self.services.remove(service)

    def page(self, path: str, service: Service | None = None, limit: float = _PAGE) -> str:
        """Return an HTTP response of an instance."""
        port = (service or self.active).logged(Event.SERVING_HTTP)["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=limit) as answer:
            text: str = answer.read().decode()
            return text

    def _ready(self) -> bool:
        try:
            return bool(self.page("/readyz", limit=1.0))
        except OSError:
            return False

    def since(self) -> datetime | None:
        """Return since when a device is healthy by the active instance's clock; None without response."""
        if not self.services:
            return None
        try:
            state = json.loads(self.page("/state"))
        except OSError:
            return None
        found = [device["since"] for device in state["devices"]]  # empty right after a start
        return datetime.fromisoformat(found[0]) if found else None

    @property
    def kubelet_is_down(self) -> bool:
        return self._kubelet_down > 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all instances."""
        for service in self.services:
            service.process.send_signal(number)

    # The directory

    def _record_owner(self, endpoint: str) -> None:
        """Record the process of an endpoint, which the kernel reports to a connected peer."""
        if endpoint in self.owners:
            return
        with socket.socket(socket.AF_UNIX) as peer, suppress(OSError):  # removed, or refused
            peer.settimeout(1)
            peer.connect(str(self.sockets / endpoint))
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            self.owners[endpoint], *_ = struct.unpack("3i", credentials)

    def own_sockets(self, shell: str = "") -> list[Path]:
        return sorted(path for path in self.sockets.glob("fpga-xilinx_*-fpga.sock") if shell in path.name)

    def endpoint(self, shell: str) -> Path:
        """Return the socket of the last registration of a shell."""
        named = [each.endpoint for each in self.kubelet.registrations if each.resource == SHELLS[shell]]
        return self.sockets / named[-1]

    def strays(self) -> list[str]:
        """Return the unexpected entries of the socket directory and of the folder of lock files.

        Expected are one live socket for each resource, and one more for each standby instance, which may
        still have an earlier stream; and one lock
        file for each instance.
        """
        there = {path.name: path for path in self.sockets.iterdir()}
        there.pop("kubelet.sock", None)
        strange = [name for name in there if not name.endswith("-fpga.sock") or not _alive(there[name])]
        for shell in SHELLS:
            sockets = [name for name in there if shell in name and name not in strange]
            strange += sockets[self.instances :]
        return strange + sorted(os.listdir(lock_folder(self.node.plugins_dir)))[self.instances :]

    def spec_is_whole(self) -> bool:
        """Return whether the CDI spec has all devices."""
        try:
            spec: dict[str, Any] = json.loads(self.spec.read_text())
        except (OSError, ValueError):
            return False
        return len(spec["devices"]) >= len(self.node.cards)

    def features_are_whole(self) -> bool:
        """Return whether the feature file counts all devices."""
        try:
            return f"fpga.count={len(self.node.cards)}\n" in self.features.read_text()
        except OSError:
            return False

    # The good state

    def problem(self) -> str | None:
        """Return what is wrong with the state; None if nothing is."""
        if not all(service.process.poll() is None for service in self.services):
            return "a process ended"
        registered = {
            each["resource"] for each in list(self.active.events) if each["event"] == Event.REGISTERED
        }
        if self.wanted.keys() - registered:
            return "the active instance has not registered yet"
        if not self.all_full():
            return f"kubelet knows {self.kubelet.resources()}"
        if outside := self._problem_outside():
            return outside
        if self.before is not None and self.before != (now := self.state()):
            return f"it was {self.before}, it is {now}"
        for shell in SHELLS:
            if not _alive(self.endpoint(shell)):
                return f"the registered socket of {shell} is gone"
        if strays := self.strays():
            return f"in the socket directory: {strays}"
        return None

    def _problem_outside(self) -> str | None:
        """Return what is wrong with the files and the condition of the node; None if nothing is."""
        if not self.spec_is_whole():
            return "the CDI spec is not whole"
        if not self.features_are_whole():
            return "the feature file is not whole"
        return self._problem_at(self.api) if self.api else None

    def _problem_at(self, server: RunningApiServer) -> str | None:
        """Return what is wrong with what the API server was told; None if nothing is."""
        if (said := self.condition()) != "True":
            return f"the condition of the node is {said}"
        if self.counted and self._node()["spec"]["taints"]:
            return "the startup taint is still there"
        if self.paired:  # an instance may have ended, and the next one tells its Events again
            return None
        events = server.do(lambda: server.api.all(_EVENTS))
        told = [event["note"] for event in events]
        if len(told) > len(set(told)) or any("series" in event for event in events):
            return f"told twice: {told}"
        if missing := self.told - set(told):
            return f"the API server was not told of {missing}"
        return None

    def count_cards(self) -> None:
        """Write all cards into the node's status, as kubelet does: the startup taint has to go."""
        node, api = self._node(), self.api
        assert api is not None
        capacity = {resource: str(len(devices)) for resource, devices in self.wanted.items()}
        api.do(lambda: api.api.put(_NODE, node | {"status": node["status"] | {"capacity": capacity}}))
        self.counted = True

    def _node(self) -> dict[str, Any]:
        """Return the Node."""
        return (self.api.api.get(_NODE) if self.api else None) or {}

    @property
    def kept_connections(self) -> int:
        """The connections to the API server that an instance may keep, those of its tasks."""
        return 2 if self.api else 0

    def condition(self) -> str:
        """Return the status of the node's condition; empty if it has none."""
        conditions = self._node().get("status", {}).get("conditions", ())
        return "".join(each["status"] for each in conditions)

    def state(self) -> list[Any]:
        """Return the state that must be the same after a trial: the files and the topology at kubelet."""
        topology = [self.kubelet.topology(resource) for resource in self.wanted]
        return [_text(self.spec), _text(self.features), topology]

    def prove_life(self) -> None:
        """Assert that devices can be allocated and that kubelet receives a change."""
        for resource, devices in self.wanted.items():
            granted = partial(self.kubelet.allocate_raw, resource, sorted(devices))
            before = self._granted.setdefault(resource, granted())
            # Serial numbers are read asynchronously, possibly after the first response
            same = wait_until(lambda: granted() == before, 1.0)  # noqa: B023 - called here
            assert same, f"{resource}: the response was {before!r}, now it is {granted()!r}"
        card = self.cards("u250")[0]
        card.offline()
        gone = wait_until(lambda: self.kubelet.allocatable(SHELLS["u250"]) == 0, _LISTED)
        assert gone, f"kubelet received no list with the fault: {self.kubelet.resources()}"
        card.mend()
        assert wait_until(self.all_full, _LISTED), (
            f"kubelet received no list with the recovery: {self.kubelet.resources()}"
        )
        for service in self.services:
            assert "ok" in self.page("/livez", service)
        wait_for(lambda: json.loads(self.page("/state"))["resources"], "it has a state", 2)
        assert wait_until(lambda: self._problem_outside() is None, _LISTED), self._problem_outside()


def _alive(path: Path) -> bool:
    """Return whether a process has this socket open, by the list of the kernel, without a connection."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(mode) and any(_listed(path) for _ in range(3))


def _listed(path: Path) -> bool:
    """Return whether the kernel lists a socket at a path; False may be wrong.

    The list is read in parts, and a socket that closes in between can hide another one.
    """
    known = Path("/proc/net/unix").read_text()
    return re.search(rf" {re.escape(str(path))}$", known, re.MULTILINE) is not None


def descriptors(pid: int) -> dict[int, str]:
    """Return the open files of a process by descriptor; empty if it has ended."""
    found = {}
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):  # closed by now
                found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return dict(sorted(found.items()))


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def wait_until(holds: Callable[[], bool], limit: float) -> bool:
    """Wait for a condition; return whether it holds. Stalls of this process do not count."""
    waited, last = 0.0, time.monotonic()
    while not holds():
        if waited > limit:
            return False
        time.sleep(0.01)
        now = time.monotonic()
        waited, last = waited + min(now - last, _POLL), now
    return True


def own_namespaces() -> bool:
    """Return whether this process has its own mount and user namespaces."""
    return "--in-namespaces" in sys.argv
