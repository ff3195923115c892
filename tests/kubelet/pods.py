"""Writes pods as dictionaries: one busybox container that runs a script and asks for devices."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from .images import BUSYBOX

# Stays until it is ended, and ends at once: a shell as process 1 would ignore SIGTERM otherwise.
STAY = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"


def pod(
    name: str,
    script: str = STAY,
    *,
    limits: Mapping[str, int] | None = None,
    restart: str = "Always",
    **spec: Any,
) -> dict[str, Any]:
    """A pod with the container `main`; `spec` is laid over the pod's spec.

    Give each pod a new name: a static pod that was rejected stays Failed for good.
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
    """A script's lines that print `open PATH ok`, or the error, for each path."""
    return f"for n in {' '.join(paths)}; do {_attempt('open', '$n')}; done"


def open_number(device: int) -> str:
    """A script's lines that make a node of that device and print `number MAJOR:MINOR ok` or why not.

    So a pod tries what its device cgroup denies, rather than what isn't in its /dev.
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
