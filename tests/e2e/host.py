"""The part of a node that needs no API server: containerd and kubelet in a namespace of their own.

`node.Node` adds static pods, `cluster.Cluster` a control plane.
"""

import os
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from .build import Binaries
from .configuration import (
    CONTAINERD_SOCKET,
    Config,
    Ports,
    containerd_configuration,
    kubelet_configuration,
    network_configuration,
)
from .images import write_images
from .machine_lock import MachineLock, why_not_here
from .namespace import Namespace, NodeError, Process, SilentError, wait_for
from .podresources import Allocatable, PodResources
from .timeline import Timeline

T = TypeVar("T")

HOSTNAME = "e2e"

# kubelet starts within a second; a busy machine takes longer.
START_LIMIT = 60.0


class Host:
    """A node; a machine has one at a time. The end of the `with` block undoes all its changes."""

    def __init__(
        self, binaries: Binaries, *, config: Config | None = None, log_dir: Path | None = None
    ) -> None:
        """Prepare; `config` overrides the KubeletConfiguration. Logs stay in `log_dir`, if given.

        The earlier content of that directory is removed.
        """
        self.binaries = binaries
        self.config: Config = config or {}
        self._machine_lock = MachineLock()
        self._log_dir = log_dir
        self._namespace: Namespace | None = None
        self._kubelet: Process | None = None
        self._address = "127.0.0.1"  # of kubelet
        self._ports = Ports(0, 0, 0)
        self._kubelet_options: list[str] = []
        self._sigterm: Any = None

    # the node as a whole

    def __enter__(self) -> Self:
        if lacking := why_not_here():
            raise NodeError(lacking)
        self._machine_lock.acquire()
        # Only the main thread may set a handler; elsewhere the next run cleans up after a SIGTERM.
        try:
            # A SIGTERM unwinds the `with` as Ctrl-C does; pytest would take a SystemExit for a failed case.
            self._sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)
        except ValueError:
            self._sigterm = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes and restore the state of the machine."""
        try:
            self._machine_lock.release()
            if self._namespace is not None:
                self._namespace.close()
        finally:
            if self._sigterm is not None:
                signal.signal(signal.SIGTERM, self._sigterm)
                self._sigterm = None

    def _start(self) -> None:
        self._ports = Ports(*_free_ports(3))
        self._open()
        self._start_containerd()
        self._import_images()
        self.start_kubelet()

    def _open(self, *, own_network: bool = False) -> None:
        for name in ("manifests", "logs", "cni", "volume-plugins"):
            (self.folder / name).mkdir()
        self._log_dir = self._log_dir or self.folder / "logs"
        # Only with the lock: until then another run may write there.
        shutil.rmtree(self._log_dir, ignore_errors=True)
        self._log_dir.mkdir(parents=True)
        self._namespace = Namespace(self.folder, self._log_dir)
        self._namespace.open(own_network=own_network)

    def _start_containerd(self) -> Process:
        config = self.folder / "containerd.toml"
        config.write_text(containerd_configuration(self.folder, _program("runc")))
        bin_dir = self.binaries.containerd
        path = f"{bin_dir}:{os.environ['PATH']}"  # containerd searches its shim there
        containerd = self.spawn("containerd", [bin_dir / "containerd", "--config", config], {"PATH": path})
        self._wait(lambda: ended(containerd) or self._containerd_serves(), "containerd", containerd)
        return containerd

    def _containerd_serves(self) -> bool:
        try:
            return bool(self.ctr("version"))
        except NodeError:
            return False

    def _import_images(self) -> None:
        for image in write_images(self.binaries, self.folder):
            self.ctr("images", "import", image)

    def add_network(self, plugins: Path) -> None:
        """From now on pods may do without the host's network; `plugins` is the folder of CNI's programs."""
        for name in ("loopback", "ptp", "host-local"):
            shutil.copy(plugins / name, self.folder / "cni")
        # Written in place: containerd watches the folder for writes, not for files that appear
        # (internal/cri/server/cni_conf_syncer.go).
        (self.folder / "cni" / "e2e.conflist").write_text(network_configuration())

    # where things are

    @property
    def folder(self) -> Path:
        """The directory of the node, removed at the end."""
        return self._machine_lock.folder

    @property
    def namespace(self) -> Namespace:
        """The mount namespace of all processes of the node."""
        if self._namespace is None:
            raise NodeError("the node isn't up")
        return self._namespace

    @property
    def kubelet_dir(self) -> Path:
        """The path of /var/lib/kubelet of the node, as seen from outside."""
        return self.folder / "kubelet"

    @property
    def cdi_dir(self) -> Path:
        """The directory of CDI specs for containerd."""
        return self.folder / "cdi"

    @property
    def plugin_dir(self) -> Path:
        """The directory of kubelet.sock and the sockets of plugins, as seen from outside."""
        return self.kubelet_dir / "device-plugins"

    # kubelet

    @property
    def kubelet(self) -> Process:
        """The last started kubelet."""
        if self._kubelet is None:
            raise NodeError("kubelet was never started")
        return self._kubelet

    def start_kubelet(self, config: Config | None = None) -> float:
        """Start kubelet and wait until it serves; return the seconds of the start.

        `config` replaces that of the constructor from now on.
        """
        if config is not None:
            self.config = config
        file = self.folder / "kubelet.json"
        file.write_text(
            kubelet_configuration(
                self.binaries.kubernetes, self.folder, self._address, self._ports, self.config
            )
        )
        started = time.monotonic()
        # Level 2 logs each list, see device_updates.
        options = [f"--hostname-override={HOSTNAME}", "--v=2", *self._kubelet_options]
        kubelet = self.spawn("kubelet", [self.binaries.kubelet, "--config", file, *options])
        self._kubelet = kubelet
        self._wait(lambda: self._serves() or ended(kubelet), "kubelet serving", kubelet)
        return time.monotonic() - started

    def stop_kubelet(self) -> None:
        """Send SIGTERM and wait for the exit."""
        self.kubelet.terminate()

    def kill_kubelet(self) -> None:
        """Send SIGKILL: kubelet.sock and the sockets of plugins stay, containers continue."""
        self.kubelet.kill()

    def _serves(self) -> bool:
        """Return whether kubelet accepts registrations and pods and podresources responds."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.plugin_dir / "kubelet.sock"))
        except OSError:
            return False
        get(f"http://{self._address}:{self._ports.health}/healthz", 2)
        PodResources(self._pod_resources, limit=1).allocatable()
        return True

    @property
    def _pod_resources(self) -> Path:
        return self.kubelet_dir / "pod-resources" / "kubelet.sock"

    # state of kubelet

    @property
    def resources(self) -> PodResources:
        """The podresources API."""
        return PodResources(self._pod_resources)

    def timeline(self, resource: str, period: float = 0.02) -> Timeline:
        """Return a `Timeline` of the healthy devices of a resource, for a `with` block."""
        return Timeline(self.resources, resource, period)

    def allocatable(self, resource: str) -> frozenset[str]:
        """Return the ids of the healthy devices of a resource."""
        return frozenset(self.resources.allocatable().get(resource, ()))

    def wait_allocatable(self, resource: str, count: int, limit: float = 10.0) -> Allocatable:
        """Wait until a resource has ``count`` healthy devices.

        This must come before the first pod: a static pod with a resource that kubelet does not know starts
        without devices.
        """

        def ask() -> Allocatable | None:
            answer = self.resources.allocatable()
            return answer if len(answer.get(resource, ())) == count else None

        return self._wait(ask, f"{count} allocatable of {resource}", self.kubelet, limit)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of kubelet by name and labels in the text format."""
        text = get(f"http://{self._address}:{self._ports.read_only}/metrics", 10)
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples if name}

    # containers, devices and processes

    def ctr(self, *args: str | Path) -> str:
        """Run ctr in the containerd namespace of kubelet; unpacking an image may take minutes."""
        ctr = self.binaries.containerd / "ctr"
        command = [ctr, "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", *args]
        return self.namespace.run(command, limit=300.0)

    def make_device(self, inside: str, number: int) -> None:
        """Make a device node, e.g. /dev/dri/renderD128, from the `number`-th of `fake_devices`."""
        self.namespace.make_node(inside, number)

    def path(self, inside: str | Path) -> Path:
        """Return the path of a file of the node, e.g. a device node, as seen from outside."""
        return self.namespace.path(inside)

    def spawn(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a process on the node, such as the service under test."""
        return self.namespace.spawn(name, command, env)

    def _wait(
        self, ask: Callable[[], T | None], what: str, process: Process, limit: float = START_LIMIT
    ) -> T:
        """Wait; on a failure, add the end of the log of a process to the error."""
        try:
            return wait_for(ask, what, limit)
        except NodeError as error:
            tail = "\n".join(process.output().splitlines()[-15:])
            raise NodeError(f"{error}\n{process.log.name} ends:\n{tail}") from error


def ended(process: Process) -> bool:
    """Return False while a process runs; raises NodeError once it has ended."""
    if process.running:
        return False
    raise NodeError(f"{process.name} ended with {process.returncode}")


def _program(name: str) -> Path:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise NodeError(f"{name} is not installed")
    return Path(found)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def get(url: str, limit: float) -> str:
    """Send an HTTP request to kubelet, without a proxy of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=limit) as answer:
            text: str = answer.read().decode()
            return text
    except OSError as error:  # HTTPError and URLError among them
        raise SilentError(f"{url}: {error}") from error
