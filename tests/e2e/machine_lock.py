"""The lock of this machine for one node, with the restoration of its state.

Each change outside the directory of the node is recorded before it is made, so that the next run or
`python -m tests.e2e.machine_lock` can undo the changes of a killed run.
"""

import fcntl
import json
import logging
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

# In a directory that a reboot empties, as it undoes the noted changes.
STATE = Path("/run/xilinx-fpga-dp-e2e")

# The images of a node are large, and it has a /dev/shm of its own: not where tests put small files.
_FOLDERS = Path("/tmp")

# Every process of a node has this variable, and shims pass it on. It identifies the processes for a later
# run; process ids may be reused.
MARK = "E2E_KUBELET_NODE"

# A separate cgroup for all pods (cgroupRoot): kubepods of a real node is never changed.
CGROUP = "xilinx-fpga-dp-e2e"

# Kubelet sets these at every start (pkg/kubelet/cm/container_manager_linux.go), the network plugin the last.
SYSCTLS = (
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
)

# Paths over which the namespace mounts its own directories; created if missing.
MOUNT_POINTS = (Path("/var/lib/kubelet"), Path("/var/lib/cni"), Path("/etc/kubernetes"))

END_LIMIT = 10.0


def why_not_here() -> str | None:
    """Return why this machine cannot run a node; None if it can."""
    if os.geteuid() != 0:
        return "a real kubelet needs root, for mount namespaces, cgroups and device nodes"
    attempt = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/run"]
    try:
        subprocess.run(attempt, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "this root may not mount in a namespace (unshare --mount): is it root of a container only?"
    roots = list(_cgroup_roots())
    closed = [str(root) for root in roots if not os.access(root, os.W_OK)]
    if closed or not roots:
        return f"kubelet needs cgroups that can be written: {', '.join(closed) or 'none are mounted'}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.mknod(f"{folder}/null", stat.S_IFCHR, os.makedev(1, 3))
        except OSError:
            return "this root may not make device nodes (mknod): is it root of a container only?"
    return None


class BusyError(Exception):
    """The node of this machine is in use by another run."""


class MachineLock:
    """The exclusive right to run a node on this machine, and the directory of the node."""

    def __init__(self) -> None:
        self._lock: IO[str] | None = None
        self.folder = Path()

    def acquire(self, limit: float = 3600.0) -> None:
        """Wait for the machine, undo the changes of a killed run, and record the state for `release`.

        The log says which process holds the machine. Raises BusyError at the limit, in seconds.
        """
        STATE.mkdir(exist_ok=True)
        self._lock = (STATE / "lock").open("a+")
        deadline = time.monotonic() + limit
        holder = ""
        while not _try_lock(self._lock):
            if (now := _holder(self._lock)) != holder:
                log.warning("waiting for the machine: %s", now)
                holder = now
            if time.monotonic() > deadline:
                self._lock.close()
                raise BusyError(f"in use for longer than {limit:.0f} s: {holder}")
            time.sleep(0.5)
        _sign(self._lock)
        _clean()
        self.folder = _FOLDERS / f"e2e-xilinx-fpga-dp-{os.getpid()}"
        missing = [str(path) for path in MOUNT_POINTS if not path.exists()]
        sysctls = {name: _sysctl(name).read_text() for name in SYSCTLS if _sysctl(name).exists()}
        state = {"folder": str(self.folder), "sysctls": sysctls, "made": missing}
        (STATE / "state.json").write_text(json.dumps(state))
        self.folder.mkdir(mode=0o755)
        for name in missing:
            Path(name).mkdir(parents=True)
        _make_cgroups()

    def release(self) -> None:
        """End the processes of the node and restore the recorded state; a second call has no effect."""
        if self._lock is None:
            return
        try:
            _clean()
        finally:
            self._lock.close()
            self._lock = None


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: IO[str]) -> None:
    """Write into the lock's file which process holds it."""
    command = shlex.join(sys.orig_argv)[:200]
    file.truncate(0)
    file.write(f"pid {os.getpid()} has it since {time.strftime('%H:%M:%S UTC', time.gmtime())}: {command}")
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "a run that has just begun"


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _clean() -> None:
    _end(lambda: _marked() | _in_cgroups())
    _remove_cgroups()
    note = STATE / "state.json"
    if not note.exists():
        return
    state: dict[str, Any] = json.loads(note.read_text())
    for name, value in state["sysctls"].items():
        if _sysctl(name).read_text() != value:
            _sysctl(name).write_text(value)
    shutil.rmtree(state["folder"], ignore_errors=True)
    for name in state["made"]:
        try:
            Path(name).rmdir()
        except OSError as error:
            log.warning("left behind: %s", error)
    note.unlink()


def _end(processes: Callable[[], set[int]]) -> None:
    """Kill processes until none is left."""
    deadline = time.monotonic() + END_LIMIT
    while pids := processes():
        if time.monotonic() > deadline:
            log.warning("still running after SIGKILL: %s", sorted(pids))
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def _marked() -> set[int]:
    found = set()
    needle = f"{MARK}=".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # it has ended
        if any(variable.startswith(needle) for variable in environment.split(b"\0")):
            found.add(int(entry.name))
    return found


def end_pods(shim: Path) -> None:
    """Kill the shims of containerd and all processes of pods until none is left."""
    _end(lambda: {pid for pid in _marked() if _runs(pid, shim)} | _in_cgroups())


def _runs(pid: int, program: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink() == program
    except OSError:
        return False  # it has ended


def _cgroup_roots() -> Iterator[Path]:
    """The mount point of every cgroup hierarchy, of version 1, 2 or both."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(mount_point)


def pods_cgroup() -> Path:
    """Return the cgroup of all pods, of the first hierarchy."""
    return next(_cgroup_roots()) / CGROUP


def _in_cgroups() -> set[int]:
    found: set[int] = set()
    for root in _cgroup_roots():
        for procs in (root / CGROUP).rglob("cgroup.procs"):
            try:
                found.update(int(pid) for pid in procs.read_text().split())
            except OSError:
                continue  # it has been removed
    return found - {0}


def _make_cgroups() -> None:
    """Create the cgroupRoot of kubelet in every hierarchy."""
    for root in _cgroup_roots():
        group = root / CGROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # In version 1 a new cpuset is empty and accepts no process.
            inherited = root / name
            if inherited.exists() and not (group / name).read_text().strip():
                (group / name).write_text(inherited.read_text())


def _remove_cgroups() -> None:
    deadline = time.monotonic() + END_LIMIT
    for root in _cgroup_roots():
        group = root / CGROUP
        while group.exists():
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    Path(folder).rmdir()
                except OSError:
                    continue  # busy until the kernel has removed its last process
            if group.exists():
                if time.monotonic() > deadline:
                    log.warning("cgroup %s can't be removed", group)
                    break
                time.sleep(0.05)


def main() -> None:
    """Undo the changes of a killed run, unless a run is active."""
    machine = MachineLock()
    machine.acquire(limit=0)
    machine.release()


if __name__ == "__main__":
    main()
