"""Which pods still have processes, by their control groups. Every function blocks, on memory alone.

kubelet can have the claims of a pod unprepared while its containers run: it looks each minute for claims of
pods that it does not know, and one that was deleted by force is unknown at once, but ends two seconds later
(pkg/kubelet/cm/dra/manager.go reconcileLoop, seen with 1.37.2). podresources does not show such a pod either.

The group of a pod is named after its uid, below one whose name ends in ``kubepods``, or by systemd's rules
(pkg/kubelet/cm/cgroup_manager_linux.go, qos_container_manager_linux.go).
"""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Final

_DEPTH: Final = 3  # of kubelet's group, which may have a root of its own: ``kubelet/kubepods``
_CLASSES: Final = ("burstable", "besteffort")  # of service; pods of the third have no group between


class PodCgroups:
    """The control groups of a node's pods.

    Args:
        sysfs_root: the node's ``/sys``.
    """

    def __init__(self, sysfs_root: str) -> None:
        root = f"{sysfs_root}/fs/cgroup"
        # In version 1, the hierarchy that counts processes, also those of other pid namespaces.
        self._root = f"{root}/pids" if os.path.isdir(f"{root}/pids") else root
        self._kubelet: list[str] = []  # its groups of all pods

    def running(self, uids: Collection[str]) -> set[str]:
        """Return those of these pods that have processes; without control groups none."""
        names = {each: uid for uid in uids for each in (f"pod{uid}", f"pod{uid.replace('-', '_')}.slice")}
        found: set[str] = set()
        for path in self._pods() if uids else ():
            name = os.path.basename(path)
            uid = names.get(name[name.rfind("pod") :])
            if uid and _has_processes(path):
                found.add(uid)
        return found

    def _pods(self) -> Iterator[str]:
        self._kubelet = [each for each in self._kubelet if os.path.isdir(each)]
        self._kubelet = self._kubelet or list(_search(self._root, _DEPTH))
        for kubelet in self._kubelet:
            for path in _directories(kubelet):
                if path.removesuffix(".slice").endswith(_CLASSES):
                    yield from _directories(path)
                else:
                    yield path


def _search(path: str, depth: int) -> Iterator[str]:
    """Yield kubelet's groups of all pods."""
    for each in _directories(path):
        if each.removesuffix(".slice").endswith("kubepods"):
            yield each
        elif depth > 1:
            yield from _search(each, depth - 1)


def _directories(path: str) -> list[str]:
    with suppress(OSError), os.scandir(path) as entries:
        return [each.path for each in entries if each.is_dir(follow_symlinks=False)]
    return []


def _has_processes(group: str) -> bool:
    """Whether a group, or one below it, has processes; one that is gone has none."""
    with suppress(OSError), open(f"{group}/cgroup.events", encoding="ascii") as file:  # version 2
        return "populated 1" in file.read()
    with suppress(OSError, ValueError), open(f"{group}/pids.current", encoding="ascii") as file:
        return int(file.read()) > 0
    return False
