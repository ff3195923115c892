"""Which containers have a card at any time, by the processes of this machine."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..machine_lock import pods_cgroup


@contextmanager
def never_two() -> Iterator[list[dict[str, set[str]]]]:
    """Assert that no card has two containers at any time of the block.

    Yields a list to which the containers of each card are added, by its node, when they change.
    """
    with _followed() as found:
        yield found
    assert [each for each in found if any(len(containers) > 1 for containers in each.values())] == []


@contextmanager
def _followed() -> Iterator[list[dict[str, set[str]]]]:
    found: list[dict[str, set[str]]] = [{}]
    end = threading.Event()

    def follow() -> None:
        while not end.wait(0.01):
            if (now := _containers_by_card()) != found[-1]:
                found.append(now)

    thread = threading.Thread(target=follow, name="card holders")
    thread.start()
    try:
        yield found
    finally:
        end.set()
        thread.join(10)


def _containers_by_card() -> dict[str, set[str]]:
    """Return the containers with a process of a pod that has a card, by the name of its device node."""
    found = []
    for folder, _, _ in os.walk(pods_cgroup()):  # it takes no offence at one that is gone
        with suppress(OSError):  # it has no card, or has ended
            for pid in Path(folder, "cgroup.procs").read_text().split():
                if _lives(pid):
                    found += [
                        (node.name, folder, pid) for node in Path(f"/proc/{pid}/root/dev/dri").iterdir()
                    ]
    by_card = defaultdict(set)
    for node, folder, pid in found:
        if _lives(pid):  # else another may have been started after its end, while the others were looked at
            by_card[node].add(folder)
    return dict(by_card)


def _lives(pid: str) -> bool:
    """Return whether a process runs the program of the pods, not yet runc's."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name == "busybox"
    except OSError:
        return False
