"""A mount namespace with its own directories of a node, /run and /dev, and processes in it.

It may have a network of its own too.
"""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from .machine_lock import MARK

# The first process of the namespace, which holds it open. Its mounts end with the last process of the
# namespace, so nothing is unmounted. kubelet needs a shared mount of its directory for mount propagation.
_SETUP = """
set -eu
mkdir -p "$1/kubelet" "$1/log" "$1/dev" "$1/cni-state" "$1/etc"
mount --bind "$1/kubelet" /var/lib/kubelet
mount --make-rshared /var/lib/kubelet
mount --bind "$1/log" /var/log
mount --bind "$1/cni-state" /var/lib/cni
mount --bind "$1/etc" /etc/kubernetes
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for node in null zero full random urandom tty kmsg; do cp -a "/dev/$node" "$1/dev/"; done
mkdir "$1/dev/pts" "$1/dev/shm" "$1/dev/dri"
mount --bind /dev/pts "$1/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
mount --move "$1/dev" /dev
mount -t tmpfs -o mode=755 tmpfs /run
: >"$1/ready"
exec sleep infinity
"""

# Character devices that exist on most machines, can be opened without side effects and are not in runc's
# default allow list, so that a container without a grant gets EPERM. 1:3 (null) is in that list.
_FAKES = (
    "fuse",
    "loop-control",
    "autofs",
    "btrfs-control",
    "vsock",
    "userfaultfd",
    "vga_arbiter",
    "cpu_dma_latency",
    "kvm",
)


class NodeError(Exception):
    """A part of the node that does not start or respond in time."""


T = TypeVar("T")


class SilentError(NodeError):
    """No response of kubelet: it is down, starting, or limits the rate of requests."""


def wait_for(ask: Callable[[], T | None], what: str, limit: float, pause: float = 0.02) -> T:
    """Call until the result is neither None, False nor SilentError; raises NodeError at the limit."""
    deadline = time.monotonic() + limit
    while True:
        try:
            answer = ask()
        except SilentError:
            answer = None
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise NodeError(f"not within {limit:g} s: {what}")
        time.sleep(pause)


class Process:
    """A process inside the namespace; `pid` is that of the program, not of a wrapper."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of a signal; None while it runs."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        return self.returncode is None

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self, limit: float = 10.0) -> int:
        """Wait for the exit; raises NodeError at the limit."""
        try:
            return self._popen.wait(limit)
        except subprocess.TimeoutExpired as error:
            raise NodeError(f"{self.name} (pid {self.pid}) runs on after {limit:g} s") from error

    def terminate(self, limit: float = 10.0) -> int:
        """Send SIGTERM; return the exit code."""
        self.send(signal.SIGTERM)
        return self.wait(limit)

    def kill(self) -> int:
        """Send SIGKILL; return the exit code."""
        self.send(signal.SIGKILL)
        return self.wait()

    def output(self) -> str:
        """The output of this and all earlier processes of the name."""
        return self.log.read_text(errors="replace")


class Namespace:
    """The mount namespace below one folder; its processes end with `MachineLock.release`."""

    def __init__(self, folder: Path, log_dir: Path) -> None:
        self._folder = folder
        self._log_dir = log_dir
        self._holder: Process | None = None
        self._started: list[Process] = []  # in the order of start, the first process first

    def open(self, *, own_network: bool = False) -> None:
        """Create the namespace and wait for its mounts; a network of its own has no interface that is up."""
        command = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            *(["--net"] if own_network else []),
            "--",
        ]
        command += ["sh", "-c", _SETUP, "sh", str(self._folder)]
        holder = self._popen("namespace", command, {})
        self._holder = holder
        ready = self._folder / "ready"
        wait_for(lambda: ready.exists() or not holder.running, "mount namespace", 10)
        if not holder.running:
            raise NodeError(f"the mount namespace can't be made: {holder.output().strip()}")

    def close(self) -> None:
        """Collect the exit codes of all processes; `MachineLock.release` has killed them."""
        for process in self._started:
            process.wait()

    @property
    def pid(self) -> int:
        """The process that holds the namespace open; raises NodeError before `open`."""
        if self._holder is None:
            raise NodeError("the mount namespace isn't open")
        return self._holder.pid

    def path(self, inside: str | Path) -> Path:
        """Return the path of a file of the namespace, as seen from outside."""
        return Path(f"/proc/{self.pid}/root") / str(inside).lstrip("/")

    def spawn(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a process inside, in `/`; its output is appended to `<name>.log`."""
        # nsenter executes the command in its own process, so the pid is that of the command.
        return self._popen(name, [*self._enter(), *map(str, command)], env or {})

    def run(self, command: Sequence[str | Path], limit: float = 30.0) -> str:
        """Run a command inside; return its output. Raises NodeError if it fails."""
        try:
            done = subprocess.run(
                [*self._enter(), *map(str, command)],
                env=_environment({}),
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NodeError(str(error)) from error
        if done.returncode != 0:
            raise NodeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
        return done.stdout

    def make_node(self, inside: str, number: int) -> None:
        """Make the device node `inside`, e.g. /dev/dri/renderD128, from the `number`-th fake."""
        fakes = fake_devices()
        if number >= len(fakes):
            raise NodeError(f"only {len(fakes)} harmless character devices here (/proc/misc)")
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(target, stat.S_IFCHR, fakes[number])
        target.chmod(0o666)  # regardless of the umask

    def _enter(self) -> list[str]:
        namespaces = f"/proc/{self.pid}/ns"
        return ["nsenter", f"--mount={namespaces}/mnt", f"--net={namespaces}/net", "--"]

    def _popen(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Process:
        log = self._log_dir / f"{name}.log"
        fresh = all(process.name != name for process in self._started)
        with log.open("wb" if fresh else "ab") as output:
            popen = subprocess.Popen(
                command,
                env=_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to the test runner only, which then ends the node.
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self._started.append(process)
        return process


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    # Kubernetes' programs would take a proxy to each other.
    own = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**own, **extra, MARK: str(os.getpid())}


def fake_devices() -> list[int]:
    """Return the device numbers for fake cards that the kernel of this machine has."""
    misc = {}
    for line in Path("/proc/misc").read_text().splitlines():
        minor, name = line.split()
        misc[name] = os.makedev(10, int(minor))
    kmsg = os.makedev(1, 11)
    return [*(misc[name] for name in _FAKES if name in misc), kmsg]
