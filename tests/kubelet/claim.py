"""Claims the machine for one node at a time and gives it back as it was, also after a killed run.

What is changed outside the node's own folder is written down before it is changed, so that whoever
claims next, or `python -m tests.kubelet.claim`, can undo what a killed run left.
"""

import fcntl
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

# Gone after a reboot, like all it speaks of.
STATE = Path("/run/xilinx-fpga-dp-e2e")

# Every process of a node carries this variable, and shims hand it on: that is how a later run knows
# them, whatever their parents, while process ids may long belong to others.
MARK = "E2E_KUBELET_NODE"

# A cgroup of its own for all pods (cgroupRoot): a real node's kubepods are never touched.
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

# Paths over which the namespace mounts its own folders; made where they are missing.
MOUNT_POINTS = (Path("/var/lib/kubelet"), Path("/var/lib/cni"))

END_LIMIT = 10.0


def why_not_here() -> str | None:
    """What this machine lacks to run a node, as a sentence for a skipped test, or None."""
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
    """Another run holds the machine's only node."""


class Claim:
    """The right to run a node, and the folder it runs in; give it back with `release`."""

    def __init__(self) -> None:
        self._lock: IO[str] | None = None
        self.folder = Path()

    def acquire(self, limit: float = 300.0) -> None:
        """Wait for the machine, undo what a killed run left, note what release must undo."""
        STATE.mkdir(exist_ok=True)
        self._lock = (STATE / "lock").open("w")
        deadline = time.monotonic() + limit
        while not _try_lock(self._lock):
            if time.monotonic() > deadline:
                self._lock.close()
                raise BusyError(f"another run has held {STATE / 'lock'} for {limit:.0f} s")
            time.sleep(0.5)
        _clean()
        self.folder = Path(tempfile.gettempdir()) / f"e2e-xilinx-fpga-dp-{os.getpid()}"
        missing = [str(path) for path in MOUNT_POINTS if not path.exists()]
        sysctls = {name: _sysctl(name).read_text() for name in SYSCTLS if _sysctl(name).exists()}
        state = {"folder": str(self.folder), "sysctls": sysctls, "made": missing}
        (STATE / "state.json").write_text(json.dumps(state))
        self.folder.mkdir(mode=0o755)
        for name in missing:
            Path(name).mkdir(parents=True)
        _make_cgroups()

    def release(self) -> None:
        """End the node's processes and undo everything noted; safe to call twice."""
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


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _clean() -> None:
    _end_processes()
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


def _end_processes() -> None:
    """Kill what carries the mark and what sits in the cgroup, until neither is left."""
    deadline = time.monotonic() + END_LIMIT
    while pids := _marked() | _in_cgroups():
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
            continue  # ended meanwhile
        if any(variable.startswith(needle) for variable in environment.split(b"\0")):
            found.add(int(entry.name))
    return found


def _cgroup_roots() -> Iterator[Path]:
    """The mount point of every cgroup hierarchy, of version 1, 2 or both."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(mount_point)


def _in_cgroups() -> set[int]:
    found: set[int] = set()
    for root in _cgroup_roots():
        for procs in (root / CGROUP).rglob("cgroup.procs"):
            try:
                found.update(int(pid) for pid in procs.read_text().split())
            except OSError:
                continue  # removed meanwhile
    return found - {0}


def _make_cgroups() -> None:
    """Make kubelet's cgroupRoot, which it wants to find in every hierarchy."""
    for root in _cgroup_roots():
        group = root / CGROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # In version 1 a new cpuset is empty and takes no process.
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
                    continue  # busy until the kernel has buried its last process
            if group.exists():
                if time.monotonic() > deadline:
                    log.warning("cgroup %s can't be removed", group)
                    break
                time.sleep(0.05)


def main() -> None:
    """Clean up what a killed run left, if nothing runs."""
    claim = Claim()
    claim.acquire(limit=0)
    claim.release()


if __name__ == "__main__":
    main()
