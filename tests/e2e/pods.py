"""Pods as dictionaries: one busybox container that runs a script and requests devices."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from .images import BUSYBOX

# Runs until SIGTERM and then exits at once: without the trap, a shell as process 1 ignores SIGTERM.
STAY = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"


def pod(
    name: str,
    script: str = STAY,
    *,
    limits: Mapping[str, int] | None = None,
    restart: str = "Always",
    **spec: Any,
) -> dict[str, Any]:
    """Return a pod with the container `main`; `spec` overrides fields of its spec.

    Each pod needs a new name: a rejected static pod stays Failed.
    """
    container = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", script],
        "resources": {"limits": {key: str(value) for key, value in (limits or {}).items()}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "hostNetwork": True,  # there is no network plugin
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            **spec,
        },
    }


def open_each(paths: Iterable[str]) -> str:
    """Return lines of a script that print `open PATH ok`, or the error, for each path."""
    return f"for n in {' '.join(paths)}; do {_attempt('open', '$n')}; done"


def open_number(device: int) -> str:
    """Return lines of a script that create a node of a device and print `number MAJOR:MINOR ok` or the error.

    This tests the device cgroup of a pod, not the content of its /dev.
    """
    major, minor = os.major(device), os.minor(device)
    node = f"/tmp/{major}:{minor}"
    return f"mknod {node} c {major} {minor}; {_attempt('number', node)}"


def _attempt(word: str, path: str) -> str:
    said = f"{word} ${{node#/tmp/}}"
    return (
        f'node="{path}"; if why=$( {{ : <"$node"; }} 2>&1 ); '
        f'then echo "{said} ok"; else echo "{said} ${{why##*: }}"; fi'
    )
